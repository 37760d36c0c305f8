"""Another listen port while the interface runs: all workers get new sockets, or none does.

A change is a generator, as those of the numbers are (scaling.py). What lies in the old sockets is not lost:

- Receivers read the old sockets beside the new ones until every worker sends through the new ones.
- Then the old sockets are deaf: what is sent to the old port finds it closed.
- When receivers have emptied the old sockets, or after `Patience.old_port`, everybody lets go of them. What
  nobody has read by then is counted as `DROP_KILLED`.

One port is left at a time. Control, which asks for another one meanwhile, is answered when that is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import Any

from workers._workers import lib
from workers.failure import Failure
from workers.supervisor.resources import Resources
from workers.supervisor.roster import Roster
from workers.supervisor.sockets import close_sockets, deafen, empty, is_empty
from workers.supervisor.worker import Life, Worker

LOOKS = 3  # in a row, that find the old sockets empty
log = logging.getLogger("plait")


class Ports:
    """The listen port of an interface."""

    def __init__(self, resources: Resources, roster: Roster) -> None:
        self.resources = resources
        self.roster = roster
        self._leaving: Generator[None, None, None] | None = None
        self._wanted: tuple[int, int] | None = None  # the process that asks, and the port

    @property
    def is_under_way(self) -> bool:
        """Whether an old port is being left."""
        return self._leaving is not None

    def want(self, control: Worker, port: int) -> None:
        """Control asks for this port (0: a random one), and hears of it."""
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port}")
        if control.process is None:  # its last words: the next one asks again
            return
        self._wanted = control.process.pid, port
        self.go_on()

    def go_on(self) -> None:
        """Do what can be done now."""
        if self._leaving is not None and next(self._leaving, self) is self:
            self._leaving = None
        if self._leaving is None and self._wanted is not None:
            (asker, port), self._wanted = self._wanted, None
            control = self.roster.find("control")
            if control.process is not None and control.process.pid == asker:
                self._change(control, port)

    def _change(self, control: Worker, port: int) -> None:
        try:
            is_another = self.resources.change_port(port)
        except Failure as failure:
            log.error("%s", failure)
            refusal = {"kind": "listen_port", "port": self.resources.port, "errno": failure.errno, "fds": []}
            self.roster.send(control, refusal, [])
            return
        if is_another:
            self._share()
            self._leaving = self._leave()
        self.roster.share(control, "listen_port", port=self.resources.port, errno=0)

    def _leave(self) -> Generator[None, None, None]:
        while self._are_unanswered:
            yield
        deafen(self.resources.old_sockets)
        looks, deadline = 0, time.monotonic() + self.roster.patience.old_port
        while looks < LOOKS and time.monotonic() < deadline:
            looks = looks + 1 if all(map(is_empty, self.resources.old_sockets)) else 0
            yield
        old, self.resources.old_sockets = self.resources.old_sockets, []
        self._share()
        self.roster.share(self.roster.find("control"))
        try:
            while self._are_unanswered:
                yield
            count_unread(self.resources.segment, sum(map(empty, old)), "the old port")
        finally:
            close_sockets(old)

    @property
    def _are_unanswered(self) -> bool:
        """Whether some use sockets that they had before. Who starts, or hangs at that, uses none."""
        return any(w.unanswered for w in self.roster.workers if w.life is Life.RUNNING)

    def _share(self) -> None:
        for worker in self.roster.of_kind("receiver", "consumer"):
            self.roster.share(worker)

    def close(self) -> None:
        """The engine ends: nothing is done any more."""
        if self._leaving is not None:
            self._leaving.close()
        self._leaving = self._wanted = None


def count_unread(segment: Any, packets: int, whose: str) -> None:
    """Datagrams that lay in sockets which are closed."""
    if packets:
        lib.counter_add(segment, lib.WORKER_SUPERVISOR, lib.UDP_RECEIVED, packets)
        lib.counter_add(segment, lib.WORKER_SUPERVISOR, lib.DROP_KILLED, packets)
        # Behind the counts: who reads this finds the packets there.
        log.error("%d packets are lost with the sockets of %s", packets, whose)
