"""The watchdog: which running worker is stuck, and why we think so.

Every worker notes its turns in its line of the segment (epoch and beat); a sleeping worker notes one about
every half second. A worker whose line does not change has not moved. The watchdog rings the bell of a worker
that two looks in a row found still, which moves a healthy sleeper at once. If the worker still does not move,
the kernel says why (the letter is the state in /proc):

- The worker is stopped (T, t), or it waits (S) and has not run since the last look although its bell rang:
  stuck when `still_looks` looks in a row find this.
- The worker runs and finishes no turn: stuck when it has used `busy` seconds of CPU since it last moved.
- The worker could run but gets no CPU (R), or the kernel keeps it (D): never stuck, however long this lasts.

The watchdog counts looks, not seconds: the first look after a pause of the whole machine proves nothing.
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
    """What the looks at one worker have found since it last moved."""

    mark: tuple[int, int, int]
    cpu: int | None = None  # ns of CPU, at the first look that found it unmoved
    latest: int = 0  # ns of CPU, at the last look
    looks: int = 0  # in a row that found it stopped or waiting


class Watchdog:
    """segment: a `struct segment *`. bells: worker number -> eventfd; consumers have none (shm/bell.h)."""

    def __init__(self, segment: segment_p, bells: Mapping[int, int], patience: Patience) -> None:
        self.segment = segment
        self.bells = bells
        self.patience = patience
        self._seen: dict[int, _Seen] = {}

    def look(self, kind: str, worker: int, pid: int, is_starting: bool = False) -> str | None:
        """Why this worker is stuck; None when it is not stuck or may not be. Called every `look` seconds.

        worker: number of its line. A starting worker finishes no turns yet, so it is stuck only when stopped.
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
            ring(self.bells[worker])
        else:
            lib.bell_wake(self.segment, worker)


def ring(bell: int) -> None:
    """Wake the worker whose eventfd this is, whether or not it sleeps."""
    with contextlib.suppress(BlockingIOError):  # the counter is full, so that it rings already
        os.eventfd_write(bell, 1)


def process_state(pid: int) -> tuple[str, int]:
    """The state letter of a process with one thread, and how many ns it has run (proc(5))."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        state = file.read().rpartition(b")")[2].split()[0].decode()
    with open(f"/proc/{pid}/schedstat", "rb") as file:
        return state, int(file.read().split()[0])
