"""Section 4 of the checklist, receiving data, in its order; and who moves an endpoint."""

from __future__ import annotations

import struct

import pytest

from engine import cookie, noise
from tests.support.fake_peer import FakePeer, Network, udp_packet
from tests.support.tunnel import eventually
from tests.support.wire import Wire

pytestmark = pytest.mark.network

NOT_ECT, ECT_1, ECT_0, CE = range(4)
# RFC 6040 figure 4: (inner, outer) -> what goes on; None is dropped.
ECN = {
    (NOT_ECT, NOT_ECT): NOT_ECT, (NOT_ECT, ECT_0): NOT_ECT, (NOT_ECT, ECT_1): NOT_ECT, (NOT_ECT, CE): None,
    (ECT_0, NOT_ECT): ECT_0, (ECT_0, ECT_0): ECT_0, (ECT_0, ECT_1): ECT_1, (ECT_0, CE): CE,
    (ECT_1, NOT_ECT): ECT_1, (ECT_1, ECT_0): ECT_1, (ECT_1, ECT_1): ECT_1, (ECT_1, CE): CE,
    (CE, NOT_ECT): CE, (CE, ECT_0): CE, (CE, ECT_1): CE, (CE, CE): CE,
}


def gained(network: Network, before: dict[str, int], counter: str) -> int:
    return network.counters()[counter] - before[counter]


@pytest.mark.parametrize("inner_version", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_outer_ecn_goes_in_as_rfc_6040_says(network: Network, version: int, inner_version: int) -> None:
    """The DSCP inside is never touched, whatever it is outside."""
    peer = FakePeer(network, version)
    peer.initiate()
    before = network.counters()
    with Wire(network.plait, "wg0") as wire:
        for number, ((inner, outer), expected) in enumerate(ECN.items()):
            sent = peer.packet(struct.pack("!I", number), version=inner_version, tos=46 << 2 | inner)
            peer.send(sent, tos=10 << 2 | outer)
            if expected is not None:
                packet = wire.next(lambda packet: packet.source in (peer.inner4, peer.inner6))
                # The IPv4 checksum is right again: this is the packet as it would have been made.
                payload, tos = struct.pack("!I", number), 46 << 2 | expected
                assert packet.data == peer.packet(payload, version=inner_version, tos=tos), (inner, outer)
    eventually(lambda: gained(network, before, "drop_ecn") == 1)


@pytest.mark.parametrize("inner_version", [4, 6])
def test_padding_is_trimmed_to_the_ip_length(network: Network, inner_version: int) -> None:
    peer = FakePeer(network)
    peer.initiate()
    with Wire(network.plait, "wg0") as wire:
        for size in (0, 1, 3, 15, 16, 700):
            sent = peer.packet(bytes(size), version=inner_version)
            peer.send(sent + bytes(32))
            packet = wire.next(lambda packet: packet.source in (peer.inner4, peer.inner6))
            assert packet.data == sent


def test_the_inner_source_must_be_an_allowed_ip_of_this_peer(network: Network) -> None:
    """Not of another peer, not of nobody, not our own; each is counted, none is delivered."""
    peer, other = FakePeer(network), FakePeer(network)
    peer.initiate()
    before = network.counters()
    with Wire(network.plait, "wg0") as wire:
        foreign = (other.inner4, "10.0.0.250", "10.0.0.1", "127.0.0.1")
        foreign6 = (other.inner6, "fd01::beef", "fd01::1", "::1", "fe80::1")
        for source in foreign:
            peer.send(udp_packet(source, "10.0.0.1", b"x"))
        for source in foreign6:
            peer.send(udp_packet(source, "fd01::1", b"x"))
        peer.send(peer.packet(b"own"))
        assert wire.next(lambda packet: packet.payload[-3:] == b"own").source == peer.inner4
    # Of packets that came earlier nothing was seen: the wire keeps their order.
    assert len([frame for _, frame in wire.frames if frame[-1:] == b"x"]) == 0
    assert gained(network, before, "drop_inner_source") == len(foreign) + len(foreign6)


def test_version_and_length_are_checked(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    good = peer.packet(b"good")
    lies = [
        b"\x55" + good[1:],  # no such version
        b"\x00" + good[1:],
        good[:2] + (len(good) + 100).to_bytes(2, "big") + good[4:],  # longer than it is
        good[:2] + (19).to_bytes(2, "big") + good[4:],  # shorter than its header
        b"\x44" + good[1:],
        peer.packet(b"", version=6)[:4] + b"\xff\xff" + peer.packet(b"", version=6)[6:],
        b"\x60" + bytes(15),
        b"\x45",
    ]
    before = network.counters()
    for lie in lies:
        peer.send(lie)
    eventually(lambda: gained(network, before, "drop_inner_header") == len(lies))
    assert gained(network, before, "tun_sent") == 0


def test_a_keepalive_counts_32_bytes_and_goes_nowhere(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    before, received = network.counters(), int(network.peer(peer)["rx_bytes"])
    assert received == 148 + 32
    for _ in range(3):
        peer.send(b"")
    eventually(lambda: gained(network, before, "keepalive_received") == 3)
    assert int(network.peer(peer)["rx_bytes"]) == received + 3 * 32
    assert gained(network, before, "tun_sent") == 0


def test_a_replay_and_a_forgery_are_dropped_and_change_nothing(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    message = peer.sealed(peer.packet(b"once"))
    before = network.counters()
    peer.send_raw(message)
    eventually(lambda: gained(network, before, "tun_sent") == 1)
    endpoint, received = network.peer(peer)["endpoint"], network.peer(peer)["rx_bytes"]
    forged = peer.sealed(peer.packet(b"x"))
    peer.move()
    peer.send_raw(message)
    peer.send_raw(forged[:-1] + bytes([forged[-1] ^ 1]))
    peer.send_raw(b"\4\0\0\0" + bytes(28))
    eventually(lambda: gained(network, before, "drop_replay") == 1)
    eventually(lambda: gained(network, before, "drop_data_tag") == 1)
    eventually(lambda: gained(network, before, "drop_index_unknown") == 1)
    assert network.peer(peer)["endpoint"] == endpoint
    assert network.peer(peer)["rx_bytes"] == received
    assert gained(network, before, "tun_sent") == 1


def test_a_session_of_180_seconds_receives_no_more(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    before = network.counters()
    network.step(165)
    peer.send(peer.packet(b"old"))
    eventually(lambda: gained(network, before, "tun_sent") == 1)
    network.step(15)
    peer.send(peer.packet(b"too old"))
    gone = ("drop_keypair_expired", "drop_keypair_gone", "drop_index_unknown")
    eventually(lambda: sum(gained(network, before, name) for name in gone) == 1)
    assert gained(network, before, "tun_sent") == 1


def test_the_endpoint_moves_before_the_inner_source_is_checked(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    before = network.counters()
    peer.move()
    peer.send(udp_packet("192.0.2.1", "10.0.0.1", b"x"))
    eventually(lambda: gained(network, before, "drop_inner_source") == 1)
    assert network.peer(peer)["endpoint"] == peer.endpoint


def test_handshakes_move_the_endpoint_too(network: Network) -> None:
    """An initiation, and a response to ours, from another port than we knew."""
    peer = FakePeer(network)
    peer.initiate()
    peer.move()
    message, _ = peer.initiation()
    before = network.counters()
    eventually(lambda: peer.send_raw(message) or gained(network, before, "hs_initiation_accepted") == 1)
    assert network.peer(peer)["endpoint"] == peer.endpoint
    other = FakePeer(network)
    inner = network.inner_socket(other.inner4)
    inner.send(b"x")
    initiation = other.hear(1)
    other.move()
    other.respond(initiation)
    assert other.hear(4).opened[28:29] == b"x"
    assert network.peer(other)["endpoint"] == other.endpoint
    inner.close()


def test_a_cookie_reply_never_moves_the_endpoint(network: Network) -> None:
    """It is accepted all the same: the next initiation carries a mac2."""
    peer = FakePeer(network)
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    initiation = peer.hear(1)
    assert initiation.data[-16:] == bytes(16)
    there, known = peer.socket, peer.endpoint
    peer.socket = peer.socket.dup()
    peer.move()
    address, port = network.link.address(network.plait), 51820
    reply = cookie.create_cookie_reply(peer.identity.cookie_key, bytes(32), initiation.data,
                                       bytes(map(int, address.split("."))), port)
    before = network.counters()
    peer.send_raw(reply)
    eventually(lambda: gained(network, before, "hs_cookie_accepted") == 1)
    assert network.peer(peer)["endpoint"] == known
    peer.socket.close()
    peer.socket = there
    network.step(5.4)
    retry = peer.hear(1)
    assert cookie.mac2_is_right(bytes(32), retry.data, bytes(map(int, address.split("."))), port)
    assert cookie.mac1_is_right(noise.mac1_key(peer.identity.public_key), retry.data)
    inner.close()
