"""A pids cgroup, in which the kernel refuses processes and threads when a test wants it to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from waiting import until


class Pids:
    """A fresh cgroup, of version 1 or 2."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, pids: Iterable[int]) -> None:
        """What they start from now on counts."""
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, most: str) -> None:
        """Processes and threads together; `max` for no limit. Those that are there stay."""
        (self.path / "pids.max").write_text(most)


@contextlib.contextmanager
def pids_cgroup() -> Iterator[Pids]:
    """Skips the test where none can be made. Whoever was taken in must have ended at the end."""
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        made = root / f"plait-pids-{os.getpid()}"
        with contextlib.suppress(OSError):
            made.mkdir()
            if (made / "pids.max").exists():
                break
            made.rmdir()
    else:
        pytest.skip("no pids cgroup can be made here")
    try:
        yield Pids(made)
    finally:
        until(lambda: not (made / "cgroup.procs").read_text(), "the group is empty")
        made.rmdir()
