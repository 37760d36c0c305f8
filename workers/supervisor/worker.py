"""One worker as the supervisor sees it, through all its incarnations."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from workers.channel import Channel
from workers.launch import Child
from workers.supervisor.patience import Patience


class Life(Enum):
    """Where a worker is in its life."""

    WAITING = auto()  # no process; one starts at `start_at`
    STARTING = auto()
    RUNNING = auto()
    ENDED = auto()


class Told(Enum):
    """What the supervisor has told a worker to do, and so what follows the worker's end."""

    NOTHING_YET = auto()  # a worker that ends unasked is started again
    LEAVE = auto()  # end; no process follows
    RENEW = auto()  # end; the next incarnation starts at once


@dataclass
class Worker:
    """One worker: a place in the segment, and the process that fills it now."""

    kind: str  # control, receiver, consumer
    number: int  # of its kind, from 0
    line: int  # worker number in the segment, shm/layout.h
    cpus: tuple[int, ...]  # CPUs that it may run on; () = any
    is_extra: bool = False  # if it cannot start, the interface works without it
    life: Life = Life.WAITING
    told: Told = Told.NOTHING_YET
    start_at: float = 0.0
    kill_at: float | None = None
    stand_in_at: float | None = None  # if it is not ready by then, other workers stand in for it
    ready_at: float | None = None  # of this incarnation
    was_ready: bool = False  # of any incarnation
    deaths: int = 0  # in a row, without a steady run between
    unanswered: int = 0  # sets of descriptors sent to it that it has not confirmed yet
    died_at: float | None = None  # time.monotonic() of its death; None when its successor is ready
    why_killed: str = ""  # by the supervisor; empty when it was not killed
    why_failed: str = ""  # the worker's own message; empty without one
    process: Child | None = None
    pidfd: int = -1
    channel: Channel | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        return self.kind if self.kind == "control" else f"{self.kind} {self.number}"

    def fill(self, process: Child, channel: Channel) -> None:
        """Make this process, at the other end of `channel`, the worker's process."""
        self.process, self.channel = process, channel
        # Linux before 5.3 or a container's filter refuses a pidfd; then SIGCHLD reports the end (roster.py).
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(process.pid)

    def describe(self) -> dict[str, Any]:
        """The worker as a JSON object, for the program that takes over (handover.py)."""
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
        """Take on what `describe` gave in the former program; False without a process and its channel."""
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
        """Kill the worker's process, if it has one. why: what the worker did wrong."""
        self.kill_at = None
        if self.process is not None:  # not reaped yet, so no other process has its pid
            self.why_killed = self.why_killed or why
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    def bury(self) -> int:
        """Wait for the process to end and reap it; returns as Child.wait does. The channel stays open."""
        assert self.process is not None
        status = self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.process, self.pidfd, self.unanswered, self.why_killed = None, -1, 0, ""
        return status
