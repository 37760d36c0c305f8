"""Builds the C programs of tests/unit/shm with meson, once a session, also under sanitizers."""

from __future__ import annotations

import fcntl
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FLAGS = {"plain": [], "thread": ["-Db_sanitize=thread"], "address": ["-Db_sanitize=address,undefined"]}


@cache
def program(name: str, sanitizer: str = "plain") -> Path:
    """Path of a freshly built test program; `sanitizer` is plain, thread or address (with undefined)."""
    build = ROOT / f"builddir-shm-{sanitizer}"
    with open(f"{build}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of the same tests build there, too
        if not (build / "build.ninja").exists():
            setup = ["meson", "setup", "--reconfigure", str(build), *FLAGS[sanitizer]]
            _run([word for word in setup if word != "--reconfigure" or build.exists()])
        _run(["ninja", "-C", str(build), "build.ninja"])  # else a new program is not known to what comes next
        _run(["meson", "compile", "-C", str(build), name])
    return build / "tests/unit/shm" / name


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
