"""The simulator sees what it is there to see: each of these engines is broken in one place, and is found out.

What is written in C is broken from outside, in the segment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine import tai64n, timers
from workers._workers import ffi, lib
from workers.control import handshakes, keypairs, timer_columns
from workers.control import process as control

from . import engine
from .reference import SECOND
from .schedule import live
from .watch import Broken

Patch = pytest.MonkeyPatch
WINDOW = ffi.offsetof("struct keypair", "window")


def before_each_moment(patch: Patch, meddle: Callable[[engine.Engine], None]) -> None:
    settle = engine.Engine.settle

    def meddled(self: engine.Engine, *arguments: Any, **named: Any) -> engine.Outcome:
        meddle(self)
        return settle(self, *arguments, **named)

    patch.setattr(engine.Engine, "settle", meddled)


def no_window(patch: Patch) -> None:
    """Packets are accepted as often as they come."""

    def forget(self: engine.Engine) -> None:
        self.words[:, WINDOW // 8 : -1] = 0

    before_each_moment(patch, forget)


def nonces_again(patch: Patch) -> None:
    """A restart of control begins to count anew."""
    kill = engine.Engine.kill_control

    def forgetful(self: engine.Engine) -> None:
        self.slab["counter"] = 0
        kill(self)

    patch.setattr(engine.Engine, "kill_control", forgetful)


def keys_kept(patch: Patch) -> None:
    """Nothing drops them."""
    patch.setattr(timers, "EXPIRE", 1 << 30)
    patch.setattr(timers, "ZERO", 1 << 30)


def never_wiped(patch: Patch) -> None:
    """What no key word names keeps its bytes."""

    def keep(self: keypairs.Keypairs, numbers: list[int]) -> None:
        self.free.extend(numbers)

    patch.setattr(keypairs.Keypairs, "_free", keep)


def attempts_not_reset(patch: Patch) -> None:
    patch.setattr(timers, "handshake_wanted", lambda columns, row: None)


def never_gives_up(patch: Patch) -> None:
    patch.setattr(timers.constants, "MAX_TIMER_HANDSHAKES", 1 << 20)


def gives_up_early(patch: Patch) -> None:
    patch.setattr(timers.constants, "MAX_TIMER_HANDSHAKES", 17)


def impatient(patch: Patch) -> None:
    """Handshake messages follow each other without a pause."""
    patch.setattr(timer_columns.TimerColumns, "may_send_handshake", lambda self, row, now: True)


def response_not_noted(patch: Patch) -> None:
    patch.setattr(timer_columns.TimerColumns, "response_sent", lambda self, row, now: None)


def no_passive_keepalive(patch: Patch) -> None:
    patch.setattr(timers, "KEEPALIVE", timers.KEEPALIVE + 30)


def silence_too_long(patch: Patch) -> None:
    patch.setattr(timers, "NEW_HANDSHAKE", timers.NEW_HANDSHAKE + 1)


def replays_accepted(patch: Patch) -> None:
    patch.setattr(tai64n, "later", lambda a, b: np.ones(len(a), np.bool_))


def stamps_from_the_clock_alone(patch: Patch) -> None:
    """What was sent before is not heard."""
    patch.setattr(tai64n, "next_stamp", lambda wall, last: tai64n.stamp(wall))


def a_lost_wish(patch: Patch) -> None:
    """A handshake wanted too early is forgotten."""
    patch.setattr(timer_columns.TimerColumns, "retry_when_allowed", lambda self, row, now: None)


def confirmed_unheard(patch: Patch) -> None:
    """The responder goes on with a handshake of its own."""
    patch.setattr(handshakes.Handshakes, "confirmed", lambda self, row: None)


def the_timer_sleeps_in(patch: Patch) -> None:
    """The next time to look at a row is noted a tick late."""
    evaluate = timers.evaluate

    def late(columns: Any, rows: Any, *arguments: Any) -> Any:
        actions = evaluate(columns, rows, *arguments)
        due = columns[lib.NEXT_DUE, rows]
        columns[lib.NEXT_DUE, rows] = np.where(due == timers.NEVER, due, due + 1)
        return actions

    patch.setattr(timers, "evaluate", late)


def begins_before_it_ends(patch: Patch) -> None:
    """Timers that fall due together: a handshake is begun, and thrown away with the keys."""
    act, begin = control.Control._act, timers.Action.RETRY_HANDSHAKE | timers.Action.START_HANDSHAKE

    def upside_down(self: control.Control, row: int, action: timers.Action, now: int) -> None:
        act(self, row, action & begin, now)
        act(self, row, action & ~begin, now)

    patch.setattr(control.Control, "_act", upside_down)


MUTANTS = [
    no_window,
    nonces_again,
    keys_kept,
    never_wiped,
    attempts_not_reset,
    never_gives_up,
    gives_up_early,
    impatient,
    response_not_noted,
    no_passive_keepalive,
    silence_too_long,
    replays_accepted,
    stamps_from_the_clock_alone,
    a_lost_wish,
    confirmed_unheard,
    the_timer_sleeps_in,
    begins_before_it_ends,
]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_is_found_out(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    with pytest.raises(Broken):
        for seed in range(24):
            live(seed, 900 * SECOND, leaps=mutate is begins_before_it_ends)
