"""Where a peer is reached has one answer, whoever asks, and moves by one rule, whoever moves it.

Who asks: `read` (events, an initiation), a get, and a batch of handshakes. Who moves: a set, in C, and a
handshake that was authenticated, in Python. The holder applies the orders when it comes to them.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.control_harness import Holder, Interface, Parts
from workers._workers import ffi, lib
from workers.control.endpoints import Endpoint

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

KEY = "01" * 32
FOUR, FOUR_TOO = Endpoint(bytes([192, 0, 2, 1]), 1), Endpoint(bytes([192, 0, 2, 1]), 2)
SIX = Endpoint(socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 1)
PLACES = [FOUR, FOUR_TOO, SIX]


def heard(place: Endpoint, source: int) -> Endpoint:
    """The place as a message brings it, with the address of ours that it came to."""
    return place._replace(source=bytes([10] * (len(place.address) - 1) + [source]), ifindex=source)


def text(place: Endpoint) -> str:
    address = socket.inet_ntop(place.family, place.address)
    return f"[{address}]:{place.port}" if len(place.address) == 16 else f"{address}:{place.port}"


class Peer:
    """One peer of an interface, and a holder that comes to it when it is told to."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.holder = Holder(interface)
        self.parts = Parts(interface)
        self.row = 0

    def begin(self) -> None:
        """A new peer, without an endpoint."""
        assert self.parts.set(f"set=1\nreplace_peers=true\npublic_key={KEY}\nremove=true\n") == 0
        assert self.parts.set(f"set=1\npublic_key={KEY}\n") == 0
        row = self.parts.peers.find(bytes.fromhex(KEY))
        assert row is not None
        self.row = row

    def kill(self) -> None:
        self.parts.close()
        self.parts = Parts(self.interface)

    def configure(self, place: Endpoint) -> None:
        assert self.parts.set(f"set=1\npublic_key={KEY}\nendpoint={text(place)}\n") == 0

    def hear(self, place: Endpoint) -> None:
        """As of a handshake message that was authenticated."""
        self.parts.peers.order(self.row, self.parts.endpoints.move(self.row, place))

    @property
    def is_ordered(self) -> bool:
        return bool(int(lib.orders_read(self.parts.segment, self.row)) & lib.ORDER_ENDPOINT)

    @property
    def is_waiting(self) -> bool:
        assert (self.row in self.parts.endpoints.waiting) == bool(
            self.parts.segment.rows[self.row].pending_endpoint[0]
        )
        return self.row in self.parts.endpoints.waiting

    def shown(self) -> str | None:
        """In the answer to a get."""
        found = re.search(r"^endpoint=(.*)$", self.parts.get(), re.M)  # of the only peer
        return found[1] if found else None

    def is_at(self, place: Endpoint) -> bool:
        """To a batch of handshakes."""
        cells, same = ffi.new("struct mailbox_cell[1]"), ffi.new("uint8_t[1]")
        ffi.memmove(ffi.addressof(cells[0], "from"), place.pack(), ffi.sizeof("struct endpoint"))
        rows, where = ffi.new("uint32_t[1]", [self.row]), ffi.new("uint32_t[1]")
        lib.batch_compare_endpoints(self.parts.segment, rows, cells, where, 1, same)
        return bool(same[0])

    def of_holder(self) -> Endpoint | None:
        """Where the holder sends."""
        place = ffi.new("struct endpoint *")
        lib.endpoint_load(self.parts.segment, self.row, place)
        return Endpoint.unpack(bytes(ffi.buffer(place)))

    def all_say(self, place: Endpoint | None) -> None:
        assert self.parts.endpoints.read(self.row) == place
        assert self.shown() == (None if place is None else text(place))
        for each in {*PLACES, *(heard(place, source) for place in PLACES for source in (1, 2))}:
            assert self.is_at(each) == (each == place), each


@pytest.fixture(scope="module")
def of_module() -> Iterator[Peer]:
    with Interface(f"ple{os.getpid()}") as interface:
        peer = Peer(interface)
        yield peer
        peer.parts.close()
        peer.holder.__exit__()


@pytest.fixture
def peer(of_module: Peer) -> Peer:
    of_module.parts.settle(of_module.holder)
    of_module.begin()
    return of_module


def test_a_configured_place_keeps_the_source_that_it_was_heard_at(peer: Peer) -> None:
    peer.hear(heard(FOUR, 1))
    peer.holder.take_turns()
    peer.configure(FOUR)
    assert not peer.is_ordered
    peer.all_say(heard(FOUR, 1))
    peer.configure(FOUR_TOO)
    peer.all_say(FOUR_TOO)


def test_a_place_that_is_heard_at_another_source_moves(peer: Peer) -> None:
    peer.hear(heard(FOUR, 1))
    peer.holder.take_turns()
    peer.hear(heard(FOUR, 1))
    assert not peer.is_ordered
    peer.hear(heard(FOUR, 2))
    assert peer.is_ordered
    peer.holder.take_turns()
    assert peer.of_holder() == heard(FOUR, 2)


@pytest.mark.parametrize("move", [Peer.configure, Peer.hear])
def test_what_comes_while_an_order_stands_waits_the_latest_alone(peer: Peer, move: object) -> None:
    """The holder may be reading the ordered one, which therefore stays as it is."""
    assert callable(move)
    for place in (FOUR, FOUR_TOO, SIX):
        move(peer, place)
    ordered = bytes(ffi.buffer(ffi.addressof(peer.parts.segment.rows[peer.row], "ordered_endpoint")))
    assert Endpoint.unpack(ordered) == FOUR and peer.is_waiting
    peer.all_say(SIX)
    peer.kill()
    peer.all_say(SIX)
    assert peer.parts.endpoints.poll() and peer.is_waiting
    peer.holder.take_turns()
    assert not peer.parts.endpoints.poll() and not peer.is_waiting
    peer.all_say(SIX)
    peer.holder.take_turns()
    assert peer.of_holder() == SIX


def test_a_place_that_waits_and_comes_again_still_waits(peer: Peer) -> None:
    """Also for a control after a kill that does the set once more."""
    for place in (FOUR, SIX, SIX):
        peer.configure(place)
        peer.kill()
    assert peer.is_waiting
    peer.parts.settle(peer.holder)
    assert peer.of_holder() == SIX and not peer.is_waiting


def test_a_move_before_what_waits_was_ordered_takes_its_place(peer: Peer) -> None:
    peer.configure(FOUR)
    peer.configure(SIX)
    peer.holder.take_turns()
    peer.hear(heard(FOUR_TOO, 1))
    assert peer.is_ordered and not peer.is_waiting
    peer.parts.settle(peer.holder)
    assert peer.of_holder() == heard(FOUR_TOO, 1)


def test_a_place_of_no_family_is_not_ordered(peer: Peer) -> None:
    """The words are in memory that workers may write."""
    peer.parts.segment.rows[peer.row].pending_endpoint[0] = 0xFFFF
    peer.parts.endpoints.recover([peer.row])
    assert not peer.parts.endpoints.poll() and not peer.is_ordered and not peer.is_waiting
    peer.all_say(None)


@dataclass(frozen=True)
class Moved:
    """source: of a message; None: a set."""

    place: Endpoint
    source: int | None


steps = st.lists(
    st.builds(Moved, st.sampled_from(PLACES), st.sampled_from([None, 1, 2]))
    | st.sampled_from(["holder", "poll", "kill"]),
    max_size=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_sequence_of_moves_ends_at_the_last_one(peer: Peer, steps: list[Moved | str]) -> None:
    peer.parts.settle(peer.holder)
    peer.begin()
    wanted: Endpoint | None = None
    for step in steps:
        if step == "holder":
            peer.holder.take_turns()
        elif step == "poll":
            peer.parts.endpoints.poll()
        elif step == "kill":
            peer.kill()
        elif isinstance(step, Moved) and step.source is None:
            peer.configure(step.place)
            if wanted is None or wanted.without_source() != step.place:
                wanted = step.place
        elif isinstance(step, Moved) and step.source is not None:
            place = heard(step.place, step.source)
            has_to_wait = peer.is_ordered and wanted != place
            peer.hear(place)
            wanted = place.without_source() if has_to_wait else place
        peer.all_say(wanted)
    peer.parts.settle(peer.holder)
    assert peer.of_holder() == wanted and not peer.is_waiting
    peer.all_say(wanted)
