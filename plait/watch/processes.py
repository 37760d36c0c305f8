"""What /proc tells of processes that may end at any time: memory, CPU time, children (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)  # what a look into /proc raises when the process has ended


def process_stat(pid: int) -> tuple[str, list[str]]:
    """Name, and the fields of /proc/PID/stat from the state on (proc(5): field 3 is [0]).

    An OSError of GONE when the process has gone.
    """
    text = Path(f"/proc/{pid}/stat").read_text()
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest.split()


def cpu_seconds(fields: list[str]) -> float:
    """User and system time, of what `process_stat` returned. IndexError, ValueError: this is no such text."""
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_realtime(fields: list[str]) -> bool:
    """Whether the process runs before ordinary ones now, of what `process_stat` returned."""
    return int(fields[38]) in (os.SCHED_FIFO, os.SCHED_RR)


def pss_bytes(pid: int) -> int:
    """Proportional share of memory of one process. An OSError of GONE when the process has gone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def children(pid: int) -> Iterator[int]:
    """Child processes of pid, of whichever of its threads."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        yield from [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except GONE:  # or a kernel without CONFIG_PROC_CHILDREN
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if int(process_stat(int(entry))[1][1]) == pid:
                        yield int(entry)
