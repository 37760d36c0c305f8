"""What becomes of each handshake message: one counter, and an answer only where the protocol has one.

The other side is engine.noise and a UDP socket in this process; time is given, never waited for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from engine import constants, cookie, noise, tai64n
from engine.timers import Action
from tests.support.control_harness import Holder, Interface, Parts, take_message
from workers._workers import ffi, lib
from workers.control.endpoints import Endpoint
from workers.control.keypairs import NoKeypair
from workers.control.lookups import PARKED

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

SECOND = constants.SECOND
WALL = 1_700_000_000 * SECOND


class Other:
    """A peer of the interface, with its own socket on the loopback."""

    def __init__(self, seed: int, ours: bytes, psk: bytes = noise.NO_PSK) -> None:
        self.identity = noise.Identity(bytes([seed] * 32))
        self.ours = ours
        self.psk = psk
        self.index = seed
        self.wall = WALL
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(60)
        self.endpoint = Endpoint(b"\x7f\0\0\1", self.socket.getsockname()[1])
        self.state: noise.InitiationSent | None = None

    def initiation(self, *, later: int = SECOND, cookie_: bytes | None = None) -> bytes:
        self.wall += later
        self.index += 1
        keys = noise.PeerKeys(self.identity, self.ours)
        body, self.state = noise.create_initiation(self.identity, keys, self.index, tai64n.stamp(self.wall))
        return cookie.add_macs(body, keys.mac1_key, cookie_)

    def hear(self) -> bytes:
        """The next handshake message; the holder's data messages are passed over."""
        while True:
            message = self.socket.recv(2048)
            if message[0] != 4:
                return message

    def hears_nothing(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(2048)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(60)
        return False


class World:
    """An interface with one peer, which is `other`."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.parts = self.make_parts()
        self.now = int(lib.clock_now())
        ours = noise.Identity(b"\x77" * 32)
        self.other = Other(9, ours.public_key)
        self.set(f"private_key={ours.private_key.hex()}\npublic_key={self.other.identity.public_key.hex()}\n")
        self.row = self.parts.peers.find(self.other.identity.public_key)
        assert self.row is not None
        self.ours = ours

    def make_parts(self) -> Parts:
        return Parts(self.interface)

    def set(self, text: str) -> None:
        assert self.parts.set("set=1\n" + text) == 0

    def take(self, message: bytes, *, under_load: bool = False, sender: Endpoint | None = None) -> str:
        """What becomes of the message: the name of its counter."""
        sender = sender or self.other.endpoint
        number = take_message(self.parts.handshakes, message, sender, under_load, self.now)
        return COUNTERS[number]

    def initiate(self) -> bytes:
        """We begin; returns the initiation as the other side hears it."""
        self.now += 6 * SECOND
        self.parts.peers.order(self.row, self.parts.endpoints.move(self.row, self.other.endpoint))
        assert self.parts.handshakes.initiator.initiate(self.row, self.now)
        return self.other.hear()

    def respond(self, initiation: bytes, psk: bytes | None = None) -> tuple[bytes, noise.Session]:
        """The other side's response and session."""
        opened = noise.open_initiation(self.other.identity, initiation)
        secret = self.other.identity.static_static(opened.peer_public_key)
        _, opened = noise.open_timestamp(opened, secret)
        body, session = noise.create_response(opened, self.other.psk if psk is None else psk, 4321)
        return cookie.add_macs(body, self.ours.mac1_key, None), session

    def bits(self) -> int:
        """Orders that wait for the holder."""
        return int(lib.orders_read(self.parts.segment, self.row)) & 0xFFFFFFFF

    def keypair(self, number: int) -> object:
        return self.parts.keypairs.slab[number]


COUNTERS = {
    getattr(lib, name): name
    for name in dir(lib)
    if name.startswith("HS_") and isinstance(getattr(lib, name), int)
} | {PARKED: "parked"}


@pytest.fixture
def world() -> Iterator[World]:
    with Interface(f"plh{os.getpid()}") as interface:
        world = World(interface)
        yield world
        world.parts.close()
        world.other.socket.close()


def test_initiation_is_answered_with_a_session_installed_before(world: World) -> None:
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
    assert world.bits() & lib.ORDER_INSTALL_NEXT
    response = world.other.hear()
    assert world.other.state is not None
    session = noise.consume_response(world.other.identity, world.other.state, response, noise.NO_PSK)
    number = int(world.parts.peers.rows[world.row].installing_next)
    keypair = world.parts.keypairs.slab[number]
    assert bytes(keypair.send_key) == session.receive_key
    assert bytes(keypair.receive_key) == session.send_key
    assert keypair.local_index == session.remote_index and keypair.remote_index == session.local_index
    assert not keypair.flags & lib.KEYPAIR_INITIATOR
    assert keypair.birth == world.now
    mac1_key = noise.mac1_key(world.other.identity.public_key)
    assert response == cookie.add_macs(response[:60], mac1_key, None)


def test_handshake_bytes_and_endpoint_are_shown(world: World) -> None:
    world.take(world.other.initiation())
    shown = world.parts.get()
    assert "\nrx_bytes=148\n" in shown and "\ntx_bytes=92\n" in shown
    assert f"\nendpoint=127.0.0.1:{world.other.endpoint.port}\n" in shown
    assert "\nlast_handshake_time_sec=0\n" in shown, "complete only at the first data"
    world.parts.handshakes.confirmed(np.array([world.row], np.uint32))
    assert "\nlast_handshake_time_sec=0\n" not in world.parts.get()


def test_response_completes_our_handshake(world: World) -> None:
    initiation = world.initiate()
    response, session = world.respond(initiation)
    world.now += SECOND
    assert world.take(response) == "HS_RESPONSE_ACCEPTED"
    assert world.bits() & lib.ORDER_INSTALL and world.bits() & lib.ORDER_KEEPALIVE
    keypair = world.parts.keypairs.slab[int(world.parts.peers.rows[world.row].installing)]
    assert bytes(keypair.send_key) == session.receive_key
    assert keypair.flags & lib.KEYPAIR_INITIATOR
    assert "\nlast_handshake_time_sec=0\n" not in world.parts.get()
    assert world.take(response) == "HS_RESPONSE_UNKNOWN", "once only"


def test_no_second_handshake_for_a_wish_that_came_before_the_session(world: World) -> None:
    initiation = world.initiate()
    assert world.take(world.respond(initiation)[0]) == "HS_RESPONSE_ACCEPTED"
    world.parts.handshakes.initiator.wanted(world.row, world.now)
    assert not world.parts.timer_columns.is_retrying(world.row)


def test_within_five_seconds_a_wish_waits(world: World) -> None:
    world.take(world.other.initiation())
    world.other.hear()
    world.parts.handshakes.initiator.wanted(world.row, world.now + SECOND)
    assert world.other.hears_nothing()
    assert world.parts.timer_columns.is_retrying(world.row)
    due = [row for row, _ in world.parts.timer_columns.due(world.now + 4 * SECOND)]
    assert due == []
    due = list(world.parts.timer_columns.due(world.now + 6 * SECOND))
    assert due == [(world.row, Action.RETRY_HANDSHAKE)]


@pytest.mark.parametrize(
    ("message", "counter"),
    [
        (lambda w: w.other.initiation()[:147], "HS_MESSAGE_LENGTH"),
        (lambda w: b"\x04\0\0\0" + bytes(27), "HS_MESSAGE_LENGTH"),
        (lambda w: flip(w.other.initiation(), 120), "HS_MAC1_BAD"),
        (lambda w: again(w, flip(w.other.initiation(), 50)), "HS_INITIATION_TAG"),
        (lambda w: again(w, flip(w.other.initiation(), 100)), "HS_INITIATION_TAG"),
        (lambda w: again(w, w.other.initiation()[:8] + bytes(32) + bytes(108)), "HS_LOW_ORDER"),
        (lambda w: Other(5, w.ours.public_key).initiation(), "HS_UNKNOWN_PEER"),
        (lambda w: again(w, b"\x02\0\0\0" + bytes(88)), "HS_RESPONSE_UNKNOWN"),
        (lambda w: b"\x03\0\0\0" + bytes(60), "HS_COOKIE_UNEXPECTED"),
        (lambda w: again(w, flip(w.respond(w.initiate())[0], 44)), "HS_RESPONSE_TAG"),
        (lambda w: w.respond(w.initiate(), psk=b"\1" * 32)[0], "HS_RESPONSE_TAG"),
        (lambda w: again(w, low_order_response(w)), "HS_LOW_ORDER"),
        (lambda w: cookie_reply(w, flip=40), "HS_COOKIE_TAG"),
        (lambda w: cookie_reply(w), "HS_COOKIE_ACCEPTED"),
    ],
)
def test_refused_messages_get_no_answer(world: World, message, counter: str) -> None:  # type: ignore[no-untyped-def]
    bytes_ = message(world)
    before = world.parts.get()
    events = len(world.parts.events.remembered())
    assert world.take(bytes_) == counter
    assert len(world.parts.events.remembered()) == events + 1
    assert world.other.hears_nothing()
    assert world.parts.get() == before
    assert not world.bits() & (lib.ORDER_INSTALL | lib.ORDER_INSTALL_NEXT)


def test_no_room_for_a_session_is_counted_as_that(world: World) -> None:
    with pytest.raises(NoKeypair):
        while True:
            world.parts.keypairs.reserve(world.row)
    assert world.take(world.other.initiation()) == "HS_NO_ROOM"
    assert b'"event": "no_room_to_answer"' in world.parts.events.remembered()[-1]


def test_without_a_private_key_no_message_is_said_to_be_wrong(world: World) -> None:
    initiation, response = world.other.initiation(), world.respond(world.initiate())[0]
    world.set(f"private_key={bytes(32).hex()}\n")
    assert [world.take(message) for message in (initiation, response)] == ["HS_NO_KEY"] * 2


def flip(message: bytes, at: int) -> bytes:
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def again(world: World, message: bytes) -> bytes:
    """The same with macs that are right."""
    return cookie.add_macs(message[:-32], world.ours.mac1_key, None)


def low_order_response(world: World) -> bytes:
    response = world.respond(world.initiate())[0]
    return response[:12] + bytes(32) + response[44:]


def cookie_reply(world: World, flip: int | None = None) -> bytes:
    initiation = world.initiate()
    identity = world.other.identity
    reply = cookie.create_cookie_reply(identity.cookie_key, b"\5" * 32, initiation, b"\x7f\0\0\1", 1)
    return reply if flip is None else globals()["flip"](reply, flip)


def test_replay_is_refused_also_after_a_restart(world: World) -> None:
    initiation = world.other.initiation()
    assert world.take(initiation) == "HS_INITIATION_ACCEPTED"
    world.now += SECOND
    assert world.take(initiation) == "HS_TIMESTAMP_REPLAYED"
    world.parts.close()
    world.parts = Parts(world.interface)
    assert world.take(initiation) == "HS_TIMESTAMP_REPLAYED"
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"


def test_initiations_within_20_ms_are_a_flood(world: World) -> None:
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
    world.now += 19_000_000
    assert world.take(world.other.initiation()) == "HS_INITIATION_FLOOD"
    world.now += 2_000_000
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"


def test_under_load_a_cookie_is_asked_for_and_the_limiter_counts(world: World) -> None:
    assert world.take(world.other.initiation(), under_load=True) == "HS_COOKIE_SENT"
    asked = world.other.initiation()
    assert world.take(asked, under_load=True) == "HS_COOKIE_SENT"
    holder = cookie.CookieHolder()
    holder.message_sent(asked)
    world.other.hear()
    holder.consume_reply(world.ours.cookie_key, world.other.hear(), world.now)
    right = holder.cookie(world.now)
    results = []
    for _ in range(8):
        world.now += 21_000_000
        results.append(world.take(world.other.initiation(cookie_=right), under_load=True))
    # 5 at once and 20 a second: what 21 ms bring, 0.42, and a burst of 5 last for seven.
    assert results == ["HS_INITIATION_ACCEPTED"] * 7 + ["HS_RATE_LIMITED"]
    assert b'"event": "rate_limited", "source": "127.0.0.1:' in world.parts.events.remembered()[-1]
    assert world.take(world.other.initiation(cookie_=b"\3" * 16), under_load=True) == "HS_COOKIE_SENT"
    elsewhere = world.other.endpoint._replace(port=world.other.endpoint.port ^ 1)
    message = world.other.initiation(cookie_=right)
    assert world.take(message, under_load=True, sender=elsewhere) == "HS_COOKIE_SENT"
    assert world.interface.counter("HS_MAC2_BAD") == 2, "of those that had a cookie"


def test_only_messages_of_the_batch_are_asked_for_a_cookie(world: World) -> None:
    taken = world.parts.handshakes
    assert world.take(world.other.initiation(), under_load=True) == "HS_COOKIE_SENT"
    world.other.hear()
    ffi.memmove(taken.cells + 1, taken.cells, ffi.sizeof("struct mailbox_cell"))
    taken.check_results[1] = lib.CHECK_NO_COOKIE  # left of a larger batch
    assert world.take(world.other.initiation(), under_load=True) == "HS_COOKIE_SENT"
    assert world.other.hear()[0] == 3 and world.other.hears_nothing()


def test_our_next_initiation_carries_the_cookie(world: World) -> None:
    initiation = world.initiate()
    assert initiation[-16:] == cookie.NO_MAC
    reply = cookie.create_cookie_reply(
        world.other.identity.cookie_key, b"\5" * 32, initiation, b"\x7f\0\0\1", 1
    )
    assert world.take(reply) == "HS_COOKIE_ACCEPTED"
    given = cookie.make_cookie(b"\5" * 32, b"\x7f\0\0\1", 1)
    second = world.initiate()
    keys = noise.mac1_key(world.other.identity.public_key)
    assert second == cookie.add_macs(second[:-32], keys, given)
    world.now += constants.COOKIE_USABLE_TIME
    assert world.initiate()[-16:] == cookie.NO_MAC


def test_our_timestamps_only_rise_whatever_the_clock_says(world: World) -> None:
    stamps = []
    for _ in range(3):
        initiation = world.initiate()
        opened = noise.open_initiation(world.other.identity, initiation)
        secret = world.other.identity.static_static(opened.peer_public_key)
        stamps.append(noise.open_timestamp(opened, secret)[0])
        assert world.parts.vault.timestamp_sent(world.row) == stamps[-1]
        # As after a wall clock set back: the stamp sent last lies in the future.
        ahead = tai64n.stamp(int(lib.clock_wall()) + 3600 * SECOND * (1 + len(stamps)))
        world.parts.vault.store_timestamp_sent(world.row, ahead)
        stamps.append(ahead)
    assert all(a < b for a, b in zip(stamps[1::2], stamps[2::2], strict=False))


def test_keypairs_are_wiped_and_used_again(world: World) -> None:
    with Holder(world.interface) as holder:
        numbers = set()
        for _ in range(12):
            world.now += SECOND
            assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
            world.parts.settle(holder)
            numbers.add(int(world.parts.peers.rows[world.row].installing_next))
        assert world.parts.keypairs.out == 1, "only `next` is named"
        assert len(numbers) < 5
        named = int(lib.key_word_next(int(world.parts.peers.rows[world.row].key_word)))
        for number in numbers - {named}:
            assert bytes(world.parts.keypairs.slab[number].receive_key) == bytes(32)
        assert bytes(world.parts.keypairs.slab[named].receive_key) != bytes(32)
        world.set(f"public_key={world.other.identity.public_key.hex()}\nremove=true\n")
        world.parts.settle(holder)
        assert world.parts.keypairs.out == 0
        assert bytes(world.parts.keypairs.slab[named].receive_key) == bytes(32)


def test_restart_keeps_the_session_and_drops_the_handshake_in_progress(world: World) -> None:
    with Holder(world.interface) as holder:
        assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
        world.parts.settle(holder)
        word = int(world.parts.peers.rows[world.row].key_word)
        number = int(lib.key_word_next(word))
        key = bytes(world.parts.keypairs.slab[number].send_key)
        world.other.hear()
        response, _ = world.respond(world.initiate())
        world.parts.close()
        world.parts = Parts(world.interface)
        assert world.take(response) == "HS_RESPONSE_UNKNOWN"
        world.parts.settle(holder)
        assert int(world.parts.peers.rows[world.row].key_word) == word
        assert bytes(world.parts.keypairs.slab[number].send_key) == key
        assert world.parts.keypairs.out == 1, "the number of the dropped handshake is free"
        assert world.parts.keypairs.numbers(world.row) == [number]


def test_orders_that_a_killed_control_did_not_schedule_are_scheduled(world: World) -> None:
    assert lib.token_read(world.parts.segment, 2 * world.row + lib.OUTBOUND) == lib.TOKEN_IDLE
    lib.orders_give(world.parts.segment, world.row, lib.ORDER_KEEPALIVE)
    world.parts.close()
    world.parts = Parts(world.interface)
    assert lib.token_read(world.parts.segment, 2 * world.row + lib.OUTBOUND) == lib.TOKEN_QUEUED


def test_an_endpoint_waits_while_an_earlier_order_is_not_applied(world: World) -> None:
    places = [world.other.endpoint, Endpoint(b"\x7f\0\0\2", 7), Endpoint(b"\x7f\0\0\3", 8)]
    for place in places:
        world.now += SECOND
        assert world.take(world.other.initiation(), sender=place) == "HS_INITIATION_ACCEPTED"
    ordered = bytes(world.parts.segment.rows[world.row].ordered_endpoint.address)[:4]
    assert ordered == places[0].address, "the holder may be reading it"
    assert world.parts.endpoints.read(world.row) == places[2]
    with Holder(world.interface) as holder:
        world.parts.settle(holder)
        world.parts.settle(holder)
    assert world.parts.endpoints.read(world.row) == places[2]
    assert not world.parts.endpoints.waiting and not world.bits()


def test_private_key_change(world: World) -> None:
    with Holder(world.interface) as holder:
        world.take(world.respond(world.initiate())[0])
        world.parts.settle(holder)
        initiation = world.initiate()
        response, _ = world.respond(initiation)
        secret = world.parts.vault.static_static(world.row)
        world.set(f"private_key={'11' * 32}\n")
        assert world.parts.vault.static_static(world.row) is None and secret is not None
        assert world.take(response) in ("HS_MAC1_BAD", "HS_RESPONSE_UNKNOWN")
        world.parts.settle(holder)
        current = int(lib.key_word_current(int(world.parts.peers.rows[world.row].key_word)))
        assert int(world.parts.keypairs.slab[current].send_counter) >= lib.REJECT_AFTER_MESSAGES
    # The peer whose key becomes our own goes away.
    world.set(f"private_key={world.other.identity.private_key.hex()}\n")
    assert world.parts.peers.find(world.other.identity.public_key) is None
    assert "public_key=" not in world.parts.get()
    world.set(f"public_key={world.other.identity.public_key.hex()}\n")
    assert "public_key=" not in world.parts.get(), "our own key is ignored"


def test_a_peer_of_low_order_stays_and_is_sent_nothing(world: World) -> None:
    world.set(f"public_key=01{'00' * 31}\nendpoint=127.0.0.1:{world.other.endpoint.port}\n")
    row = world.parts.peers.find(b"\1" + bytes(31))
    assert row is not None
    assert not world.parts.handshakes.initiator.initiate(row, world.now)
    assert world.other.hears_nothing()


# --- batches ------------------------------------------------------------------------------------


def another(world: World, seed: int) -> Other:
    """One more peer of the interface."""
    other = Other(seed, world.ours.public_key)
    world.set(f"public_key={other.identity.public_key.hex()}\n")
    return other


def deliver(world: World, other: Other, *messages: bytes) -> None:
    for message in messages:
        world.interface.deliver(message, (other.endpoint.address, other.endpoint.port))


def test_a_batch_of_everything_adds_up(world: World) -> None:
    """Peers twice in it are dealt with in order: their second initiation is a replay, or comes too soon."""
    others = [world.other, *(another(world, seed) for seed in range(20, 50))]
    stranger = Other(5, world.ours.public_key)
    response, _ = world.respond(world.initiate())
    deliver(world, world.other, response)
    messages = [other.initiation() for other in others]
    for other, message in zip(others, messages, strict=True):
        deliver(world, other, message)
    deliver(world, others[3], messages[3], others[3].initiation(), messages[3])
    deliver(world, others[4], others[4].initiation(later=-SECOND // 2))
    deliver(world, stranger, stranger.initiation(), flip(stranger.initiation(), 120))
    deliver(world, stranger, b"\x03\0\0\0" + bytes(60))
    deliver(world, others[5], again(world, flip(others[5].initiation(), 50)), b"\x01\0\0\0")
    while world.parts.handshakes.take_messages(world.now):
        pass
    counted = {name: n for name, n in world.interface.counters().items() if name.startswith("HS_")}
    assert counted == {
        "HS_RESPONSE_ACCEPTED": 1,
        "HS_INITIATION_ACCEPTED": len(others),
        "HS_TIMESTAMP_REPLAYED": 3,
        "HS_INITIATION_FLOOD": 1,
        "HS_UNKNOWN_PEER": 1,
        "HS_MAC1_BAD": 1,
        "HS_COOKIE_UNEXPECTED": 1,
        "HS_INITIATION_TAG": 1,
        "HS_MESSAGE_LENGTH": 1,
        "HS_INITIATION_SENT": 1,
        "HS_RESPONSE_SENT": len(others),
    }
    for other, message in zip(others, messages, strict=True):
        if other not in others[3:6]:
            assert other.state is not None
            session = noise.consume_response(other.identity, other.state, other.hear(), noise.NO_PSK)
            row = world.parts.peers.find(other.identity.public_key)
            number = int(world.parts.peers.rows[row].installing_next)
            assert bytes(world.parts.keypairs.slab[number].send_key) == session.receive_key, message
    # The one that was refused for coming too soon is not stored: it would be accepted later.
    world.now += SECOND
    deliver(world, others[3], others[3].initiation())
    world.parts.handshakes.take_messages(world.now)
    assert world.interface.counter("HS_INITIATION_ACCEPTED") == len(others) + 1
    for other in (*others[1:], stranger):
        other.socket.close()


def test_the_timestamp_is_stored_and_the_session_ordered_before_the_response_leaves(world: World) -> None:
    sent = []
    send = world.parts.outgoing.send

    def watched(letters: object, count: int) -> None:
        sent.append((world.parts.vault.timestamp_seen(world.row), world.bits() & lib.ORDER_INSTALL_NEXT))
        send(letters, count)

    world.parts.outgoing.send = watched  # type: ignore[method-assign]
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
    assert sent == [(tai64n.stamp(world.other.wall), lib.ORDER_INSTALL_NEXT)]


def test_a_source_that_is_not_ours_is_left_out(world: World) -> None:
    """The answer leaves all the same, and the holder is told to forget the source."""
    gone = world.other.endpoint._replace(source=b"\x0a\xff\xff\x01", ifindex=1)
    assert world.take(world.other.initiation(), sender=gone) == "HS_INITIATION_ACCEPTED"
    assert world.other.hear()[0] == 2
    assert world.bits() & lib.ORDER_CLEAR_SOURCE
    unreachable = Endpoint(b"\xff\xff\xff\xff", 9)
    world.now += SECOND
    assert world.take(world.other.initiation(), sender=unreachable) == "HS_INITIATION_ACCEPTED"
    assert world.interface.counter("HS_SEND_FAILED") == 1
    assert world.interface.counter("HS_RESPONSE_SENT") == 1


def test_a_keypair_that_a_holder_is_about_to_name_is_not_freed(world: World) -> None:
    """The holder has read `installing` and not stored the key word when the next session is ordered; else
    the number would come to a later session while the key word still names it, which then never begins."""
    parts, row = world.parts, world.parts.peers.rows[world.row]
    with Holder(world.interface) as holder:
        numbers = []
        for _ in range(2):
            assert world.take(world.respond(world.initiate())[0]) == "HS_RESPONSE_ACCEPTED"
            numbers.append(int(row.installing))
        first, second = numbers
        lib.events_give(parts.segment, world.row, lib.EVENT_KEYS)  # of something before
        parts.take_events()
        row.key_word = lib.key_word_install(int(row.key_word), first, 1)  # the holder goes on
        parts.settle(holder)
        assert int(lib.key_word_current(row.key_word)) == second
        assert int(lib.key_word_previous(row.key_word)) == first
        assert parts.keypairs.birth(first) and first not in parts.keypairs.free
        for _ in range(3):
            assert world.take(world.respond(world.initiate())[0]) == "HS_RESPONSE_ACCEPTED"
            number = int(row.installing)
            parts.settle(holder)
            assert int(lib.key_word_current(row.key_word)) == number
        # Nothing is left over once the holder is done.
        named = {int(lib.key_word_current(row.key_word)), int(lib.key_word_previous(row.key_word))}
        assert set(parts.keypairs.numbers(world.row)) == named


def test_where_both_ends_begin_at_once_both_sessions_stand(world: World) -> None:
    """Two are ordered before the holder looks. Was one lost, each end would keep its own: the other end does
    not know it, and both send into nothing until a handshake is due again, 15 s later."""
    parts, row = world.parts, world.parts.peers.rows[world.row]
    with Holder(world.interface) as holder:
        ours = world.initiate()
        assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
        theirs = int(row.installing_next)
        assert world.take(world.respond(ours)[0]) == "HS_RESPONSE_ACCEPTED"
        number = int(row.installing)
        parts.settle(holder)
        assert lib.key_word_current(row.key_word) == number
        assert lib.key_word_previous(row.key_word) == theirs
        assert set(parts.keypairs.numbers(world.row)) == {number, theirs}


def test_a_number_that_was_installed_once_is_no_session_to_send_with_when_it_is_used_again(
    world: World,
) -> None:
    """`installing` keeps its last number. A keypair of that number that we answered with waits for data: the
    handshake that the holder wants is still needed."""
    parts, row = world.parts, world.parts.peers.rows[world.row]
    assert world.take(world.other.initiation()) == "HS_INITIATION_ACCEPTED"
    row.installing = row.installing_next
    assert not parts.keypairs.has_fresh(world.row, world.now, 5 * SECOND)


def test_an_installation_that_changes_nothing_frees_what_waited_for_it(world: World) -> None:
    """The holder was killed between the key word and the order; the next one finds the number named."""
    parts, row = world.parts, world.parts.peers.rows[world.row]
    with Holder(world.interface) as holder:
        assert world.take(world.respond(world.initiate())[0]) == "HS_RESPONSE_ACCEPTED"
        parts.settle(holder)
        before = int(row.installing)
        assert world.take(world.respond(world.initiate())[0]) == "HS_RESPONSE_ACCEPTED"
        row.key_word = lib.key_word_of(int(row.installing), 0, 0)
        parts.settle(holder)
        assert before not in parts.keypairs.numbers(world.row)


def session(world: World) -> int:
    """A session whose installation is ordered; its number."""
    assert world.take(world.respond(world.initiate())[0]) == "HS_RESPONSE_ACCEPTED"
    return int(world.parts.peers.rows[world.row].installing)


def current(world: World) -> int:
    return int(lib.key_word_current(world.parts.peers.rows[world.row].key_word))


def test_orders_that_cancel_each_other_have_an_order(world: World) -> None:
    """The bits have none (shm/orders.h): whichever was given last counts, applied once or again."""
    parts, reject = world.parts, int(lib.REJECT_AFTER_MESSAGES)

    def settle_twice() -> None:
        """Whoever applies the orders is killed before it clears them; the next one does it again."""
        word = int(lib.orders_read(parts.segment, world.row)) & 0xFFFFFFFF
        apply = {name: getattr(lib, name) for name in ("ORDER_ZERO", "ORDER_STOP_SENDING", "ORDER_INSTALL")}
        again = word & sum(apply.values())
        parts.settle(holder)
        if again & lib.ORDER_INSTALL:
            # Not through Peers.order: nothing new is asked for.
            installing = int(parts.peers.rows[world.row].installing)
            lib.orders_give(parts.segment, world.row, again)
            parts.peers.rows[world.row].installing = installing
            lib.peer_schedule(parts.segment, world.row)
            parts.settle(holder)

    def sends(number: int) -> bool:
        return int(parts.keypairs.slab[number].send_counter) < reject

    with Holder(world.interface) as holder:
        session(world)
        parts.peers.order(world.row, lib.ORDER_ZERO)
        settle_twice()
        assert current(world) == 0, "ordered, then zeroed"

        parts.peers.order(world.row, lib.ORDER_ZERO)
        number = session(world)
        settle_twice()
        assert current(world) == number, "zeroed, then ordered"

        old, number = number, session(world)
        parts.peers.order(world.row, lib.ORDER_STOP_SENDING)
        settle_twice()
        assert current(world) == number and not sends(number) and not sends(old), "ordered, then stopped"

        old = number
        parts.peers.order(world.row, lib.ORDER_STOP_SENDING)
        number = session(world)
        settle_twice()
        assert current(world) == number and sends(number) and not sends(old), "stopped, then ordered"

        # Stopped, ordered, stopped.
        parts.peers.order(world.row, lib.ORDER_STOP_SENDING)
        number = session(world)
        parts.peers.order(world.row, lib.ORDER_STOP_SENDING)
        settle_twice()
        assert current(world) == number and not sends(number)

        session(world)
        parts.peers.order(world.row, lib.ORDER_RETIRE)
        holder.take_turns()
        assert int(parts.peers.rows[world.row].key_word) == 0 and world.bits() & lib.ORDER_RETIRE
