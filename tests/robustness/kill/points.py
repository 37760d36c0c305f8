"""The marked points of the C sources (shm/point.h): their names, an engine that has them, and asking for one.

The engine is a second build in builddir-points, with a Python of its own in front of it; what is shipped and
what other tests load stays as it is.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

from plait.lab.namespaces import read_proc
from tests.support import second_build
from tests.support.sources import ROOT, sources

BUILD = ROOT / "builddir-points"
MARKED = ("shm", "workers")  # the packages whose C has points
FILE = "/run/points"
NAME_BYTES = 80
REQUEST = struct.Struct(f"=iII{NAME_BYTES}s")  # struct point_request

# As plaitd, but the dead come back without a pause, however many they are, and nobody takes a process that
# is held for stuck.
PROGRAM = """
import sys
from plait.daemon import serve
from workers.supervisor.patience import Patience
serve(sys.argv[1], lambda: None, Patience(pauses=(0.0,), restart=60.0, look=60.0))
"""


def names() -> list[str]:
    """Every point in the sources, once for each place."""
    found: list[str] = []
    for package in MARKED:
        for source in sources(f"{package}/**/*.c", at_least=10):
            found += re.findall(r'\bPOINT\("([^"]+)"\)', source.read_text())
    return found


def build() -> list[str]:
    """The command of an engine with points, built as far as it has to be; {iface} is for the lab."""
    options = ("-Dpoints=true", "--buildtype=plain", "-Doptimization=0")
    python = second_build.python(BUILD, MARKED, options)
    return [str(python), "-P", "-c", PROGRAM, "{iface}"]


class Request:
    """What the engine's processes look at. One point at a time."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(REQUEST.size))
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), REQUEST.size)

    def ask(self, pid: int, name: str, passing: int = 1) -> None:
        """The process of this number (as we know it) is to stay at the point at its n-th passing."""
        self.withdraw()
        self.map[4:] = REQUEST.pack(0, passing, 0, name.encode())[4:]
        self.map[:4] = struct.pack("=i", _number_inside(pid))

    def withdraw(self) -> None:
        self.map[:4] = bytes(4)

    @property
    def is_reached(self) -> bool:
        return REQUEST.unpack(self.map[:])[2] == 1


def _number_inside(pid: int) -> int:
    """The process's number in its own namespace (proc(5))."""
    for line in (read_proc(pid, "status") or "").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise LookupError(f"process {pid} has no number of its own")
