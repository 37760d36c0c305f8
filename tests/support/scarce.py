"""A pids cgroup, in which the kernel refuses processes and threads when a test wants it to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from plait.lab.cgroups import Cgroup, cgroup


@contextlib.contextmanager
def pids_cgroup() -> Iterator[Cgroup]:
    """Where none can be made the test is skipped, or fails with CI=true.

    Whoever was taken in must have ended at the end.
    """
    with cgroup("pids", "test") as made:
        if made is None:
            if os.environ.get("CI") == "true":
                pytest.fail("CI=true, and no pids cgroup can be made here", pytrace=False)
            pytest.skip("no pids cgroup can be made here")
        yield made
