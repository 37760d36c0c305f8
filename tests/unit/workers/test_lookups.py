"""Initiations of keys that are no peer's: parked, asked about, answered or ended, each in one counter.

The other side is engine.noise and a UDP socket in this process; time is given, never waited for.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from engine import noise
from engine.uapi import TTL_MOST, WINDOW_MOST
from tests.support.control_harness import Interface, Parts
from tests.unit.workers.test_control_handshakes import SECOND, WALL, Other, World, again, flip
from workers._workers import ffi, lib
from workers.control import lookups
from workers.control.events import Event
from workers.control.lookups import PARKED, PARKED_TIME, Lookups
from workers.control.pace import PACE
from workers.control.provider import LINE_BYTES, SILENT, Provider
from workers.control.refusals import ENTRIES, Refusals
from workers.control.vault import PARKED_A_STEP, PARKED_MOST

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

PSK = b"\x31" * 32


class Unknown(World):
    """An interface with a peer, strangers whom it does not know, and a clock that the test moves."""

    def __init__(self, interface: Interface) -> None:
        self.time = [int(lib.clock_now())]
        super().__init__(interface)
        self.time[0] = self.now
        self.seeds = count(100)

    def make_parts(self) -> Parts:
        began = self.time[0] if not hasattr(self, "now") else self.began
        pace = replace(PACE, now=lambda: self.time[0], wall=lambda: WALL + self.time[0] - began)
        self.began = began
        return Parts(self.interface, pace)

    @property
    def lookups(self) -> Lookups:
        return self.parts.handshakes.lookups

    def stranger(self, psk: bytes = noise.NO_PSK) -> Other:
        return Other(next(self.seeds), self.ours.public_key, psk)

    def die(self) -> None:
        """As if killed; the next control finds what this one left."""
        self.parts.close()
        self.parts = self.make_parts()

    def join(self, window: int = 64) -> Provider:
        provider = self.lookups.join(window)
        assert provider is not None
        return provider

    def comes(self, other: Other, message: bytes | None = None) -> str:
        """What becomes of an initiation: its counter, or "parked". It is tallied as the mailbox's are."""
        counter = self.take(message or other.initiation(), sender=other.endpoint)
        if counter != "parked":
            lib.counter_add(self.parts.segment, lib.WORKER_CONTROL, getattr(lib, counter), 1)
        return counter

    def turn(self) -> None:
        while self.parts.handshakes.look_up(self.time[0]):
            pass

    def pass_time(self, ns: int) -> None:
        self.time[0] += ns
        self.now = self.time[0]
        self.turn()

    def counted(self) -> dict[str, int]:
        """Of HS_ ends of messages and UNKNOWN_, those that are not 0."""
        return {
            name: value for name, value in self.interface.counters().items()
            if name.startswith(("HS_", "UNKNOWN_")) and name not in ("HS_RESPONSE_SENT", "HS_INITIATION_SENT")
        }  # fmt: skip


@pytest.fixture
def world() -> Iterator[Unknown]:
    with Interface(f"pll{os.getpid()}") as interface:
        world = Unknown(interface)
        yield world
        world.parts.close()
        world.other.socket.close()


def told(provider: Provider) -> list[tuple[str, Any]]:
    """What the provider reads, by line."""
    lines = b"".join(iter(lambda: next(provider), b"")).decode().splitlines()
    return [(line.partition("=")[0], json.loads(line.partition("=")[2])) for line in lines if line]


def questions(provider: Provider) -> list[dict[str, Any]]:
    return [value for key, value in told(provider) if key == "unknown_peer"]


def base64(other: Other) -> str:
    return b64encode(other.identity.public_key).decode()


def section(other: Other) -> str:
    psk = f"preshared_key={other.psk.hex()}\n" if any(other.psk) else ""
    return f"public_key={other.identity.public_key.hex()}\n{psk}allowed_ip=10.9.0.2/32\n"


def answered(world: Unknown, other: Other) -> noise.Session:
    assert other.state is not None
    return noise.consume_response(other.identity, other.state, other.hear(), other.psk)


def test_without_a_provider_an_unknown_peer_is_refused_as_ever(world: Unknown) -> None:
    assert world.comes(world.stranger()) == "HS_UNKNOWN_PEER"
    world.turn()
    assert world.counted() == {"HS_UNKNOWN_PEER": 1, "UNKNOWN_NO_PROVIDER": 1}


def test_a_parked_initiation_is_answered_when_its_peer_is_added(world: Unknown) -> None:
    provider, other = world.join(), world.stranger(PSK)
    assert told(provider) == [("serving", 1)]
    assert world.comes(other) == "parked" and other.hears_nothing()
    world.pass_time(SECOND // 50)
    source = f"127.0.0.1:{other.endpoint.port}"
    asked = {"id": 1, "public_key": base64(other), "source": source, "age_ms": 20}
    assert told(provider) == [("unknown_peer", asked)]
    assert world.counted() == {"UNKNOWN_ASKED": 1}, "it has not ended"

    world.set(section(other))
    world.turn()
    session = answered(world, other)
    row = world.parts.peers.find(other.identity.public_key)
    assert row is not None
    keypair = world.parts.keypairs.slab[int(world.parts.peers.rows[row].installing_next)]
    assert bytes(keypair.send_key) == session.receive_key
    world.lookups.heard(provider, b"done=1\n")
    assert world.counted() == {"UNKNOWN_ASKED": 1, "UNKNOWN_ANSWERED": 1, "HS_INITIATION_ACCEPTED": 1}
    assert not world.lookups.parked and not provider.open and told(provider) == []
    assert sum(world.lookups.seconds) == 1 and world.lookups.parking.places() == []


def test_a_set_of_many_peers_answers_those_that_are_parked(world: Unknown) -> None:
    provider, others = world.join(), [world.stranger() for _ in range(12)]
    assert [world.comes(other) for other in others] == ["parked"] * 12
    world.turn()
    assert len(questions(provider)) == 12
    world.set("".join(section(other).replace("0.2/32", f"0.{at}/32") for at, other in enumerate(others)))
    world.turn()
    for other in others:
        answered(world, other)
    assert world.counted()["HS_INITIATION_ACCEPTED"] == 12


def test_nobody_is_asked_about_what_only_somebody_else_can_have_made(world: Unknown) -> None:
    """A static key that the sender does not hold: its timestamp cannot be sealed."""
    provider, other = world.join(), world.stranger()
    assert world.comes(other, again(world, flip(other.initiation(), 100))) == "HS_INITIATION_TAG"
    world.turn()
    assert questions(provider) == [] and not world.lookups.parked
    event = json.loads(world.parts.events.remembered()[-1].removeprefix(b"event="))
    assert (event["event"], event["claimed_key"]) == (Event.INITIATION_TAG, base64(other))


def test_a_refusal_is_remembered_for_its_ttl_and_a_set_clears_it(world: Unknown) -> None:
    provider, other = world.join(), world.stranger()
    assert world.comes(other) == "parked"
    world.turn()
    world.lookups.heard(provider, b"refuse=1\nttl=90\n\n")
    assert world.counted() == {"UNKNOWN_ASKED": 1, "UNKNOWN_REFUSED": 1, "HS_UNKNOWN_PEER": 1}
    world.pass_time(89 * SECOND)
    assert world.comes(other) == "HS_UNKNOWN_PEER" and world.counted()["UNKNOWN_CACHED"] == 1
    world.pass_time(2 * SECOND)
    assert world.comes(other) == "parked", "its time is over"
    world.turn()
    world.lookups.heard(provider, b"refuse=2\n\n")
    assert world.comes(other) == "HS_UNKNOWN_PEER", "60 s when no ttl is given"

    world.set(section(other))
    assert world.comes(other) == "HS_INITIATION_ACCEPTED"
    world.set(f"public_key={other.identity.public_key.hex()}\nremove=true\n")
    assert world.comes(other) == "parked"


def test_a_key_refused_while_it_is_a_peer_is_asked_about_when_it_is_no_more(world: Unknown) -> None:
    """Among so many peers of one set that none of them is named."""
    other = world.stranger()
    world.join()
    world.lookups.refusals.add(other.identity.public_key, 600, world.time[0])
    world.set(section(other) + "".join(f"public_key={number:064x}\n" for number in range(1, 20)))
    world.set(f"public_key={other.identity.public_key.hex()}\nremove=true\n")
    assert world.comes(other) == "parked"


def test_a_refusal_without_a_ttl_of_any_length_is_asked_about_again(world: Unknown) -> None:
    provider, other = world.join(), world.stranger()
    for number, answer in ((1, b"refuse=1\nttl=0\n\n"), (2, b"done=2\n")):
        assert world.comes(other) == "parked"
        world.turn()
        assert [each["id"] for each in questions(provider)] == [number]
        world.lookups.heard(provider, answer)
        assert world.counted()["HS_UNKNOWN_PEER"] == number and not world.lookups.parked


def test_a_retry_takes_the_place_of_the_parked_one(world: Unknown) -> None:
    provider, other = world.join(), world.stranger()
    first = other.initiation()
    assert world.comes(other, first) == "parked"
    world.pass_time(SECOND)
    second = other.initiation()
    assert world.comes(other, second) == "parked"
    assert world.comes(other, first) == "HS_TIMESTAMP_REPLAYED"
    assert world.comes(other, second) == "HS_TIMESTAMP_REPLAYED"
    world.turn()
    assert len(questions(provider)) == 1
    world.set(section(other))
    world.turn()
    answered(world, other)
    assert other.hears_nothing()
    assert world.counted() == {
        "UNKNOWN_ASKED": 1, "UNKNOWN_ANSWERED": 1, "HS_UNKNOWN_PEER": 1, "HS_TIMESTAMP_REPLAYED": 2,
        "HS_INITIATION_ACCEPTED": 1,
    }  # fmt: skip
    assert world.parts.handshakes.wasted == 1


def test_nothing_older_than_five_seconds_is_answered_and_the_retry_is_not_asked_about(world: Unknown) -> None:
    provider, other = world.join(), world.stranger()
    assert world.comes(other) == "parked"
    world.turn()
    world.pass_time(PARKED_TIME - 1)
    assert world.counted() == {"UNKNOWN_ASKED": 1}
    world.pass_time(1)
    assert world.counted() == {"UNKNOWN_ASKED": 1, "UNKNOWN_TIMEOUT": 1, "HS_UNKNOWN_PEER": 1}
    assert world.comes(other) == "parked", "the question is open still"
    world.turn()
    assert len(questions(provider)) == 1
    world.set(section(other))
    world.turn()
    answered(world, other)
    world.lookups.heard(provider, b"done=1\n")
    assert told(provider) == []


def test_a_question_waits_for_the_window_and_then_for_the_bucket(world: Unknown) -> None:
    provider, others = world.join(2), [world.stranger() for _ in range(3)]
    assert [world.comes(other) for other in others] == ["parked"] * 3
    world.turn()
    assert [each["id"] for each in questions(provider)] == [1, 2]
    world.lookups.heard(provider, b"refuse=2\n\n")
    world.turn()
    assert [each["public_key"] for each in questions(provider)] == [base64(others[2])]
    fourth = world.stranger()
    assert world.comes(fourth) == "parked"
    world.pass_time(PARKED_TIME)
    assert world.counted() == {
        "UNKNOWN_ASKED": 3, "UNKNOWN_REFUSED": 1, "UNKNOWN_TIMEOUT": 2, "UNKNOWN_WINDOW": 1,
        "HS_UNKNOWN_PEER": 4,
    }  # fmt: skip


class Alone:
    """Lookups of fake keys: arithmetic is not what is tested."""

    def __init__(self, world: Unknown) -> None:
        self.now = 10**12
        self.counts: dict[str, int] = {}
        self.peers: dict[bytes, int] = {}
        self.lookups = Lookups(world.parts.vault, world.parts.events, self.peers.get, self.count,
                               lambda: self.now, lambda: WALL)
        self.cell = ffi.new("struct mailbox_cell *")

    def count(self, counter: int, by: int) -> None:
        name = ffi.string(ffi.cast("enum counter", counter))
        self.counts[str(name)] = self.counts.get(str(name), 0) + by

    def park(self, number: int) -> int:
        return self.lookups.park(number.to_bytes(32, "little"), bytes(12), self.cell, self.now)


def test_at_most_a_thousand_questions_a_second(world: Unknown) -> None:
    alone = Alone(world)
    provider = alone.lookups.join(WINDOW_MOST)
    assert provider is not None
    for number in range(3000):
        assert alone.park(number) == PARKED
    asked = []
    for _ in range(2000):  # two seconds by the millisecond
        alone.lookups.step(alone.now)
        asked.append(alone.counts.get("UNKNOWN_ASKED", 0))
        alone.now += SECOND // 1000
    most = lookups.QUESTIONS_AT_ONCE + lookups.QUESTIONS_A_SECOND
    assert asked[4] - 5 <= lookups.QUESTIONS_AT_ONCE <= asked[4] and most - 2 <= asked[999] <= most + 1
    assert asked[1999] - asked[999] == lookups.QUESTIONS_A_SECOND
    alone.now += 3 * SECOND  # nothing was asked meanwhile: what waited longest is too old
    for _ in range(100):
        alone.lookups._expire(alone.now)
    assert alone.counts["UNKNOWN_BUCKET"] == 3000 - asked[-1]
    assert alone.counts["UNKNOWN_TIMEOUT"] == asked[-1] and alone.counts["HS_UNKNOWN_PEER"] == 3000


def test_no_more_are_parked_than_there_is_room_for(world: Unknown) -> None:
    alone = Alone(world)
    alone.lookups.join(1)
    for number in range(PARKED_MOST):
        assert alone.park(number) == PARKED
    alone.lookups.step(alone.now)
    assert alone.park(PARKED_MOST) == lib.HS_UNKNOWN_PEER
    assert alone.counts == {"UNKNOWN_ASKED": 1, "UNKNOWN_WINDOW": 1}
    assert len(alone.lookups.parking.places()) == PARKED_MOST
    alone.now += PARKED_TIME
    for _ in range(PARKED_MOST):
        alone.lookups.step(alone.now)
    assert not alone.lookups.parked and not alone.lookups.unasked
    assert sorted(alone.lookups.parking.free or []) == list(range(PARKED_MOST))


def test_the_next_provider_is_asked_what_the_one_before_left(world: Unknown) -> None:
    first, second = world.join(), world.join()
    assert told(first) == [("serving", 1)] and told(second) == [("serving", 0)]
    other = world.stranger()
    assert world.comes(other) == "parked"
    world.turn()
    assert len(questions(first)) == 1 and told(second) == []
    world.lookups.heard(first, b"refuse=")  # it ends in the middle of a line
    world.lookups.leave(first)
    world.turn()
    assert [key for key, _ in told(second)] == ["serving", "unknown_peer"]
    world.lookups.leave(second)
    world.set(section(other))
    world.turn()
    answered(world, other)
    found = [json.loads(line.removeprefix(b"event="))["event"] for line in world.parts.events.remembered()]
    assert found.count(Event.PROVIDER_SERVES) == 2 and found.count(Event.PROVIDER_GONE) == 2


@pytest.mark.parametrize("is_control_killed", [False, True])
def test_a_provider_that_went_is_waited_for(world: Unknown, is_control_killed: bool) -> None:
    """Clients that come while it starts again are not sent away for 5 s."""
    first = world.join()
    if is_control_killed:
        world.die()
    else:
        world.lookups.leave(first)
    other, late = world.stranger(), world.stranger()
    world.pass_time(PARKED_TIME - SECOND)
    assert world.comes(other) == "parked"
    second = world.join()
    world.turn()
    assert [question["public_key"] for question in questions(second)] == [base64(other)]
    world.lookups.leave(second)
    world.pass_time(PARKED_TIME - 1)
    assert world.comes(late) == "parked"
    world.pass_time(PARKED_TIME)
    assert world.counted()["UNKNOWN_NO_PROVIDER"] == 2, "nobody came in their time"
    assert world.comes(world.stranger()) == "HS_UNKNOWN_PEER"


@pytest.mark.parametrize("said, why", [
    (b"done=7\n", "no question 7 is open"),
    (b"done=1\ndone=1\n", "no question 1 is open"),
    (b"refuse=99\nttl=1\n\n", "no question 99 is open"),
])  # fmt: skip
def test_an_answer_to_no_question_is_told_and_the_provider_goes_on(
    world: Unknown, said: bytes, why: str
) -> None:
    provider, other = world.join(), world.stranger()
    assert world.comes(other) == "parked"
    world.turn()
    told(provider)
    world.lookups.heard(provider, said)
    [(key, error)] = told(provider)
    assert key == "error" and why in error["why"] and error["what"] and error["next"]
    assert not provider.is_over
    assert b'"event": "provider_wrong"' in b"".join(world.parts.events.remembered())


def test_so_many_answers_to_no_question_end_the_connection(world: Unknown) -> None:
    provider = world.join()
    told(provider)
    world.lookups.heard(provider, b"done=9\n" * (provider.window + 1000))
    errors = [value for key, value in told(provider) if key == "error"]
    assert provider.is_over and len(errors) == provider.window + 1


@pytest.mark.parametrize("said, why", [
    (b"hello\n", "it is no `done=`"),
    (b"set=1\n", "it is no `done=`"),
    (b"ttl=60\n", "it is no `done=`"),
    (b"done=\n", "the id of a question"),
    (b"done=-1\n", "the id of a question"),
    (b"done=\xff\n", "the id of a question"),
    (b"refuse=1\nttl=3601\n", f"0 to {TTL_MOST}"),
    (b"refuse=1\nttl=soon\n", f"0 to {TTL_MOST}"),
    (b"x" * (LINE_BYTES + 1), f"more than {LINE_BYTES} bytes"),
])  # fmt: skip
def test_nonsense_ends_its_connection_and_nobody_elses(world: Unknown, said: bytes, why: str) -> None:
    first, second, other = world.join(), world.join(), world.stranger()
    assert world.comes(other) == "parked"
    world.turn()
    told(first)
    world.lookups.heard(first, said)
    lines = b"".join(iter(lambda: next(first), b"")).decode().split("\n")
    assert why in json.loads(lines[0].removeprefix("error="))["why"]
    assert lines[1] == "errno=71" and first.is_over
    world.turn()
    assert world.lookups.parked and not questions(second)
    world.lookups.leave(first)
    world.turn()
    assert len(questions(second)) == 1


def test_who_never_answers_makes_way(world: Unknown) -> None:
    first, second, other = world.join(1), world.join(), world.stranger()
    assert world.comes(other) == "parked"
    world.turn()
    world.pass_time(SILENT - 1)
    assert not first.is_over
    world.pass_time(1)
    assert first.is_over
    assert "for 30 s none was answered" in dict(told(first)[:-1])["error"]["why"]
    world.lookups.leave(first)
    assert world.comes(other) == "parked"
    world.turn()
    assert len(questions(second)) == 1


def test_an_answer_in_pieces(world: Unknown) -> None:
    provider = Provider(1, 0)
    said = b"refuse=12\nttl=5\ndone=13\nrefuse=14\n\n\nrefuse=15\nttl=0\n\n"
    found = [answer for at in range(len(said)) for answer in provider.feed(said[at : at + 1])]
    assert found == list(Provider(1, 0).feed(said)) == [(12, 5), (13, None), (14, 60), (15, 0)]


@pytest.mark.parametrize("lines", ["", "on_demand=1\n"])
@pytest.mark.parametrize("is_set_by", ["the control that parked it", "the next"])
def test_what_is_parked_when_control_dies_is_answered_by_the_next(
    world: Unknown, is_set_by: str, lines: str
) -> None:
    """After two deaths as after one. The provider is asked by each."""
    other = world.stranger(PSK)
    for asked in 1, 2:
        provider = world.join()
        if asked == 1:
            assert world.comes(other) == "parked"
        world.pass_time(SECOND)
        (question,) = questions(provider)
        source = f"127.0.0.1:{other.endpoint.port}"
        assert (question["source"], question["age_ms"]) == (source, 1000 * asked)
        if asked == 2 and is_set_by != "the next":
            world.set(section(other) + lines)
        world.die()
    assert other.hears_nothing() and world.counted() == {"UNKNOWN_ASKED": 2}
    if is_set_by == "the next":
        world.join()
        world.turn()
        world.set(section(other) + lines)
    world.turn()
    answered(world, other)
    counted = world.counted()
    del counted["UNKNOWN_ASKED"]
    assert counted == {"UNKNOWN_ANSWERED": 1, "HS_INITIATION_ACCEPTED": 1}
    records = world.parts.vault.parked[: world.parts.vault.ready("parked_ready")]
    assert len(records) == PARKED_A_STEP and not any(records.tobytes()), "it was wiped"


def test_the_next_control_answers_nothing_older_than_five_seconds(world: Unknown) -> None:
    others = [world.stranger() for _ in range(2)]
    world.join()
    for other in others:
        assert world.comes(other) == "parked"
        world.pass_time(SECOND)
    world.die()
    world.pass_time(PARKED_TIME - 2 * SECOND)
    world.set("".join(section(other).replace("0.2/32", f"0.{at}/32") for at, other in enumerate(others)))
    world.turn()
    assert others[0].hears_nothing()
    answered(world, others[1])
    assert world.counted() == {
        "UNKNOWN_ASKED": 2, "UNKNOWN_NO_PROVIDER": 1, "UNKNOWN_ANSWERED": 1, "HS_UNKNOWN_PEER": 1,
        "HS_INITIATION_ACCEPTED": 1,
    }  # fmt: skip


def test_what_grew_too_old_while_many_wait_for_their_turn_is_not_answered(world: Unknown) -> None:
    """A turn ends so many, and answers so many: those that are answered are looked at for themselves."""
    alone = Alone(world)
    alone.lookups.join(1)
    for number in range(3 * lookups.A_TURN):
        assert alone.park(number) == PARKED
        alone.peers[number.to_bytes(32, "little")] = number
    alone.lookups.peers_added(None)
    alone.lookups.set_is_over()
    alone.now += PARKED_TIME
    alone.lookups.step(alone.now)
    assert alone.lookups.take_ready(ffi.new("struct mailbox_cell[]", 64), 64, alone.now) == 0


def test_a_peer_that_is_taken_away_at_once_leaves_its_initiation_no_younger(world: Unknown) -> None:
    world.join()
    other = world.stranger()
    assert world.comes(other) == "parked"
    world.set(section(other))
    world.set(f"public_key={other.identity.public_key.hex()}\nremove=true\n")
    world.turn()
    assert world.counted() == {"UNKNOWN_ASKED": 1, "HS_UNKNOWN_PEER": 1} and not world.lookups.parked


def test_a_retry_that_takes_the_place_of_one_that_waits_is_asked_about(world: Unknown) -> None:
    first, other = world.join(), world.stranger()
    world.lookups.leave(first)
    assert [world.comes(other), world.comes(other)] == ["parked", "parked"]
    second = world.join()
    world.turn()
    assert [each["public_key"] for each in questions(second)] == [base64(other)]


def test_an_engine_that_nobody_provides_for_takes_no_memory_for_parked_ones(world: Unknown) -> None:
    before = os.fstat(world.parts.vault.fd).st_blocks
    assert world.comes(world.stranger()) == "HS_UNKNOWN_PEER"
    world.die()
    assert os.fstat(world.parts.vault.fd).st_blocks == before
    world.join()
    assert world.comes(world.stranger()) == "parked"
    taken = 512 * (os.fstat(world.parts.vault.fd).st_blocks - before)
    assert 0 < taken <= PARKED_A_STEP * 320


def test_what_waits_behind_a_kill_is_parked_in_places_that_are_free(world: Unknown) -> None:
    world.join()
    others = [world.stranger() for _ in range(4)]
    for other in others[:2]:
        assert world.comes(other) == "parked"
    world.die()
    world.join()
    for other in others[2:]:
        assert world.comes(other) == "parked"
    world.set("".join(section(other).replace("0.2/32", f"0.{at}/32") for at, other in enumerate(others)))
    world.turn()
    for other in others:
        answered(world, other)


def test_another_private_key_ends_what_is_parked(world: Unknown) -> None:
    other = world.stranger()
    world.join()
    assert world.comes(other) == "parked"
    world.set(f"private_key={'5a' * 32}\n{section(other)}")
    world.turn()
    assert world.counted() == {"HS_UNKNOWN_PEER": 1} and other.hears_nothing()


def test_refusals_are_kept_apart_and_take_each_others_place_at_random() -> None:
    refusals, now = Refusals(), 5 * SECOND
    keys = [number.to_bytes(32, "little") for number in range(2 * ENTRIES)]
    assert not refusals.has(keys[0], now) and not refusals.is_used
    for key in keys[:100]:
        refusals.add(key, 60, now)
    assert all(refusals.has(key, now) for key in keys[:100])
    assert not any(refusals.has(key, now) for key in keys[100:200])
    assert not any(refusals.has(key, now + 60 * SECOND) for key in keys[:100])
    refusals.remove(keys[5])
    assert not refusals.has(keys[5], now) and refusals.has(keys[6], now)
    for key in keys:
        refusals.add(key, 60, now)
    there = sum(refusals.has(key, now) for key in keys)
    assert there == refusals.count(now) <= ENTRIES and there > 0.99 * ENTRIES
    assert sum(refusals.has(key, now) for key in keys[:ENTRIES]) > ENTRIES // 8, "not the oldest alone went"
