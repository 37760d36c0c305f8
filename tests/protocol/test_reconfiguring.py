"""Sections 1, 2 and 6 of the checklist: changes by UAPI while there are sessions and traffic."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from engine import noise
from tests.support.fake_peer import PORT, Puppet, Stage
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network


def change_private_key(stage: Stage) -> noise.Identity:
    """A new key for the engine, known to the stage; returns the old one."""
    old, stage.identity = stage.identity, noise.Identity(os.urandom(32))
    stage.set(f"private_key={stage.identity.private_key.hex()}\n")
    return old


def test_private_key_change_ends_sending_and_recomputes_secrets(stage: Stage) -> None:
    """What was agreed under the old key may still be opened; what we send waits for a new session."""
    puppet = Puppet(stage)
    puppet.initiate()
    before = stage.count("tun_sent")
    old = change_private_key(stage)
    puppet.send(puppet.packet(b"still opened"))
    eventually(lambda: stage.count("tun_sent") == before + 1)
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    # No data message comes before it, and it does not wait for the 5 s since our response.
    initiation = puppet.receive()
    assert initiation.kind == 1
    opened = noise.open_initiation(puppet.identity, initiation.data)
    assert opened.peer_public_key == stage.identity.public_key
    puppet.respond(initiation)
    assert puppet.hear(4).opened[28:29] == b"x"
    # An initiation to the old key is nobody's: its mac1 was made for another.
    new, stage.identity = stage.identity, old
    message, _ = puppet.initiation()
    stage.identity = new
    bad = stage.count("hs_mac1_bad")
    puppet.send_raw(message)
    eventually(lambda: stage.count("hs_mac1_bad") == bad + 1)
    inner.close()


def test_private_key_change_clears_handshakes_in_progress(stage: Stage) -> None:
    puppet = Puppet(stage)
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    initiation = puppet.hear(1)
    old = change_private_key(stage)
    new, stage.identity = stage.identity, old
    refusals = ("hs_mac1_bad", "hs_response_unknown")
    before = stage.count(*refusals)
    puppet.respond(initiation)
    stage.identity = new
    eventually(lambda: stage.count(*refusals) == before + 1)
    assert stage.peer(puppet)["last_handshake_time_sec"] == "0"
    inner.close()


def test_private_key_change_removes_the_peer_whose_key_is_our_own(stage: Stage) -> None:
    puppet, other = Puppet(stage), Puppet(stage)
    mine = stage.identity
    stage.set(f"private_key={puppet.identity.private_key.hex()}\n")
    listed = stage.engine.uapi("get=1\n\n")
    assert puppet.identity.public_key.hex() not in listed and other.identity.public_key.hex() in listed
    stage.set(f"private_key={mine.private_key.hex()}\n")


def test_without_a_private_key_nothing_is_answered(stage: Stage) -> None:
    puppet = Puppet(stage)
    stage.set(f"private_key={bytes(32).hex()}\n")
    assert "private_key" not in stage.engine.uapi("get=1\n\n")
    puppet.send_raw(puppet.initiation()[0])
    assert puppet.hears_nothing()
    stage.set(f"private_key={stage.identity.private_key.hex()}\n")
    puppet.initiate()


def test_peer_removal_with_packets_in_flight(stage: Stage) -> None:
    """Both ways under full flow, again and again; it comes back and works, and every slot comes home."""
    puppet, other = Puppet(stage), Puppet(stage)
    key = puppet.identity.public_key.hex()
    inner = stage.inner_socket(puppet.inner4)
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
            session = puppet.session
            if session is not None:
                puppet.send(puppet.packet(bytes(600)))

    threads = [threading.Thread(target=flood) for flood in (flood_out, flood_in)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            before = stage.count("hs_initiation_accepted")
            message, state = puppet.initiation()
            puppet.send_raw(message)
            eventually(lambda before=before: stage.count("hs_initiation_accepted") > before)
            puppet.session = noise.consume_response(puppet.identity, state, puppet.hear(2).data, noise.NO_PSK)
            delivered = stage.count("tun_sent")
            eventually(lambda delivered=delivered: stage.count("tun_sent") > delivered + 20)
            stage.set(f"public_key={key}\nremove=true\n")
            assert key not in stage.engine.uapi("get=1\n\n")
            stage.set(f"public_key={key}\nendpoint={puppet.endpoint}\nallowed_ip={puppet.inner4}/32\n")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    other.initiate()
    other.send(other.packet(b"others live"))
    puppet.session = None
    eventually(lambda: not stage.report()["tokens"]["held"])  # what was in hand has left
    while not puppet.hears_nothing(0.05):
        pass
    inner.close()
    puppet.initiate()
    again = stage.inner_socket(puppet.inner4)
    again.send(b"again")
    assert eventually(lambda: puppet.hear(4).opened[28:33] == b"again")
    again.close()


def allowed_ips(stage: Stage, puppet: Puppet) -> list[str]:
    shown = stage.engine.uapi("get=1\n\n").partition(puppet.identity.public_key.hex())[2]
    lines = shown.partition("public_key=")[0].splitlines()
    return [line.removeprefix("allowed_ip=") for line in lines if line.startswith("allowed_ip=")]


def test_replace_allowed_ips_moves_them_between_peers_under_traffic(stage: Stage) -> None:
    """An allowed IP belongs to one peer; who names it last has it, for packets out and in."""
    one, two = Puppet(stage), Puppet(stage)
    for puppet in (one, two):
        puppet.initiate()
    inner = stage.inner_socket(one.inner4)
    keys = [puppet.identity.public_key.hex() for puppet in (one, two)]
    for number in range(6):
        owner, other = (one, two) if number % 2 else (two, one)
        key = keys[number % 2 ^ 1]
        assert key == owner.identity.public_key.hex()
        stage.set(f"public_key={key}\nreplace_allowed_ips=true\nallowed_ip={one.inner4}/32\n")
        assert allowed_ips(stage, owner) == [f"{one.inner4}/32"]
        assert f"{one.inner4}/32" not in allowed_ips(stage, other)
        inner.send(struct.pack("!I", number))
        assert owner.hear(4).opened[28:32] == struct.pack("!I", number)
        for sender, counter in ((other, "drop_inner_source"), (owner, "tun_sent")):
            before = stage.count(counter)
            sender.send(sender.packet(b"x", source=one.inner4))
            eventually(lambda c=counter, before=before: stage.count(c) == before + 1)
    assert one.hears_nothing() and two.hears_nothing()
    inner.close()


def test_a_single_allowed_ip_is_removed(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    key = puppet.identity.public_key.hex()
    stage.set(f"public_key={key}\nallowed_ip=-{puppet.inner4}/32\n")
    inner = stage.inner_socket(puppet.inner4)
    before = stage.count("drop_no_peer")
    inner.send(b"x")
    eventually(lambda: stage.count("drop_no_peer") == before + 1)
    inner6 = stage.inner_socket(puppet.inner6)
    inner6.send(b"y")
    assert puppet.hear(4).opened[48:49] == b"y"
    inner.close()
    inner6.close()


def test_update_only_makes_no_peer(stage: Stage) -> None:
    key = noise.Identity(os.urandom(32)).public_key.hex()
    stage.set(f"public_key={key}\nupdate_only=true\nallowed_ip=10.77.0.0/16\n")
    listed = stage.engine.uapi("get=1\n\n")
    assert key not in listed and "10.77.0.0" not in listed


def test_replace_peers_removes_all_others(stage: Stage) -> None:
    one, two = Puppet(stage), Puppet(stage)
    one.initiate()
    two.initiate()
    key = two.identity.public_key.hex()
    stage.set(f"replace_peers=true\npublic_key={key}\nendpoint={two.endpoint}\nallowed_ip={two.inner4}/32\n")
    listed = stage.engine.uapi("get=1\n\n").splitlines()
    assert [line for line in listed if line.startswith("public_key")] == [f"public_key={key}"]
    before = stage.counters()
    one.send(one.packet(b"x"))
    gone = ("drop_index_unknown", "drop_peer_gone", "drop_keypair_gone")
    eventually(lambda: sum(stage.counters()[name] - before[name] for name in gone) == 1)
    assert stage.engine.uapi("get=1\n\n").startswith(
        f"private_key={stage.identity.private_key.hex()}\nlisten_port={PORT}\n")
