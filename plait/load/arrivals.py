"""What came out of the tunnel, by the gateway's host: Linux counts ICMP messages of each type in each network
namespace (/proc/PID/net/snmp and snmp6). A sender cannot know it otherwise of packets that nobody answers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from plait.failure import Failure

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


def counts_of(pid: int | None, *, is_here: bool = True) -> Count | None:
    """The counts of the namespace of a process, by default of this one when the gateway is_here: it mostly
    has its interface here too then. Failure when they cannot be read."""
    if pid is None and not is_here:
        return None
    count = partial(of_process, pid or "self")
    if pid is not None and count() is None:
        why, mend = "there is no such process, or /proc is not to be read", "Give a process of its host."
        raise Failure(f"cannot use --gateway-pid {pid}", why, mend)
    return count


class Arrivals:
    """What arrived in each phase. The counts are believed when they have moved by at least the echoes that
    were answered, and never again when they once have not: then they are another host's."""

    def __init__(self, count: Count | None) -> None:
        self.count = count
        self.before: Arrived | None = None
        self.is_theirs = False

    def begin(self) -> None:
        """Nothing has been sent yet."""
        self.before = self.count() if self.count is not None else None

    def of_phase(self, counters: Mapping[str, int], answered: int, seconds: float) -> Arrived | None:
        """Since the phase before; waits for one-way packets that may still come, so many seconds at most.

        counters: of this phase, in which so many echoes were answered. None: not known.
        """
        if self.count is None or self.before is None:
            return None
        until = time.monotonic() + seconds
        while (now := self.count()) is not None:
            found = now.since(self.before)
            if answered:
                self.is_theirs = found.echoes >= answered
            # The phase has waited for its echoes.
            may_come = counters["oneway"] and found.packets < counters["inner_packets"]
            if not (self.is_theirs and may_come) or time.monotonic() >= until:
                break
            time.sleep(0.01)
        self.before = now
        if now is None or (answered and not self.is_theirs):
            self.count = None
        return found if self.is_theirs and now is not None else None
