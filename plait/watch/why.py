"""`plait why KEY`: why is this peer offline? What the engine knows of one public key, in sentences.

From the peer's row (`get=1` of one peer), the events that name its key, the engine's report, and the kernel's
route to its endpoint. Nothing is measured or sent: what is not known is not said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from typing import Any, Final

from engine import constants
from plait import keys, plaitd_client, uapi_client
from plait.failure import Failure
from plait.uapi_client import Peer
from plait.watch import engines, events, which_peer
from plait.watch.show import amount
from plait.watch.terminal import printable
from workers.control.events import FAILURES, REFUSALS, Event

SESSION: Final = constants.REJECT_AFTER_TIME // constants.SECOND  # seconds in which a session may be used
BEGUN: Final = (Event.HANDSHAKE_BEGUN, Event.UNANSWERED, Event.GIVEN_UP)
OFFERED: Final = (Event.HANDSHAKE_ANSWERED, Event.UNCONFIRMED)
# Refusals of messages that show no key: they may be anybody's, this peer's too.
NAMELESS: Final = (Event.MAC1_WRONG, Event.INITIATION_TAG)
_UNITS: Final = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


def run(who: str, interface: str | None, *, as_json: bool) -> None:
    """Print what every engine, or one, knows of a peer: of its public key, the start of it, or its name."""
    key = who if keys.is_key(who) else _key_of(who, interface)
    found = []
    for name, (peer, told, report) in engines.ask(
        engines.names(interface), lambda name, patience: look(name, key, patience)
    ):
        route = route_to(peer.endpoint) if peer is not None and peer.endpoint else None
        found.append(explain(name, key, peer, told, report, route, time.time()))
    if not found:
        raise engines.none_runs("nobody can be asked about that key")
    if any(each["known"] for each in found):
        found = [each for each in found if each["known"]]  # of the others it is nobody's
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("\n".join("\n".join(sentences(each)) + "\n" for each in found))


def _key_of(who: str, interface: str | None) -> str:
    told = engines.ask(engines.names(interface), uapi_client.get)
    peers = [peer for _, device in told for peer in device.peers]
    try:
        return which_peer.key_of(who, peers)
    except which_peer.NoPeer as failure:
        if peers:
            raise
        why = "it is no public key (44 characters of base64, the last one =), and no engine here has peers"
        raise Failure(failure.what, why, "See which engines run: plait show interfaces") from None


def look(
    name: str, key: str, patience: float
) -> tuple[Peer | None, list[dict[str, Any]], dict[str, Any]]:
    """What one engine tells: the peer, its events and those that may be its, the engine's report."""
    try:
        peer = uapi_client.get_peer(name, key, patience)
    except uapi_client.Unknown:
        peer = None
    told = plaitd_client.events(name, patience)
    mine = [each for each in told if _is_of(key, each) or each["event"] in NAMELESS]
    return peer, mine, plaitd_client.engine(name, patience)


def _is_of(key: str, event: dict[str, Any]) -> bool:
    return key in (event.get("peer"), event.get("claimed_key"))


def route_to(endpoint: str) -> dict[str, Any]:
    """How the kernel would send to that address: `device` and `gateway`, or `error`."""
    address = endpoint.rpartition(":")[0].strip("[]").partition("%")[0]
    command = ["ip", "-json", "route", "get", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode:
            return {"error": done.stderr.strip().removeprefix("RTNETLINK answers: ") or "unknown"}
        (route,) = json.loads(done.stdout)
        return {"device": route.get("dev"), "gateway": route.get("gateway")}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"error": f"ip(8) cannot be asked ({error})"}


def explain(
    name: str, key: str, peer: Peer | None, told: list[dict[str, Any]], report: dict[str, Any],
    route: dict[str, Any] | None, now: float,
) -> dict[str, Any]:  # fmt: skip
    """Everything as data; `verdict` is one of online, no_allowed_ips, idle, unknown, ran_out, refused,
    unanswered, unconfirmed, no_endpoint, no_route, never. told: events of this key and NAMELESS ones, the
    oldest first. now: seconds since 1970."""
    nameless = [each for each in told if not _is_of(key, each)]
    told = [each for each in told if _is_of(key, each)]
    refused = [each for each in told if each["event"] in REFUSALS]
    failed = [each for each in told if each["event"] in FAILURES]
    drops = {key: count for key, count in report["counters"].items() if key.startswith("drop_") and count}
    on_demand = report.get("on_demand", {})
    facts: dict[str, Any] = {
        "interface": name,
        "public_key": key,
        "name": None if peer is None else peer.name or None,
        "known": peer is not None,
        "on_demand": peer is not None and peer.others.get("on_demand") == "1",
        "has_provider": bool(on_demand.get("providers")),
        "endpoint": None if peer is None else peer.endpoint or None,
        "allowed_ips": [] if peer is None else peer.allowed_ips,
        "latest_handshake": 0 if peer is None else peer.handshake_sec,
        "rx_bytes": 0 if peer is None else peer.rx_bytes,
        "tx_bytes": 0 if peer is None else peer.tx_bytes,
        "route": route,
        "quota": 0 if peer is None else peer.quota,
        "expires": 0 if peer is None else peer.expires,
        "ran_out": None if peer is None else peer.ran_out or None,
        "last_refusal": refused[-1] if refused else None,
        "last_failure": failed[-1] if failed else None,
        "last_nameless": nameless[-1] if nameless else None,
        "drops": drops,
    }
    return {**facts, "verdict": _verdict(name, facts, told, now)}


def _verdict(name: str, facts: dict[str, Any], told: list[dict[str, Any]], now: float) -> str:
    if not facts["known"]:
        return "unknown"
    if facts["ran_out"]:
        return "ran_out"
    age = now - facts["latest_handshake"]
    refusal = facts["last_refusal"]
    if facts["latest_handshake"] and age < SESSION:
        return "online" if facts["allowed_ips"] else "no_allowed_ips"
    if refusal is not None and refusal["time"] > facts["latest_handshake"]:
        return "refused"
    route = facts["route"]
    if facts["endpoint"] is None:
        return "no_endpoint"
    if route is not None and ("error" in route or route["device"] == name):
        return "no_route"
    tried = [each for each in told if each["event"] in BEGUN + OFFERED]
    if tried and int(tried[-1]["time"]) > facts["latest_handshake"]:  # which has no fractions of a second
        if tried[-1]["event"] in OFFERED:
            return "unconfirmed"
        if tried[-1]["event"] in BEGUN[1:]:
            return "unanswered"
    return "idle" if facts["latest_handshake"] else "never"


# --- sentences ----------------------------------------------------------------------------------

_VERDICTS: Final = {
    "online": "is online",
    "no_allowed_ips": "is connected, and every packet from it is dropped: it has no allowed IPs",
    "idle": "is idle: its session is over, and since then neither side had anything to send",
    "unknown": "is no peer here",
    "ran_out": "was cut off: it ran out",
    "refused": "is offline: what it sends is refused",
    "unanswered": "is offline: it does not answer",
    "unconfirmed": "is offline: it takes up no session that we offer",
    "no_endpoint": "is offline: it is not known where it is",
    "no_route": "is offline: there is no way to it",
    "never": "was never here: no handshake came from it, and none was tried",
}
_HEARD: Final = ("online", "no_allowed_ips", "ran_out", "refused")  # its messages name it
_NEXT: Final = {
    "online": "It waits for nothing.",
    "no_allowed_ips": "It waits for allowed IPs. If its file names some, another peer took them: a prefix is "
                      "the last one's that was given it (plait show {name} allowed-ips).",
    "idle": "It waits for a packet: the next one, from either side, begins a session.",
    "ran_out": "It waits for a larger quota or a later expiry (docs/quotas.md).",
    "unanswered": "It waits for an answer to our initiations: check UDP on the path, and that it runs.",
    "unconfirmed": "It waits for our answer: check the way back, and compare PresharedKey on both sides.",
    "no_endpoint": "It waits for the other side: give it an Endpoint here, or have the other side begin.",
    "no_route": "It waits for a route to its endpoint (ip route get …).",
    "never": "It waits for a packet: from inside to its allowed IPs, or an initiation of the other side.",
}


def sentences(facts: dict[str, Any], now: float | None = None) -> list[str]:
    """What `explain` found, for people."""
    now = time.time() if now is None else now
    name = facts["interface"]
    called = f" ({printable(facts['name'])})" if facts["name"] else ""
    lines = [f"{name}: {facts['public_key']}{called} {_VERDICTS[facts['verdict']]}."]
    if facts["known"]:
        ips = ", ".join(facts["allowed_ips"]) or "no allowed IPs"
        how = "on demand, by the provider" if facts["on_demand"] else "by hand"
        lines.append(f"It was set {how}, with {ips}.")
        if facts["latest_handshake"]:
            ago = _ago(now - facts["latest_handshake"])
            lines.append(f"Its last handshake was {ago} ago; {amount(facts['rx_bytes'])} came from it and "
                         f"{amount(facts['tx_bytes'])} went to it.")  # fmt: skip
        else:
            lines.append("It has completed no handshake.")
        if facts["quota"]:
            used = facts["rx_bytes"] + facts["tx_bytes"]
            lines.append(f"It used {amount(used)} of the {amount(facts['quota'])} that it may use.")
        if facts["expires"]:
            until = datetime.fromtimestamp(facts["expires"]).strftime("%Y-%m-%d %H:%M:%S")
            lines.append(f"Its time {'was' if facts['expires'] <= now else 'is'} over at {until}.")
        lines += _where(name, facts)
    elif facts["has_provider"]:
        lines.append("A provider is asked about it when its initiation comes (docs/on-demand.md).")
    else:
        lines.append("No provider is asked about unknown keys either; add it: wg set "
                     f"{name} peer {facts['public_key']} allowed-ips …")  # fmt: skip
    for which, words in (("last_refusal", "was refused last"), ("last_failure", "failed last")):
        if event := facts[which]:
            when = datetime.fromtimestamp(event["time"]).strftime("%Y-%m-%d %H:%M:%S")
            text = events.text(name, event).partition(f"{name}: ")[2]
            lines.append(f"What {words}, {when}: {text}.")
    if (event := facts["last_nameless"]) and facts["verdict"] not in _HEARD:
        when = datetime.fromtimestamp(event["time"]).strftime("%Y-%m-%d %H:%M:%S")
        text = events.text(name, event).partition(f"{name}: ")[2]
        lines.append(f"What shows no key, and may be its, was refused last, {when}: {text}.")
    if facts["verdict"] in _NEXT:
        lines.append(_NEXT[facts["verdict"]].format(name=name))
    if facts["drops"] and facts["verdict"] != "online":
        most = sorted(facts["drops"].items(), key=lambda pair: -pair[1])[:3]
        causes = ", ".join(f"{cause} {count}" for cause, count in most)
        lines.append(f"Of all peers of {name}, packets were dropped: {causes} (plait show --engine {name}).")
    return lines


def _where(name: str, facts: dict[str, Any]) -> list[str]:
    route = facts["route"]
    if facts["endpoint"] is None:
        return ["It has no endpoint: it was never heard of, and none was set."]
    line = f"It is reached at {facts['endpoint']}"
    if route is None:
        return [f"{line}."]
    if "error" in route:
        return [f"{line}, to which there is no route: {route['error']}."]
    if route["device"] == name:
        return [f"{line}, and the route to that leads into {name} itself: give it a route of its own."]
    gateway = f" by way of {route['gateway']}" if route["gateway"] else ""
    return [f"{line}, through {route['device']}{gateway}."]


def _ago(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= 2 * length or length == 1:
            return f"{int(seconds // length)} {unit}"
    raise AssertionError("a second is the last unit")

