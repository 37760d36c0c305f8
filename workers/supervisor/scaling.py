"""More and fewer receivers and consumers while the interface runs.

A change is a generator: it does a step and yields while it has to wait; the supervisor's loop resumes it.
A change loses no packet as long as no process is killed meanwhile:

- Another receiver starts without anything to read. When it is ready it gets its TUN queue and joins the
  group of sockets.
- The last receiver leaves when the kernel sends all datagrams to the first one, no other process has a copy
  of its sockets, and they are empty. Its TUN queue can not be closed without losing the packets in it, so
  another receiver reads it from then on, as its second one.
- Peers move to another consumer by control's word in their rows. The last consumer leaves after a
  grace period, when no process uses an older word. Peers that are marked ready at it then are passed on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import NoReturn

from shm.segment import SegmentError
from workers._workers import lib
from workers.failure import Exit, Failure
from workers.settings import MAX_WORKERS_OF_A_KIND, path_of
from workers.supervisor.changes import Change
from workers.supervisor.ports import count_unread
from workers.supervisor.resources import Resources
from workers.supervisor.roster import Roster
from workers.supervisor.worker import Life, Worker

LOOKS = 3  # in a row, that find the sockets of a receiver that leaves empty
log = logging.getLogger("plait")

Waiting = Generator[None, None, None]  # yields while it waits


class Scaling:
    """Changes how many receivers and consumers run.

    scale: to so many of each, or it is refused. scale_up, scale_down: by so many receivers and consumers, as
    far as there is room; when both kinds are at their limit, it is refused.
    """

    def __init__(self, resources: Resources, roster: Roster) -> None:
        self.resources = resources
        self.roster = roster
        self.segment = resources.segment
        self.shared_out = 0  # consumers that control says the peers belong to

    def scale_up(self, times: str = "1") -> Change:
        """So many more of each."""
        kinds = zip(self._counts, self._room, strict=True)
        goal = tuple(min(count + int(times), room) for count, room in kinds)
        if goal == self._counts:
            beyond = [room + 1 for room in self._room]
            self._refuse_room("there is no room for more", "and they run", beyond)
        return (yield from self._reach(*goal))

    def scale_down(self, times: str = "1") -> Change:
        """So many fewer of each."""
        goal = tuple(max(count - int(times), 1) for count in self._counts)
        if goal == self._counts:
            self._refuse_none("there are no fewer than one receiver and one consumer")
        return (yield from self._reach(*goal))

    def scale(self, receivers: str, consumers: str) -> Change:
        """So many, each a number, or a difference with its sign before it."""
        goal = asked(self.resources.receivers, receivers), asked(self.resources.consumers, consumers)
        what = f"cannot run {_words(*goal)}"
        if min(goal) < 1:
            self._refuse_none(what)
        if any(wanted > room for wanted, room in zip(goal, self._room, strict=True)):
            self._refuse_room(what, f"and {_words(*self._counts)} run", goal)
        return (yield from self._reach(*goal))

    @property
    def _counts(self) -> tuple[int, int]:
        return self.resources.receivers, self.resources.consumers

    @property
    def _room(self) -> tuple[int, int]:
        return len(self.resources.queues), int(self.segment.geometry.max_consumers)

    def _refuse_none(self, what: str) -> NoReturn:
        raise Failure(what, "an engine has one of each at least", "ask for 1 or more of each", Exit.USAGE)

    def _refuse_room(self, what: str, they_run: str, goal: Sequence[int]) -> NoReturn:
        """goal: numbers of which one at least is too large."""
        why = f"the memory was laid out for {_words(*self._room)}, {they_run}"
        names = ("max_receivers", "max_consumers")
        full = [name for name, wanted, room in zip(names, goal, self._room, strict=True) if wanted > room]
        if "max_receivers" in full and self.resources.given:
            why = f"{self.resources.one_queue}, and one receiver reads them"
            next_step = "let plaitd open its own sockets, or ask for more consumers alone"
        elif "max_receivers" in full and self.resources.one_queue:
            why = f"{self.resources.one_queue}, so that one receiver reads it"
            next_step = "let plaitd make the interface, or make it with multi_queue"
        elif max(goal) > MAX_WORKERS_OF_A_KIND:
            next_step = f"no engine has more than {MAX_WORKERS_OF_A_KIND} of each: ask for fewer"
        else:
            file = path_of(self.resources.interface, os.environ)
            next_step = f"raise {' and '.join(full)} in {file}, then end the engine and start it"
        raise Failure(what, why, next_step, Exit.SETTINGS)

    def _reach(self, receivers: int, consumers: int) -> Change:
        """Step by step. A kind that does not get there stops where it stands; the other one goes on."""
        before, failures = self._counts, []
        steps = (
            (0, receivers, self._add_receiver, self._remove_receiver),
            (1, consumers, self._add_consumer, self._remove_consumer),
        )
        for kind, goal, add, remove in steps:
            try:
                while self._counts[kind] != goal:
                    yield from add() if self._counts[kind] < goal else remove()
            except Failure as failure:
                failures.append(failure)
                log.error("%s", failure)
        if failures:
            what = f"{_words(*before)} became {_words(*self._counts)}, not {_words(receivers, consumers)}"
            raise Failure(what, failures[0].why, failures[0].next_step, Exit.WORKER)
        return {"before": _named(*before), "after": _named(*self._counts)}

    # -- receivers ----------------------------------------------------------------------------

    def _add_receiver(self) -> Waiting:
        number = self.resources.receivers
        try:
            self.resources.data.ensure_receivers(number + 1)
        except SegmentError as error:
            what = f"receiver {number} is not started"
            raise Failure(what, error.why, error.next, Exit.MEMORY) from error
        worker = yield from self._hire("receiver", number)
        try:
            self.resources.add_receiver()
        except Failure as failure:
            yield from self._let_go(worker)
            what = f"receiver {number} is not used"
            raise Failure(what, failure.why, failure.next_step, failure.code) from failure
        # Those who read its queue until now let go of it first.
        others = self._all_but(worker)
        yield from self._share(others)
        yield from self._share([worker])
        self._say()

    def _remove_receiver(self) -> Waiting:
        number = self.resources.receivers - 1
        worker = self.roster.find("receiver", number)
        try:
            self.resources.take_receiver()
        except OSError as error:
            why = f"its datagrams cannot be had by another: {error.strerror}"
            raise Failure(f"receiver {number} stays", why, "see `dmesg`", Exit.PORT) from error
        yield from self._share(self._all_but(worker))
        looks, deadline = 0, time.monotonic() + self.roster.patience.drain
        while looks < LOOKS and time.monotonic() < deadline:
            looks = looks + 1 if self.resources.is_drained else 0
            yield
        yield from self._let_go(worker)
        count_unread(self.segment, self.resources.forget_receiver(), worker.title)
        yield from self._share(self.roster.workers)
        self._say()

    # -- consumers ----------------------------------------------------------------------------

    def _add_consumer(self) -> Waiting:
        yield from self._hire("consumer", self.resources.consumers)
        self.resources.consumers += 1
        yield from self._share_out()
        self._say()

    def _remove_consumer(self) -> Waiting:
        self.resources.consumers -= 1
        number = self.resources.consumers
        yield from self._share_out()
        yield from self._let_go(self.roster.find("consumer", number))
        self.resources.away_consumers.discard(number)
        lib.schedule_pass_on(self.segment, number)
        self._say()

    def _share_out(self) -> Waiting:
        """Have control give each peer to its consumer, and wait until everybody knows it."""
        self.shared_out = 0
        self.roster.share(self.roster.find("control"))
        yield from _until(lambda: self.shared_out == self.resources.consumers)

    # -- both ---------------------------------------------------------------------------------

    def _hire(self, kind: str, number: int) -> Generator[None, None, Worker]:
        """One more, once it runs."""
        worker = self.roster.hire(kind, number, is_extra=True)
        yield from _until(lambda: worker.life in (Life.RUNNING, Life.ENDED))
        if worker.life is Life.ENDED:
            why = f"{worker.title} does not start"
            raise Failure(f"{worker.title} is given up", why, "see why in the engine's log", Exit.WORKER)
        return worker

    def _all_but(self, worker: Worker) -> list[Worker]:
        return [other for other in self.roster.workers if other is not worker]

    def _share(self, workers: Sequence[Worker]) -> Waiting:
        """Give them the descriptors that they use from now on; wait until they use no others."""
        for worker in workers:
            self.roster.share(worker)
        yield from _until(lambda: not any(worker.unanswered for worker in workers))

    def _let_go(self, worker: Worker) -> Waiting:
        self.roster.dismiss(worker)
        yield from _until(lambda: worker.life is Life.ENDED)

    def _say(self) -> None:
        log.info("%d receivers and %d consumers run", self.resources.receivers, self.resources.consumers)


def asked(now: int, text: str) -> int:
    """How many: of `+1`, `-1` or `4`."""
    return now * (text[0] in "+-") + int(text)


def _named(receivers: int, consumers: int) -> dict[str, int]:
    return {"receivers": receivers, "consumers": consumers}


def _words(receivers: int, consumers: int) -> str:
    return f"{receivers} receiver{'s' * (receivers != 1)} and {consumers} consumer{'s' * (consumers != 1)}"


def _until(condition: Callable[[], bool]) -> Waiting:
    while not condition():
        yield
