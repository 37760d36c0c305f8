"""wg(8) against Plait: every step is also done to wireguard-go, and both must show the same.

    host plait                      host go
     └─ wg0 (plaitd, down)           └─ wg0 (wireguard-go, down)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plait.failure import Failure
from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Engine, Lab, Peer, keypair, preshared_key
from tests.support.tunnel import check_words, eventually, two_hosts

pytestmark = pytest.mark.network

SECRET, OWN = keypair()
KEYS = sorted(keypair()[1] for _ in range(4))
A, B, C, D = KEYS
PSK = preshared_key()


def conf(*peers: Peer, port: int = 4444) -> str:
    return f"[Interface]\nPrivateKey = {SECRET}\nListenPort = {port}\n" + "".join(p.section() for p in peers)


# name, arguments of wg, stdin. Done in this order; after each, both engines are compared.
STEPS: list[tuple[str, list[str], str | None]] = [
    ("key", ["set", "wg0", "private-key", "/dev/stdin"], SECRET),
    ("port and mark", ["set", "wg0", "listen-port", "51820", "fwmark", "0x1234"], None),
    ("a peer with everything", ["set", "wg0", "peer", A, "preshared-key", "/dev/stdin", "endpoint",
                                "192.0.2.1:1234", "persistent-keepalive", "25", "allowed-ips",
                                "10.0.0.2/32,10.1.0.0/16,fd02::/64"], PSK),
    ("a bare peer", ["set", "wg0", "peer", B], None),
    ("IPv6 endpoint", ["set", "wg0", "peer", B, "endpoint", "[2001:db8::7]:65535"], None),
    ("an allowed IP that moves", ["set", "wg0", "peer", B, "allowed-ips", "10.1.0.0/16,0.0.0.0/0,::/0"],
     None),
    ("host bits are masked", ["set", "wg0", "peer", C, "allowed-ips", "10.7.8.9/8,fd03::1:2/100"], None),
    ("no preshared key", ["set", "wg0", "peer", A, "preshared-key", "/dev/null"], None),
    ("no keepalive", ["set", "wg0", "peer", A, "persistent-keepalive", "off"], None),
    ("no allowed IPs", ["set", "wg0", "peer", A, "allowed-ips", ""], None),
    ("no mark", ["set", "wg0", "fwmark", "0"], None),
    ("two peers in one operation", ["set", "wg0", "peer", A, "allowed-ips", "10.9.0.1/32",
                                    "peer", D, "persistent-keepalive", "65535"], None),
    ("a peer goes", ["set", "wg0", "peer", B, "remove"], None),
    ("a peer that is not there goes", ["set", "wg0", "peer", B, "remove"], None),
    ("our own key is no peer", ["set", "wg0", "peer", OWN, "allowed-ips", "10.99.0.0/16"], None),
    ("setconf replaces all", ["setconf", "wg0", "/dev/stdin"],
     conf(Peer(A, ["10.0.0.2/32"], "192.0.2.9:9"), Peer(B, ["fd05::/48", "10.0.3.0/24"], preshared_key=PSK))),
    ("addconf adds", ["addconf", "wg0", "/dev/stdin"],
     Peer(C, ["10.0.3.0/25"], keepalive=3).section() + Peer(B, ["10.0.3.128/25"]).section()),
    ("syncconf removes, changes and adds", ["syncconf", "wg0", "/dev/stdin"],
     conf(Peer(A, ["10.0.0.2/32"], "192.0.2.9:10"), Peer(D, ["10.0.4.0/24"], keepalive=1), port=4445)),
    ("setconf without peers", ["setconf", "wg0", "/dev/stdin"], conf()),
    ("no key", ["set", "wg0", "private-key", "/dev/null"], None),
]


def shown(engine: Engine) -> tuple[list[str], list[str]]:
    """showconf by sections and dump by lines, sorted: neither program promises an order."""
    sections = engine.wg("showconf", "wg0").strip().split("\n\n")
    conf_lines = ["\n".join(sorted(_sorted_list(line) for line in part.splitlines())) for part in sections]
    dump = []
    for line in engine.wg("show", "wg0", "dump").splitlines():
        fields = line.split("\t")
        if len(fields) == 8:
            fields[3] = ",".join(sorted(fields[3].split(",")))
        dump.append("\t".join(fields))
    return sorted(conf_lines), dump[:1] + sorted(dump[1:])


def _sorted_list(line: str) -> str:
    key, _, value = line.partition(" = ")
    return f"{key} = {', '.join(sorted(value.split(', ')))}"


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Engine, Engine]]:
    with Lab() as lab:
        plait, go = lab.add_hosts(["plait", "go"])
        yield plait.engine("wg0", PLAIT), go.engine("wg0", WIREGUARD_GO)


def test_every_step_shows_the_same_as_wireguard_go(engines: tuple[Engine, Engine]) -> None:
    before = ""
    for name, arguments, text in STEPS:
        for engine in engines:
            engine.wg(*arguments, text=text)
        plait, go = (shown(engine) for engine in engines)
        if name == "key":  # the ports were still the engines' own choice
            continue
        assert plait == go, name
        if name not in ("a peer that is not there goes", "our own key is no peer"):
            assert plait != before, f"the step '{name}' changed nothing"
        before = plait
    check_words(engines[0].process)


def test_showconf_is_a_configuration(engines: tuple[Engine, Engine]) -> None:
    plait = engines[0]
    plait.wg("setconf", "wg0", "/dev/stdin",
             text=conf(Peer(A, ["10.0.0.2/32", "fd00::/8"], "[fe80::1]:2", PSK, 7), Peer(B, ["0.0.0.0/0"])))
    first = shown(plait)
    text = plait.wg("showconf", "wg0")
    plait.wg("setconf", "wg0", "/dev/stdin", text=conf())
    assert shown(plait) != first
    plait.wg("setconf", "wg0", "/dev/stdin", text=text)
    assert shown(plait) == first


def test_wg_says_no_such_device_for_what_is_not_there(engines: tuple[Engine, Engine]) -> None:
    with pytest.raises(Failure, match="Unable to access interface"):
        engines[0].wg("show", "wg7")


def test_syncconf_keeps_the_session() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, WIREGUARD_GO)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 2) == 2
        handshake = initiator.handshake()
        text = initiator.engine.wg("showconf", "wg0")
        initiator.engine.wg("syncconf", "wg0", "/dev/stdin",
                            text=text + Peer(keypair()[1], ["10.0.77.0/24"]).section())
        assert initiator.echo(responder.address4, 2) == 2
        assert initiator.engine.uapi("get=1\n\n").count("public_key=") == 2
        assert f"last_handshake_time_nsec={handshake[1]}" in initiator.engine.uapi("get=1\n\n")
        tunnel.check()


def test_removed_peer_and_removed_allowed_ip_stop_traffic_at_once() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, WIREGUARD_GO, PLAIT)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 2) == 2
        wrong = responder.counters()["drop_inner_source"]
        responder.engine.wg("set", "wg0", "peer", initiator.public_key, "allowed-ips", initiator.address6)
        assert initiator.echo(responder.address4, 2, timeout=0.3) == 0
        eventually(lambda: responder.counters()["drop_inner_source"] == wrong + 2)
        assert initiator.echo(responder.address6, 2) == 2
        nobody = responder.counters()["drop_no_peer"]
        assert responder.echo(initiator.address4, 1, timeout=0.3) == 0
        eventually(lambda: responder.counters()["drop_no_peer"] > nobody)
        responder.engine.wg("set", "wg0", "peer", initiator.public_key, "remove")
        assert initiator.echo(responder.address6, 2, timeout=0.3) == 0
        gone = ("drop_index_unknown", "drop_peer_gone", "drop_keypair_gone")
        eventually(lambda: sum(responder.counters()[name] for name in gone) >= 2)
        tunnel.check()


def test_listen_port_moves_while_the_tunnel_is_up() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, WIREGUARD_GO)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 2) == 2
        initiator.engine.wg("set", "wg0", "listen-port", "40000")
        assert initiator.echo(responder.address4, 2) == 2
        assert responder.get()["endpoint"] == tunnel.link.endpoint(initiator.host, 40000)
        assert initiator.engine.wg("show", "wg0", "listen-port").strip() == "40000"
        tunnel.check()
