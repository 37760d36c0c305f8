"""More and fewer receivers and consumers while the interface runs.

A change is a generator: it does a step, yields while it has to wait, and the supervisor's loop goes on
with it. No packet is lost by one, as long as nobody is killed meanwhile:

- Another receiver starts without anything to read. When it is ready it gets its TUN queue and joins the
  group of sockets.
- The last receiver leaves when the kernel sends all datagrams to the first one, nobody else has a copy of
  its sockets, and they are empty. Its TUN queue can not be taken out of use without losing what it holds, so
  that another receiver reads it from then on, as its second one.
- Peers move to another consumer by control's word in their rows. The last consumer leaves when every
  process has passed a point where it knows no older word (a grace period of control's). What is marked ready
  at it then is passed on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence

from shm.segment import SegmentError
from workers._workers import ffi, lib
from workers.failure import Failure
from workers.resources import Resources
from workers.roster import Roster
from workers.worker import Life, Worker

LOOKS = 3  # in a row, that find the sockets of a receiver that leaves empty
NOBODY = 0xFFFFFFFF
log = logging.getLogger("plait")

Waiting = Generator[None, None, None]  # yields while it waits


class Numbers:
    """Changes the numbers of an interface: `more` and `fewer` by one receiver and one consumer each.

    A kind that is at its limit stays as it is; when both are, nothing changes but a line in the log.
    """

    def __init__(self, resources: Resources, roster: Roster) -> None:
        self.resources = resources
        self.roster = roster
        self.segment = resources.segment
        self.shared_out = 0  # consumers that control says the peers belong to

    def more(self) -> Waiting:
        """One more of each."""
        room = len(self.resources.queues), int(self.segment.geometry.max_consumers)
        wanted = self.resources.receivers < room[0], self.resources.consumers < room[1]
        if not any(wanted):
            log.error(
                "there is no room for more: the memory was laid out for %d receivers and %d consumers "
                "(max_receivers, max_consumers in the settings), and they run",
                *room,
            )
        if wanted[0]:
            yield from self._add_receiver()
        if wanted[1]:
            yield from self._add_consumer()

    def fewer(self) -> Waiting:
        """One fewer of each."""
        wanted = self.resources.receivers > 1, self.resources.consumers > 1
        if not any(wanted):
            log.error("there are no fewer than one receiver and one consumer")
        if wanted[0]:
            yield from self._remove_receiver()
        if wanted[1]:
            yield from self._remove_consumer()

    # -- receivers ----------------------------------------------------------------------------

    def _add_receiver(self) -> Waiting:
        number = self.resources.receivers
        try:
            self.resources.data.ensure_receivers(number + 1)
        except SegmentError as error:
            log.error("receiver %d is not started: %s", number, error)
            return
        worker = self.roster.hire("receiver", number, is_extra=True)
        yield from _until(lambda: worker.life in (Life.RUNNING, Life.ENDED))
        if worker.life is Life.ENDED:
            return
        try:
            self.resources.add_receiver()
        except Failure as failure:
            log.error("receiver %d is not used: %s", number, failure)
            yield from self._let_go(worker)
            return
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
            log.error("receiver %d stays: its datagrams cannot be had by another: %s", number, error.strerror)
            return
        yield from self._share(self._all_but(worker))
        looks, deadline = 0, time.monotonic() + self.roster.patience.drain
        while looks < LOOKS and time.monotonic() < deadline:
            looks = looks + 1 if self.resources.is_drained else 0
            yield
        yield from self._let_go(worker)
        lost = self.resources.forget_receiver()
        if lost:
            log.error("%d packets are lost with the sockets of receiver %d", lost, number)
            lib.counter_add(self.segment, lib.WORKER_SUPERVISOR, lib.DROP_KILLED, lost)
        yield from self._share(self.roster.workers)
        self._say()

    # -- consumers ----------------------------------------------------------------------------

    def _add_consumer(self) -> Waiting:
        worker = self.roster.hire("consumer", self.resources.consumers, is_extra=True)
        yield from _until(lambda: worker.life in (Life.RUNNING, Life.ENDED))
        if worker.life is Life.ENDED:
            return
        self.resources.consumers += 1
        yield from self._share_out()
        self._say()

    def _remove_consumer(self) -> Waiting:
        self.resources.consumers -= 1
        number = self.resources.consumers
        yield from self._share_out()
        yield from self._let_go(self.roster.find("consumer", number))
        cursor = ffi.new("uint32_t *")
        while (row := lib.ready_take(self.segment, 1 + number, cursor)) != NOBODY:
            lib.peer_mend(self.segment, row)
        self._say()

    def _share_out(self) -> Waiting:
        """Have control give each peer to its consumer, and wait until everybody knows it."""
        self.shared_out = 0
        self.roster.share(self.roster.find("control"))
        yield from _until(lambda: self.shared_out == self.resources.consumers)

    # -- both ---------------------------------------------------------------------------------

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


def _until(condition: Callable[[], bool]) -> Waiting:
    while not condition():
        yield
