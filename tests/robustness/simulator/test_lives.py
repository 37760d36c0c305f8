"""Random lives of two engines: every moment as the kernel's timers and sessions would have it."""

from __future__ import annotations

from collections import Counter

import pytest

from engine.timers import Action

from .reference import LAP, SECOND, TICK
from .schedule import Plan, live

SEEDS = 20
LENGTH = 600 * SECOND


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_life(seed: int) -> None:
    tally = live(seed, LENGTH)
    assert tally.delivered and tally.sessions


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_life_in_which_ticks_wrap(seed: int) -> None:
    """834 days after the boot the columns of stamps begin anew: 1 and 5 minutes after this life has begun."""
    wrap = LAP * TICK
    tally = live(seed, LENGTH, (wrap - 60 * SECOND, wrap - 300 * SECOND))
    assert tally.delivered and tally.sessions


@pytest.mark.parametrize("seed", [201, 202, 204, 209, 210, 213])
def test_a_life_in_which_clocks_leap(seed: int) -> None:
    """By minutes and hours amid traffic: many timers of a peer fall due in one moment."""
    tally = live(seed, LENGTH, leaps=True)
    assert tally.delivered and tally.sessions


@pytest.mark.parametrize("seed", [241, 427, 792, 1409, 1756])
def test_a_life_that_once_broke(seed: int) -> None:
    """The first three for a handshake too many, the others for a keepalive that giving up cancels."""
    assert live(seed, 173 * SECOND).sessions


def test_what_is_rare_happens_in_these_lives() -> None:
    """Each timer fires, in some life that is not too long to look at."""
    fired: Counter[Action] = Counter()
    for seed in (9, 15):
        for actions, count in live(seed, LENGTH).fired.items():
            for action in Action:
                fired[action] += count * bool(actions & action)
    assert all(fired[action] for action in Action), fired


def test_a_seed_is_one_life() -> None:
    logs = []
    for _ in range(2):
        plan = Plan(7, 200 * SECOND)
        plan.world.is_logging = True
        logs.append(plan.run().log)
    assert logs[0] == logs[1] and len(logs[0]) > 100
