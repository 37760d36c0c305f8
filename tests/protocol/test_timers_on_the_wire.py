"""Section 2 of the checklist, the timers, on a clock that is stepped: when what leaves, and that it must.

tests/unit/engine/test_timers.py holds the rules to the tick; here the processes hold them, each with a step
that ends before the time, by seconds that a busy machine may take for a look, and one that passes it.
"""

from __future__ import annotations

import time

import pytest

from engine import noise
from tests.support.fake_peer import FakePeer, Network
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network

KEEPALIVE = 32


def test_passive_keepalive_10_seconds_after_data(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    peer.send(peer.packet(b"x"))
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(148 + 32 + 32 + 32))
    network.step(5)
    assert peer.hears_nothing()
    network.step(5.1)
    message = peer.receive()
    assert (message.kind, len(message.data)) == (4, KEEPALIVE)
    network.step(30)
    assert peer.hears_nothing()  # it answers data, not keepalives


def test_passive_keepalive_is_cancelled_by_anything_sent(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    peer.send(peer.packet(b"x"))
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(148 + 32 + 32 + 32))
    network.step(5)
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    assert len(peer.receive().data) > KEEPALIVE
    network.step(9)
    assert peer.hears_nothing()
    inner.close()


def test_new_handshake_15_seconds_after_data_that_nobody_answers(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    peer.hear(4)
    network.step(10)
    assert peer.hears_nothing()
    network.step(5.5)
    assert peer.receive().kind == 1
    inner.close()


def test_new_handshake_is_cancelled_by_anything_received(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    peer.hear(4)
    peer.send(b"")
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(148 + 32 + 32))
    network.step(40)
    assert peer.hears_nothing()
    inner.close()


def test_retransmit_every_5_seconds_twenty_times_then_give_up(network: Network) -> None:
    """What was staged is dropped then; a new packet starts anew."""
    peer = FakePeer(network)
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    before = network.count("drop_staged")
    for number in range(20):
        assert peer.receive().kind == 1, number
        if number == 0:
            network.step(1)
            assert peer.hears_nothing(0.1)
            network.step(4.4)
        else:
            network.step(5.4)
    assert peer.hears_nothing()
    eventually(lambda: network.count("drop_staged") == before + 1)
    inner.send(b"y")
    peer.respond(peer.hear(1))
    assert peer.hear(4).opened[28:29] == b"y"
    inner.close()


def test_answering_holds_back_our_own_initiation_for_5_seconds(network: Network) -> None:
    """The response was ours, it is not confirmed, and we have something to send."""
    peer = FakePeer(network)
    message, _ = peer.initiation()
    peer.send_raw(message)
    assert peer.receive().kind == 2
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    assert peer.hears_nothing()
    network.step(1)
    assert peer.hears_nothing()
    network.step(4.5)
    assert peer.receive().kind == 1
    inner.close()


def test_persistent_keepalive_from_the_last_authenticated_packet(network: Network) -> None:
    """From 0 to n sends one at once, and with it begins a handshake; n seconds after the last packet comes
    the next. The initiator that has nothing else to send confirms its session with a keepalive."""
    peer = FakePeer(network)
    network.set(f"public_key={peer.identity.public_key.hex()}\npersistent_keepalive_interval=25\n")
    peer.respond(peer.hear(1))
    confirmation = peer.receive()
    assert (confirmation.kind, len(confirmation.data)) == (4, KEEPALIVE)
    eventually(lambda: int(network.peer(peer)["last_handshake_time_sec"]) >= int(time.time()) - 60)
    network.step(20)
    peer.send(b"")  # received: counted from here again
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(92 + 32))
    network.step(15)
    assert peer.hears_nothing()
    network.step(10.2)
    assert len(peer.receive().data) == KEEPALIVE
    network.set(f"public_key={peer.identity.public_key.hex()}\npersistent_keepalive_interval=0\n")
    network.step(60)
    assert peer.hears_nothing()


def as_initiator(network: Network, peer: FakePeer) -> None:
    """A session that the engine began, at rest."""
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    peer.respond(peer.hear(1))
    peer.hear(4)
    peer.send(b"")
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(92 + 32))
    inner.close()


@pytest.mark.parametrize(("age", "begins"), [(110, False), (121, True)])
def test_rekey_on_send_at_120_seconds_by_the_initiator(network: Network, age: int, begins: bool) -> None:
    peer = FakePeer(network)
    as_initiator(network, peer)
    network.step(age)
    inner = network.inner_socket(peer.inner4)
    inner.send(b"y")
    assert peer.hear(4).opened[28:29] == b"y"  # with the old keys meanwhile
    if begins:
        assert peer.receive().kind == 1
    else:
        assert peer.hears_nothing()
    inner.close()


@pytest.mark.parametrize(("age", "begins"), [(155, False), (166, True)])
def test_rekey_on_receive_at_165_seconds_by_the_initiator_once(network: Network, age: int,
                                                               begins: bool) -> None:
    peer = FakePeer(network)
    as_initiator(network, peer)
    network.step(age)
    peer.send(b"")
    if begins:
        assert peer.receive().kind == 1
        peer.send(b"")
    assert peer.hears_nothing()


def test_the_responder_does_not_rekey(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    network.step(170)
    peer.send(b"")
    inner = network.inner_socket(peer.inner4)
    inner.send(b"y")
    assert peer.hear(4).opened[28:29] == b"y"
    assert peer.hears_nothing()
    inner.close()


def test_keys_are_gone_after_540_seconds(network: Network) -> None:
    """Both roles; keypairs in use are counted by what the engine says of itself."""
    one, two = FakePeer(network), FakePeer(network)
    one.initiate()
    as_initiator(network, two)
    network.step(541)
    for peer in (one, two):  # an index that names nothing: its keypair was wiped
        before = network.counters()
        eventually(lambda p=peer, before=before: p.send(p.packet(b"x")) or
                   network.count("drop_index_unknown") > before["drop_index_unknown"])
        assert network.count("tun_sent") == before["tun_sent"]


def test_last_handshake_time_is_that_of_the_confirmation(network: Network) -> None:
    """A responder's session counts when the first data comes, not when the response leaves."""
    peer = FakePeer(network)
    message, state = peer.initiation()
    peer.send_raw(message)
    peer.session = noise.consume_response(peer.identity, state, peer.hear(2).data, noise.NO_PSK)
    assert network.peer(peer)["last_handshake_time_sec"] == "0"
    peer.send(b"")
    eventually(lambda: network.peer(peer)["last_handshake_time_sec"] != "0")
