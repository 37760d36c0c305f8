"""An engine on a host that has been up for 834 days but nine minutes: its ticks wrap in the first test.

All are of the same engine, so that the last finds a used one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Lab
from tests.support.fake_peer import FakePeer, Network
from tests.support.segment_words import Memory, reserved
from tests.support.tunnel import check_words, eventually

pytestmark = pytest.mark.network

TICKS_WRAP = 1 << 56  # ns after the boot: engine/timers.h
KEEPALIVE = 32


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Lab() as lab:
        made = Network(lab, settings="max_peers = 64\n", boottime=TICKS_WRAP - 539 * 10**9)
        yield made
        check_words(made.engine.process)


def test_everything_goes_on_when_ticks_wrap(network: Network) -> None:
    """A session whose end lies behind the wrap; then each timer, over it or behind it."""
    peer, asker = FakePeer(network), FakePeer(network)
    network.set(f"public_key={asker.identity.public_key.hex()}\npersistent_keepalive_interval=25\n")
    asker.respond(asker.hear(1))
    assert len(asker.receive().data) == KEEPALIVE
    peer.initiate()
    network.step(480)  # about a minute before: keys expire
    peer.initiate()
    peer.send(peer.packet(b"x"))
    eventually(lambda: int(network.peer(peer)["rx_bytes"]) == 2 * (148 + 32) + 64)
    network.step(9)
    assert peer.hears_nothing()
    network.step(1.1)
    assert len(peer.receive().data) == KEEPALIVE  # passive
    inner = network.inner_socket(peer.inner4)
    network.step(39)  # wherever the wrap is, it is within the next 30 s
    inner.send(b"x")
    assert len(peer.hear(4).data) > KEEPALIVE
    network.step(14)
    assert peer.hears_nothing()
    network.step(1.5)
    for _ in range(19):  # 15 s without an answer, and again after 5
        assert peer.receive().kind == 1
        network.step(5.4)
    peer.respond(peer.hear(1))
    assert len(peer.receive().data) == KEEPALIVE
    network.set(f"public_key={peer.identity.public_key.hex()}\npersistent_keepalive_interval=25\n")
    assert len(peer.receive().data) == KEEPALIVE
    network.step(25.2)
    assert len(peer.receive().data) == KEEPALIVE
    inner.close()


def test_keys_are_gone_on_the_other_side(network: Network) -> None:
    peer = FakePeer(network)
    peer.initiate()
    network.step(541)
    sealed = peer.sealed(peer.packet(b"x"))
    before = network.count("drop_keypair_gone", "drop_index_unknown")
    peer.send_raw(sealed)
    eventually(lambda: network.count("drop_keypair_gone", "drop_index_unknown") == before + 1)


def test_what_is_reserved_is_zero(network: Network) -> None:
    """A word that lives has a name (shm/layout.h): docs/memory-layout.md lists all that have one."""
    peer = FakePeer(network)
    peer.initiate()
    peer.send(peer.packet(b"x"))
    network.set(f"public_key={peer.identity.public_key.hex()}\nendpoint=192.0.2.9:9\n")
    peer.send(peer.packet(b"y"))
    eventually(lambda: network.peer(peer)["endpoint"] == peer.endpoint)
    network.set(f"public_key={peer.identity.public_key.hex()}\nremove=true\n")
    memory = Memory(network.engine.process.pid)
    words = reserved(memory)
    assert {"peer_row.holder_reserved", "peer_row.endpoints.reserved", "worker.reserved"} <= {*words}
    assert not [name for name, is_used in words.items() if is_used]
