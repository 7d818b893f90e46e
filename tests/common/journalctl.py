#!/usr/bin/env python3
"""journalctl for tests: reads a journal of JSON lines from the folder `journal` beside the place it is started from.

Its files are those of the journal, the oldest first by name; a new file is a rotation, a removed one vacuumed. Where reading begins
is as with systemd 252. A file `fault` beside the folder makes it fail: "forbidden" as without the right to read, "die N"
after every N lines, "rubbish" writes some between the lines.
"""

import os
import select
import sys
import time

HERE = os.path.dirname(os.path.abspath(sys.argv[0]))
JOURNAL = os.path.join(HERE, "journal")
options = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
parent = os.getppid()


def fault():
    try:
        with open(os.path.join(HERE, "fault")) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def number(text):
    return int(text.split(";i=", 1)[1].split(";", 1)[0], 16)


def ours(lines):
    """Of our unit, if there is one: a line names its unit only if that is another one."""
    return [line for line in lines if "unit" not in options or "_SYSTEMD_UNIT" not in line]


class Reader:
    """Every whole line of the journal once, over new files and removed ones."""

    def __init__(self):
        self.places = {}

    def read(self):
        lines = []
        for name in sorted(os.listdir(JOURNAL)):
            try:
                with open(os.path.join(JOURNAL, name)) as file:
                    file.seek(self.places.get(name, 0))
                    text = file.read()
            except FileNotFoundError:
                continue
            whole = text[: text.rfind("\n") + 1]
            self.places[name] = self.places.get(name, 0) + len(whole.encode())
            lines += whole.splitlines()
        return lines


def write(lines):
    global written
    for line in lines:
        if fails[:1] == ["rubbish"] and written % 7 == 3:
            sys.stdout.write("rubbish {\n\n")
        sys.stdout.write(line + "\n")
        written += 1
        if fails[:1] == ["die"] and written % int(fails[1]) == 0:
            sys.stdout.flush()
            os.kill(os.getpid(), 9)
    sys.stdout.flush()


fails, written = fault(), 0
if fails[:1] == ["forbidden"]:
    sys.exit("No journal files were opened due to insufficient permissions.")
reader = Reader()
lines = reader.read()
if "cursor" in options:
    first = number(options["cursor"])
    lines = [line for line in lines if number(line) >= first]
lines = ours(lines)
if "lines" in options:
    lines = lines[-int(options["lines"]) :]
try:
    write(lines)
    while "follow" in options:
        hung_up = select.poll()
        hung_up.register(sys.stdout, 0)
        if hung_up.poll(10) or os.getppid() != parent:
            break
        write(ours(reader.read()))
except BrokenPipeError:
    os._exit(1)
