"""A look at a process through /proc when what is looked at goes meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys

from plait.lab.namespaces import descriptors, read_proc, state, title
from plait.watch.processes import children
from tests.support.waiting import until


def test_a_descriptor_that_is_closed_meanwhile_is_left_out() -> None:
    """The directory of our own descriptors lists the one that it is read by, which is closed then."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}
    found = descriptors(os.getpid())
    assert found.keys() < listed and found[0] == os.readlink("/proc/self/fd/0")


def test_a_process_that_has_gone_is_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        until(lambda: state(process.pid) == "Z", "its end")
        assert (title(process.pid), descriptors(process.pid)) == ("", {})
    pid = process.pid
    assert (state(pid), title(pid), read_proc(pid, "maps")) == ("", "", None)
    assert (descriptors(pid), list(children(pid))) == ({}, [])
