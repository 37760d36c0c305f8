"""Control wipes what it made keys with, when that has had its time: the memory itself is looked at.

tests/unit/engine/engine_secrets.c looks at what the C leaves on its way, tests/protocol/test_secrets.py at
whole engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine import noise
from tests.unit.workers.test_control_handshakes import Other, World, world
from workers._workers import ffi, lib

__all__ = ["world"]


def bytes_of(cdata: Any) -> bytes:
    return bytes(ffi.buffer(cdata))


def in_progress(world: World) -> tuple[int, Any]:
    """The number and the handshake that we began; the memory stays ours to look at."""
    [(number, progress)] = world.parts.handshakes.initiator.in_progress.items()
    return number, progress.handshake


def test_a_complete_handshake_is_wiped(world: World) -> None:
    response, _ = world.respond(world.initiate())
    _, handshake = in_progress(world)
    assert any(bytes_of(handshake.ephemeral))
    assert world.take(response) == "HS_RESPONSE_ACCEPTED"
    assert not any(bytes_of(handshake))


@pytest.mark.parametrize("end", ["confirmed", "forget_in_progress", "give_up", "another"])
def test_a_handshake_that_is_over_is_wiped(world: World, end: str) -> None:
    world.initiate()
    _, handshake = in_progress(world)
    match end:
        case "another":
            world.initiate()
        case "forget_in_progress":
            assert list(world.parts.handshakes.forget_in_progress())
        case "give_up":
            world.parts.handshakes.initiator.give_up(world.row)
        case "confirmed":
            world.parts.handshakes.confirmed(np.array([world.row], np.uint32))
    assert not any(bytes_of(handshake))


@pytest.mark.parametrize("whose", ["the peer's", "a stranger's"])
def test_what_we_answered_with_is_wiped(world: World, whose: str) -> None:
    other = world.other if whose == "the peer's" else Other(5, world.ours.public_key)
    world.take(other.initiation(), sender=other.endpoint)
    assert not any(bytes_of(world.parts.handshakes.responder.handshakes))


def test_a_free_keypair_has_no_key(world: World) -> None:
    """Also one whose number nobody asks for again."""
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
    state = world.other.state
    assert state is not None
    session = noise.consume_response(world.other.identity, state, world.other.hear(), noise.NO_PSK)
    number = int(world.parts.peers.rows[world.row].installing_next)
    keypair = world.parts.keypairs.slab[number]
    assert bytes(keypair.send_key) == session.receive_key
    world.parts.keypairs.release(world.row, number)
    world.parts.grace_periods.poll()
    assert number in world.parts.keypairs.free
    assert not any(bytes_of(ffi.addressof(keypair)))


@pytest.fixture(autouse=True)
def no_worker_is_awake(world: World) -> Iterator[None]:
    """So that grace periods end at once."""
    for worker in range(lib.MAX_WORKERS):
        assert not int(world.parts.segment.workers[worker].epoch) & 1
    yield
