"""At least 100,000 wrong packets reach each stage of a real engine, over UDP.

    host mutant (no engine: the test's own keys)         host target
     └─ eth0 10.200.1.2  ────────────────────────  eth0 10.200.1.1 ─┘
     inner 10.0.0.2 fd01::2                        wg0  10.0.0.1 fd01::1 (plaitd)

Each stage is paced so that no socket, queue or mailbox is ever full. Then the counters by cause
must add up to exactly what was sent, nothing may come back that the protocol does not have an answer
for, and the engine must be unharmed and pass traffic.
"""

from __future__ import annotations

import base64
import collections
import socket
import time
from collections.abc import Iterator
from random import Random

import pytest

from engine import constants, cookie, noise
from plait.lab.namespaces import Engine, Lab, Link, Peer, keypair
from tests.robustness.mutated_messages.initiator import BUFFER_BYTES, SO_RCVBUFFORCE, Initiator
from tests.robustness.mutated_messages.mutations import (
    inner_verdict,
    no_messages,
    wrong_data,
    wrong_index,
    wrong_initiation,
    wrong_inner,
    wrong_mac1,
    wrong_response,
)
from tests.robustness.mutated_messages.target import (
    ENGINE_ADDRESS,
    ENGINE_ADDRESS6,
    OUR_ADDRESS,
    OUR_ADDRESS6,
    Target,
    assert_only_keepalives,
    ipv4,
    ipv6,
    udp,
)
from tests.support.waiting import until

pytestmark = pytest.mark.network

COUNT = 100_000
ROUND = 500
PORT = 51820
SINK_PORT = 9
ALLOWED = frozenset((OUR_ADDRESS, OUR_ADDRESS6))


class Bench:
    """Both hosts, the engine, and the keys."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.other = lab.add_hosts(["target", "mutant"])
        self.link: Link = lab.link(self.host, self.other)
        private, self.engine_key = keypair()
        self.our_private, our_public = keypair()
        self.our_public = our_public
        self.engine: Engine = self.host.engine("wg0", settings="receivers = 2\nconsumers = 2\n")
        self.engine.configure(private, [Peer(our_public, ["10.0.0.2/32", "fd01::2/128"])],
                              ["10.0.0.1/24", "fd01::1/64"], PORT)
        self.target = Target(self.engine)

    def initiator(self, senders: int = 1) -> Initiator:
        return Initiator(self.other, base64.b64decode(self.our_private), base64.b64decode(self.engine_key),
                         (self.link.address(self.host), PORT), senders)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Lab() as lab:
        yield Bench(lab)


@pytest.fixture
def peer(bench: Bench) -> Iterator[Initiator]:
    """Speaks from four ports, so from whichever receivers the kernel chooses."""
    initiator = bench.initiator(4)
    yield initiator
    initiator.close()


def test_type_and_length(bench: Bench, peer: Initiator) -> None:
    made = list(no_messages(Random(1), COUNT))
    bench.target.mark()
    assert bench.target.send(peer, (datagram for datagram, _ in made)) == COUNT
    expected = collections.Counter(counter for _, counter in made)
    assert bench.target.delta() == {"udp_received": COUNT, **expected}
    assert len(expected) == 2
    assert peer.answers() == []
    bench.target.assert_unharmed(peer)


def test_mac1(bench: Bench, peer: Initiator) -> None:
    initiation, _ = peer.initiation()
    response = cookie.add_macs(b"\2\0\0\0" + Random(2).randbytes(56), peer.keys.mac1_key, None)
    bench.target.mark()
    begun = time.monotonic()
    bench.target.send(peer, wrong_mac1(Random(2), initiation, response, COUNT))
    found = bench.target.delta()
    # A few, by which control can tell of them: each of the two receivers shows five, and one a second.
    assert found.pop("handshake_to_control") <= 2 * (5 + time.monotonic() - begun + 1)
    assert found == {"udp_received": COUNT, "hs_mac1_bad": COUNT}
    assert peer.answers() == []
    bench.target.assert_unharmed(peer)


def test_handshake_aead(bench: Bench, peer: Initiator) -> None:
    initiation, _ = peer.initiation()
    bench.target.mark()
    # More slowly than what makes for "under load", in which they would meet a cookie unopened.
    wrong = wrong_initiation(Random(3), initiation, peer.keys.mac1_key, COUNT)
    bench.target.send(peer, wrong, rate=0.8 * constants.UNDER_LOAD_WASTED)
    assert bench.target.delta() == {
        "udp_received": COUNT, "handshake_to_control": COUNT, "hs_initiation_tag": COUNT}
    assert peer.answers() == []
    bench.target.assert_unharmed(peer)


def test_index(bench: Bench, peer: Initiator) -> None:
    bench.target.handshake(peer)
    data = peer.seal(ipv4(OUR_ADDRESS, ENGINE_ADDRESS, 17, udp(1, SINK_PORT, b"x" * 40)))
    bench.target.mark()
    bench.target.send(peer, wrong_index(Random(4), data, COUNT))
    assert bench.target.delta() == {"udp_received": COUNT, "drop_index_unknown": COUNT}
    assert peer.answers() == []
    bench.target.assert_unharmed(peer)


def test_data_aead(bench: Bench, peer: Initiator) -> None:
    bench.target.handshake(peer)
    data = peer.seal(ipv4(OUR_ADDRESS, ENGINE_ADDRESS, 17, udp(1, SINK_PORT, b"x" * 40)))
    bench.target.mark()
    bench.target.send(peer, wrong_data(Random(5), data, COUNT))
    assert bench.target.delta() == {"udp_received": COUNT, "drop_data_tag": COUNT}
    assert peer.answers() == []
    bench.target.assert_unharmed(peer)


def test_replay(bench: Bench, peer: Initiator) -> None:
    """Copies of 1,000 delivered messages, and right messages from behind the window."""
    random = Random(6)
    bench.target.handshake(peer)
    sink = bench.host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    sink.bind(("10.0.0.1", SINK_PORT))
    sink.setblocking(False)
    payloads = [random.randbytes(random.randrange(1, 1200)) for _ in range(1000)]
    fresh = [peer.seal(ipv4(OUR_ADDRESS, ENGINE_ADDRESS, 17, udp(1, SINK_PORT, payload)))
             for payload in payloads]
    begun = time.monotonic()
    bench.target.mark()
    # One port alone: two receivers may deliver in another order than that of sending.
    single = bench.initiator()
    single.sessions, single.counter = peer.sessions, peer.counter
    bench.target.send(single, fresh)
    counted = bench.target.delta()
    counted.pop("keepalive_sent", None)
    assert counted == {"udp_received": 1000, "tun_sent": 1000}
    assert [sink.recv(2000) for _ in payloads] == payloads
    ahead = peer.seal(b"", counter=100_000)
    bench.target.send(single, [ahead])
    old = [peer.seal(b"late", counter=random.randrange(2000, 100_000 - 8192)) for _ in range(2000)]
    bench.target.mark()
    copies = COUNT - len(old)
    mixed = [*old, *random.choices([*fresh, ahead], k=copies)]
    random.shuffle(mixed)
    bench.target.send(peer, mixed)
    counted = bench.target.delta()
    counted.pop("keepalive_sent", None)
    assert counted == {"udp_received": COUNT, "drop_replay": COUNT}
    with pytest.raises(BlockingIOError):
        sink.recv(2000)
    # The 1,000 were answered by nobody: a keepalive every 10 s is the protocol's answer to data.
    assert_only_keepalives(peer, peer.answers() + single.answers(), 1 + int(time.monotonic() - begun) // 10)
    sink.close()
    single.close()
    bench.target.assert_unharmed(peer)


def test_inner_header(bench: Bench, peer: Initiator) -> None:
    """Sealed with the real keys: only what stands inside is wrong."""
    bench.target.handshake(peer)
    four = ipv4(OUR_ADDRESS, ENGINE_ADDRESS, 17, udp(1, SINK_PORT, b"four" * 10))
    six = ipv6(OUR_ADDRESS6, ENGINE_ADDRESS6, 59, b"six!" * 10)
    assert inner_verdict(four, ALLOWED) == inner_verdict(six, ALLOWED) == "tun_sent"
    made = list(wrong_inner(Random(7), four, six, ALLOWED, COUNT))
    expected = collections.Counter(verdict for _, verdict in made)
    assert min(expected.values()) > COUNT // 10 and len(expected) == 2
    begun = time.monotonic()
    bench.target.mark()
    bench.target.send(peer, (peer.seal(packet) for packet, _ in made))
    counted = bench.target.delta()
    counted.pop("keepalive_sent", None)  # to a packet's sender after 10 s, as a busy machine may take
    assert counted == {"udp_received": COUNT, **expected}
    assert_only_keepalives(peer, peer.answers(), 1 + int(time.monotonic() - begun) // 10)
    bench.target.assert_unharmed(peer)


def test_answers_to_the_engines_own_initiation(bench: Bench, peer: Initiator) -> None:
    """Wrong responses and cookie replies while the engine waits for the right ones, which still count."""
    bench.engine.wg("set", "wg0", "peer", bench.our_public, "remove")
    endpoint = bench.link.endpoint(bench.other, peer.sockets[0].getsockname()[1])
    bench.engine.wg("set", "wg0", "peer", bench.our_public, "allowed-ips", "10.0.0.2/32,fd01::2/128",
                    "endpoint", endpoint)
    bench.target.mark()
    bench.host.popen(["ping", "-n", "-c", "1", "-W", "60", "10.0.0.2"])

    def is_initiation(answer: bytes) -> bool:
        return answer[:4] == b"\1\0\0\0"

    initiation, count, rounds = peer.await_answer(is_initiation), 0, 0
    counted: dict[str, int] = {}
    # The engine begins anew every 5 s, and what answers an initiation before that is not waited for: each
    # round answers the newest one, and on a busy machine some rounds come too late.
    while rounds < 10 or not {"hs_response_tag", "hs_cookie_tag"} <= counted.keys():
        answers = peer.answers()
        assert all(is_initiation(answer) for answer in answers)
        initiation = [initiation, *answers][-1]
        response, _ = peer.respond(initiation)
        wrong = wrong_response(Random(8 + rounds), response, peer.keys.mac1_key, ROUND)
        bench.target.send(peer, wrong, rate=0.8 * constants.UNDER_LOAD_WASTED)
        reply = cookie.create_cookie_reply(peer.identity.cookie_key, bytes(32), initiation, bytes(4), 1)
        bench.target.send(peer, (reply[:24] + Random(count + n).randbytes(40) for n in range(ROUND)))
        bench.target.send(peer, (reply[:4] + Random(count + n).randbytes(60) for n in range(ROUND)))
        rounds, count = rounds + 1, count + ROUND
        counted = bench.target.delta()
    assert counted["hs_response_tag"] + counted.get("hs_response_unknown", 0) == count
    assert counted["hs_cookie_tag"] + counted["hs_cookie_unexpected"] == 2 * count
    assert counted["udp_received"] == counted["handshake_to_control"] == 3 * count
    assert all(is_initiation(answer) for answer in peer.answers())
    # A right response is taken as if nothing had been.
    initiation = peer.await_answer(is_initiation)
    response, session = peer.respond(initiation)
    peer.begin_as_responder(session)
    peer.sockets[0].send(response)
    peer.await_answer(lambda answer: peer.open(answer) is not None)
    assert bench.target.delta()["hs_response_accepted"] == 1
    bench.target.assert_unharmed(peer)


def is_put_off(bench: Bench) -> bool:
    """Whether an initiation that shows no cookie is answered with one."""
    stranger = bench.initiator()
    bench.target.mark()
    bench.target.send(stranger, [stranger.initiation()[0]])
    stranger.close()
    return "hs_cookie_sent" in bench.target.delta()


def test_cookies_under_load(bench: Bench) -> None:
    """A flood with right mac1: every answer is a cookie reply that the counters know, and a cookie opens."""
    peer = bench.initiator()
    wrong = list(wrong_initiation(Random(9), peer.initiation()[0], peer.keys.mac1_key, 3000))
    message, _ = peer.initiation(77)
    bench.target.mark()
    for datagram in (*wrong[:2000], message, *wrong[2000:]):
        peer.sockets[0].send(datagram)
    sent = len(wrong) + 1
    replies: list[bytes] = []

    def reply_to_ours() -> bytes | None:
        replies.extend(peer.answers())
        return next((reply for reply in replies if reply[:8] == b"\3\0\0\0" + bytes((77, 0, 0, 0))), None)

    ours = until(reply_to_ours, "the reply to the right one")
    assert ours is not None
    peer.holder.consume_reply(peer.keys.cookie_key, ours, time.monotonic_ns())
    again, state = peer.initiation(78)
    assert again[cookie.MAC2] != cookie.NO_MAC
    peer.sockets[0].send(again)
    response = peer.await_answer(lambda answer: replies.append(answer) or answer[:4] == b"\2\0\0\0")
    noise.consume_response(peer.identity, state, response, noise.NO_PSK)
    sent += 1

    def ended() -> int:
        counted = bench.target.delta()
        return sum(counted.get(name, 0) for name in (
            "hs_cookie_sent", "hs_initiation_tag", "drop_mailbox_full", "hs_initiation_accepted"))

    until(lambda: ended() >= sent, "the end of all that was sent")
    counted = bench.target.delta()
    assert ended() == sent == counted["udp_received"], counted
    assert counted["hs_initiation_accepted"] == 1
    assert "hs_mac2_bad" not in counted and "hs_rate_limited" not in counted
    replies += peer.answers()
    assert sum(reply[:4] == b"\3\0\0\0" for reply in replies) == counted["hs_cookie_sent"]
    assert len(replies) == counted["hs_cookie_sent"] + 1
    until(lambda: not is_put_off(bench), "the end of the load, a second after it was last seen")
    bench.target.assert_unharmed(peer)
    peer.close()
