"""A stopped engine leaves nothing: no process, no segment, no socket, no interface.

    host one                         host two
     └─ wg0 (plaitd) ── 10.200.1.1 ──── 10.200.1.2 ── wg0 (plaitd)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from plait.lab.namespaces import PLAIT, Engine, Host, Lab
from tests.support.tunnel import Side, check_words, eventually, two_hosts

pytestmark = pytest.mark.network


def remains(host: Host) -> dict[str, list[str]]:
    """What of an engine there still is in the host; the ping that made the traffic is none of it."""
    return {"processes": [row.name for row in host.usage() if row.name != "ping"],
            "shared memory": os.listdir(host.root / "dev/shm"),
            "sockets": os.listdir(host.root / "run/wireguard"),
            "interfaces": [name for name in os.listdir(host.root / "sys/class/net") if name.startswith("wg")]}


NOTHING: dict[str, list[str]] = {"processes": [], "shared memory": [], "sockets": [], "interfaces": []}

ENDINGS: dict[str, Callable[[Side], None]] = {
    "SIGTERM": lambda side: side.engine.process.signal(signal.SIGTERM),
    "SIGINT": lambda side: side.engine.process.signal(signal.SIGINT),
    "link deleted": lambda side: side.host.ip("link delete wg0"),
    "socket removed": lambda side: side.engine.socket_path.unlink(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_clean_end_in_the_middle_of_traffic(ending: str) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT)
        side = tunnel.initiator
        assert side.echo(tunnel.responder.address4, 2) == 2
        assert len(remains(side.host)["processes"]) >= 4
        assert remains(side.host)["shared memory"] == []  # unlinked as soon as all have it
        side.host.popen(["ping", "-n", "-q", "-i", "0.002", tunnel.responder.address4])
        ENDINGS[ending](side)
        assert side.engine.process.wait() == 0
        assert remains(side.host) == NOTHING
        tunnel.check()


def test_plaitd_goes_to_the_background_and_ends_as_cleanly() -> None:
    """As wg-quick starts it: no -f, one word; it returns when the socket listens."""
    with Lab() as lab:
        host = lab.host("one")
        launcher = host.popen(["plaitd", "wg0"])
        assert launcher.wait() == 0, launcher.output()
        engine = Engine(host, "wg0", launcher)
        assert engine.uapi("get=1\n\n").endswith("errno=0\n\n")
        assert len(host.usage()) >= 4
        host.ip("link delete wg0")
        eventually(lambda: remains(host) == NOTHING)
        check_words(launcher)


def test_started_again_at_once_with_the_same_port() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 2) == 2
        text = responder.engine.wg("showconf", "wg0")
        assert responder.engine.stop() == 0
        responder.engine = responder.host.engine("wg0", PLAIT)
        responder.engine.wg("setconf", "wg0", "/dev/stdin", text=text)
        responder.host.ip("link set wg0 up", f"address add {responder.address4}/24 dev wg0")
        # The responder knows the initiator's endpoint from showconf, so it may speak first.
        assert responder.echo(initiator.address4, 2) == 2
        assert initiator.echo(responder.address4, 2) == 2
        tunnel.check()
