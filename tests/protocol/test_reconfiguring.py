"""Sections 1, 2 and 6 of the checklist: changes by UAPI while there are sessions and traffic."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from engine import noise
from tests.support.fake_peer import PORT, FakePeer, Network
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network


def change_private_key(network: Network) -> noise.Identity:
    """A new key for the engine, known to the network; returns the old one."""
    old, network.identity = network.identity, noise.Identity(os.urandom(32))
    network.set(f"private_key={network.identity.private_key.hex()}\n")
    return old


def test_private_key_change_ends_sending_and_recomputes_secrets(network: Network) -> None:
    """What was agreed under the old key may still be opened; what we send waits for a new session."""
    peer = FakePeer(network)
    peer.initiate()
    before = network.count("tun_sent")
    old = change_private_key(network)
    peer.send(peer.packet(b"still opened"))
    eventually(lambda: network.count("tun_sent") == before + 1)
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    # No data message comes before it, and it does not wait for the 5 s since our response.
    initiation = peer.receive()
    assert initiation.kind == 1
    opened = noise.open_initiation(peer.identity, initiation.data)
    assert opened.peer_public_key == network.identity.public_key
    peer.respond(initiation)
    assert peer.hear(4).opened[28:29] == b"x"
    # An initiation to the old key is nobody's: its mac1 was made for another.
    new, network.identity = network.identity, old
    message, _ = peer.initiation()
    network.identity = new
    bad = network.count("hs_mac1_bad")
    peer.send_raw(message)
    eventually(lambda: network.count("hs_mac1_bad") == bad + 1)
    inner.close()


def test_private_key_change_clears_handshakes_in_progress(network: Network) -> None:
    peer = FakePeer(network)
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    initiation = peer.hear(1)
    old = change_private_key(network)
    new, network.identity = network.identity, old
    refusals = ("hs_mac1_bad", "hs_response_unknown")
    before = network.count(*refusals)
    peer.respond(initiation)
    network.identity = new
    eventually(lambda: network.count(*refusals) == before + 1)
    assert network.peer(peer)["last_handshake_time_sec"] == "0"
    inner.close()


def test_private_key_change_removes_the_peer_whose_key_is_our_own(network: Network) -> None:
    peer, other = FakePeer(network), FakePeer(network)
    mine = network.identity
    network.set(f"private_key={peer.identity.private_key.hex()}\n")
    listed = network.engine.uapi("get=1\n\n")
    assert peer.identity.public_key.hex() not in listed and other.identity.public_key.hex() in listed
    network.set(f"private_key={mine.private_key.hex()}\n")


def test_without_a_private_key_nothing_is_answered(network: Network) -> None:
    peer = FakePeer(network)
    network.set(f"private_key={bytes(32).hex()}\n")
    assert "private_key" not in network.engine.uapi("get=1\n\n")
    peer.send_raw(peer.initiation()[0])
    assert peer.hears_nothing()
    network.set(f"private_key={network.identity.private_key.hex()}\n")
    peer.initiate()


def test_peer_removal_with_packets_in_flight(network: Network) -> None:
    """Both ways under full flow, again and again; it comes back and works, and every slot comes home."""
    peer, other = FakePeer(network), FakePeer(network)
    key = peer.identity.public_key.hex()
    inner = network.inner_socket(peer.inner4)
    inner.setblocking(False)
    ended = threading.Event()

    def flood_out() -> None:
        while not ended.is_set():
            try:
                inner.send(bytes(600))
            except OSError:  # an ICMP error, or a full buffer
                ended.wait(0.0005)

    def flood_in() -> None:
        while not ended.is_set():
            session = peer.session
            if session is not None:
                peer.send(peer.packet(bytes(600)))

    threads = [threading.Thread(target=flood) for flood in (flood_out, flood_in)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            before = network.count("hs_initiation_accepted")
            message, state = peer.initiation()
            peer.send_raw(message)
            eventually(lambda before=before: network.count("hs_initiation_accepted") > before)
            peer.session = noise.consume_response(peer.identity, state, peer.hear(2).data, noise.NO_PSK)
            delivered = network.count("tun_sent")
            eventually(lambda delivered=delivered: network.count("tun_sent") > delivered + 20)
            network.set(f"public_key={key}\nremove=true\n")
            assert key not in network.engine.uapi("get=1\n\n")
            network.set(f"public_key={key}\nendpoint={peer.endpoint}\nallowed_ip={peer.inner4}/32\n")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    other.initiate()
    other.send(other.packet(b"others live"))
    peer.session = None
    eventually(lambda: not network.report()["tokens"]["held"])  # what was in hand has left
    while not peer.hears_nothing(0.05):
        pass
    inner.close()
    peer.initiate()
    again = network.inner_socket(peer.inner4)
    again.send(b"again")
    assert eventually(lambda: peer.hear(4).opened[28:33] == b"again")
    again.close()


def allowed_ips(network: Network, peer: FakePeer) -> list[str]:
    shown = network.engine.uapi("get=1\n\n").partition(peer.identity.public_key.hex())[2]
    lines = shown.partition("public_key=")[0].splitlines()
    return [line.removeprefix("allowed_ip=") for line in lines if line.startswith("allowed_ip=")]


def test_replace_allowed_ips_moves_them_between_peers_under_traffic(network: Network) -> None:
    """An allowed IP belongs to one peer; who names it last has it, for packets out and in."""
    one, two = FakePeer(network), FakePeer(network)
    for peer in (one, two):
        peer.initiate()
    inner = network.inner_socket(one.inner4)
    keys = [peer.identity.public_key.hex() for peer in (one, two)]
    for number in range(6):
        owner, other = (one, two) if number % 2 else (two, one)
        key = keys[number % 2 ^ 1]
        assert key == owner.identity.public_key.hex()
        network.set(f"public_key={key}\nreplace_allowed_ips=true\nallowed_ip={one.inner4}/32\n")
        assert allowed_ips(network, owner) == [f"{one.inner4}/32"]
        assert f"{one.inner4}/32" not in allowed_ips(network, other)
        inner.send(struct.pack("!I", number))
        assert owner.hear(4).opened[28:32] == struct.pack("!I", number)
        for sender, counter in ((other, "drop_inner_source"), (owner, "tun_sent")):
            before = network.count(counter)
            sender.send(sender.packet(b"x", source=one.inner4))
            eventually(lambda c=counter, before=before: network.count(c) == before + 1)
    assert one.hears_nothing() and two.hears_nothing()
    inner.close()


def test_a_single_allowed_ip_is_removed(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    key = peer.identity.public_key.hex()
    network.set(f"public_key={key}\nallowed_ip=-{peer.inner4}/32\n")
    inner = network.inner_socket(peer.inner4)
    before = network.count("drop_no_peer")
    inner.send(b"x")
    eventually(lambda: network.count("drop_no_peer") == before + 1)
    inner6 = network.inner_socket(peer.inner6)
    inner6.send(b"y")
    assert peer.hear(4).opened[48:49] == b"y"
    inner.close()
    inner6.close()


def test_update_only_makes_no_peer(network: Network) -> None:
    key = noise.Identity(os.urandom(32)).public_key.hex()
    network.set(f"public_key={key}\nupdate_only=true\nallowed_ip=10.77.0.0/16\n")
    listed = network.engine.uapi("get=1\n\n")
    assert key not in listed and "10.77.0.0" not in listed


def test_replace_peers_removes_all_others(network: Network) -> None:
    one, two = FakePeer(network), FakePeer(network)
    one.initiate()
    two.initiate()
    key = two.identity.public_key.hex()
    network.set(f"replace_peers=true\npublic_key={key}\nendpoint={two.endpoint}\nallowed_ip={two.inner4}/32\n")
    listed = network.engine.uapi("get=1\n\n").splitlines()
    assert [line for line in listed if line.startswith("public_key")] == [f"public_key={key}"]
    before = network.counters()
    one.send(one.packet(b"x"))
    gone = ("drop_index_unknown", "drop_peer_gone", "drop_keypair_gone")
    eventually(lambda: sum(network.counters()[name] - before[name] for name in gone) == 1)
    assert network.engine.uapi("get=1\n\n").startswith(
        f"private_key={network.identity.private_key.hex()}\nlisten_port={PORT}\n")
