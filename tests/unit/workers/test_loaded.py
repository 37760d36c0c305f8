"""What an engine keeps in memory: every worker is a fork of the supervisor, and has what that has loaded."""

from __future__ import annotations

import json
import subprocess
import sys

LOADED = """
import gc, json, sys
from plait import daemon
assert daemon._options(["wg0"]).interface == daemon._options(["--inherit", "3", "wg0"]).interface == "wg0"
daemon._load_engine()
print(json.dumps([gc.get_freeze_count(), len(gc.get_objects()), *sys.modules]))
"""
# Each is some hundred KiB and some milliseconds of every start.
USELESS = {
    "argparse": "plaitd_help.py has it, for who asks for help",
    "asyncio": "no loop of ours is one of asyncio's",
    "click": "the command plait has it",
    "cryptography": "handshakes are C; engine/noise.py and cookie.py are for tests and flooders",
    "email": "importlib.metadata loads it, for a version that is a constant",
    "random": "secrets loads it, and then each fork seeds it; os.urandom needs neither",
    "rich": "the command plait has it",
    "shutil": "it loads all that decompresses archives",
    "tomllib": "settings.py loads it where there is a file",
}


def test_an_engine_has_nothing_loaded_that_it_has_no_use_for() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LOADED], capture_output=True, text=True, check=True)
    frozen, tracked, *modules = json.loads(done.stdout)
    assert {name: why for name, why in USELESS.items() if name in modules} == {}
    assert "numpy" in modules and "workers.control.process" in modules  # it is what control runs
    # A full collection writes to each object that is not frozen, and so copies the page that it shares.
    assert tracked < frozen / 10, (tracked, frozen)
