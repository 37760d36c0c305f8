"""Control's hand on the timer columns: what happened, with the clock's ns turned into ticks.

engine/timers.py knows the rules; this binds it to the columns in the segment and to a source of jitter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engine import timers
from workers._workers import lib
from workers.control.memory import Memory

if TYPE_CHECKING:
    import numpy.typing as npt

DUE_A_TURN = 128  # rows: each may begin a handshake, and messages wait meanwhile
AGED_AT_ONCE = 1 << 14  # rows
AGED_EVERY = 24 * 3600 * 1_000_000_000  # ns; the flood guard's stamps come round in 49.7 days, ticks in 834


class TimerColumns:
    """The timer columns of one interface. `now` is ns of lib.clock_now."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.columns = memory.columns
        self.draw_jitter: Callable[[int], timers.Rows] = partial(timers.draw_jitter, randbytes=os.urandom)
        self.earliest = 0  # tick; 0: not known
        self.aged = 0  # rows below it are not too old
        self.age_again = 0  # ns; then they may be
        self.found: timers.Rows = np.zeros(0, np.uint32)  # by a scan, not worked out yet

    def due(self, now: int) -> Iterator[tuple[int, timers.Action]]:
        """Some rows whose timers fired, with what they ask for. `has_due` tells whether there are more.

        The column is scanned only when something in it may be due: after a change, or when the earliest
        of the last scan is reached. What one scan finds is worked out in slices.
        """
        tick = timers.tick(now)
        if not len(self.found) and tick >= self.earliest:
            self._scan(tick)
        rows, self.found = self.found[:DUE_A_TURN], self.found[DUE_A_TURN:]
        still = timers.is_due(self.columns[lib.NEXT_DUE, rows], tick)  # removed or worked out meanwhile?
        yield from self._evaluate(rows[still], tick)

    @property
    def has_due(self) -> bool:
        """Whether rows wait that a scan found due."""
        return len(self.found) > 0

    def next_due(self) -> int:
        """The tick at which `due` is to be asked again; timers.NO_TICK: not before something changes."""
        return self.earliest

    def _scan(self, tick: int) -> None:
        used = int(self.memory.device.rows_used)
        self.earliest = timers.earliest(self.columns, used, tick)
        if self.earliest <= tick:
            self.found = timers.due_rows(self.columns, used, tick)
            self.earliest = 0  # not known before they are worked out

    def age(self, now: int) -> None:
        """Once a second: some rows of those whose stamps were not aged for a day, at the start of all."""
        used = int(self.memory.device.rows_used)
        if self.aged >= used:
            if now < self.age_again:
                return
            self.aged, self.age_again = 0, now + AGED_EVERY
        last = min(self.aged + AGED_AT_ONCE, used)
        timers.age(self.columns, self.aged, last, now)
        self.aged = last

    def changed(self) -> None:
        """NEXT_DUE of some row may be earlier than it was."""
        self.earliest = 0

    def look(self, rows: timers.Rows, now: int) -> Iterator[tuple[int, timers.Action]]:
        """EVENT_TIMER: work out these rows now. Each at most once."""
        yield from self._evaluate(rows, timers.tick(now))

    def _evaluate(self, rows: timers.Rows, tick: int) -> Iterator[tuple[int, timers.Action]]:
        if not len(rows):
            return
        self.changed()
        keepalive = self.memory.rows["keepalive"][rows]
        jitter = self.draw_jitter(len(rows))
        actions = timers.evaluate(self.columns, rows, tick, keepalive, jitter)
        for i in np.flatnonzero(actions):
            yield int(rows[i]), timers.Action(int(actions[i]))

    # -- what happened ------------------------------------------------------------------------

    def is_flood(self, rows: timers.Rows, now: int) -> npt.NDArray[np.bool_]:
        """Whether each peer's last initiation was accepted less than 20 ms ago."""
        return timers.initiation_is_flood(self.columns, rows, now)

    def initiation_accepted(self, row: int | timers.Rows, now: int) -> None:
        timers.initiation_accepted(self.columns, row, now)

    def may_send_handshake(self, row: int, now: int) -> bool:
        """Whether our last initiation or response to this peer is 5 s ago."""
        return timers.may_send_handshake(self.columns, row, timers.tick(now))

    def initiation_sent(self, row: int, now: int) -> None:
        jitter = int(self.draw_jitter(1)[0])
        timers.initiation_sent(self.columns, row, timers.tick(now), jitter)
        self.changed()

    def response_sent(self, row: int | timers.Rows, now: int) -> None:
        timers.response_sent(self.columns, row, timers.tick(now))

    def session_derived(self, row: int | timers.Rows, now: int) -> None:
        timers.session_derived(self.columns, row, timers.tick(now))
        self.changed()

    def handshake_complete(self, row: int | timers.Rows) -> None:
        timers.handshake_complete(self.columns, row)

    def handshake_dropped(self, row: int | slice) -> None:
        timers.handshake_dropped(self.columns, row)

    def handshake_wanted(self, row: int) -> None:
        """A handshake is wanted anew: it may take 20 initiations again."""
        timers.handshake_wanted(self.columns, row)

    def is_retrying(self, row: int) -> bool:
        """Whether an initiation of ours waits for its response or its next try."""
        return int(self.columns[lib.RETRY_DUE, row]) != 0

    def retry_when_allowed(self, row: int, now: int) -> None:
        """A handshake is wanted less than 5 s after the last one: it is tried when those are over."""
        if not self.is_retrying(row):
            timers.retry_when_allowed(self.columns, row, timers.tick(now))
            self.changed()

    def forget_sent(self, row: int | slice) -> None:
        """The interface went down or our key changed: the next handshake need not wait for the 5 s."""
        self.columns[lib.LAST_HANDSHAKE_SENT, row] = 0

    def keepalive_changed(self, row: int, now: int, seconds: int) -> None:
        """The persistent interval was set, or the interface came up with it."""
        timers.keepalive_changed(self.columns, row, timers.tick(now), seconds)
        self.changed()
