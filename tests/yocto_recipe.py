"""Parses a recipe with bitbake's own parser, and prints what tests/yocto.rs looks at, as JSON: the crates as bitbake's
fetcher understands them, the recipe's variables, and do_install as the shell script that bitbake would run.

    python yocto_recipe.py RECIPE FOLDER      the folder becomes ${D}

The classes that the recipe inherits, and bitbake.conf, belong to OpenEmbedded-Core, which is not here. What stands
in for them has as much of them as the recipe relies on; with /usr merged, as systemd wants it, and an application
`gateway`.
"""

import io
import json
import os
import re
import sys
import tempfile
import types

# Clients of a server: bitbake imports them, but its package leaves them out.
sys.modules.update({name: types.ModuleType(name) for name in ("hashserv", "hashserv.client")})

import bb.data
import bb.fetch2
import bb.parse
import bb.siggen

BITBAKE_CONF = """
BBPATH = "{stand_ins}"
TOPDIR = "{stand_ins}"
TMPDIR = "{stand_ins}"
DL_DIR = "{stand_ins}/downloads"
PERSISTENT_DIR = "{stand_ins}/cache"
WORKDIR = "{stand_ins}/work"
D = "{image}"
FILE_DIRNAME = "${{@os.path.dirname(d.getVar('FILE', False))}}"
PN = "${{@bb.parse.vars_from_file(d.getVar('FILE', False), d)[0]}}"
PV = "${{@bb.parse.vars_from_file(d.getVar('FILE', False), d)[1]}}"
BPN = "${{PN}}"
S = "${{EXTERNALSRC}}"
bindir = "/usr/bin"
sysconfdir = "/etc"
localstatedir = "/var"
docdir = "/usr/share/doc"
base_sbindir = "/usr/sbin"
nonarch_libdir = "/usr/lib"
nonarch_base_libdir = "/usr/lib"
systemd_system_unitdir = "/usr/lib/systemd/system"
PILLION_INSTANCES = "gateway"
FILES:${{PN}} = "${{bindir}}/* ${{sysconfdir}}"
FILES:${{PN}}-doc = "${{docdir}}"
"""
CARGO_BBCLASS = """
do_install() {
    install -D -m 0755 "$BINARY" ${D}${bindir}/pillion
}
"""


def parse(recipe, image, stand_ins):
    """The recipe's variables."""
    with open(recipe) as file:
        classes = re.search(r"^inherit (.*)$", file.read(), re.MULTILINE).group(1).split()
    texts = {f"classes/{name}.bbclass": "" for name in [*classes, "base"]}
    texts["classes/cargo.bbclass"] = CARGO_BBCLASS
    texts["conf/bitbake.conf"] = BITBAKE_CONF.format(stand_ins=stand_ins, image=image)
    for name, text in texts.items():
        os.makedirs(os.path.dirname(f"{stand_ins}/{name}"), exist_ok=True)
        with open(f"{stand_ins}/{name}", "w") as file:
            file.write(text)
    data = bb.parse.handle(f"{stand_ins}/conf/bitbake.conf", bb.data.init())
    # What bitbake's cooker would set.
    cooker = {"__BBMULTICONFIG": "", "__bbclasstype": "recipe", "__BB_RECIPE_FILE": recipe, "FILE_LAYERNAME": "pillion"}
    for name, value in cooker.items():
        data.setVar(name, value)
    bb.parse.siggen = bb.siggen.SignatureGenerator(data)
    return bb.parse.handle(recipe, data)[""]


recipe, image = sys.argv[1:]
with tempfile.TemporaryDirectory() as stand_ins:
    data = parse(recipe, image, stand_ins)
    sources = bb.fetch2.Fetch(data.getVar("SRC_URI").split(), data).ud.values()
    do_install = io.StringIO()
    bb.data.emit_func("do_install", do_install, data)
    print(json.dumps({
        "sources": {source.parm["downloadfilename"]: source.sha256_expected for source in sources},
        "variables": {name: data.getVar(name) for name in data.keys() if not name.startswith("_")},
        "do_install": do_install.getvalue(),
    }))
