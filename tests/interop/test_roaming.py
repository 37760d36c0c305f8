"""A peer that changes its outer address keeps its session, and is answered where it is now.

    initiator 10.200.1.1 -> 10.200.1.77, then fd00:200:1::1 ──── 10.200.1.2 fd00:200:1::2 responder
     wg0 10.0.0.1                                                                wg0 10.0.0.2

Only Plait loses an address here: when the sticky source is gone, kernels since about 6.17 refuse with
ENETUNREACH instead of EINVAL, and wireguard-go 0.0.20220316 knows only the latter.
"""

from __future__ import annotations

import pytest

from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab
from tests.support.tunnel import Side, two_hosts

pytestmark = pytest.mark.network

PAIRS = {"plait-go": (PLAIT, WIREGUARD_GO), "go-plait": (WIREGUARD_GO, PLAIT), "plait-plait": (PLAIT, PLAIT)}


def answers(pair: str, side: Side, address: str) -> bool:
    """Whether three echoes are answered, after a change of family.

    wireguard-go 0.0.20231211 and 0.0.20260522 lose some messages then: they write the longer address into
    a shorter one of their pool, which cuts it, and get ENETUNREACH. Each such loss mends one of the pool.
    """
    tries, timeout = (20, 2) if WIREGUARD_GO in PAIRS[pair] else (1, 10)
    return any(side.echo(address, 3, timeout) == 3 for _ in range(tries))


@pytest.mark.parametrize("pair", PAIRS)
def test_session_follows_the_address(pair: str) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, *PAIRS[pair])
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 3) == 3
        handshake = responder.handshake()
        if PAIRS[pair][0] is PLAIT:
            moved = "10.200.1.77:51820"
            initiator.host.ip("address del 10.200.1.1/24 dev eth0", "address add 10.200.1.77/24 dev eth0")
        else:
            moved = tunnel.link.endpoint(initiator.host, 40000)
            initiator.engine.wg("set", "wg0", "listen-port", "40000")
        assert initiator.echo(responder.address4, 3) == 3
        assert responder.get()["endpoint"] == moved
        # The other family: told to the initiator, learnt by the responder.
        there = tunnel.link.endpoint(responder.host, 51820, 6)
        initiator.engine.wg("set", "wg0", "peer", responder.public_key, "endpoint", there)
        assert answers(pair, initiator, responder.address4)
        port = int(moved.rpartition(":")[2])
        assert responder.get()["endpoint"] == tunnel.link.endpoint(initiator.host, port, 6)
        assert answers(pair, responder, initiator.address4)
        assert responder.handshake() == handshake
        tunnel.check()


@pytest.mark.parametrize("pair", ["go-plait", "plait-plait"])
def test_answers_leave_from_the_address_that_was_asked(pair: str) -> None:
    """The responder has two addresses; the initiator accepts none but the one it wrote to."""
    with Lab() as lab:
        tunnel = two_hosts(lab, *PAIRS[pair])
        initiator, responder = tunnel.sides
        responder.host.ip("address add 10.200.1.99/24 dev eth0")
        there = "10.200.1.99:51820"
        initiator.engine.wg("set", "wg0", "peer", responder.public_key, "endpoint", there)
        assert initiator.echo(responder.address4, 3) == 3
        assert initiator.get()["endpoint"] == there
        # The address goes; answers must not be lost with it for long.
        responder.host.ip("address del 10.200.1.99/24 dev eth0")
        assert responder.echo(initiator.address4, 3) >= 2
        assert initiator.get()["endpoint"] == tunnel.link.endpoint(responder.host, 51820)
        tunnel.check()
