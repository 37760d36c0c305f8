"""engine/timers: stamps against a model that keeps one dict a row."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

ROWS = 4
TICK = 1 << lib.TIMER_TICK_SHIFT
LAP = 1 << 32
NEVER = 5 * LAP - 1  # lib.TIMER_NEVER where it is cut to its low bits


class Stamps:
    """The model: what happened, and when control said that it looks."""

    def __init__(self) -> None:
        self.now: dict[str, int] = defaultdict(int)
        self.now["NEXT_DUE"] = NEVER

    def arm(self, name: str, tick: int, due: int) -> bool:
        if self.now[name]:
            return False
        self.now[name] = tick
        return due < self.now["NEXT_DUE"]

    def authenticated(self, tick: int) -> bool:
        first = not self.now["LAST_AUTHENTICATED"]
        self.now["LAST_AUTHENTICATED"] = tick
        return first and tick < self.now["NEXT_DUE"]

    def data_sent(self, tick: int) -> bool:
        self.now["LAST_DATA_SENT"] = tick
        return self.arm("UNANSWERED_SINCE", tick, tick + 895 + self.now["JITTER"])

    def data_received(self, tick: int) -> bool:
        self.now["LAST_DATA_RECEIVED"] = tick
        return self.arm("OWED_SINCE", tick, tick + 597)

    def authenticated_sent(self, tick: int) -> bool:
        self.now["OWED_SINCE"] = 0
        return self.authenticated(tick)

    def authenticated_received(self, tick: int) -> bool:
        self.now["UNANSWERED_SINCE"] = 0
        self.now["LAST_RECEIVED"] = tick
        return self.authenticated(tick)


NAMES = [
    "NEXT_DUE",
    "UNANSWERED_SINCE",
    "OWED_SINCE",
    "LAST_DATA_RECEIVED",
    "LAST_DATA_SENT",
    "LAST_AUTHENTICATED",
    "LAST_RECEIVED",
    "LAST_HANDSHAKE_SENT",
    "RETRY_DUE",
    "ATTEMPTS",
    "SESSION_DERIVED",
    "ZERO_DUE",
    "KEYS_EXPIRE",
    "JITTER",
    "KEEPALIVE_ORDERED",
    "LAST_INITIATION_RECEIVED",
]
EVENTS = ["data_sent", "data_received", "authenticated_sent", "authenticated_received"]

happenings = st.tuples(
    st.sampled_from([*EVENTS, "control", "jitter"]), st.integers(0, ROWS - 1), st.integers(0, 700)
)


def columns_of(memory: Any, row: int) -> dict[str, int]:
    return {name: memory[getattr(lib, name) * ROWS + row] for name in NAMES}


def fresh() -> Any:
    memory = ffi.new("uint32_t[]", [0xA5A5A5A5] * (lib.TIMER_COLUMN_COUNT * ROWS))
    for row in range(ROWS):
        lib.timers_initialise(memory, ROWS, row)
    return memory


def noted(tick: int) -> int:
    """Two ticks of a lap, which as stamps mean something else, are called by the one behind them."""
    return tick + {LAP - 1: 2, 0: 1}.get(tick % LAP, 0)


@settings(deadline=None, max_examples=300)
@given(st.lists(happenings, max_size=40), st.sampled_from([1, LAP - 500, LAP - 5000]))
def test_events(walk: list[tuple[str, int, int]], tick: int) -> None:
    """The model's ticks never wrap."""
    memory = fresh()
    models = [Stamps() for _ in range(ROWS)]
    for kind, row, number in walk:
        model = models[row]
        if kind == "control":  # decides to look some ticks from now
            model.now["NEXT_DUE"] = noted(tick + 2 * number)
            memory[lib.NEXT_DUE * ROWS + row] = model.now["NEXT_DUE"] % LAP
        elif kind == "jitter":
            memory[lib.JITTER * ROWS + row] = model.now["JITTER"] = number % 20
        else:
            tick = noted(tick + number)
            told = getattr(lib, f"timers_{kind}")(memory, ROWS, row, lib.timers_tick(tick * TICK))
            assert told == getattr(model, kind)(tick), (kind, row, tick)
        for r in range(ROWS):
            assert columns_of(memory, r) == {name: models[r].now[name] % LAP for name in NAMES}


def test_ticks_are_seconds_rounded_up() -> None:
    for ticks, seconds in ((lib.TIMER_NEW_HANDSHAKE_TICKS, 15), (lib.TIMER_KEEPALIVE_TICKS, 10)):
        assert (ticks - 1) * TICK < seconds * 10**9 <= ticks * TICK


def test_the_next_lap_is_later() -> None:
    """Control looks 1,005 ticks from now, which is too late; then 500 ticks, which is not."""
    for due, told in ((1000, 1), (495, 0)):
        memory = fresh()
        memory[lib.NEXT_DUE * ROWS] = due
        assert lib.timers_data_sent(memory, ROWS, 0, LAP - 5) == told
        assert lib.timers_data_received(memory, ROWS, 0, LAP - 5) == told


def test_two_ticks_of_a_lap_have_another_name() -> None:
    ticks = [LAP - 2, LAP - 1, LAP, LAP + 1, LAP + 2]
    assert [lib.timers_tick(tick * TICK) for tick in [0, *ticks]] == [1, LAP - 2, 1, 1, 1, 2]


def test_looking_makes_the_next_arming_known() -> None:
    """Control takes NEXT_DUE away while it reads stamps; what is armed meanwhile is reported."""
    memory = fresh()
    lib.timers_authenticated_sent(memory, ROWS, 2, 5)
    memory[lib.NEXT_DUE * ROWS + 2] = 10
    assert lib.timers_data_sent(memory, ROWS, 2, 6) == 0
    lib.timers_authenticated_received(memory, ROWS, 2, 7)
    lib.timers_look(memory, ffi.new("uint32_t[]", [2, 3]), 2)
    assert [memory[lib.NEXT_DUE * ROWS + row] for row in range(ROWS)] == [lib.TIMER_NEVER] * ROWS
    assert lib.timers_data_sent(memory, ROWS, 2, 8) == 1


@pytest.mark.parametrize("jitter", [0, 1, 20])
def test_reported_only_when_control_would_come_too_late(jitter: int) -> None:
    for event, after in (("data_sent", 895 + jitter), ("data_received", 597)):
        for late in (0, 1):
            memory = fresh()
            memory[lib.JITTER * ROWS + 1] = jitter
            memory[lib.NEXT_DUE * ROWS + 1] = 50 + after + late
            assert getattr(lib, f"timers_{event}")(memory, ROWS, 1, 50) == late
