"""Clients of a dead gateway that knock: what each knock ends in, and what somebody may force who forges them.

Time is given, never waited for; the other side is engine.noise and a UDP socket in this process.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from engine import noise, uapi
from engine.timers import Action
from tests.support.control_harness import Interface, Parts, take_message
from tests.unit.workers.test_control_handshakes import SECOND, Other
from tests.unit.workers.test_lookups import Unknown, base64, section
from workers._workers import lib
from workers.control.endpoints import Endpoint
from workers.control.neighbours import DEAD_MOST, SESSIONS_MOST, Neighbours, Refusal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

OURS, DEAD, BITS = 1, 2, 4
ROW = struct.Struct("<I32s")
NAMES = {getattr(lib, name): name for name in dir(lib) if name.startswith("KNOCK_")}
FORGER = Endpoint(bytes((203, 0, 113, 9)), 40000)


def index_of(number: int) -> int:
    """The dead gateway's index of its session with this number."""
    return number << BITS | DEAD


class Gateway(Unknown):
    """An engine that is gateway 1 of 16."""

    def make_parts(self) -> Parts:
        parts = super().make_parts()
        parts.memory.device.index_key = [1, 2, BITS << 8 | OURS]
        return parts

    @property
    def neighbours(self) -> Neighbours:
        return self.parts.handshakes.neighbours

    def tell(self, sessions: dict[int, Other] | None, number: int = DEAD, lease: int = 3) -> int:
        """What a `plait sync --knock` tells: whose each session is, by its index."""
        rows = [ROW.pack(index, other.identity.public_key) for index, other in (sessions or {}).items()]
        told = uapi.Neighbour(number, lease, b"".join(rows), sessions is not None)
        return self.neighbours.apply(told, self.time[0])

    def refusal(self, *arguments: Any, **more: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.tell(*arguments, **more)
        assert all((caught.value.what, caught.value.why, caught.value.next))
        return caught.value

    def knock(self, index: int, sender: Endpoint) -> str:
        """The head of a data message, as a receiver gives it to control."""
        head = struct.pack("<IIQ", 4, index, 0) + bytes(16)
        return NAMES[take_message(self.parts.handshakes, head, sender, False, self.time[0])]

    def peer(self, number: int) -> Other:
        """One that this gateway has no session with, and does not know the place of."""
        other = self.stranger()
        self.set(section(other).replace("10.9.0.2", f"10.9.{number >> 8}.{number & 255}"))
        return other

    def endpoint(self, other: Other) -> Endpoint | None:
        row = self.parts.peers.find(other.identity.public_key)
        assert row is not None
        return self.parts.endpoints.read(row)

    def respond_as(self, other: Other, initiation: bytes) -> tuple[bytes, noise.Session]:
        """Another peer's response, and its session."""
        self.other, mine = other, self.other
        try:
            return self.respond(initiation)
        finally:
            self.other = mine

    def told(self) -> list[dict[str, Any]]:
        """Events."""
        return [json.loads(line.removeprefix(b"event=")) for line in self.parts.events.remembered()]

    def is_dead_for_receivers(self, number: int) -> bool:
        return bool(self.parts.segment.device.dead_gateways[number // 64] >> number % 64 & 1)


@pytest.fixture
def world() -> Iterator[Gateway]:
    with Interface(f"pln{os.getpid()}", max_peers=512) as interface:
        world = Gateway(interface)
        yield world
        world.parts.close()
        world.other.socket.close()


def test_a_knock_begins_a_handshake_and_its_response_alone_moves_the_endpoint(world: Gateway) -> None:
    other = world.peer(2)
    assert world.tell({index_of(7): other}) == 1 and world.is_dead_for_receivers(DEAD)
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_INITIATED"
    response, session = world.respond_as(other, other.hear())
    assert world.endpoint(other) is None, "nothing is known of who has knocked"
    assert world.told()[-1] | {"life": 1, "number": 1, "time": 0} == {
        "life": 1, "number": 1, "time": 0, "event": "knocked", "peer": base64(other),
        "source": f"127.0.0.1:{other.endpoint.port}",
    }  # fmt: skip
    assert world.take(response, sender=other.endpoint) == "HS_RESPONSE_ACCEPTED"
    assert world.endpoint(other) == other.endpoint
    row = world.parts.peers.find(other.identity.public_key)
    keypair = world.parts.keypairs.slab[world.parts.peers.rows[row].installing]
    assert bytes(keypair.send_key) == session.receive_key
    world.pass_time(6 * SECOND)
    world.tell({index_of(7): other})
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_ANSWERED", "of the old session, late"
    assert other.hears_nothing()


def test_each_knock_ends_in_the_counter_of_its_cause(world: Gateway) -> None:
    other, gone = world.peer(2), world.stranger()
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_ALIVE", "nobody is dead"
    world.tell({index_of(7): other, index_of(8): gone})
    assert world.knock(index_of(7) + 1, other.endpoint) == "KNOCK_ALIVE", "another gateway's"
    assert world.knock(index_of(9), other.endpoint) == "KNOCK_UNKNOWN"
    assert world.knock(index_of(8), other.endpoint) == "KNOCK_NO_PEER"
    world.parts.handshakes.is_up = False
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_REFUSED"
    world.parts.handshakes.is_up = True
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_INITIATED"
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_PEER_LIMIT"
    other.hear()
    assert other.hears_nothing()


def test_a_flood_of_forged_knocks_forces_no_more_than_the_limits_say(world: Gateway) -> None:
    """Whoever forges knows no index, or knows 130 of them."""
    world.seeds = count(120)  # 119 is our own key
    others = [world.peer(number) for number in range(2, 132)]
    world.tell({index_of(number): other for number, other in enumerate(others)})
    ends: Counter[str] = Counter()
    for i in range(10_000):
        if i % 500 == 0:
            world.pass_time(SECOND // 20)
        ends[world.knock(index_of(1 << 20 | i), FORGER)] += 1
    assert ends == {"KNOCK_UNKNOWN": 10_000}
    begun = []
    for second in range(3):
        ends.clear()
        for i in range(1_000):
            world.pass_time(SECOND // 1_000)
            ends[world.knock(index_of(i % 130), FORGER)] += 1
        begun.append(ends["KNOCK_INITIATED"])
        assert sum(ends.values()) == 1_000 and ends["KNOCK_SOURCE_LIMIT"] > 0, second
        assert set(ends) <= {"KNOCK_INITIATED", "KNOCK_SOURCE_LIMIT", "KNOCK_PEER_LIMIT"}
        world.tell(None)
    assert max(begun) <= 20 and sum(begun) >= 58
    world.pass_time(6 * SECOND)
    world.tell({index_of(number): other for number, other in enumerate(others)})
    assert world.knock(index_of(0), FORGER) == "KNOCK_INITIATED"
    assert world.knock(index_of(1), FORGER) == "KNOCK_SOURCE_LIMIT"
    assert world.knock(index_of(1), others[1].endpoint) == "KNOCK_INITIATED", "another source is free"
    assert [world.endpoint(other) for other in others] == [None] * 130, "no endpoint moved"


def test_an_ipv6_source_is_a_64(world: Gateway) -> None:
    first, second = world.peer(2), world.peer(3)
    world.tell({index_of(1): first, index_of(2): second})
    network = bytes.fromhex("20010db800000001")
    assert world.knock(index_of(1), Endpoint(network + bytes(7) + b"\1", 1)) != "KNOCK_SOURCE_LIMIT"
    assert world.knock(index_of(2), Endpoint(network + bytes(7) + b"\2", 1)) == "KNOCK_SOURCE_LIMIT"
    assert world.knock(index_of(2), Endpoint(network[:7] + b"\2" + bytes(8), 1)) != "KNOCK_SOURCE_LIMIT"


def test_an_initiation_that_is_not_answered_is_the_last_one(world: Gateway) -> None:
    other = world.peer(2)
    world.tell({index_of(7): other})
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_INITIATED"
    other.hear()
    row = world.parts.peers.find(other.identity.public_key)
    assert row is not None
    world.pass_time(6 * SECOND)
    initiator = world.parts.handshakes.initiator
    assert [each for each, _ in world.parts.timer_columns.due(world.time[0])] == [row]
    assert not initiator.initiate(row, world.time[0], is_retry=True)
    assert row not in initiator.numbers and not world.parts.timer_columns.is_retrying(row)
    assert other.hears_nothing() and world.told()[-1]["event"] == "knocked", "and no complaint"
    # While packets wait for the peer, its retries go on, to where it is known to be.
    world.tell({index_of(7): other})
    world.parts.peers.order(row, world.parts.endpoints.move(row, other.endpoint))
    assert world.knock(index_of(7), FORGER) == "KNOCK_INITIATED"
    world.parts.peers.rows[row].ends[lib.OUTBOUND].produced += 1
    world.pass_time(6 * SECOND)
    assert initiator.initiate(row, world.time[0], is_retry=True)
    assert other.hear()[0] == 1


@pytest.mark.parametrize("is_waiting", [True, False])
def test_forged_knocks_do_not_hold_off_an_initiation_of_ours(world: Gateway, is_waiting: bool) -> None:
    """They come at the very moment at which we may send one again, and our own retry a little later. Without
    packets that wait, a keepalive has asked for the session."""
    other = world.peer(2)
    row = world.parts.peers.find(other.identity.public_key)
    assert row is not None
    world.parts.peers.order(row, world.parts.endpoints.move(row, other.endpoint))
    world.parts.peers.rows[row].ends[lib.OUTBOUND].produced += is_waiting
    initiator, columns = world.parts.handshakes.initiator, world.parts.timer_columns
    initiator.wanted(row, world.time[0])
    ends: Counter[str] = Counter()
    for _ in range(4 * 30):
        world.tell({index_of(7): other})
        ends[world.knock(index_of(7), FORGER)] += 1
        for due, action in columns.due(world.time[0]):
            if action & Action.RETRY_HANDSHAKE and columns.may_send_handshake(due, world.time[0]):
                initiator.initiate(due, world.time[0], is_retry=True)
        world.pass_time(SECOND // 4)
    heard = 0
    while not other.hears_nothing():
        heard += 1
    assert heard >= 3 and ends["KNOCK_INITIATED"] >= 2, "each has a turn"
    assert set(ends) == {"KNOCK_INITIATED", "KNOCK_PEER_LIMIT"}


def test_a_death_is_believed_for_its_lease_and_no_longer_than_a_session_lasts(world: Gateway) -> None:
    other = world.peer(2)
    world.tell({index_of(7): other}, lease=3)
    world.pass_time(2 * SECOND)
    assert world.tell(None, lease=3) == 1, "renewed"
    world.pass_time(2 * SECOND)
    world.neighbours.look(world.time[0])
    assert world.is_dead_for_receivers(DEAD)
    world.pass_time(SECOND)
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_ALIVE"
    world.neighbours.look(world.time[0])
    assert not world.is_dead_for_receivers(DEAD)
    assert world.refusal(None).errno == errno.ENOENT, "whoever renews it tells the sessions again"
    began = world.time[0]
    world.tell({index_of(7): other})
    while world.time[0] < began + DEAD_MOST:
        world.tell({index_of(7): other}, lease=10)
        world.pass_time(5 * SECOND)
    assert world.knock(index_of(7), other.endpoint) == "KNOCK_ALIVE"
    world.tell({}, number=200 % 16, lease=3)
    world.tell({}, number=200 % 16, lease=0)
    assert not world.is_dead_for_receivers(200 % 16)
    events = [(each["event"], each["reason"]) for each in world.told() if each["event"].startswith("gateway")]
    assert events[:3] == [("gateway_dead", "2"), ("gateway_back", "2"), ("gateway_dead", "2")]


def test_a_control_that_died_is_told_again(world: Gateway) -> None:
    world.tell({index_of(7): world.other})
    world.parts.close()
    world.parts = world.make_parts()
    assert not world.is_dead_for_receivers(DEAD)
    assert world.refusal(None).errno == errno.ENOENT
    world.tell({index_of(7): world.other})
    assert world.neighbours.report(world.time[0]) == [{"number": DEAD, "sessions": 1, "seconds": 0.0}]


def test_what_cannot_be_is_refused_and_changes_nothing(world: Gateway) -> None:
    assert "own number" in world.refusal({}, number=OURS).why
    assert "4 bits" in world.refusal({}, number=16).why
    with pytest.raises(Refusal, match="more than") as caught:
        rows = bytes(36 * (SESSIONS_MOST + 1))
        world.neighbours.apply(uapi.Neighbour(DEAD, 3, rows, True), world.time[0])
    assert caught.value.errno == errno.ENOSPC
    world.parts.memory.device.index_key = [1, 2, 0]
    assert "no number" in world.refusal({}).why
    assert not world.neighbours.dead and not any(world.parts.segment.device.dead_gateways)


ROWS = b64encode(ROW.pack(index_of(7), bytes(32))).decode()


@pytest.mark.parametrize(("text", "code"), [
    ("neighbour=256\nlease=3\n", errno.EINVAL),
    ("neighbour=2\nlease=11\n", errno.EINVAL), ("neighbour=2\nlease=3\nsessions=AAAA\n", errno.EINVAL),
    (f"neighbour=2\nlease=3\nsessions={ROWS}?\n", errno.EINVAL),
    ("neighbour=2\nlease=3\nfoo=1\n", errno.EPROTO),
    ("get_sessions=-1\n", errno.EINVAL), ("get_sessions=0\nlease=3\n", errno.EPROTO),
])  # fmt: skip
def test_lines_that_are_none_are_refused(text: str, code: int) -> None:
    (operation,) = uapi.Reader().feed(text.encode() + b"\n")
    assert isinstance(operation, uapi.Refused) and not operation.was_set
    assert operation.error.errno == code and operation.error.next


def test_lines_that_are_right_are_read() -> None:
    row, line = b64decode(ROWS), f"sessions={ROWS}\n"
    text = f"neighbour=2\nlease=3\n{line}{line}\nneighbour=2\nlease=0\n\nget_sessions=7\n\n"
    assert list(uapi.Reader().feed(text.encode())) == [
        uapi.Neighbour(2, 3, row + row, True), uapi.Neighbour(2, 0, b"", False), uapi.GetSessions(7),
    ]  # fmt: skip


# -- new sessions ---------------------------------------------------------------------------------


def read(world: Gateway, cursor: int) -> tuple[dict[int, bytes], int]:
    """Public keys by index, and the next cursor."""
    lines = b"".join(world.parts.handshakes.new_sessions.answer(cursor)).decode().splitlines()
    pairs = [line.partition("=")[::2] for line in lines]
    rows = b"".join(b64decode(value) for key, value in pairs if key == "sessions")
    (cursor,) = (int(value) for key, value in pairs if key == "cursor")
    assert lines[-2:] == ["errno=0", ""]
    return dict(ROW.iter_unpack(rows)), cursor


def test_new_sessions_are_told_once_to_whoever_follows_and_all_to_others(world: Gateway) -> None:
    assert read(world, 0)[0] == {}
    first, second = world.peer(2), world.peer(3)
    assert world.comes(first) == "HS_INITIATION_ACCEPTED"
    found, cursor = read(world, 0)
    assert list(found.values()) == [first.identity.public_key]
    assert all(index & 15 == OURS for index in found)
    assert int.from_bytes(first.hear()[4:8], "little") in found, "what its messages will bear"
    assert read(world, cursor) == ({}, cursor)
    assert world.comes(second) == "HS_INITIATION_ACCEPTED"
    assert list(read(world, cursor)[0].values()) == [second.identity.public_key]
    assert len(read(world, 0)[0]) == len(read(world, cursor + (1 << 40))[0]) == 2, "another control's cursor"
    world.set(f"public_key={first.identity.public_key.hex()}\nremove=true\n")
    assert list(read(world, 0)[0].values()) == [second.identity.public_key]
    world.pass_time(181 * SECOND)
    assert read(world, 0)[0] == {}, "too old to be used"
