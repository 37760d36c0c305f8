"""One worker as the supervisor sees it, through all its incarnations."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from workers.channel import Channel
from workers.launch import Child, WorkerStart, fork_worker
from workers.supervisor.patience import Patience


class Life(Enum):
    """Where a worker is in its life."""

    WAITING = auto()  # not there; `start_at` says when it will be
    STARTING = auto()
    RUNNING = auto()
    ENDED = auto()


class Told(Enum):
    """What a worker that was told to end will be followed by."""

    NOTHING_YET = auto()  # it was not told; who ends unasked starts again
    LEAVE = auto()  # nobody
    RENEW = auto()  # the next incarnation, at once


@dataclass
class Worker:
    """One worker: a place in the segment, and the process that fills it now."""

    kind: str  # control, receiver, consumer
    number: int  # of its kind, from 0
    line: int  # worker number in the segment, shm/layout.h
    cpus: tuple[int, ...]  # where it may run; () = anywhere
    is_extra: bool = False  # the interface goes on without it when it cannot start
    life: Life = Life.WAITING
    told: Told = Told.NOTHING_YET
    start_at: float = 0.0
    kill_at: float | None = None
    stand_in_at: float | None = None  # others do its work from then on, unless it is ready
    ready_at: float | None = None  # of this incarnation
    was_ready: bool = False  # of any incarnation
    deaths: int = 0  # in a row, without a steady run between
    unanswered: int = 0  # sets of descriptors that it was sent and does not use yet
    died_at: float | None = None  # time.monotonic(); it was not asked to end, and none works in its place yet
    why_killed: str = ""  # by us, before its end
    why_failed: str = ""  # in its own words, before its end
    process: Child | None = None
    pidfd: int = -1
    channel: Channel | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        return self.kind if self.kind == "control" else f"{self.kind} {self.number}"

    def fill(self, process: Child, channel: Channel) -> None:
        """This process has the place from now on."""
        self.process, self.channel = process, channel
        # A kernel before 5.3 or a container's filter refuses it; then SIGCHLD tells of the end (roster.py).
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(process.pid)

    def fork(self, work: Callable[[WorkerStart], None], interface: str, patience: Patience) -> None:
        """Start a process for this place. OSError when there is none to be had."""
        ours, theirs = Channel.pair()
        ours.socket.settimeout(patience.send)
        try:
            process = fork_worker(work, self.title, interface, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()  # its number is the pidfd's, where no other is left
        self.fill(process, ours)

    def describe(self) -> dict[str, Any]:
        """In words for JSON, for another program (handover.py)."""
        return {
            "kind": self.kind,
            "number": self.number,
            "life": self.life.name,
            "was_ready": self.was_ready,
            "deaths": self.deaths,
            "unanswered": self.unanswered,
            "pid": self.process.pid if self.process else None,
            "channel": self.channel.fileno() if self.channel else None,
        }

    def resume(self, handover: dict[str, Any], patience: Patience) -> bool:
        """Be what another program described so. False where there is no process on a channel."""
        self.was_ready, self.deaths = handover["was_ready"], handover["deaths"]
        if handover["channel"] is None:
            return False
        self.life, self.unanswered = Life[handover["life"]], handover["unanswered"]
        if self.life is Life.STARTING:
            self.kill_at = time.monotonic() + patience.start
        channel = Channel.inherited(handover["channel"])
        channel.socket.set_inheritable(False)
        channel.socket.settimeout(patience.send)
        self.fill(Child(handover["pid"]), channel)
        return True

    def kill(self, why: str = "") -> None:
        """why: what it did wrong."""
        self.kill_at = None
        if self.process is not None:  # a child of ours that nobody reaped: its pid is no other's
            self.why_killed = self.why_killed or why
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    def bury(self) -> int:
        """Reap its process, which has ended or will; what wait says. The channel stays open."""
        assert self.process is not None
        status = self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.process, self.pidfd, self.unanswered, self.why_killed = None, -1, 0, ""
        return status
