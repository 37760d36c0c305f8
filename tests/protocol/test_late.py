"""Whatever comes last of what sending needs starts what waits: docs/reliability.md has the table.

Packets that wait for a key wait for ever where nothing starts them, and the first persistent keepalive
is 25 s away.
"""

from __future__ import annotations

import pytest

from tests.support.fake_peer import Puppet, Stage

pytestmark = pytest.mark.network

ALIVE = "persistent_keepalive_interval=25\n"


def key(stage: Stage, private: bytes) -> str:
    return f"private_key={private.hex()}\n"


def ask(stage: Stage, puppet: Puppet, more: str) -> None:
    stage.set(f"public_key={puppet.identity.public_key.hex()}\n{more}")


@pytest.mark.parametrize("what", ["a packet", "a keepalive"])
def test_the_key_comes_last(stage: Stage, what: str) -> None:
    stage.set(key(stage, bytes(32)))
    puppet = Puppet(stage)
    if what == "a packet":
        stage.inner_socket(puppet.inner4).send(b"early")
    else:
        ask(stage, puppet, ALIVE)
    assert puppet.hears_nothing()
    stage.set(key(stage, stage.identity.private_key))
    puppet.respond(puppet.hear(1))
    assert puppet.receive().kind == 4
    ask(stage, puppet, "persistent_keepalive_interval=0\n")


def test_the_endpoint_comes_last(stage: Stage) -> None:
    puppet = Puppet(stage, endpoint=False)
    ask(stage, puppet, ALIVE)
    assert puppet.hears_nothing()
    ask(stage, puppet, f"endpoint={puppet.endpoint}\n")
    puppet.respond(puppet.hear(1))
    assert puppet.receive().kind == 4
    # Moved with a session, nothing is due.
    ask(stage, puppet, f"endpoint={Puppet(stage).endpoint}\npersistent_keepalive_interval=0\n")


def test_the_peer_comes_last(stage: Stage) -> None:
    puppet = Puppet(stage)
    ask(stage, puppet, "remove=true\n")
    ask(stage, puppet, f"endpoint={puppet.endpoint}\n{ALIVE}")
    puppet.respond(puppet.hear(1))
    assert puppet.receive().kind == 4
    ask(stage, puppet, "persistent_keepalive_interval=0\n")


def test_an_allowed_ip_comes_last(stage: Stage) -> None:
    puppet = Puppet(stage)
    address = "10.0.0.200"
    inner = stage.inner_socket(address)
    inner.send(b"dropped")
    assert puppet.hears_nothing()
    ask(stage, puppet, f"allowed_ip={address}/32\n")
    inner.close()
    inner = stage.inner_socket(address)
    inner.send(b"next")
    puppet.respond(puppet.hear(1))
    assert puppet.hear(4).opened[28:32] == b"next"
    inner.close()


def test_the_route_comes_last(stage: Stage) -> None:
    """Outside; without an answer the initiation is sent again after 5 s, so that this cannot tell at once."""
    puppet = Puppet(stage)
    network = "10.200.1.0/24"
    route = stage.plait.run(["ip", "route", "show", network]).stdout.split()
    stage.plait.ip(f"route delete {network}")
    stage.inner_socket(puppet.inner4).send(b"early")
    assert puppet.hears_nothing()
    stage.plait.ip(f"route add {' '.join(word for word in route if word != 'linkdown')}")
    puppet.respond(puppet.hear(1))
    assert puppet.hear(4).opened[28:33] == b"early"


def test_up_comes_last(stage: Stage) -> None:
    """The last test with this stage: its inner addresses of IPv6 go with down."""
    stage.plait.ip("link set wg0 down")
    puppet = Puppet(stage)
    ask(stage, puppet, ALIVE)
    assert puppet.hears_nothing()
    stage.plait.ip("link set wg0 up")
    puppet.respond(puppet.hear(1))
    assert puppet.receive().kind == 4
