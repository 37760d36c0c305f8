"""Restarts, and a wall clock that steps back an hour meanwhile.

A device's initiations must carry growing timestamps, or its peers take them for replays. What is the
latest one sent stands in the vault, so a restart of control, or of any worker, cannot lead back. The
vault ends with the engine. Then, as with the kernel module, the wall clock alone says what is later: a device
whose clock was set back and whose engine was started anew is refused by the peers that know later
timestamps, until its clock is past them. What the peers begin themselves works all the while.
"""

from __future__ import annotations

import pytest

from workers._workers import lib

from .reference import INITIATION, SECOND
from .world import Settings, Side, World

HOUR = 3600 * SECOND


def refused(side: Side) -> int:
    """Initiations that this side took for replays."""
    return int(lib.counter_sum(side.engine.segment, lib.HS_TIMESTAMP_REPLAYED))


def talk(world: World, number: int, seconds: int) -> list[int]:
    """A packet each second from now on; those that arrived."""
    first, begin = next(world.numbers), world.time
    for second in range(seconds):
        world.at(begin + second * SECOND, lambda: world.send(number))
    world.run(begin + (seconds + 1) * SECOND)
    return [packet for packet in world.tally.latest if packet > first]


@pytest.mark.parametrize("number", [0, 1])
def test_control_restarts_and_the_clock_is_an_hour_back(number: int) -> None:
    with World(1, Settings()) as world:
        assert len(talk(world, number, 10)) == 10
        side = world.sides[number]
        before = side.engine.timestamp_sent()
        side.wall -= HOUR
        side.engine.wall -= HOUR
        side.restart_control()
        world.run(world.time + 600 * SECOND)
        assert len(talk(world, number, 10)) == 10
        assert side.engine.timestamp_sent() > before
        assert refused(world.sides[1 - number]) == 0


def test_the_engine_restarts_and_the_clock_is_an_hour_back() -> None:
    with World(1, Settings()) as world:
        talk(world, 0, 10)
        a, b = world.sides
        a.wall -= HOUR
        a.restart()
        # What a begins is refused, as long as its clock is behind.
        assert talk(world, 0, 300) == []
        assert refused(b) >= 50
        # What b begins is not; then a may send too.
        assert len(talk(world, 1, 30)) == 30
        assert len(talk(world, 0, 30)) == 30
        # And in an hour all is well.
        world.run(world.time + HOUR)
        count = refused(b)
        assert len(talk(world, 0, 10)) == 10
        assert refused(b) == count


def test_the_engine_restarts_and_the_clock_went_on() -> None:
    """b holds a session that a lost: it is silent for 15 s, then b begins anew; a may do so at once."""
    for number, bound in ((0, 1), (1, 17)):
        with World(1, Settings()) as world:
            talk(world, 1, 10)
            world.sides[0].restart()
            begin = world.time
            talk(world, number, 40)
            times = [time for time in world.tally.latest.values() if time > begin]
            assert min(times) - begin <= bound * SECOND
            assert len(times) >= 40 - bound


def test_a_recorded_initiation_is_no_use_to_an_attacker() -> None:
    """After an engine's restart nothing says that it is a replay: the session is never confirmed."""
    with World(1, Settings()) as world:
        recorded = []
        carry = world.carry

        def tap(side, datagrams):  # type: ignore[no-untyped-def]
            recorded.extend(d for d in datagrams if d.kind == INITIATION)
            carry(side, datagrams)

        world.carry = tap  # type: ignore[method-assign]
        talk(world, 0, 10)
        b = world.sides[1]
        b.receive(recorded[:1])
        assert refused(b) == 1
        b.restart()
        b.receive(recorded[:1])
        assert refused(b) == 0
        current, previous, unconfirmed = b.engine.held()
        assert current is None and previous is None and unconfirmed is not None
        world.run(world.time + 200 * SECOND)
        assert not b.engine.kept()
        assert len(talk(world, 0, 10)) == 10
