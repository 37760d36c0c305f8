"""Sessions in great numbers: what other gateways had, and what is told of our own. Without an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from engine import uapi
from tests.support.waiting import until
from workers._workers import ffi
from workers.control.neighbours import SESSIONS_MOST, Neighbours
from workers.control.new_sessions import ROWS, NewSessions

OURS, DEAD, BITS = 1, 2, 4


def test_the_most_sessions_that_may_be_told_are_no_long_turn() -> None:
    """And of one index the later one counts. Looked at again when others took core or caches meanwhile."""
    key = ffi.new("uint64_t[]", [1, 2, BITS << 8 | OURS])
    device = SimpleNamespace(index_key=key, dead_gateways=[0] * 4)
    events = SimpleNamespace(emit=lambda *_, **__: None)
    batch: Any = SimpleNamespace(segment=SimpleNamespace(device=device), events=events)
    neighbours = Neighbours(batch, cast("Any", None))
    rows = np.zeros(SESSIONS_MOST, list(uapi.SESSION_ROW))
    rows["index"] = np.random.default_rng(1).permutation(SESSIONS_MOST) << BITS | DEAD
    keys = np.random.default_rng(2).bytes(32 * SESSIONS_MOST)
    rows["public_key"] = np.frombuffer(keys, "V32")
    rows["index"][-1] = rows["index"][0]
    told = uapi.Neighbour(DEAD, 3, rows.tobytes(), True)

    def apply() -> None:
        assert neighbours.apply(told, 1) == SESSIONS_MOST - 1

    def sort() -> None:
        order.copy().sort()

    order = np.random.default_rng(3).permutation(SESSIONS_MOST).astype(np.uint64)
    until(lambda: cpu(apply) < 5 * cpu(sort), "as much as a few sorts of as many numbers")
    dead = neighbours.dead[DEAD]
    assert dead.find(int(rows["index"][0])) == keys[-32:]
    assert dead.find(int(rows["index"][1])) == keys[32:64]
    for other in (SESSIONS_MOST << BITS | DEAD, 0, 0xFFFFFFFF):
        assert dead.find(other) is None
    assert neighbours.apply(told._replace(sessions=b""), 1) == 0
    assert neighbours.dead[DEAD].find(DEAD) is None
    rows["index"][0] = 0xFFFFFFFF
    assert neighbours.apply(told._replace(sessions=rows[:1].tobytes()), 1) == 1
    assert neighbours.dead[DEAD].find(0xFFFFFFFF) == keys[:32]


def cpu(work: Callable[[], None]) -> float:
    """Seconds of this thread."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


class Sessions(NewSessions):
    """None of its keypairs is to be told; which were looked at is kept."""

    def __init__(self, keypairs: int = 3) -> None:
        super().__init__(cast("Any", None), cast("Any", SimpleNamespace(used=1 + keypairs)), lambda: 0)
        self.looked: list[list[int]] = []

    def _packed(self, numbers: Any) -> bytes:
        self.looked.append(numbers.tolist())
        return b""

    def ask(self, cursor: int) -> int:
        """The next cursor."""
        self.looked.clear()
        *_, last = self.answer(cursor)
        return int(last.splitlines()[0].removeprefix(b"cursor="))


def test_an_answer_goes_on_from_a_cursor_when_the_number_of_sessions_comes_round() -> None:
    sessions = Sessions()
    cursor = sessions.ask(0)
    assert sessions.looked == [[1, 2, 3]]
    sessions.dropped = (1 << 32) - 1
    sessions.note(np.array([0, 3, 0], np.uint32))
    cursor = sessions.ask(0)
    assert cursor >> 32 == sessions.life
    assert sessions.ask(cursor) == cursor and sessions.looked == []
    sessions.note(np.array([2], np.uint32))
    assert sessions.ask(cursor) == cursor + 1 and sessions.looked == [[2]]
    sessions.ask(cursor + 2)
    assert sessions.looked == [[1, 2, 3]], "from the future"


def test_only_sessions_are_noted() -> None:
    sessions = Sessions()
    sessions.ask(0)
    sessions.note(np.array([0, 3, 0], np.uint32))
    assert sessions.numbers.tolist() == [3]


def test_between_two_lines_control_looks_at_few_sessions() -> None:
    """Also where none of them is to be told: two million keypairs would be one long turn."""
    sessions = Sessions(3 * ROWS)
    for at, line in enumerate(sessions.answer(0)):
        assert len(sessions.looked) == min(at + 1, 3), line
