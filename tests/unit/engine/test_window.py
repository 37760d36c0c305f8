"""engine/window: the replay window against a set of counters, with holders killed in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

LIMIT = lib.REJECT_AFTER_MESSAGES
USABLE = lib.WINDOW_USABLE


@dataclass
class Window:
    """The model: what was accepted, and how far the window has moved."""

    seen: set[int] = field(default_factory=set)
    top: int = 0  # 1 + the greatest counter

    def accept(self, counter: int) -> bool:
        if counter >= LIMIT or counter in self.seen or counter + 1 + USABLE < self.top:
            return False
        self.seen.add(counter)
        self.top = max(self.top, counter + 1)
        return True


def word_of(position: int) -> int:
    return position >> 6


def die_in_sweep(window: Any, model: Window, ahead: int, cleared: int) -> None:
    """What a holder leaves that was killed after it stored a new top and cleared some words."""
    old = window.top
    top = min(old + ahead, LIMIT)
    window.top = model.top = top
    for i in range(min(cleared, lib.WINDOW_WORDS, word_of(top) - word_of(old))):
        window.bits[(word_of(old) + 1 + i) % lib.WINDOW_WORDS] = 0


steps = st.one_of(
    st.tuples(st.just("near"), st.integers(-40, 40)),
    st.tuples(st.just("edge"), st.integers(-USABLE - 70, -USABLE + 70)),
    st.tuples(st.just("jump"), st.integers(1, 3 * lib.WINDOW_BITS)),
    st.tuples(st.just("far"), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("limit"), st.integers(LIMIT - 10, LIMIT + 10)),
    st.tuples(st.just("die"), st.integers(1, 3 * lib.WINDOW_BITS)),
)


@settings(deadline=None, max_examples=300)
@given(
    first=st.sampled_from([0, 1, 63, 64, 5000, 2**32, LIMIT - 20_000]),
    walk=st.lists(st.tuples(steps, st.integers(0, 130)), max_size=60),
)
def test_is_a_set(first: int, walk: list[tuple[tuple[str, int], int]]) -> None:
    window = ffi.new("struct window *")
    model = Window()
    assert lib.window_accept(window, first) == model.accept(first)
    for (kind, number), cleared in walk:
        if kind == "die":
            die_in_sweep(window, model, number, cleared)
            continue
        counter = number if kind in ("far", "limit") else model.top + number
        if not 0 <= counter < 2**64:
            continue
        assert lib.window_accept(window, counter) == model.accept(counter), (kind, counter, model.top)
        assert window.top == model.top


@pytest.mark.parametrize("seed", range(6))
def test_shuffled_stream_with_repeats(seed: int) -> None:
    random = Random(seed)
    window = ffi.new("struct window *")
    model = Window()
    stream = [max(0, i + random.randint(-3000, 0) * (i % 3 == 0)) for i in range(12_000)]
    assert [bool(lib.window_accept(window, c)) for c in stream] == [model.accept(c) for c in stream]


def accepted(*counters: int) -> list[int]:
    window = ffi.new("struct window *")
    return [lib.window_accept(window, counter) for counter in counters]


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        # each once, in any order
        ((0, 0), (1, 0)),
        ((3, 1, 2, 0, 3, 2, 1, 0), (1, 1, 1, 1, 0, 0, 0, 0)),
        # the last usable one, and the one behind it
        ((USABLE, 0, 0), (1, 1, 0)),
        ((USABLE + 1, 0, 1, 1), (1, 0, 1, 0)),
        ((5, USABLE, 5, 4), (1, 1, 0, 1)),
        # what was seen stays seen while the window moves over it
        ((100, 100 + USABLE, 100, 100 + USABLE), (1, 1, 0, 0)),
        # a jump of one ring, or of many, forgets no more and no less
        ((1, 1 + lib.WINDOW_BITS, 1, 1 + lib.WINDOW_BITS - USABLE, 1 + lib.WINDOW_BITS), (1, 1, 0, 1, 0)),
        ((1, 10 * lib.WINDOW_BITS + 1, 9 * lib.WINDOW_BITS + 1, 10 * lib.WINDOW_BITS), (1, 1, 0, 1)),
        # the end of a session
        ((LIMIT - 1, LIMIT - 1, LIMIT, 2**64 - 1, LIMIT - 2), (1, 0, 0, 0, 1)),
        ((2**64 - 1, 0), (0, 1)),
    ],
)
def test_edges(counters: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert tuple(accepted(*counters)) == expected


def test_whole_window_backwards() -> None:
    """All 8,129 positions from the top down are usable once; nothing behind them."""
    window = ffi.new("struct window *")
    top = 3 * lib.WINDOW_BITS + 17
    taken = [c for c in range(top, top - USABLE - 10, -1) if lib.window_accept(window, c)]
    assert taken == list(range(top, top - USABLE - 1, -1))
    assert not any(lib.window_accept(window, c) for c in range(top, top - USABLE - 10, -1))


def test_a_refusal_writes_nothing() -> None:
    window = ffi.new("struct window *")
    lib.window_accept(window, 20_000)
    before = bytes(ffi.buffer(window))
    for counter in (20_000, 20_000 - USABLE - 1, 0, LIMIT, 2**64 - 1):
        assert not lib.window_accept(window, counter)
    assert bytes(ffi.buffer(window)) == before


def full_ring() -> Any:
    """A window in which each of the 8,192 bits is set."""
    window = ffi.new("struct window *")
    for counter in range(2 * lib.WINDOW_BITS):
        assert lib.window_accept(window, counter)
    return window


@pytest.mark.parametrize("words", [1, 2, 64, 126, 127, 128, 129, 200])
@pytest.mark.parametrize("within", [0, 1, 63])
def test_a_jump_leaves_no_bit_of_before(words: int, within: int) -> None:
    """All positions that the window moved over are usable, once."""
    window = full_ring()
    old = window.top - 1
    top = old + 64 * words + within
    assert lib.window_accept(window, top)
    fresh = range(max(old + 1, top - USABLE), top)
    assert [lib.window_accept(window, counter) for counter in fresh] == [1] * len(fresh)
    assert [lib.window_accept(window, counter) for counter in fresh] == [0] * len(fresh)


@pytest.mark.parametrize("ahead", [1, 63, 64, 65, 5000, 8128, 8192, 20_000])
@pytest.mark.parametrize("cleared", [0, 1, 60, 128])
def test_the_next_holder_finishes_a_sweep(ahead: int, cleared: int) -> None:
    """Even when its first packet is an old one, which moves nothing."""
    window, model = full_ring(), Window(top=2 * lib.WINDOW_BITS)
    old = window.top - 1
    die_in_sweep(window, model, ahead, cleared)
    fresh = range(max(old + 1, old + ahead - USABLE), old + ahead + 1)
    assert [lib.window_accept(window, counter) for counter in fresh] == [1] * len(fresh)
    assert window.swept == window.top == old + ahead + 1
