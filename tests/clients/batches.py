"""Reads the records out of messages: batches.py < PAYLOADS, each on a line in hexadecimal"""
import json, sys, zlib


def records(payload):
    """The records of a message, be it a single one or a batch of any kind."""
    if payload[:1] == b"\x78":
        payload = zlib.decompress(payload)
    if payload[:1] == b"[":
        return json.loads(payload)
    return [json.loads(line) for line in payload.split(b"\n")]


for line in sys.stdin:
    for record in records(bytes.fromhex(line)):
        print(json.dumps(record))
