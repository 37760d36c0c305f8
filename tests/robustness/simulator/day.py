"""A day of many sessions in compressed time: every timer that fires, against a plain list for each peer.

    python -m tests.robustness.simulator.day [--sessions 100000] [--hours 24]

Each peer sends one packet every two hours, at a moment of its own. By then its session is long gone, so
it shakes hands first; nine of ten packets are answered. What ships is driven: control's timer columns
(control/timer_columns.py, engine/timers.py) and the holder's notes in C (engine/timers.c). Control scans once
a simulated second, so a timer may fire up to a second late, never early. After the day an hour of silence
must leave nothing armed.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from engine.timers import COLUMNS, NEVER, Action
from workers._workers import ffi, lib
from workers.control.timer_columns import TimerColumns

SECOND = 1_000_000_000
TICK = 1 << 24
PERIOD = 7200 * SECOND
ROUND_TRIP = 80_000_000
STEP = SECOND
BEGIN = 1000 * SECOND
LAP = 1 << 56  # ns after which a column of ticks begins anew
JITTER = 333_000_000

# ns after its cause, at least; and how much later it may be due: jitter, and stamps that are a tick early.
PERIODS = {
    Action.START_HANDSHAKE: (15 * SECOND, JITTER + 2 * TICK),
    Action.SEND_KEEPALIVE: (10 * SECOND, 2 * TICK),
    Action.EXPIRE_KEYS: (180 * SECOND, 3 * TICK),
    Action.ZERO_KEYS: (540 * SECOND, 2 * TICK),
}
SEND, RESPONSE, ANSWER = range(3)


@dataclass
class Day:
    """What came out."""

    fired: dict[Action, int] = field(default_factory=lambda: dict.fromkeys(PERIODS, 0))
    misses: int = 0
    extras: int = 0
    leaks: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.misses or self.extras or self.leaks)


class Sessions:
    """All peers, what ships on one side and a dict of armed timers for each on the other."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.columns = np.zeros((COLUMNS, count), np.uint32)
        self.where = ffi.cast("uint32_t *", self.columns.ctypes.data)
        self.count = count
        for row in range(count):
            lib.timers_initialise(self.where, count, row)
        memory = SimpleNamespace(
            columns=self.columns,
            rows={"keepalive": np.zeros(count, np.uint16)},
            device=SimpleNamespace(rows_used=count),
        )
        self.timer_columns = TimerColumns(memory)  # type: ignore[arg-type]
        self.armed: list[dict[Action, int]] = [{} for _ in range(count)]  # when its cause was
        self.random = np.random.default_rng(seed)
        self.events: list[tuple[int, int, int]] = []
        self.reported: dict[int, None] = {}
        self.day = Day()

    # -- what happens to a peer ---------------------------------------------------------------

    def happens(self, now: int, kind: int, row: int, end: int) -> None:
        """One event of one peer."""
        if kind == SEND:
            self.initiates(row, now)
            if now + PERIOD < end:
                heapq.heappush(self.events, (now + PERIOD, SEND, row))
        elif kind == RESPONSE:
            self.timer_columns.handshake_complete(row)
            self.timer_columns.session_derived(row, now)
            self.receives(row, now, is_data=False)
            self.armed[row][Action.EXPIRE_KEYS] = self.armed[row][Action.ZERO_KEYS] = now
            self.sends(row, now, is_data=True)
            if self.random.random() < 0.9:
                heapq.heappush(self.events, (now + ROUND_TRIP, ANSWER, row))
        else:
            self.receives(row, now, is_data=True)

    def initiates(self, row: int, now: int) -> None:
        self.timer_columns.initiation_sent(row, now)
        heapq.heappush(self.events, (now + ROUND_TRIP, RESPONSE, row))

    def sends(self, row: int, now: int, *, is_data: bool) -> None:
        tick = lib.timers_tick(now)
        look = 0
        if is_data:
            look |= lib.timers_data_sent(self.where, self.count, row, tick)
            self.armed[row].setdefault(Action.START_HANDSHAKE, now)
        look |= lib.timers_authenticated_sent(self.where, self.count, row, tick)
        self.armed[row].pop(Action.SEND_KEEPALIVE, None)
        self.reports(row, now, look)

    def receives(self, row: int, now: int, *, is_data: bool) -> None:
        tick = lib.timers_tick(now)
        look = lib.timers_authenticated_received(self.where, self.count, row, tick)
        self.armed[row].pop(Action.START_HANDSHAKE, None)
        if is_data:
            look |= lib.timers_data_received(self.where, self.count, row, tick)
            self.armed[row].setdefault(Action.SEND_KEEPALIVE, now)
        self.reports(row, now, look)

    def reports(self, row: int, now: int, look: int) -> None:
        """EVENT_TIMER, when the holder says that control would look too late."""
        if look:
            self.reported[row] = None

    def turn(self, now: int) -> None:
        """As control's: what holders reported, then what is due."""
        reported, self.reported = list(self.reported), {}
        for row, action in self.timer_columns.look(reported, now):
            self.fires(row, action, now)
        while True:
            for row, action in self.timer_columns.due(now):
                self.fires(row, action, now)
            if not self.timer_columns.has_due:
                return

    # -- what fires ---------------------------------------------------------------------------

    def fires(self, row: int, actions: Action, now: int) -> None:
        """Control acts; the plain list must have expected it."""
        for action in Action:
            if not actions & action:
                continue
            since = self.armed[row].pop(action, None)
            if since is None or now < since + PERIODS[action][0] - TICK:
                self.day.extras += 1
                continue
            self.day.fired[action] += 1
            if action is Action.SEND_KEEPALIVE:
                self.sends(row, now, is_data=False)
            elif action is Action.START_HANDSHAKE:
                self.initiates(row, now)

    def late(self, now: int) -> int:
        """Armed timers that should have fired by now."""
        return sum(
            since + PERIODS[action][0] + PERIODS[action][1] + STEP < now
            for armed in self.armed
            for action, since in armed.items()
        )


def run(sessions: int, hours: float, report: bool = False, begin: int = BEGIN) -> Day:
    """The day and the hour after it. begin: boottime ns."""
    world = Sessions(sessions)
    end = begin + int(hours * 3600) * SECOND
    first = world.random.integers(begin, min(begin + PERIOD, end), sessions)
    world.events = [(int(moment), SEND, row) for row, moment in enumerate(first)]
    heapq.heapify(world.events)
    now, told = begin, time.monotonic()
    while now < end + 3600 * SECOND:
        now += STEP
        while world.events and world.events[0][0] <= now:
            moment, kind, row = heapq.heappop(world.events)
            world.happens(moment, kind, row, end)
        world.turn(now)
        if (now - begin) % (600 * SECOND) == 0:
            world.day.misses += world.late(now)
            if report and time.monotonic() > told + 10:
                told = time.monotonic()
                print(f"hour {(now - begin) / 3600 / SECOND:.1f}: {world.day}", file=sys.stderr)
    world.day.leaks = sum(map(len, world.armed)) + int((world.columns[lib.NEXT_DUE] != NEVER).sum())
    return world.day


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.simulator.day")
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--hours", type=float, default=24)
    options = parser.parse_args()
    day = run(options.sessions, options.hours, report=True)
    for action, count in day.fired.items():
        print(f"{action.name or '':<20}{count:>12,}")
    print(f"misses {day.misses}, extras {day.extras}, leaks {day.leaks}")
    sys.exit(not day.is_clean)
