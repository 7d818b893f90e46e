#!/usr/bin/env python3
"""Reads a pillion spool: a decoder written from the text at the head of src/spool/mod.rs alone.

    spool_reader.py STATE_DIR/spool

Prints a line for each stream and for each record; topic and data are in hexadecimal. Fails on anything that is not as the
text says.

    STREAM checkpoint done=N next=N clean=0|1 delivered=N evicted=N expired=N quarantined=N refused=N holes=FIRST-LAST,...
    STREAM record seq=N topic=HEX wall_ms=N mono_ms=N quality=NAME encoding=NAME data=HEX
"""

import struct
import sys
from pathlib import Path

QUALITIES = ["trusted", "unsynced"]
ENCODINGS = ["json", "text", "base64", "raw"]


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Body:
    """The fields of a postcard body, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def boolean(self):
        value = self.byte()
        assert value in (0, 1), "a boolean of another value"
        return value

    def bytes(self):
        length = self.number()
        data = self.data[self.at : self.at + length]
        assert len(data) == length, "the body ends within a field"
        self.at += length
        return data

    def end(self):
        assert self.at == len(self.data), "bytes behind the last field"


def record_of_version_1(data):
    body = Body(data)
    fields = {
        "seq": body.number(),
        "topic": body.bytes().decode("utf-8").encode("utf-8").hex(),
        "wall_ms": body.number(),
        "mono_ms": body.number(),
        "quality": QUALITIES[body.number()],
        "encoding": ENCODINGS[body.number()],
        "data": body.bytes().hex(),
    }
    body.end()
    return fields


def difference(z):
    return -(z + 1) // 2 if z & 1 else z // 2


def record(data, base_wall_ms, base_mono_ms):
    body = Body(data)
    flags, seq, wall, mono = body.byte(), body.number(), difference(body.number()), difference(body.number())
    assert flags >> 5 == 0 and flags >> 3 & 3 < 3, f"flags {flags}"
    before, behind = [(b"", b""), (b"device/", b"/data"), (b"app/", b"")][flags >> 3 & 3]
    return {
        "seq": seq,
        "topic": (before + body.bytes() + behind).decode("utf-8").encode("utf-8").hex(),
        "wall_ms": (base_wall_ms + wall) % 2**64,
        "mono_ms": (base_mono_ms + wall + mono) % 2**64,
        "quality": QUALITIES[flags >> 2 & 1],
        "encoding": ENCODINGS[flags & 3],
        "data": data[body.at :].hex(),
    }


def segment(path):
    data = path.read_bytes()
    magic, version, _, first, _, _, _, crc = struct.unpack_from("<8sHHQQQ16sI", data)
    assert magic == b"pillseg\n" and version in (1, 2), f"{path}: {magic} {version}"
    assert crc == crc32c(data[:52]), f"{path}: CRC of the header"
    assert path.name == f"{first:020}.seg", f"{path}: first is {first}"
    at, base = 56, ()
    if version == 2:
        *base, crc = struct.unpack_from("<QQI", data, at)
        assert crc == crc32c(data[:72]), f"{path}: CRC of the copy of the header"
        assert data[:76] == data[76:152], f"{path}: the copies of the header differ"
        at = 152
    while at < len(data):
        length, crc = struct.unpack_from("<II", data, at)
        assert length >> 24 == (2 if version == 2 else 0), f"{path}: mark of the entry at {at}"
        length &= 0xFFFFFF
        body = data[at + 8 : at + 8 + length]
        assert crc == crc32c(data[at : at + 4] + body), f"{path}: CRC of the entry at {at}"
        fields = record(body, *base) if version == 2 else record_of_version_1(body)
        assert fields["seq"] == first, f"{path}: number {fields['seq']} in the place of {first}"
        yield fields
        at += 8 + length
        first += 1


def checkpoint(path):
    data = path.read_bytes()
    magic, version, crc = struct.unpack_from("<8sHI", data)
    assert magic == b"pillchk\n" and version == 1, f"{path}: {magic} {version}"
    assert crc == crc32c(data[14:]), f"{path}: CRC"
    body = Body(data[14:])
    fields = {"done": body.number(), "next": body.number(), "clean": body.boolean()}
    for name in ["delivered", "evicted", "expired", "quarantined", "refused"]:
        fields[name] = body.number()
    fields["holes"] = ",".join(f"{body.number()}-{body.number()}" for _ in range(body.number()))
    body.end()
    return fields


def show(stream, what, fields):
    print(stream.name, what, *(f"{name}={value}" for name, value in fields.items()))


def main(spool):
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    for stream in sorted(path for path in Path(spool).iterdir() if path.is_dir()):
        saved = stream / "checkpoint"
        if saved.exists():
            show(stream, "checkpoint", checkpoint(saved))
        for path in sorted(stream.glob("*.seg")):
            for fields in segment(path):
                show(stream, "record", fields)


if __name__ == "__main__":
    main(sys.argv[1])
