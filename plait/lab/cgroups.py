"""Cgroups of a lab's own, of version 1 or 2: processes are taken in, made short of something, and let go."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
EMPTY_SECONDS: Final = 60.0


class Cgroup:
    """A fresh one. home: the cgroup that its processes go back to."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self.home = path, home

    def take(self, pids: Iterable[int]) -> None:
        """What they start from now on counts."""
        for pid in pids:
            _move(pid, self.path)

    def set(self, file: str, value: str) -> None:
        (self.path / file).write_text(value)

    def limit(self, most: str) -> None:
        """Of pids: processes and threads together; `max` for no limit. Those that are there stay."""
        self.set("pids.max", most)

    def release(self) -> None:
        """All that are in it go home."""
        while pids := (self.path / "cgroup.procs").read_text().split():
            for pid in pids:
                _move(int(pid), self.home)


def _move(pid: int, path: Path) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        (path / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def cgroup(controller: str, name: str) -> Iterator[Cgroup | None]:
    """A cgroup with this controller (pids, cpuset), removed at the end; None where none can be made.

    Whoever was taken in must have been released, or have ended, at the end.
    """
    for root in (ROOT / controller, ROOT):
        made = root / f"plait-{name}-{os.getpid()}"
        with contextlib.suppress(OSError):
            made.mkdir()
            if list(made.glob(f"{controller}.*")):
                break
            made.rmdir()
    else:
        yield None
        return
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    key = "0::" if root == ROOT else f":{controller}:"
    own = next((line.partition(key)[2] for line in lines if key in line), "/")
    try:
        yield Cgroup(made, root / own.lstrip("/"))
    finally:
        deadline = time.monotonic() + EMPTY_SECONDS
        while (made / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        made.rmdir()
