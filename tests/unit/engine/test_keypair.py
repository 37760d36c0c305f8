"""engine/keypair: rotation against three plain slots, nonces against a counter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

SECOND = 10**9
LIMIT = lib.REJECT_AFTER_MESSAGES
NEVER = 2**64 - 1


@dataclass
class Slots:
    """The model: current, previous and next keypair number; None for none."""

    current: int | None = None
    previous: int | None = None
    next: int | None = None

    def named(self) -> set[int]:
        return {number for number in (self.current, self.previous, self.next) if number is not None}

    def install(self, number: int, initiator: bool) -> None:
        if number in self.named():
            return
        if initiator:
            if self.next is not None:
                self.previous = self.next
            else:
                self.previous = self.current
            self.current, self.next = number, None
        else:
            self.next, self.previous = number, None

    def confirm(self, number: int) -> None:
        if self.next == number:
            self.previous, self.current, self.next = self.current, self.next, None

    def drop(self, number: int) -> None:
        self.current = None if self.current == number else self.current
        self.previous = None if self.previous == number else self.previous
        self.next = None if self.next == number else self.next

    def word(self) -> int:
        return (self.current or 0) | (self.previous or 0) << 21 | (self.next or 0) << 42


numbers = st.one_of(st.integers(1, 6), st.sampled_from([2**21 - 1, 2**20]))
operations = st.tuples(st.sampled_from(["initiator", "responder", "confirm", "drop"]), numbers)


@settings(deadline=None, max_examples=400)
@given(st.lists(operations, max_size=25))
def test_rotation(walk: list[tuple[str, int]]) -> None:
    word, model = 0, Slots()
    for kind, number in walk:
        if kind == "confirm":
            word = lib.key_word_confirm(word, number)
            model.confirm(number)
        elif kind == "drop":
            word = lib.key_word_drop(word, number)
            model.drop(number)
        else:
            word = lib.key_word_install(word, number, kind == "initiator")
            model.install(number, kind == "initiator")
            assert lib.key_word_install(word, number, kind == "initiator") == word  # again: nothing
        assert word == model.word()
        assert lib.key_word_current(word) == (model.current or 0)
        assert lib.key_word_previous(word) == (model.previous or 0)
        assert lib.key_word_next(word) == (model.next or 0)
        assert word == lib.key_word_of(model.current or 0, model.previous or 0, model.next or 0)
        for probe in (*range(8), 2**20, 2**21 - 1):
            assert lib.key_word_names(word, probe) == (probe in model.named())


def test_none_is_never_installed_confirmed_or_named() -> None:
    for word in (0, lib.key_word_of(1, 2, 0), lib.key_word_of(1, 0, 3)):
        assert lib.key_word_install(word, 0, 1) == lib.key_word_install(word, 0, 0) == word
        assert lib.key_word_confirm(word, 0) == word
        assert lib.key_word_drop(word, 0) == word
        assert not lib.key_word_names(word, 0)


def made(birth: int, counter: int = 0) -> Any:
    keypair = ffi.new("struct keypair *")
    keypair.birth, keypair.send_counter = birth, counter
    return keypair


def test_size() -> None:
    assert ffi.sizeof("struct keypair") == 1152


def test_age_is_reached_on_the_nanosecond() -> None:
    keypair = made(7 * SECOND)
    assert not lib.keypair_is_older(keypair, 127 * SECOND - 1, 120)
    assert lib.keypair_is_older(keypair, 127 * SECOND, 120)
    assert lib.keypair_is_older(made(0), 1, 180)  # wiped


@settings(deadline=None, max_examples=200)
@given(
    start=st.one_of(st.integers(0, 5), st.integers(LIMIT - 200, LIMIT + 5)),
    counts=st.lists(st.integers(0, 64), max_size=12),
)
def test_nonces_are_taken_all_or_none_and_never_twice(start: int, counts: list[int]) -> None:
    keypair = made(SECOND, start)
    expected = start
    for count in counts:
        first = lib.keypair_take_nonces(keypair, count, 2 * SECOND)
        if expected < LIMIT and expected + count <= LIMIT:
            assert first == expected
            expected += count
        else:
            assert first == NEVER
        assert keypair.send_counter == expected


def test_no_nonces_from_an_expired_or_stopped_session() -> None:
    keypair = made(SECOND)
    assert lib.keypair_take_nonces(keypair, 1, 181 * SECOND - 1) == 0
    assert lib.keypair_take_nonces(keypair, 1, 181 * SECOND) == NEVER
    assert keypair.send_counter == 1
    lib.keypair_stop_sending(keypair)
    assert lib.keypair_take_nonces(keypair, 1, 2 * SECOND) == NEVER
