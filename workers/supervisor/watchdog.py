"""The watchdog: which running worker is stuck, and why we think so.

Every worker notes its turns in its line of the segment (epoch and beat), a sleeping one about every half
second. A worker that has not moved for two looks is rung, which moves a healthy sleeper at once. A worker
that still does not move has one of these reasons, and the kernel says which:

- it is stopped (T, t), or waits (S) and has not run since the last look although it was rung: stuck
  when found so on `still_looks` looks in a row;
- it runs and finishes no turn: stuck when it has had so much CPU (`busy`) since it last moved;
- it could run but gets no CPU (R), or the kernel keeps it (D): not its fault, whatever the time.

Looks are counted, not seconds: after a pause of the whole machine the first look proves nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workers._workers import lib
from workers.supervisor.patience import Patience

if TYPE_CHECKING:
    from workers._workers import segment_p

NANOSECONDS: Final = 1_000_000_000


@dataclass
class _Seen:
    """One worker as it was when it last moved, and since."""

    mark: tuple[int, int, int]
    cpu: int | None = None  # ns, at the first look that found it unmoved
    latest: int = 0  # ns, at the last look
    looks: int = 0  # in a row that found it still


class Watchdog:
    """segment is a `struct segment *`; bells maps worker numbers to eventfds, without consumers."""

    def __init__(self, segment: segment_p, bells: Mapping[int, int], patience: Patience) -> None:
        self.segment = segment
        self.bells = bells
        self.patience = patience
        self._seen: dict[int, _Seen] = {}

    def look(self, kind: str, worker: int, pid: int, is_starting: bool = False) -> str | None:
        """Why this worker is stuck; None when it is not, or not for sure. Called every `look` s.

        worker: number of its line. A worker that is starting has no turns yet: it may only not be stopped.
        """
        line = self.segment.workers[worker]
        mark = (pid, int(line.epoch), int(line.beat))
        seen = self._seen.get(worker)
        if seen is None or seen.mark != mark:
            self._seen[worker] = _Seen(mark)
            return None
        try:
            state, cpu = process_state(pid)
        except (OSError, ValueError):  # it has ended, or there is no /proc to ask
            return None
        if seen.cpu is None:
            seen.cpu = seen.latest = cpu
        stopped = state in "Tt"
        waits = state == "S" and cpu == seen.latest and not is_starting
        seen.looks = seen.looks + 1 if stopped or waits else 0
        seen.latest = cpu
        if seen.looks >= self.patience.still_looks:
            return "it is stopped" if stopped else "it does not wake up"
        if is_starting:
            return None
        most = self.patience.busy_control if kind == "control" else self.patience.busy
        if cpu - seen.cpu >= most * NANOSECONDS:
            return f"it has run for {(cpu - seen.cpu) / NANOSECONDS:.1f} s without finishing a turn"
        if seen.looks > 1:
            self._ring(worker)
        return None

    def _ring(self, worker: int) -> None:
        if worker in self.bells:
            with contextlib.suppress(BlockingIOError):  # somebody wrote the largest number
                os.eventfd_write(self.bells[worker], 1)
        else:
            lib.bell_wake(self.segment, worker)


def process_state(pid: int) -> tuple[str, int]:
    """The state letter of a process with one thread, and how many ns it has run (proc(5))."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        state = file.read().rpartition(b")")[2].split()[0].decode()
    with open(f"/proc/{pid}/schedstat", "rb") as file:
        return state, int(file.read().split()[0])
