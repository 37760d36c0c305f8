"""A pids cgroup, in which the kernel refuses processes and threads when a test wants it to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from plait.lab_cgroups import Cgroup, cgroup


@contextlib.contextmanager
def pids_cgroup() -> Iterator[Cgroup]:
    """Skips the test where none can be made. Whoever was taken in must have ended at the end."""
    with cgroup("pids", "test") as made:
        if made is None:
            pytest.skip("no pids cgroup can be made here")
        yield made
