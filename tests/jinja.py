"""Renders templates as Home Assistant's MQTT entities do.

Reads a JSON list of [template, payload, state before] from its input, and writes the list of what came out.
"""

import json
import sys
from types import SimpleNamespace

from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template, payload, state):
    variables = {"value": payload, "this": SimpleNamespace(state=state)}
    try:
        variables["value_json"] = json.loads(payload)
    except ValueError:
        pass
    return ImmutableSandboxedEnvironment().from_string(template).render(variables).strip()


print(json.dumps([render(*task) for task in json.load(sys.stdin)]))
