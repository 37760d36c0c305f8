"""Events: buckets, memory, followers, and the socket that tells them."""

from __future__ import annotations

import json
import os
import selectors
import socket
import tracemalloc
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.control_harness import ControlProcess, Interface, uapi
from tests.support.waiting import PATIENCE, until
from workers._workers import lib
from workers.control.endpoints import Endpoint
from workers.control.events import (
    ANYBODYS,
    BURST,
    REMEMBERED,
    SECOND,
    UNREAD,
    UNREAD_SESSIONS,
    Event,
    Events,
    Follower,
)
from workers.control.uapi_server import UapiServer

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sockets in /var/run/wireguard")
PLACE = Endpoint(b"\xc0\0\2\7", 51820)
NAMED = 9  # the row whose peer has a name


class World:
    """Events under a clock that the test moves."""

    def __init__(self, life: int = 1) -> None:
        self.now = 1000 * SECOND
        self.asked: list[int] = []
        self.events = Events(self.key, self.name, lambda: self.now, lambda: 1_700_000_000_123_456_789, life)

    def key(self, row: int) -> bytes:
        self.asked.append(row)
        return bytes([row]) * 32

    def name(self, row: int) -> str:
        return "Alice" if row == NAMED else ""

    def told(self) -> list[dict[str, Any]]:
        return parse(b"".join(self.events.remembered()))


def parse(lines: bytes) -> list[dict[str, Any]]:
    assert lines == b"" or lines.endswith(b"\n")
    found = []
    for line in lines.splitlines():
        key, _, value = line.partition(b"=")
        assert key == b"event"
        found.append(json.loads(value))
    return found


@pytest.fixture
def world() -> World:
    return World()


# --- telling ------------------------------------------------------------------------------------


def test_a_line_says_what_is_known(world: World) -> None:
    world.events.emit(Event.ENDPOINT_MOVED, 3, PLACE, was=Endpoint(bytes(15) + b"\1", 9, 4))
    assert world.told() == [
        {
            "life": 1,
            "number": 1,
            "time": 1_700_000_000.123,
            "event": "endpoint_moved",
            "peer": "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=",
            "endpoint": "192.0.2.7:51820",
            "was": "[::1%4]:9",
        }
    ]


def test_a_name_is_told_where_there_is_one(world: World) -> None:
    for row in NAMED, NAMED - 1:
        world.events.emit(Event.HANDSHAKE_ANSWERED, row, PLACE)
    assert [told.get("name") for told in world.told()] == ["Alice", None]


def test_what_a_refused_packet_shows_is_named_as_what_it_is(world: World) -> None:
    world.events.emit(Event.UNKNOWN_PEER, None, PLACE, key=b"\7" * 32)
    (told,) = world.told()
    assert told["source"] == "192.0.2.7:51820" and told["claimed_key"].startswith("BwcHBwcH")
    assert "peer" not in told and "endpoint" not in told


def test_five_at_once_then_one_a_second_and_the_rest_counted(world: World) -> None:
    for _ in range(20):
        world.events.emit(Event.MAC1_WRONG, None, PLACE)
    assert [told["number"] for told in world.told()] == [1, 2, 3, 4, 5]
    for _ in range(2):
        world.now += SECOND
        world.events.emit_suppressed()
        for _ in range(3):
            world.events.emit(Event.MAC1_WRONG, None, PLACE)
    assert len(world.told()) == BURST + 2
    world.now += SECOND
    world.events.emit_suppressed()
    assert [told.get("more") for told in world.told()[BURST:]] == [None, None, 15 + 2 * 2]
    world.now += 10 * SECOND
    world.events.emit_suppressed()
    assert len(world.told()) == BURST + 3, "told once"
    for _ in range(BURST + 1):
        world.events.emit(Event.MAC1_WRONG, None, PLACE)
    assert len(world.told()) == BURST + 3 + BURST, "a bucket is full after five seconds"


def test_causes_do_not_share_a_bucket(world: World) -> None:
    for _ in range(20):
        world.events.emit(Event.MAC1_WRONG)
    world.events.emit(Event.UNKNOWN_PEER)
    assert world.told()[-1]["event"] == "unknown_peer"


def test_nothing_is_made_of_what_is_held_back(world: World) -> None:
    for _ in range(BURST):
        world.events.emit(Event.TIMESTAMP_REPLAYED, 7, PLACE)
    assert len(world.asked) == BURST
    world.events.emit(Event.TIMESTAMP_REPLAYED, 7, PLACE)
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10_000):
            world.events.emit(Event.TIMESTAMP_REPLAYED, 7, PLACE)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1000, "a count, and nothing for each"
    assert len(world.asked) == BURST


def test_anybodys_events_do_not_wash_away_the_others(world: World) -> None:
    world.events.emit(Event.PEER_ADDED, 1)
    for _ in range(REMEMBERED + 100):
        world.now += SECOND
        world.events.emit(Event.MAC1_WRONG, None, PLACE)
    world.events.emit(Event.PEER_REMOVED, 1)
    told = world.told()
    assert len(told) == REMEMBERED + 2
    assert (told[0]["event"], told[-1]["event"]) == ("peer_added", "peer_removed")
    assert [each["number"] for each in told] == sorted(each["number"] for each in told)
    assert told[1]["number"] == 102, "of the flood the latest are left"


def test_what_anybody_can_cause_is_every_refusal_and_no_milestone() -> None:
    assert Event.RESPONSE_TAG in ANYBODYS and Event.PACKETS_OF_NO_SESSION in ANYBODYS
    assert not {Event.PACKETS_NO_PEER, Event.GIVEN_UP, Event.PEER_ADDED, Event.RESTARTED} & ANYBODYS


# --- of the supervisor ----------------------------------------------------------------------------


def test_news_have_their_own_time_and_the_buckets_of_their_events(world: World) -> None:
    news = {"event": "worker_died", "worker": "receiver 0", "cause": "killed"}
    at = 1_600_000_000_250_999_999
    world.events.emit_news({"at": at, **news})
    assert world.told() == [{"life": 1, "number": 1, "time": 1_600_000_000.250, **news}]
    world.events.emit_news({"event": "of_tomorrow", "at": at})
    for _ in range(9):
        world.events.emit_news({"at": at, **news})
    assert len(world.told()) == BURST
    world.now += 10 * SECOND
    world.events.emit_suppressed()
    assert world.told()[-1]["more"] == 10 - BURST and world.told()[-1]["event"] == "worker_died"


# --- following ----------------------------------------------------------------------------------


def test_a_follower_gets_what_was_then_what_comes(world: World) -> None:
    world.events.emit(Event.STARTED)
    follower = world.events.follow()
    assert [told["event"] for told in parse(next(follower))] == ["started"]
    assert next(follower) == b""
    world.events.emit(Event.INTERFACE_UP)
    assert [told["event"] for told in parse(next(follower))] == ["interface_up"]
    world.events.leave(follower)
    world.events.emit(Event.INTERFACE_DOWN)
    assert next(follower) == b""


def test_who_does_not_read_is_lost_and_keeps_nothing(world: World) -> None:
    follower, reader = world.events.follow(), world.events.follow()
    for _ in range(UNREAD + 1):
        assert not follower.is_lost
        world.now += SECOND
        world.events.emit(Event.MAC1_WRONG, None, PLACE)
        assert len(parse(next(reader))) == 1
    assert follower.is_lost and not follower.unread and not reader.is_lost
    world.events.emit(Event.STARTED)
    assert next(follower) == b""


def test_who_wants_sessions_is_told_of_each(world: World) -> None:
    """Of other kinds it is told as everybody is; memory, and whoever else follows, know no more."""
    follower, other = world.events.follow(wants_sessions=True), world.events.follow()
    rows = list(range(100))
    world.events.emit_each(Event.HANDSHAKE_COMPLETE, rows, lambda row: PLACE)
    for row in rows:
        world.events.emit(Event.KEYS_EXPIRED, row)
        world.events.emit(Event.ENDPOINT_MOVED, row, PLACE)
    world.now += 4 * SECOND
    world.events.emit_suppressed()

    def of_kind(lines: bytes) -> dict[str, int]:
        kinds = [line["event"] for line in parse(lines)]
        return {kind: kinds.count(kind) for kind in ("handshake_complete", "keys_expired", "endpoint_moved")}

    told, others = read_all(follower), read_all(other)
    assert of_kind(told) == {"handshake_complete": 100, "keys_expired": 100, "endpoint_moved": BURST + 1}
    assert [line["more"] for line in parse(told) if "more" in line] == [100 - BURST]
    peers = [line["peer"] for line in parse(told) if line["event"] == "handshake_complete"]
    assert len(set(peers)) == 100
    assert of_kind(others) == dict.fromkeys(of_kind(told), BURST + 1)
    assert len(world.told()) == 3 * (BURST + 1)
    assert world.events.follow().unread == deque(world.events.remembered())


def test_who_wants_sessions_may_leave_more_unread(world: World) -> None:
    follower = world.events.follow(wants_sessions=True)
    for _ in range(UNREAD_SESSIONS):
        world.events.emit(Event.HANDSHAKE_COMPLETE, 1, PLACE)
    assert not follower.is_lost
    world.events.emit(Event.HANDSHAKE_COMPLETE, 1, PLACE)
    assert follower.is_lost and not follower.unread


def read_all(follower: Follower) -> bytes:
    """All that waits."""
    return b"".join(iter(lambda: next(follower), b""))


class Server:
    """A UAPI server in this process over a listening socket of its own."""

    def __init__(self, world: World) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(b"\0plait events %d" % os.getpid())
        self.listener.listen()
        self.selector = selectors.DefaultSelector()
        unused: Any = None
        self.server = UapiServer(self.listener, self.selector, unused, unused, unused, world.events)

    def client(self, text: bytes) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.listener.getsockname())
        client.sendall(text)
        client.settimeout(PATIENCE)
        self.turn()
        return client

    def turn(self) -> None:
        while ready := self.selector.select(0):
            for key, mask in ready:
                key.data(mask)
        self.server.push_events()

    def close(self) -> None:
        self.server.close()
        self.listener.close()
        self.selector.close()


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    server = Server(world)
    yield server
    server.close()


def test_remembered_events_end_with_errno_and_the_connection_stays(server: Server, world: World) -> None:
    with server.client(b"events=0\n\n") as client:
        assert client.recv(1 << 16) == b"errno=0\n\n"
        world.events.emit(Event.STARTED)
        client.sendall(b"events=0\n\n")
        server.turn()
        answer = client.recv(1 << 16)
        assert answer.endswith(b"}\nerrno=0\n\n")
        assert [told["event"] for told in parse(answer[: -len(b"errno=0\n\n")])] == ["started"]


@pytest.mark.parametrize("text", [b"events=2\n\n", b"events=\n\n", b"events=1\nlisten_port=1\n\n"])
def test_other_events_operations_are_refused(server: Server, world: World, text: bytes) -> None:
    with server.client(text) as client:
        assert client.recv(1 << 16) == b"errno=71\n\n"
    assert not world.events.followers


def test_following_over_the_socket_until_the_client_closes(server: Server, world: World) -> None:
    world.events.emit(Event.STARTED)
    client = server.client(b"events=1\n\n")
    assert [told["event"] for told in parse(client.recv(1 << 16))] == ["started"]
    client.sendall(b"get=1\n\n")  # not heard: it follows
    server.turn()
    world.events.emit(Event.INTERFACE_UP)
    server.turn()
    assert [told["event"] for told in parse(client.recv(1 << 16))] == ["interface_up"]
    client.close()
    server.turn()
    assert not world.events.followers and not server.server.connections


def test_a_client_that_does_not_read_is_closed_and_the_others_go_on(server: Server, world: World) -> None:
    slow, reader = server.client(b"events=1\n\n"), server.client(b"events=1\n\n")
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    numbers: list[int] = []
    for _ in range(20 * UNREAD):
        world.now += SECOND
        world.events.emit(Event.UNKNOWN_PEER, None, PLACE, key=bytes(32))
        server.turn()
        numbers += [told["number"] for told in parse(reader.recv(1 << 16))]
        if len(world.events.followers) == 1:
            break
    assert len(world.events.followers) == 1 and len(server.server.connections) == 1
    assert numbers == list(range(1, len(numbers) + 1))
    received = b""
    while part := slow.recv(1 << 16):
        received += part
    assert received.startswith(b"event=") and len(received) < 1 << 24
    slow.close()
    reader.close()


# --- the process --------------------------------------------------------------------------------


@pytest.fixture
def interface() -> Iterator[Interface]:
    with Interface(f"ple{os.getpid()}") as interface:
        yield interface


def remembered(interface: Interface) -> list[dict[str, Any]]:
    return parse(uapi(interface, "events=0\n\n").encode().removesuffix(b"errno=0\n\n"))


@ROOT
def test_a_restarted_control_says_that_events_are_lost(interface: Interface) -> None:
    peer = "0b" * 32
    with ControlProcess(interface) as control:
        assert remembered(interface)[0]["event"] == "started"
        uapi(interface, f"set=1\npublic_key={peer}\n\n")
        assert remembered(interface)[-1]["event"] == "peer_added"
        with socket.socket(socket.AF_UNIX) as follower:
            follower.settimeout(PATIENCE)
            follower.connect(str(interface.path))
            follower.sendall(b"events=1\n\n")
            assert [told["event"] for told in parse(follower.recv(1 << 16))][-1] == "peer_added"
            control.kill()
            assert follower.recv(1) == b""
    with ControlProcess(interface):
        (told,) = remembered(interface)
        assert told["event"] == "restarted" and (told["life"], told["number"]) == (2, 1)


@ROOT
def test_news_of_the_supervisor_are_told_and_confirmed(interface: Interface) -> None:
    with ControlProcess(interface) as control:
        died = {"event": "worker_died", "at": 5_500_000_000, "worker": "receiver 0"}
        unknown = {"event": "of_tomorrow", "at": 6_000_000_000}
        control.channel.send({"kind": "news", "upto": 9, "news": [died, unknown]})
        assert control.receive() == {"kind": "heard", "upto": 9}
        told = remembered(interface)[-1]
        assert (told["event"], told["time"], told["worker"]) == ("worker_died", 5.5, "receiver 0")


@ROOT
def test_dropped_packets_are_told_from_their_counters(interface: Interface) -> None:
    lib.counter_add(interface.segment, lib.WORKER_RECEIVER, lib.DROP_NO_PEER, 100)
    with ControlProcess(interface):
        uapi(interface, f"set=1\npublic_key={'0c' * 32}\n\n")
        remembered(interface)
        lib.counter_add(interface.segment, lib.WORKER_RECEIVER, lib.DROP_NO_PEER, 3)
        lib.counter_add(interface.segment, lib.WORKER_RECEIVER, lib.DROP_NO_ENDPOINT, 4)

        def packets() -> list[dict[str, Any]]:
            found = [told for told in remembered(interface) if told["event"].startswith("packets_")]
            return found if found and found[-1]["event"] == "packets_no_endpoint" else []

        found = until(packets, "an event of the counters")
    counts = [(told["event"], told["count"]) for told in found]
    assert counts == [("packets_no_peer", 3), ("packets_no_endpoint", 4)], "not those of before its life"
    assert found[-1]["peer"] == "DAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw="
