"""What came out of the tunnel, by the gateway's host: Linux counts ICMP messages of each type in each network
namespace (/proc/PID/net/snmp and snmp6). A sender cannot know it otherwise of packets that nobody answers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

FRESH_SECONDS = 5.0  # to wait for a count that was made after it was asked for


@dataclass(frozen=True)
class Arrived:
    """Echo requests, and echo replies: one-way packets are such."""

    echoes: int
    oneway: int

    def since(self, before: Arrived) -> Arrived:
        """What came after an earlier count."""
        return Arrived(self.echoes - before.echoes, self.oneway - before.oneway)

    @property
    def packets(self) -> int:
        """All of them."""
        return self.echoes + self.oneway


Count = Callable[[], "Arrived | None"]


def of_process(pid: int | str = "self") -> Arrived | None:
    """The counts of the namespace that a process is in; None when it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
        lines6 = Path(f"/proc/{pid}/net/snmp6").read_text().splitlines()
    except OSError:
        return None
    names, values = (line.split()[1:] for line in lines if line.startswith("Icmp:"))
    icmp = dict(zip(names, map(int, values), strict=True))
    icmp6 = {name: int(value) for name, value in (line.split() for line in lines6)}
    return Arrived(
        icmp["InEchos"] + icmp6.get("Icmp6InEchos", 0),
        icmp["InEchoReps"] + icmp6.get("Icmp6InEchoReplies", 0),
    )


def write(path: Path, pid: int) -> None:
    """Put a process's counts where somebody in another PID namespace reads them, whole or not at all."""
    at, counted = time.clock_gettime_ns(time.CLOCK_BOOTTIME), of_process(pid)
    if counted is not None:
        made = path.with_suffix(".new")
        made.write_text(json.dumps({"at": at, **asdict(counted)}))
        os.rename(made, path)


def of_file(path: Path) -> Arrived | None:
    """What write() put there after this call; None when nothing comes."""
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    until = time.monotonic() + FRESH_SECONDS
    while time.monotonic() < until:
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            found = {"at": 0}
        if found["at"] > began:
            return Arrived(found["echoes"], found["oneway"])
        time.sleep(0.01)
    return None
