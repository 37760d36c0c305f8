"""Which Plait this is: its version, the commit of its sources, and the layout of its shared memory.

A checkout asks git, whose answer ends in `-dirty` when files differ from that commit. An installation has
what meson wrote into _built.py. The commit is `unknown` where neither tells: no git, no repository, or one
that git does not trust for this user.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path

from shm.layout import layout_hash

# As in pyproject.toml and meson.build. The installed package's metadata has it too, but importlib.metadata is
# 1.4 MiB and 10 ms of CPU that an engine has no other use for.
VERSION = "0.1.0"
UNKNOWN = "unknown"
GIT_SECONDS = 5.0
ROOT = Path(__file__).resolve().parents[1]


@cache
def commit(root: Path = ROOT) -> str:
    """Of the sources beneath root, at the first call: 12 digits, perhaps with `-dirty`; or `unknown`."""
    if (root / ".git").exists():
        return _asked(root)
    try:
        built = import_module("workers._built")
    except ImportError:
        return UNKNOWN
    # Of an editable installation it lies in build/, and the sources may have changed since.
    is_beside = Path(str(built.__file__)).resolve().parent == root / "workers"
    return str(built.COMMIT) if is_beside else UNKNOWN


def layout() -> str:
    """Engines of one layout can take each other's place: 16 hexadecimal digits."""
    return f"{layout_hash():016x}"


def words() -> str:
    """All of it in one line, behind a program's name."""
    return f"{VERSION} (memory layout {layout()}, commit {commit()})"


def as_dict() -> dict[str, str]:
    """All of it for JSON."""
    return {"version": VERSION, "layout": layout(), "commit": commit()}


def _asked(root: Path) -> str:
    # --match of nothing: no tag takes the place of the commit.
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    # GIT_DIR and its like, as a hook has them, speak of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else UNKNOWN
