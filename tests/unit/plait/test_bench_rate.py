"""The search for the highest rate, against links whose limit is known, honest, noisy and odd."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.bench.rate import BORNE, CONFIRMATIONS, Trial, highest_rate

START, CEILING = 20_000.0, 2_000_000.0


class Link:
    """Carries up to limit datagrams a second; what is beyond is lost. The sender reaches at most sender."""

    def __init__(self, limit: float, sender: float = float("inf")) -> None:
        self.limit, self.sender = limit, sender
        self.rates: list[float] = []

    def attempt(self, rate: float, longer: bool) -> Trial:
        self.rates.append(rate)
        sent = min(rate, self.sender)
        return Trial(sent, int(sent), int(min(sent, self.limit)), 1.0, 0.5)


@settings(deadline=None, max_examples=200)
@given(st.floats(START / 25, CEILING / 2))
def test_the_limit_is_found_from_below(limit: float) -> None:
    """Within 7 % below it, never above what loses more than is borne, in few trials."""
    link = Link(limit)
    found = highest_rate(link.attempt, START, CEILING)
    assert found is not None
    assert limit * 0.93 <= found.trial.rate <= limit / (1 - BORNE) + 1
    assert found.trial.loss <= BORNE
    assert not found.at_sender
    assert found.trials == len(link.rates) <= 36


def test_nothing_is_found_where_nothing_passes() -> None:
    """It ends, with None."""
    link = Link(0)
    assert highest_rate(link.attempt, START, CEILING) is None
    assert min(link.rates) >= START / 30


def test_the_ceiling_ends_it() -> None:
    """A link without a limit is found at the ceiling, and no trial is above it."""
    link = Link(float("inf"))
    found = highest_rate(link.attempt, START, CEILING)
    assert found is not None and found.trial.rate == CEILING == max(link.rates)


def test_the_sender_is_named_as_the_limit() -> None:
    """Where the sender gives out first, the rate is the sender's, and the result says so."""
    found = highest_rate(Link(500_000, sender=100_000).attempt, START, CEILING)
    assert found is not None and found.at_sender
    assert 90_000 <= found.trial.rate <= 100_000


def test_one_failure_does_not_end_the_search() -> None:
    """Every other trial fails for a reason of its own: the limit is found all the same."""
    link = Link(150_000)

    def attempt(rate: float, longer: bool) -> Trial:
        trial = link.attempt(rate, longer)
        if len(link.rates) % 2:
            return Trial(trial.rate, trial.sent, trial.sent // 2, 1.0, 0.5)
        return trial

    found = highest_rate(attempt, START, CEILING)
    assert found is not None and 140_000 <= found.trial.rate <= 152_000


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_longer_trial_that_fails_lowers_the_rate(share: float) -> None:
    """A link that bears less for long is found at what it bears for long."""
    short, long = Link(100_000), Link(100_000 * share)

    def attempt(rate: float, longer: bool) -> Trial:
        return (long if longer else short).attempt(rate, longer)

    found = highest_rate(attempt, START, CEILING)
    assert found is not None
    assert 100_000 * share * 0.8 <= found.trial.rate <= 100_000 * share * 1.02
    assert len(long.rates) <= len(CONFIRMATIONS)


def test_cpu_and_loss_are_of_what_arrived() -> None:
    """CPU is divided by what arrived, not by what was sent; nothing sent is all lost."""
    trial = Trial(1000, 1000, 800, 1.0, 0.4)
    assert trial.loss == pytest.approx(0.2)
    assert trial.cpu_us == pytest.approx(500)
    assert Trial(0, 0, 0, 1.0, 0.1).loss == 1


def test_a_noisy_link_is_found_near_its_limit() -> None:
    """Limits that vary by 10 % from trial to trial: the result is one that was really borne."""
    chance = random.Random(5)

    def noisy(limit: float) -> Callable[[float, bool], Trial]:
        return lambda rate, longer: Link(limit * chance.uniform(0.9, 1.1)).attempt(rate, longer)

    for _ in range(50):
        found = highest_rate(noisy(120_000), START, CEILING)
        assert found is not None and found.trial.loss <= BORNE
        assert 90_000 <= found.trial.rate <= 135_000
