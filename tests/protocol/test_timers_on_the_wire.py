"""Section 2 of the checklist, the timers, on a clock that is stepped: when what leaves, and that it must.

tests/unit/engine/test_timers.py holds the rules to the tick; here the processes hold them, each with a step
that ends before the time, by seconds that a busy machine may take for a look, and one that passes it.
"""

from __future__ import annotations

import time

import pytest

from engine import noise
from tests.support.fake_peer import Puppet, Stage
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network

KEEPALIVE = 32


def test_passive_keepalive_10_seconds_after_data(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    puppet.send(puppet.packet(b"x"))
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(148 + 32 + 32 + 32))
    stage.step(5)
    assert puppet.hears_nothing()
    stage.step(5.1)
    message = puppet.receive()
    assert (message.kind, len(message.data)) == (4, KEEPALIVE)
    stage.step(30)
    assert puppet.hears_nothing()  # it answers data, not keepalives


def test_passive_keepalive_is_cancelled_by_anything_sent(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    puppet.send(puppet.packet(b"x"))
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(148 + 32 + 32 + 32))
    stage.step(5)
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    assert len(puppet.receive().data) > KEEPALIVE
    stage.step(9)
    assert puppet.hears_nothing()
    inner.close()


def test_new_handshake_15_seconds_after_data_that_nobody_answers(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    puppet.hear(4)
    stage.step(10)
    assert puppet.hears_nothing()
    stage.step(5.5)
    assert puppet.receive().kind == 1
    inner.close()


def test_new_handshake_is_cancelled_by_anything_received(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    puppet.hear(4)
    puppet.send(b"")
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(148 + 32 + 32))
    stage.step(40)
    assert puppet.hears_nothing()
    inner.close()


def test_retransmit_every_5_seconds_twenty_times_then_give_up(stage: Stage) -> None:
    """What was staged is dropped then; a new packet starts anew."""
    puppet = Puppet(stage)
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    before = stage.count("drop_staged")
    for number in range(20):
        assert puppet.receive().kind == 1, number
        if number == 0:
            stage.step(1)
            assert puppet.hears_nothing(0.1)
            stage.step(4.4)
        else:
            stage.step(5.4)
    assert puppet.hears_nothing()
    eventually(lambda: stage.count("drop_staged") == before + 1)
    inner.send(b"y")
    puppet.respond(puppet.hear(1))
    assert puppet.hear(4).opened[28:29] == b"y"
    inner.close()


def test_answering_holds_back_our_own_initiation_for_5_seconds(stage: Stage) -> None:
    """The response was ours, it is not confirmed, and we have something to send."""
    puppet = Puppet(stage)
    message, _ = puppet.initiation()
    puppet.send_raw(message)
    assert puppet.receive().kind == 2
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    assert puppet.hears_nothing()
    stage.step(1)
    assert puppet.hears_nothing()
    stage.step(4.5)
    assert puppet.receive().kind == 1
    inner.close()


def test_persistent_keepalive_from_the_last_authenticated_packet(stage: Stage) -> None:
    """From 0 to n sends one at once, and with it begins a handshake; n seconds after the last packet comes
    the next. The initiator that has nothing else to send confirms its session with a keepalive."""
    puppet = Puppet(stage)
    stage.set(f"public_key={puppet.identity.public_key.hex()}\npersistent_keepalive_interval=25\n")
    puppet.respond(puppet.hear(1))
    confirmation = puppet.receive()
    assert (confirmation.kind, len(confirmation.data)) == (4, KEEPALIVE)
    eventually(lambda: int(stage.peer(puppet)["last_handshake_time_sec"]) >= int(time.time()) - 60)
    stage.step(20)
    puppet.send(b"")  # received: counted from here again
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(92 + 32))
    stage.step(15)
    assert puppet.hears_nothing()
    stage.step(10.2)
    assert len(puppet.receive().data) == KEEPALIVE
    stage.set(f"public_key={puppet.identity.public_key.hex()}\npersistent_keepalive_interval=0\n")
    stage.step(60)
    assert puppet.hears_nothing()


def as_initiator(stage: Stage, puppet: Puppet) -> None:
    """A session that the engine began, at rest."""
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    puppet.respond(puppet.hear(1))
    puppet.hear(4)
    puppet.send(b"")
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(92 + 32))
    inner.close()


@pytest.mark.parametrize(("age", "begins"), [(110, False), (121, True)])
def test_rekey_on_send_at_120_seconds_by_the_initiator(stage: Stage, age: int, begins: bool) -> None:
    puppet = Puppet(stage)
    as_initiator(stage, puppet)
    stage.step(age)
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"y")
    assert puppet.hear(4).opened[28:29] == b"y"  # with the old keys meanwhile
    if begins:
        assert puppet.receive().kind == 1
    else:
        assert puppet.hears_nothing()
    inner.close()


@pytest.mark.parametrize(("age", "begins"), [(155, False), (166, True)])
def test_rekey_on_receive_at_165_seconds_by_the_initiator_once(stage: Stage, age: int, begins: bool) -> None:
    puppet = Puppet(stage)
    as_initiator(stage, puppet)
    stage.step(age)
    puppet.send(b"")
    if begins:
        assert puppet.receive().kind == 1
        puppet.send(b"")
    assert puppet.hears_nothing()


def test_the_responder_does_not_rekey(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    stage.step(170)
    puppet.send(b"")
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"y")
    assert puppet.hear(4).opened[28:29] == b"y"
    assert puppet.hears_nothing()
    inner.close()


def test_keys_are_gone_after_540_seconds(stage: Stage) -> None:
    """Both roles; keypairs in use are counted by what the engine says of itself."""
    one, two = Puppet(stage), Puppet(stage)
    one.initiate()
    as_initiator(stage, two)
    stage.step(541)
    for puppet in (one, two):  # an index that names nothing: its keypair was wiped
        before = stage.counters()
        eventually(lambda p=puppet, before=before: p.send(p.packet(b"x")) or
                   stage.count("drop_index_unknown") > before["drop_index_unknown"])
        assert stage.count("tun_sent") == before["tun_sent"]


def test_last_handshake_time_is_that_of_the_confirmation(stage: Stage) -> None:
    """A responder's session counts when the first data comes, not when the response leaves."""
    puppet = Puppet(stage)
    message, state = puppet.initiation()
    puppet.send_raw(message)
    puppet.session = noise.consume_response(puppet.identity, state, puppet.hear(2).data, noise.NO_PSK)
    assert stage.peer(puppet)["last_handshake_time_sec"] == "0"
    puppet.send(b"")
    eventually(lambda: stage.peer(puppet)["last_handshake_time_sec"] != "0")
