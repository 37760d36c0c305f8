"""What an engine keeps in memory: every worker is a fork of the supervisor, and has what that has loaded."""

from __future__ import annotations

import json
import subprocess
import sys

LOADED = """
import sys
interpreter = set(sys.modules)  # and what lies in its site-packages to be loaded by every program
import gc, json
from plait import daemon
assert daemon._options(["wg0"]).interface == daemon._options(["--inherit", "3", "wg0"]).interface == "wg0"
daemon._load_engine()
print(json.dumps([gc.get_freeze_count(), len(gc.get_objects()), *(sys.modules.keys() - interpreter)]))
"""
# Each is some hundred KiB and some milliseconds of every start.
USELESS = {
    "argparse": "plaitd_help.py has it, for who asks for help",
    "asyncio": "no loop of ours is one of asyncio's",
    "click": "the command plait has it",
    "cryptography": "handshakes are C; engine/noise.py and cookie.py are for tests and flooders",
    "email": "importlib.metadata loads it, for a version that is a constant",
    "numpy.lib": "arrays.py leaves it out",
    "numpy.linalg": "numpy.lib loads it",
    "numpy._typing": "numpy.linalg loads it, and numpy.typing, which is for annotations",
    "random": "secrets loads it, and then each fork seeds it; os.urandom needs neither",
    "rich": "the command plait has it",
    "shutil": "it loads all that decompresses archives",
    "tomllib": "settings.py loads it where there is a file",
}
# Packages that are not the interpreter's. typing_extensions: msgspec loads it where it is installed.
OTHERS = {"_cffi_backend", "msgspec", "numpy", "posix_ipc", "setproctitle", "typing_extensions"}


def test_an_engine_has_nothing_loaded_that_it_has_no_use_for() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LOADED], capture_output=True, text=True, check=True)
    frozen, tracked, *modules = json.loads(done.stdout)
    assert {name: why for name, why in USELESS.items() if name in modules} == {}
    assert "numpy" in modules and "workers.control.process" in modules  # it is what control runs
    # A full collection writes to each object that is not frozen, and so copies the page that it shares.
    assert tracked < frozen / 10, (tracked, frozen)


def test_an_engine_loads_no_package_of_others_but_these() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LOADED], capture_output=True, text=True, check=True)
    ours = {"engine", "plait", "shm", "workers"}
    packages = {name.partition(".")[0] for name in json.loads(done.stdout)[2:]}
    assert packages - ours - sys.stdlib_module_names <= OTHERS


LET_GO = """
import re
import numpy
from workers._workers import lib

def resident():
    text = open("/proc/self/smaps").read()
    found = re.search(r"r-xp .*/_multiarray_umath\\S*\\nSize: .*\\n(?:\\w+: .*\\n)*?Rss: +(\\d+) kB", text)
    return int(found[1])

before = resident()
looked_through = lib.program_let_go()
after = resident()
print(before > 0, looked_through > 0, after, int(numpy.arange(1000).sum()), resident() > 0)
"""


def test_code_is_mapped_again_when_it_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LET_GO], capture_output=True, text=True, check=False)
    assert done.stdout == "True True 0 499500 True\n", done.stderr
