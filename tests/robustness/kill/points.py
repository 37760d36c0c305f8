"""The marked points of the C sources (shm/point.h): their names, an engine that has them, and asking for one.

The engine is a second build in builddir-points, with a Python of its own in front of it; what is shipped and
what other tests load stays as it is.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

from engine import _engine
from plait.lab.namespaces import read_proc, search_path
from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[3]
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
    if not (BUILD / "build.ninja").exists():
        _run("meson", "setup", str(BUILD), "-Dpoints=true", "--buildtype=plain", "-Doptimization=0")
    _run("ninja", "-C", str(BUILD), *(f"{package}/_{package}.abi3.so" for package in MARKED))
    packages = BUILD / "packages"
    for package in (*MARKED, "engine", "plait"):
        shutil.rmtree(packages / package, ignore_errors=True)
        modules = {path.relative_to(ROOT): path for path in sources(f"{package}/**/*.py", at_least=4)}
        modules |= {path.relative_to(BUILD): path for path in (BUILD / package).rglob("*.so")}
        if package == "engine":
            modules[Path(package) / Path(str(_engine.__file__)).name] = Path(str(_engine.__file__))
        for name, module in modules.items():
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).symlink_to(module)
    python = BUILD / "venv/bin/python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", "--without-pip", str(BUILD / "venv"))
    # A place that a .pth file names is searched, and its own .pth files are not: they would name the sources.
    place = next((BUILD / "venv").glob("lib/python3*/site-packages"))
    (place / "points.pth").write_text(f"{packages}\n{sysconfig.get_paths()['purelib']}\n")
    return [str(python), "-P", "-c", PROGRAM, "{iface}"]


def _run(*command: str) -> None:
    environment = os.environ | {"PATH": search_path()}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)
    if done.returncode:
        raise RuntimeError(f"'{' '.join(command)}' failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")


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
