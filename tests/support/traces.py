"""What a command left behind on the machine that it ran on, and which processes it has made."""

from __future__ import annotations

import contextlib
import os
import re

from plait.lab.namespaces import Host, read_proc
from plait.watch.processes import GONE

TRACES = """
find /run /dev/shm -mindepth 1 | sort
ip -json address; ip -json rule; ip -json route show table all; nft list ruleset
ls /sys/class/net
for process in /proc/[0-9]*; do [ $process = /proc/$$ ] || tr '\\0' ' ' < $process/cmdline; done
true
"""


def traces(host: Host) -> str:
    """Everything it could leave outside of its namespaces: files, interfaces, rules, processes."""
    told = host.run(["sh", "-c", TRACES], check=False)
    return re.sub(r"find /run .*|ls /sys.*|tr .*", "", told.stdout)


def offspring(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    with contextlib.suppress(*GONE):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in (read_proc(pid, f"task/{task}/children") or "").split():
                found |= {int(child)} | offspring(int(child))
    return found
