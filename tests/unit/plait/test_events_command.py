"""`plait events` against a plaitd: each cause is brought about, and appears with its words.

    host plait   wg0 -- plaitd -- eth0 ---- eth0 -- fake peers   host peers

The fake peers (tests/support/fake_peer.py) hold real keys and send what a test says, right or wrong.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import cookie, noise
from plait.failure import Failure
from plait.lab.namespaces import Lab, keypair, read_proc
from plait.watch import events
from plait.watch.event_words import WORDS, Words
from tests.support.fake_peer import FakePeer, Network
from tests.support.tunnel import check_words, eventually
from tests.support.waiting import PATIENCE
from workers.control.events import Event

WRONG = b"\x55" * 32
STRANGER = noise.Identity(b"\x56" * 32)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Lab() as lab:
        made = Network(lab)
        yield made
        check_words(made.engine.process)


def told(network: Network) -> list[dict[str, Any]]:
    """What the engine remembers."""
    lines = network.engine.uapi("events=0\n\n").removesuffix("errno=0\n\n").splitlines()
    return [json.loads(line.removeprefix("event=")) for line in lines]


class Watch:
    """Events from now on."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.last = (told(network)[-1]["life"], told(network)[-1]["number"])

    def find(self, event: Event) -> dict[str, Any] | None:
        for each in told(self.network):
            if (each["life"], each["number"]) > self.last and each["event"] == event and "more" not in each:
                return each
        return None

    def expect(self, event: Event, timeout: float = PATIENCE) -> str:
        """The line of the first such event, without its time."""
        return self.line(self.event(event, timeout))

    def event(self, event: Event, timeout: float = PATIENCE) -> dict[str, Any]:
        found: dict[str, Any] = eventually(lambda: self.find(event), timeout)
        return found

    @staticmethod
    def line(event: dict[str, Any]) -> str:
        return events.text("wg0", event)[len("2026-01-31 12:00:01.482 ") :]


@pytest.fixture
def watch(network: Network) -> Watch:
    return Watch(network)


@pytest.fixture
def peer(network: Network) -> Iterator[FakePeer]:
    peer = FakePeer(network)
    yield peer
    network.set(f"public_key={key(peer)}\nremove=true\n")
    peer.socket.close()


def key(peer: FakePeer) -> str:
    return peer.identity.public_key.hex()


def short(peer: FakePeer) -> str:
    return b64encode(peer.identity.public_key).decode()[:8] + "…"


def flip(message: bytes, at: int) -> bytes:
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def again(peer: FakePeer, message: bytes) -> bytes:
    """The same with macs that are right."""
    return cookie.add_macs(message[:-32], peer.network.identity.mac1_key, None)


def stranger(peer: FakePeer) -> bytes:
    keys = noise.PeerKeys(STRANGER, peer.network.identity.public_key)
    body, _ = noise.create_initiation(STRANGER, keys, 1, bytes(12))
    return cookie.add_macs(body, keys.mac1_key, None)


def cookie_reply(peer: FakePeer, to: bytes) -> bytes:
    return cookie.create_cookie_reply(peer.identity.cookie_key, WRONG, to, b"\x7f\0\0\1", 1)


# --- refusals -----------------------------------------------------------------------------------

REFUSED: list[tuple[Event, Callable[[FakePeer], bytes], str]] = [
    (Event.MAC1_WRONG, lambda p: flip(p.initiation()[0], 120),
     "initiation from {from} (unproven) refused: its mac1 was made for another public key; check the "
     "PublicKey that this peer has configured for us against ours (plait show)"),
    (Event.UNKNOWN_PEER, stranger, "it shows the public key {stranger}, which no peer of wg0 has"),
    (Event.INITIATION_TAG, lambda p: again(p, flip(p.initiation()[0], 50)), "it does not decrypt: altered"),
    (Event.INITIATION_TAG, lambda p: again(p, flip(p.initiation()[0], 100)),
     "it does not decrypt, and names the key {key}: altered"),
    (Event.LOW_ORDER, lambda p: again(p, p.initiation()[0][:8] + bytes(32) + bytes(108)), "of low order"),
    (Event.RESPONSE_UNKNOWN, lambda p: again(p, b"\2\0\0\0" + bytes(88)), "no handshake that is in progress"),
    (Event.COOKIE_UNEXPECTED, lambda p: b"\3\0\0\0" + bytes(60), "it answers nothing that we sent"),
]  # fmt: skip


@pytest.mark.network
@pytest.mark.parametrize(("event", "make", "words"), REFUSED, ids=lambda value: str(value)[:20])
def test_refused_message(
    watch: Watch, peer: FakePeer, event: Event, make: Callable[[FakePeer], bytes], words: str
) -> None:
    peer.send_raw(make(peer))
    line = watch.expect(event)
    b64 = b64encode(peer.identity.public_key).decode()
    other = b64encode(STRANGER.public_key).decode()
    words = words.replace("{from}", peer.endpoint).replace("{key}", b64).replace("{stranger}", other)
    assert words in line and f"from {peer.endpoint} (unproven) refused" in line


@pytest.mark.network
def test_replayed_initiation(watch: Watch, peer: FakePeer) -> None:
    message, _ = peer.initiation()
    peer.send_raw(message)
    watch.event(Event.HANDSHAKE_ANSWERED)
    peer.send_raw(message)
    line = watch.expect(Event.TIMESTAMP_REPLAYED)
    refused = f"initiation of {short(peer)} from {peer.endpoint} (unproven) refused"
    assert f"{refused}: its timestamp is not later than the last" in line
    assert "check that peer's clock" in line


@pytest.mark.network
def test_initiations_too_close_together(watch: Watch, peer: FakePeer) -> None:
    def two_within_20_ms() -> bool:
        before = watch.network.count("handshake_to_control")
        for message in [peer.initiation()[0] for _ in range(3)]:
            peer.send_raw(message)
        eventually(lambda: watch.network.count("handshake_to_control") >= before + 3)
        return watch.find(Event.INITIATION_FLOOD) is not None

    eventually(two_within_20_ms)
    assert "it came less than 20 ms after the one before" in watch.expect(Event.INITIATION_FLOOD)


@pytest.mark.network
def test_a_wrong_preshared_key_is_seen_from_either_side(network: Network, watch: Watch,
                                                        peer: FakePeer) -> None:
    network.set(f"public_key={key(peer)}\npreshared_key={WRONG.hex()}\npersistent_keepalive_interval=25\n")
    peer.respond(peer.hear(1))  # without any preshared key
    line = watch.expect(Event.RESPONSE_TAG)
    assert f"response of {short(peer)} from {peer.endpoint} (unproven) refused" in line
    assert "most likely the preshared keys of the two sides differ; compare PresharedKey on both" in line
    for _ in range(2):
        time.sleep(0.03)
        peer.send_raw(peer.initiation()[0])
        peer.hear(2)
    line = watch.expect(Event.UNCONFIRMED)
    begins = f"{short(peer)} at {peer.endpoint} begins anew"
    assert f"{begins}: it took up no session that we offered (1)" in line
    everything = json.dumps(told(network))
    assert WRONG.hex() not in everything and b64encode(WRONG).decode() not in everything


@pytest.mark.network
def test_cookie_replies(network: Network, watch: Watch, peer: FakePeer) -> None:
    network.set(f"public_key={key(peer)}\npersistent_keepalive_interval=25\n")
    initiation = peer.hear(1).data
    reply = cookie_reply(peer, initiation)
    peer.send_raw(flip(reply, 40))
    assert "made by somebody who is not this peer" in watch.expect(Event.COOKIE_TAG)
    peer.send_raw(reply)
    line = watch.expect(Event.COOKIE_RECEIVED)
    assert f"{short(peer)} at {peer.endpoint} put us off with a cookie" in line


def unread(network: Network) -> int:
    """Bytes that wait in the engine's UDP sockets (proc(5), tx_queue:rx_queue)."""
    lines = [line for table in ("udp", "udp6")
             for line in (read_proc(network.plait.pid, f"net/{table}") or "").splitlines()[1:]]  # fmt: skip
    return sum(int(line.split()[4].partition(":")[2], 16) for line in lines)


@pytest.mark.network
def test_a_flood(network: Network, watch: Watch, peer: FakePeer) -> None:
    """Messages that control finds all at once, since it was stopped while they came."""
    pid = network.plait.titles()["control"]
    junk = again(peer, b"\1\0\0\0" + bytes(144))
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(700):
            peer.send_raw(junk)
            if number % 50 == 0:
                eventually(lambda: unread(network) == 0)
        eventually(lambda: unread(network) == 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "handshake messages wait" in watch.expect(Event.UNDER_LOAD)
    line = watch.expect(Event.COOKIE_ASKED)
    asked = f"initiation from {peer.endpoint} (unproven) put off with a cookie reply"
    assert f"{asked}: we are under load" in line

    def more() -> list[int]:
        asked = [each for each in told(network) if each["event"] == Event.COOKIE_ASKED]
        return [each["more"] for each in asked if "more" in each]

    assert eventually(more)[0] > 400


# --- packets ------------------------------------------------------------------------------------


@pytest.mark.network
def test_packets_that_nobody_can_have(network: Network, watch: Watch) -> None:
    silent = FakePeer(network, endpoint=False)
    network.plait.ping("10.0.0.250", 2, wait=0.1)  # no peer's
    network.plait.ping(silent.inner4, 2, wait=0.1)
    line = watch.expect(Event.PACKETS_NO_PEER)
    assert re.search(r" dropped \(\d+\): no peer's AllowedIPs contain their destination; compare", line)
    line = watch.expect(Event.PACKETS_NO_ENDPOINT)
    name = re.escape(short(silent))
    assert re.search(rf" to {name} dropped \(\d+\): it is not known where that peer is", line)
    network.set(f"public_key={key(silent)}\npersistent_keepalive_interval=25\n")
    assert f"no handshake with {short(silent)}: it is not known where" in watch.expect(Event.NO_ENDPOINT)
    network.set(f"public_key={key(silent)}\nendpoint=203.0.113.1:9\n")  # there is no route
    network.plait.ping(silent.inner4, 1, wait=0.1)
    assert "the kernel says: Network is unreachable; look at the route" in watch.expect(Event.SEND_FAILED)
    network.set(f"public_key={key(silent)}\nremove=true\n")


@pytest.mark.network
def test_packets_from_a_peer_that_are_dropped(network: Network, watch: Watch, peer: FakePeer) -> None:
    peer.initiate()
    peer.send(peer.packet(b"x", source="10.9.9.9"))
    peer.send_raw(flip(peer.sealed(bytes(32)), 20))
    peer.send_raw(b"\4\0\0\0" + bytes(28))
    assert "their inner source is not among the AllowedIPs" in watch.expect(Event.PACKETS_WRONG_SOURCE)
    line = watch.expect(Event.PACKETS_DAMAGED)
    assert "packets from outside dropped (1): they name a session of ours and do not decrypt" in line
    assert "they name no session of ours" in watch.expect(Event.PACKETS_OF_NO_SESSION)


# --- milestones ---------------------------------------------------------------------------------


@pytest.mark.network
def test_a_peers_life(network: Network, watch: Watch) -> None:
    peer = FakePeer(network, endpoint=False)
    assert f"wg0: peer {short(peer)} added" == watch.expect(Event.PEER_ADDED)
    peer.initiate()
    first = peer.endpoint
    assert f"wg0: {short(peer)} at {first} began a handshake, which was answered" == watch.expect(
        Event.HANDSHAKE_ANSWERED)
    assert f"wg0: handshake with {short(peer)} at {first} complete (the peer began it)" == watch.expect(
        Event.HANDSHAKE_COMPLETE)
    assert f"wg0: {short(peer)} is at {first} now" == watch.expect(Event.ENDPOINT_MOVED)

    by_data = Watch(network)
    peer.move()
    peer.send(b"")
    second = peer.endpoint
    assert f"wg0: {short(peer)} is at {second} now" == by_data.expect(Event.ENDPOINT_MOVED)

    by_handshake = Watch(network)
    peer.move()
    peer.initiate(tries=5)  # the first may come within 20 ms of the last
    assert f"wg0: {short(peer)} is at {peer.endpoint} now (was at {second})" == by_handshake.expect(
        Event.ENDPOINT_MOVED)
    network.set(f"public_key={key(peer)}\nremove=true\n")
    assert f"wg0: peer {short(peer)} removed" == watch.expect(Event.PEER_REMOVED)
    peer.socket.close()


@pytest.mark.network
def test_a_peer_with_a_name_is_called_by_it_too(network: Network, watch: Watch, peer: FakePeer) -> None:
    network.set(f"public_key={key(peer)}\nremove=true\n")
    network.set(f"public_key={key(peer)}\nplait_name=Alice%27s phone\nallowed_ip=10.7.7.7/32\n")
    added = eventually(lambda: next((each for each in told(network) if each.get("name")), None))
    assert added["event"] == Event.PEER_ADDED and added["name"] == "Alice's phone"
    assert Watch.line(added) == f"wg0: peer {short(peer)} (Alice's phone) added"
    peer.initiate()
    assert f"wg0: {short(peer)} (Alice's phone) at {peer.endpoint} began a handshake, which was answered" == (
        watch.expect(Event.HANDSHAKE_ANSWERED))


@pytest.mark.network
def test_our_own_handshake(network: Network, watch: Watch, peer: FakePeer) -> None:
    network.set(f"public_key={key(peer)}\npersistent_keepalive_interval=25\n")
    peer.respond(peer.hear(1))
    at = f"{short(peer)} at {peer.endpoint}"
    assert watch.expect(Event.HANDSHAKE_BEGUN) == f"wg0: initiation sent to {at}"
    assert watch.expect(Event.HANDSHAKE_COMPLETE) == f"wg0: handshake with {at} complete (we began it)"
    network.set(f"public_key={key(peer)}\npersistent_keepalive_interval=0\n")
    network.clock.step(181)
    assert f"session with {short(peer)} expired: it is 180 s old" in watch.expect(Event.KEYS_EXPIRED)
    network.clock.step(360)
    line = watch.expect(Event.KEYS_ZEROED)
    assert f"keys of {short(peer)} wiped: nothing new was agreed for 540 s" in line


@pytest.mark.network
def test_a_peer_that_never_answers(network: Network, watch: Watch, peer: FakePeer) -> None:
    network.plait.ping(peer.inner4, 1, wait=0.1)
    peer.hear(1)
    for _ in range(19):
        network.step(6)
        peer.hear(1)
    network.step(6)
    at = f"{short(peer)} at {peer.endpoint}"
    line = watch.expect(Event.UNANSWERED)
    assert f"another initiation to {at}: 1 before it not answered in 5 s: nobody listens there" in line
    line = watch.expect(Event.GIVEN_UP)
    assert f"handshake with {at} given up: 20 initiations were not answered; check Endpoint here" in line
    assert peer.hears_nothing()


@pytest.mark.network
def test_the_interface_itself(network: Network, watch: Watch, peer: FakePeer) -> None:
    network.plait.ip("link set wg0 down")
    assert "wg0: the interface is down" in watch.expect(Event.INTERFACE_DOWN)
    peer.send_raw(peer.initiation()[0])
    assert "refused: the interface is down; ip link set wg0 up" in watch.expect(Event.ARRIVED_WHILE_DOWN)
    network.plait.ip("link set wg0 up")
    assert watch.expect(Event.INTERFACE_UP) == "wg0: the interface is up"
    ours = network.identity
    network.set("private_key=" + "0" * 64 + "\n")
    assert "the private key was removed" in watch.expect(Event.PRIVATE_KEY_REMOVED)
    peer.send_raw(peer.initiation()[0])
    line = watch.expect(Event.NO_KEY_TO_ANSWER)
    assert "refused: this interface has no private key; set one: wg set wg0" in line
    network.set(f"public_key={key(peer)}\npersistent_keepalive_interval=25\n")
    assert f"no handshake with {short(peer)}: this interface has no" in watch.expect(Event.NO_PRIVATE_KEY)
    network.set(f"private_key={ours.private_key.hex()}\n")
    own = b64encode(ours.public_key).decode()
    assert f"our public key is {own}" in watch.expect(Event.PRIVATE_KEY_CHANGED)
    network.set("listen_port=51999\n")
    assert watch.expect(Event.LISTEN_PORT_CHANGED) == "wg0: the listen port is 51999 now"
    eventually(lambda: network.engine.uapi("set=1\nlisten_port=51820\n\n") == "errno=0\n\n")


def test_a_set_that_is_refused_is_told_without_its_secrets(network: Network) -> None:
    secret, peer = "7f" * 32, STRANGER.public_key.hex()
    with network.plait.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 51998))
        for text, why in (
            ("listen_port=51998\n", "the UDP port 51998 cannot be had (Address already in use); choose"),
            (f"public_key={peer}\nendpoint=[fe80::1%none]:1\n", "no interface none; after % in an Endpoint "),
            (f"private_key={secret}\nlisten_port=70000\n", "line 3 (listen_port=70000): "),
            (f"private_key={secret}x\n", "line 2 (private_key="),
        ):
            watch = Watch(network)
            assert not network.engine.uapi(f"set=1\n{text}\n").endswith("errno=0\n\n")
            line = watch.expect(Event.SET_REFUSED)
            assert line.startswith("wg0: a change of the configuration of wg0 refused") and why in line
            assert secret not in line


def deaths(events: list[dict[str, Any]], worker: str) -> list[dict[str, Any]]:
    return [each for each in events if each.get("worker") == worker]


@pytest.mark.network
def test_dead_workers_and_those_that_follow_them(network: Network, watch: Watch) -> None:
    before = network.engine.counters()
    for event in (signal.SIGKILL, signal.SIGSTOP):
        watch = Watch(network)
        os.kill(network.plait.titles()["consumer 0"], event)
        line = watch.expect(Event.WORKER_DIED)
        why = {
            signal.SIGKILL: "it was killed by SIGKILL; ",
            signal.SIGSTOP: "it is stopped, so that it was killed; ",
        }
        assert line.startswith(f"wg0: the process consumer 0 died: {why[event]}nothing is needed: another")
        assert "what it left was repaired (" in line
        line = watch.expect(Event.WORKER_REPLACED)
        incarnation = watch.event(Event.WORKER_REPLACED)["incarnation"]
        assert re.fullmatch(rf"wg0: consumer 0 works again after [\d.]+ s, incarnation {incarnation}", line)
    counters = network.engine.counters()
    grown = {name: count - before[name] for name, count in counters.items() if name.startswith("deaths_")}
    assert grown == {"deaths_killed": 1, "deaths_ended": 0, "deaths_stuck": 1}


# --- the command --------------------------------------------------------------------------------


@pytest.mark.network
def test_the_command_follows_also_past_a_restart_of_control(network: Network) -> None:
    follower = network.plait.popen(["plait", "events", "wg0", "--json"])
    peer = FakePeer(network)

    def shown() -> list[dict[str, Any]]:
        return [json.loads(line) for line in follower.output().split("\n")[:-1]]

    eventually(lambda: any(each["event"] == Event.PEER_ADDED for each in shown()))
    os.kill(network.plait.titles()["control"], signal.SIGKILL)
    eventually(lambda: any(each["event"] == Event.RESTARTED for each in shown()))
    network.set(f"public_key={key(peer)}\nremove=true\n")
    eventually(lambda: any(each["event"] == Event.PEER_REMOVED for each in shown()))
    places = [(each["life"], each["number"]) for each in shown()]
    assert places == sorted(set(places)), "each once, in order"
    restarted = next(each for each in shown() if each["event"] == Event.RESTARTED)
    assert restarted["interface"] == "wg0" and restarted["what"] == WORDS[Event.RESTARTED].what
    # Its successor tells of its death, with the time that it had.
    eventually(lambda: len(deaths(shown(), "control")) > 1)
    died, back = deaths(shown(), "control")[-2:]
    assert (died["event"], died["cause"], died["life"]) == (Event.WORKER_DIED, "killed", restarted["life"])
    assert died["time"] < restarted["time"] and died["time"] <= back["time"] and back["away"] > 0
    assert died["why"] == "it was killed by SIGKILL" and died["what"] == "the process control died"
    follower.signal(signal.SIGINT)
    assert follower.wait() == 0

    past = network.plait.run(["plait", "events", "--no-follow"]).stdout.splitlines()
    assert any("process was restarted; events before this one are lost: it died" in line for line in past)
    assert past[-1].endswith(f"wg0: peer {short(peer)} removed")
    assert network.plait.run(["plait", "events", "--no-follow", "--since", "2200-01-01"]).stdout == ""


@pytest.mark.network
def test_the_end_of_an_engine_ends_the_command() -> None:
    with Lab() as lab:
        host = lab.host("a")
        engine = host.engine("wg7")
        follower = host.popen(["plait", "events"])
        eventually(lambda: "wg7: the engine started" in follower.output())
        host.ip("link delete wg7")
        assert follower.wait() == 0
        said = follower.output()
        assert "wg7: the engine ends: the interface wg7 was removed; start it again: plaitd wg7" in said
        engine.process.wait()
        nothing = host.run(["plait", "events", "wg7"], check=False)
        assert nothing.returncode == 1 and "nobody listens on" in nothing.stderr
        nothing = host.run(["plait", "events"], check=False)
        assert nothing.returncode == 1 and "no engine runs. Start one first" in nothing.stderr


@pytest.mark.network
def test_another_engine_tells_no_events() -> None:
    with Lab() as lab:
        host = lab.host("a")
        host.engine("wg0", ["wireguard-go", "-f", "{iface}"])
        for arguments in ([], ["--no-follow"]):
            done = host.run(["plait", "events", "wg0", *arguments], check=False, timeout=20)
            assert done.returncode == 1 and done.stderr.startswith("plait: wg0 does not tell events: ")


def test_a_stream_that_begins_anew_tells_nothing_twice() -> None:
    ends: list[socket.socket] = []

    def ask(name: str, operation: bytes, patience: float) -> socket.socket:
        assert (name, operation) == ("wg0", b"events=1\n\n")
        theirs, ours = socket.socketpair()
        ends.append(theirs)
        return ours

    def line(life: int, number: int, time: float, event: str = "interface_up") -> bytes:
        said = {"life": life, "number": number, "time": time, "event": event}
        return b"event=" + json.dumps(said).encode() + b"\n"

    stream = events.Stream("wg0", ask)

    def numbers(data: bytes) -> list[int]:
        ends[-1].sendall(data)
        fresh = stream.receive()
        assert fresh is not None
        return [event["number"] for event in fresh]

    assert numbers(line(1, 1, 5.0, "started") + line(1, 2, 6.0)[:20]) == [1]
    assert numbers(line(1, 2, 6.0)[20:]) == [2]
    ends[-1].close()
    assert stream.receive() is None and stream.reconnect()
    assert numbers(line(1, 1, 5.0, "started") + line(1, 2, 6.0) + line(1, 3, 7.0)) == [3]
    assert numbers(line(2, 1, 8.0, "restarted")) == [1]
    assert numbers(line(1, 1, 9.0, "started") + line(1, 2, 9.0)) == [1, 2], "another engine of this name"
    assert numbers(line(1, 3, 9.5, "ending")) == [3]
    ends[-1].close()
    assert stream.receive() is None and not stream.reconnect()


@pytest.mark.parametrize("code", [errno.EPROTO, errno.EBUSY])
def test_an_engine_that_knows_nothing_of_sessions_is_said_to_be_older(code: int) -> None:
    theirs, ours = socket.socketpair()

    def ask(name: str, operation: bytes, patience: float) -> socket.socket:
        assert operation == b"events=1\nsessions=true\n\n"
        return ours

    stream = events.Stream("wg0", ask, sessions=True)
    theirs.sendall(b"errno=%d\n\n" % code)
    with theirs, ours:
        if code == errno.EPROTO:
            with pytest.raises(Failure, match=r"older plaitd. Update the engine: plait upgrade wg0"):
                stream.receive()
        else:
            assert stream.receive() is None


def test_sessions_of_what_is_remembered_are_refused() -> None:
    with pytest.raises(Failure, match="--no-follow"):
        events.run("wg0", since=None, follow=False, sessions=True, as_json=False)


# --- words --------------------------------------------------------------------------------------


def test_every_event_has_words_and_a_line_in_the_documentation() -> None:
    assert set(WORDS) == set(Event)
    lines = (Path(__file__).parents[3] / "docs/events.md").read_text()
    assert [event for event in Event if f"| `{event}` |" not in lines] == []
    assert lines.count("\n| `") == len(Event)


def test_words_have_three_parts_or_one() -> None:
    for event, words in WORDS.items():
        assert words.what and bool(words.why) == bool(words.next), event


def test_every_brace_is_filled_in() -> None:
    full = {
        "life": 1, "number": 1, "time": 0.0, "peer": keypair()[1], "endpoint": "192.0.2.1:1",
        "was": "192.0.2.1:2", "source": "192.0.2.1:3", "claimed_key": keypair()[1],
        "public_key": keypair()[1], "message": "initiation", "tries": 3, "count": 4, "reason": "because",
        "mend": "do", "worker": "receiver 0",
        "cause": "killed", "repaired": "tokens 1", "incarnation": 2, "away": 0.1,
        "pause": 0.2, "receivers": 1, "consumers": 2,
    }  # fmt: skip
    for event in Event:
        line = events.text("wg0", {**full, "event": event})
        assert "?" not in line and "{" not in line, line


def test_held_back_and_unknown_events() -> None:
    told = {"life": 1, "number": 9, "time": 0.0, "event": "mac1_wrong", "more": 12}
    assert events.text("wg0", told).endswith(" wg0: and 12 more of the kind `mac1_wrong`")
    told = {"life": 1, "number": 9, "time": 0.0, "event": "of_tomorrow", "peer": "x"}
    assert events.text("wg0", told).endswith(' wg0: {"event": "of_tomorrow", "peer": "x"}')
    assert events.filled("wg0", told) == Words('{"event": "of_tomorrow", "peer": "x"}')


def test_since() -> None:
    for text, seconds in {"90s": 90, "10m": 600, "1.5h": 5400, "1d": 86400, "now": 0}.items():
        assert events.parse_since(text, 1e9) == 1e9 - seconds
    assert events.parse_since("2026-01-31T12:00+00:00", 0) == 1769860800
    for text in ("yesterday", "10", "-1h", ""):
        with pytest.raises(Failure, match="is not understood: it is neither"):
            events.parse_since(text, 0)
