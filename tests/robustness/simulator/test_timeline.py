"""When things happen on a good link or none, in the protocol's own numbers, off the wire."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .reference import DATA, INITIATION, RESPONSE, SECOND
from .world import Settings, Weather, World

TICK = 2**24 / 1e9
JITTER = 19 * TICK


@contextmanager
def tunnel(**settings: object) -> Iterator[World]:
    """Two engines that have shaken hands at time 0: a was the initiator, and neither has sent data."""
    with World(1, Settings(**settings)) as world:  # type: ignore[arg-type]
        world.weather = [Weather(delay=1000), Weather(delay=1000)]
        world.is_logging = True
        world.send(0)
        world.run(SECOND)
        world.send(1)  # no passive keepalive is owed any more, by b
        world.run(30 * SECOND)
        world.tally.log.clear()
        yield world


def sent(world: World, name: str, kind: int, is_data: bool = False) -> list[float]:
    """When a side sent messages of a type; of data messages, those with or without a packet."""
    return [
        time for time, side, type_, data in world.tally.log if (side, type_, data) == (name, kind, is_data)
    ]


@pytest.mark.parametrize("jitter", [0, 19])
def test_who_is_only_sent_to_answers_after_10_s(jitter: int) -> None:
    with tunnel(jitter=(jitter, jitter)) as world:
        for second in range(30, 61):
            world.at(second * SECOND, lambda: world.send(0))
        world.run(100 * SECOND)
        times = sent(world, "b", DATA)
        assert len(times) == 3
        assert 40 <= times[0] <= 40 + 2 * TICK
        for before, after in itertools.pairwise(times):  # after the next data that came
            assert 10 <= after - before <= 11 + 2 * TICK


@pytest.mark.parametrize("jitter", [0, 19])
def test_silence_of_15_s_begins_a_handshake(jitter: int) -> None:
    with tunnel(jitter=(jitter, jitter)) as world:
        world.weather[1].loss = 1
        world.at(40 * SECOND, lambda: world.send(0))
        world.run(58 * SECOND)
        [time] = sent(world, "a", INITIATION)
        assert 55 - TICK <= time - jitter * TICK <= 55 + 2 * TICK


def test_twenty_initiations_then_silence_then_no_keys() -> None:
    with tunnel(jitter=(19, 0)) as world:
        world.weather[0].loss = 1
        world.at(200 * SECOND, lambda: world.send(0))
        world.run(2000 * SECOND)
        times = sent(world, "a", INITIATION)
        assert len(times) == 20 and times[0] == 200
        for before, after in itertools.pairwise(times):
            assert 5 <= after - before <= 5.333 + 2 * TICK
        assert not world.sides[0].engine.kept()
        world.at(2000 * SECOND, lambda: world.send(0))  # a new wish, a new attempt
        world.run(3000 * SECOND)
        assert len(sent(world, "a", INITIATION)) == 40


def test_the_initiator_makes_new_keys_when_it_sends_after_120_s() -> None:
    for number in range(2):
        with tunnel() as world:
            for second in range(30, 170):
                world.at(second * SECOND, lambda number=number: world.send(number))  # type: ignore[misc]
            world.run(175 * SECOND)
            times = sent(world, "a", INITIATION)
            assert not sent(world, "b", INITIATION)
            if number == 0:
                assert len(times) == 1 and 120 <= times[0] <= 121
            else:  # its passive keepalives are sent as well
                assert len(times) == 1 and 120 <= times[0] <= 131


def test_the_initiator_makes_new_keys_when_it_receives_after_165_s() -> None:
    with tunnel() as world:
        world.at(164 * SECOND, lambda: world.send(1))
        world.run(164 * SECOND + SECOND // 2)
        assert not sent(world, "a", INITIATION)
        world.at(166 * SECOND, lambda: world.send(1))
        world.run(170 * SECOND)
        assert len(sent(world, "a", INITIATION)) == 1
        assert not sent(world, "b", INITIATION)


def test_a_key_is_good_for_180_s_and_then_gone() -> None:
    with tunnel() as world:
        born = min(key.birth - side.boot for side in world.sides for key in side.engine.kept()) / 1e9
        world.run(int((born + 179.99) * 1e9))
        assert all(side.engine.held()[0] for side in world.sides)
        world.weather[0].loss = 1  # no new keys
        packet = world.send(1)[0]
        world.run(int((born + 180.1) * 1e9))
        assert packet in world.tally.latest
        assert not any(side.engine.kept() for side in world.sides)


def test_persistent_keepalives() -> None:
    with tunnel(keepalive=(25, 0)) as world:
        world.run(170 * SECOND)
        times = sent(world, "a", DATA)
        steps = [after - before for before, after in itertools.pairwise(times)]
        assert len(times) >= 5
        # the handshake at 120 s counts as well, and the keepalive that confirms it
        assert all(25 <= step <= 25 + 2 * TICK or step < 0.1 for step in steps), steps


def test_both_begin_at_once() -> None:
    """Two handshakes that cross: both come to an end, and packets of both sides get through."""
    with World(1, Settings()) as world:
        world.is_logging = True
        packets = world.send(0) + world.send(1)
        world.run(SECOND)
        assert [sent(world, name, kind) for name in "ab" for kind in (INITIATION, RESPONSE)] == [
            [0.0],
            [0.01],
            [0.0],
            [0.01],
        ]
        assert all(packet in world.tally.latest for packet in packets)


def test_a_host_that_was_booted_just_now() -> None:
    """Its clock is less than a tick old: what is stamped then is stamped all the same."""
    with World(1, Settings(boot=(1, 1))) as world:
        world.is_logging = True
        world.weather = [Weather(delay=1000), Weather(delay=1000)]
        world.send(0)
        world.run(60 * SECOND)
        assert sent(world, "b", DATA) and 10 <= sent(world, "b", DATA)[0] <= 10 + 2 * TICK


@pytest.mark.parametrize("leapers", ["a", "b", "ab"])
@pytest.mark.parametrize("leap", [16, 185, 600, 5 * 3600])
def test_traffic_goes_on_behind_a_leap_of_the_clock(leap: int, leapers: str) -> None:
    """A suspend of the machine: a handshake at most, which none of the timers due with it throws away. What
    the other side sends under the old keys until then is lost."""
    with tunnel(jitter=(7, 7)) as world:
        world.weather = [Weather(), Weather()]
        for tenth in range(300, 600):
            for number in range(2):
                world.at(tenth * SECOND // 10, lambda number=number: world.send(number))  # type: ignore[misc]

        def leaps() -> None:
            for side in world.sides:
                if side.name in leapers:
                    side.leap(leap * SECOND)

        heard: list[list[int]] = [[], []]
        world.on_delivery = lambda side, number: heard[side.number].append(world.time)
        world.at(45 * SECOND + SECOND // 200, leaps)  # with a packet of either side under way
        world.run(62 * SECOND)
        for times in heard:
            assert times[0] < 31 * SECOND and times[-1] > 59 * SECOND
            assert all(after - before < SECOND // 2 for before, after in itertools.pairwise(times))
