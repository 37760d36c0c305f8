"""Two engines that know nothing of each other but the protocol.

    initiator                                                       responder
    wg0 10.0.0.1 fd01::1                                wg0 10.0.0.2 fd01::2
     └─ eth0 10.200.1.1 fd00:200:1::1 ──── 10.200.1.2 fd00:200:1::2 eth0 ─┘

Only the initiator has an endpoint for its peer. The pair of two wireguard-go holds the tests
themselves against an engine that is known to be right.
"""

from __future__ import annotations

import pytest

from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab, preshared_key
from tests.support.tunnel import Transfer, eventually, transfer_each_way, two_hosts

pytestmark = pytest.mark.network

PAIRS = {"plait-go": (PLAIT, WIREGUARD_GO), "go-plait": (WIREGUARD_GO, PLAIT), "plait-plait": (PLAIT, PLAIT)}
CONTROL = {"go-go": (WIREGUARD_GO, WIREGUARD_GO)}
ALL = PAIRS | CONTROL
MEGABYTE = 10**6


@pytest.mark.parametrize("psk", [False, True], ids=["plain", "psk"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pair", ALL)
def test_handshake_and_exact_bytes(pair: str, version: int, psk: bool) -> None:
    """Ten pings cost exactly one handshake and ten messages each way, and not a byte more."""
    with Lab() as lab:
        tunnel = two_hosts(lab, *ALL[pair], version=version, psk=psk)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 10) == 10
        # 10 * (84 padded to 96, 32 of overhead); handshake 148 or 92; perhaps a keepalive of 32.
        received, sent = initiator.transfer()
        assert received == 92 + 1280
        assert sent in (148 + 1280, 148 + 1280 + 32)
        assert responder.transfer() == (sent, received)
        assert responder.get()["endpoint"] == tunnel.link.endpoint(initiator.host, 51820, version)
        assert initiator.handshake() != (0, 0) != responder.handshake()
        assert responder.echo(initiator.address6, 3) == 3
        transfer_each_way(*tunnel.sides, MEGABYTE, 6)
        tunnel.check()


@pytest.mark.parametrize("pair", PAIRS)
def test_wrong_preshared_key_gives_no_session(pair: str) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, *PAIRS[pair], psk=True)
        initiator, responder = tunnel.sides
        right = initiator.engine.wg("show", "wg0", "preshared-keys").split()[1]
        change = ("set", "wg0", "peer", initiator.public_key, "preshared-key", "/dev/stdin")
        responder.engine.wg(*change, text=preshared_key())
        assert initiator.echo(responder.address4, 1, timeout=0.5) == 0
        assert initiator.handshake() == (0, 0) == responder.handshake()
        responder.engine.wg(*change, text=right)
        # The initiator tries again after 5 s and at most 333 ms of jitter, for the ping that waits.
        eventually(lambda: initiator.echo(responder.address4, 1, timeout=0.5))
        tunnel.check()


@pytest.mark.parametrize(("version", "megabytes"), [(4, 100), (6, 10)])
@pytest.mark.parametrize("pair", PAIRS)
def test_many_megabytes_each_way(pair: str, version: int, megabytes: int) -> None:
    """A long stream in each direction of each pair; what differs over IPv6 shows in its first megabytes."""
    with Lab() as lab:
        tunnel = two_hosts(lab, *PAIRS[pair], version=version, psk=True)
        initiator, responder = tunnel.sides
        for source, target in ((initiator, responder), (responder, initiator)):
            Transfer(source.host, target.host, target.address(10 - version), megabytes * MEGABYTE).finish()
        tunnel.check()


@pytest.mark.parametrize(("responder", "megabytes"), [(PLAIT, 100), (WIREGUARD_GO, 20)], ids=["plait", "go"])
def test_each_way_at_once_two_receivers_two_consumers(responder: tuple[str, ...], megabytes: int) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, responder, settings="receivers = 2\nconsumers = 2\n")
        transfer_each_way(*tunnel.sides, megabytes * MEGABYTE)
        processes = [(row["role"], row["number"]) for row in tunnel.initiator.report()["processes"]]
        assert sorted(processes) == [("consumer", 0), ("consumer", 1), ("control", 0), ("receiver", 0),
                                     ("receiver", 1), ("supervisor", 0)]
        tunnel.check()
