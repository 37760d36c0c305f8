"""`plait why KEY`: what it says of each thing that can keep a peer away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine import noise
from plait.keys import encode
from plait.lab.namespaces import Lab
from plait.uapi_client import Peer
from plait.watch import why
from tests.support.fake_peer import FakePeer, Network
from tests.support.waiting import until

KEY = encode(b"\x07" * 32)
NOW = 1_800_000_000.0
ROUTE = {"device": "eth0", "gateway": None}


def peer(**fields: Any) -> Peer:
    return Peer(KEY, endpoint="192.0.2.7:51820", allowed_ips=["10.0.0.2/32"], **fields)


def event(kind: str, ago: float, **fields: Any) -> dict[str, Any]:
    return {"life": 1, "number": 1, "time": NOW - ago, "event": kind, "peer": KEY, **fields}


REPLAYED = event("timestamp_replayed", 20, source="192.0.2.7:5")
NAMELESS = event("mac1_wrong", 20, source="192.0.2.7:5")
del NAMELESS["peer"]
BEGUN = [event("handshake_begun", 30), event("unanswered", 25, tries=1, endpoint="192.0.2.7:51820")]

CASES: list[tuple[str, Peer | None, list[dict[str, Any]], dict[str, Any] | None, dict[str, int], str]] = [
    ("unknown", None, [], None, {}, "No provider is asked about unknown keys either; add it: wg set wg0"),
    ("unknown", None, [], None, {"providers": 1}, "A provider is asked about it when its initiation comes"),
    ("online", peer(handshake_sec=int(NOW) - 60), BEGUN, ROUTE, {}, "Its last handshake was 60 seconds ago"),
    ("no_allowed_ips", Peer(KEY, endpoint="192.0.2.7:5", handshake_sec=int(NOW) - 60), [NAMELESS], ROUTE, {},
     "It waits for allowed IPs. If its file names some, another peer took them"),
    ("never", peer(name="al\x1b[2Jice"), [], ROUTE, {}, "= (al?[2Jice) was never here"),
    ("idle", peer(handshake_sec=int(NOW) - 7200), [], ROUTE, {}, "Its last handshake was 2 hours ago"),
    ("never", peer(name="alice"), [], ROUTE, {}, "= (alice) was never here"),
    ("never", peer(), [], ROUTE, {}, "It has completed no handshake."),
    ("ran_out", peer(handshake_sec=int(NOW) - 60, quota=7, rx_bytes=8, ran_out="quota"), BEGUN, ROUTE, {},
     "It used 8 B of the 7 B that it may use."),
    ("ran_out", peer(expires=int(NOW) - 5, ran_out="expired"), [], ROUTE, {},
     "Its time was over at 2027-01-15 "),
    ("refused", peer(), [REPLAYED], ROUTE, {}, "its timestamp is not later than the last"),
    ("idle", peer(handshake_sec=int(NOW) - 1000), [event("timestamp_replayed", 2000)], ROUTE, {},
     "What was refused last"),
    ("unanswered", peer(), BEGUN, ROUTE, {}, "It waits for an answer to our initiations"),
    ("unconfirmed", peer(), [event("handshake_answered", 9)], ROUTE, {}, "compare PresharedKey"),
    ("unconfirmed", peer(handshake_sec=int(NOW) - 900), [*BEGUN, event("unconfirmed", 4, tries=3)], ROUTE, {},
     "What failed last"),
    ("unanswered", peer(), [event("handshake_answered", 90), *BEGUN], ROUTE, {}, "It waits for an answer"),
    ("idle", peer(handshake_sec=int(NOW) - 900), [event("handshake_answered", 899.5)], ROUTE, {},
     "is idle"),
    ("no_endpoint", Peer(KEY), [NAMELESS], None, {}, "What shows no key, and may be its, was refused last"),
    ("no_endpoint", Peer(KEY), [], None, {}, "It has no endpoint"),
    ("no_route", peer(), [], {"error": "Network is unreachable"}, {}, "no route: Network is unreachable."),
    ("no_route", peer(), [], {**ROUTE, "device": "wg0"}, {}, "leads into wg0 itself"),
]  # fmt: skip


@pytest.mark.parametrize("verdict, who, told, route, on_demand, said", CASES)
def test_a_verdict_and_what_it_stands_on(
    verdict: str, who: Peer | None, told: list[dict[str, Any]], route: dict[str, Any] | None,
    on_demand: dict[str, int], said: str,
) -> None:  # fmt: skip
    report = {"counters": {"drop_no_peer": 3, "drop_replay": 0, "udp_sent": 9}, "on_demand": on_demand}
    facts = why.explain("wg0", KEY, who, told, report, route, NOW)
    lines = why.sentences(facts, NOW)
    assert facts["verdict"] == verdict and lines[0].startswith(f"wg0: {KEY} ")
    assert said in "\n".join(lines) and all(line.endswith((".", "…", "allowed-ips …")) for line in lines)
    assert ("drop_no_peer 3" in lines[-1]) == (verdict != "online")
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.network
def test_the_command_beside_an_engine() -> None:
    with Lab() as lab:
        network = Network(lab)
        host, one = network.plait, FakePeer(network)
        key = encode(one.identity.public_key)
        never = host.run(["plait", "why", key]).stdout
        assert never.startswith(f"wg0: {key} was never here") and f"endpoint {one.endpoint}" not in never
        assert f"It is reached at {one.endpoint}, through {network.link.interface(host)}." in never
        one.initiate()
        assert "is online" in host.run(["plait", "why", key, "wg0"]).stdout
        stranger = noise.Identity(b"\x21" * 32)
        one.identity, mine = stranger, one.identity
        one.send_raw(one.initiation()[0])
        one.identity = mine
        unknown = encode(stranger.public_key)

        def refused() -> dict[str, Any] | None:
            (found,) = json.loads(host.run(["plait", "why", unknown, "--json"]).stdout)
            assert found["verdict"] == "unknown" and not found["known"]
            refusal: dict[str, Any] | None = found["last_refusal"]
            return refusal

        assert (until(refused, "the refusal is told") or {})["event"] == "unknown_peer"
        network.set(f"public_key={one.identity.public_key.hex()}\nplait_name=Alice%27s phone\n")
        for who in (key[:8] + "…", "Alice's phone"):
            assert host.run(["plait", "why", who]).stdout.startswith(f"wg0: {key} (Alice's phone) is online.")
            assert host.run(["plait", "show", "wg0", who]).stdout.startswith(f"peer: {key}\n")
        bad = host.run(["plait", "why", "nonsense"], check=False)
        assert bad.returncode == 1 and "`nonsense` is no peer here: no peer has that name" in bad.stderr
        bad = host.run(["plait", "show", "wg0", "nonsense"], check=False)
        assert bad.returncode == 1 and "Ask for one of public-key, " in bad.stderr
