"""An engine on a host that has been up for 834 days but nine minutes: its ticks wrap in the first test.

All are of the same engine, so that the last finds a used one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Lab
from tests.support.fake_peer import Puppet, Stage
from tests.support.segment_words import Memory, reserved
from tests.support.tunnel import check_words, eventually

pytestmark = pytest.mark.network

TICKS_WRAP = 1 << 56  # ns after the boot: engine/timers.h
KEEPALIVE = 32


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Lab() as lab:
        made = Stage(lab, settings="max_peers = 64\n", boottime=TICKS_WRAP - 539 * 10**9)
        yield made
        check_words(made.engine.process)


def test_everything_goes_on_when_ticks_wrap(stage: Stage) -> None:
    """A session whose end lies behind the wrap; then each timer, over it or behind it."""
    puppet, asker = Puppet(stage), Puppet(stage)
    stage.set(f"public_key={asker.identity.public_key.hex()}\npersistent_keepalive_interval=25\n")
    asker.respond(asker.hear(1))
    assert len(asker.receive().data) == KEEPALIVE
    puppet.initiate()
    stage.step(480)  # about a minute before: keys expire
    puppet.initiate()
    puppet.send(puppet.packet(b"x"))
    eventually(lambda: int(stage.peer(puppet)["rx_bytes"]) == 2 * (148 + 32) + 64)
    stage.step(9)
    assert puppet.hears_nothing()
    stage.step(1.1)
    assert len(puppet.receive().data) == KEEPALIVE  # passive
    inner = stage.inner_socket(puppet.inner4)
    stage.step(39)  # wherever the wrap is, it is within the next 30 s
    inner.send(b"x")
    assert len(puppet.hear(4).data) > KEEPALIVE
    stage.step(14)
    assert puppet.hears_nothing()
    stage.step(1.5)
    for _ in range(19):  # 15 s without an answer, and again after 5
        assert puppet.receive().kind == 1
        stage.step(5.4)
    puppet.respond(puppet.hear(1))
    assert len(puppet.receive().data) == KEEPALIVE
    stage.set(f"public_key={puppet.identity.public_key.hex()}\npersistent_keepalive_interval=25\n")
    assert len(puppet.receive().data) == KEEPALIVE
    stage.step(25.2)
    assert len(puppet.receive().data) == KEEPALIVE
    inner.close()


def test_keys_are_gone_on_the_other_side(stage: Stage) -> None:
    puppet = Puppet(stage)
    puppet.initiate()
    stage.step(541)
    sealed = puppet.sealed(puppet.packet(b"x"))
    before = stage.count("drop_keypair_gone", "drop_index_unknown")
    puppet.send_raw(sealed)
    eventually(lambda: stage.count("drop_keypair_gone", "drop_index_unknown") == before + 1)


def test_what_is_reserved_is_zero(stage: Stage) -> None:
    """A word that lives has a name (shm/layout.h): docs/memory-layout.md lists all that have one."""
    puppet = Puppet(stage)
    puppet.initiate()
    puppet.send(puppet.packet(b"x"))
    stage.set(f"public_key={puppet.identity.public_key.hex()}\nendpoint=192.0.2.9:9\n")
    puppet.send(puppet.packet(b"y"))
    eventually(lambda: stage.peer(puppet)["endpoint"] == puppet.endpoint)
    stage.set(f"public_key={puppet.identity.public_key.hex()}\nremove=true\n")
    memory = Memory(stage.engine.process.pid)
    words = reserved(memory)
    assert {"peer_row.holder_reserved", "peer_row.endpoints.reserved", "worker.reserved"} <= {*words}
    assert not [name for name, is_used in words.items() if is_used]
