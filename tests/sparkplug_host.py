"""Sparkplug B by pysparkplug: reads what pillion says, and writes what a host application says.

One line of JSON in, one out: {"topic":…,"payload":"hex"} is decoded to {"type","device","timestamp","seq","metrics":[…]};
{"type":"NCmd","metrics":[[name, type, value]],"timestamp":ms} is encoded to {"payload":"hex"}.
"""

import json
import sys

import pysparkplug
from pysparkplug import DataType, Metric, Topic

PAYLOADS = {
    "NBIRTH": pysparkplug.NBirth,
    "DBIRTH": pysparkplug.DBirth,
    "DDATA": pysparkplug.DData,
    "DDEATH": pysparkplug.DDeath,
    "NDEATH": pysparkplug.NDeath,
}


def shown(metric):
    value = metric.value
    return {
        "name": metric.name,
        "type": metric.datatype.name,
        "value": value.hex() if isinstance(value, bytes) else value,
        "timestamp": metric.timestamp,
        "historical": metric.is_historical,
        "null": metric.is_null,
    }


def decode(task):
    topic = Topic.from_str(task["topic"])
    assert (topic.group_id, topic.edge_node_id) == ("site-1", "gw"), topic
    kind = topic.message_type.value
    payload = PAYLOADS[kind].decode(bytes.fromhex(task["payload"]))
    metrics = (payload.bd_seq_metric,) if kind == "NDEATH" else getattr(payload, "metrics", ())
    return {
        "type": kind,
        "device": topic.device_id,
        "timestamp": payload.timestamp,
        "seq": getattr(payload, "seq", None),
        "metrics": [shown(metric) for metric in metrics],
    }


def encode(task):
    now = task["timestamp"]
    metrics = tuple(Metric(now, name, DataType[kind], value=value) for name, kind, value in task["metrics"])
    payload = getattr(pysparkplug, task["type"])(timestamp=now, metrics=metrics)
    return {"payload": payload.encode(include_dtypes=task["types"]).hex()}


for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps(decode(task) if "topic" in task else encode(task)), flush=True)
