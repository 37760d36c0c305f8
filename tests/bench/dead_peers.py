"""What packets for many peers that cannot be reached leave of a good one: `python -m tests.bench dead-peers`.

    host good ── cable ── host gateway: plaitd with the good peer and N dead ones
                            └─ a program that floods the addresses of the dead from inside

A dead peer has no endpoint, or one where nobody answers; its packets come singly or as super-packets, which
take the large slots. Of each kind: the good peer's TCP from the gateway, paced and as fast as it can, and
its ping, alone and during the flood, by turns.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from plait.bench.floods import EXIT_SHARE, PACED
from plait.failure import Failure
from plait.handoff_option import HandoffChoice

if TYPE_CHECKING:
    from plait.lab.namespaces import Lab, Process

PORT = 51820
CLOSED = 9  # of the good host: nobody listens
GATEWAY, GOOD = "10.202.0.1", "10.202.0.2"
NETWORK = "100.64.0.0/10"  # of the dead peers (plait/bench/peers.py)
DATAGRAM = 1300  # bytes of payload

# Runs in the gateway: PEERS RATE DATAGRAMS SECONDS. Prints how many packets it sent.
SENDER = f"""
import socket, struct, sys, time
peers, rate, together, seconds = map(float, sys.argv[1:])
peers, together = int(peers), int(together)
places = [(f"100.64.{{n >> 8 & 255}}.{{n & 255}}", 9) for n in range(peers)]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
out.setblocking(False)
segment = [(socket.SOL_UDP, 103, struct.pack("=H", {DATAGRAM}))] if together > 1 else []  # UDP_SEGMENT
data = [bytes({DATAGRAM} * together)]
begun, sent, next_ = time.monotonic(), 0, 0
while (passed := time.monotonic() - begun) < seconds:
    while sent < passed * rate:
        try:
            out.sendmsg(data, segment, 0, places[next_ % peers])
        except OSError:  # an ICMP error of an earlier one, or no room for a moment
            pass
        next_ += 1
        sent += together
    time.sleep(0.001)
print(sent)
"""


@dataclass(frozen=True)
class Kind:
    """What is flooded: peers with or without an endpoint; datagrams in one super-packet."""

    title: str
    has_endpoint: bool
    together: int


KINDS = (
    Kind("no endpoint", False, 1),
    Kind("no endpoint, super-packets", False, 40),
    Kind("no answer", True, 1),
    Kind("no answer, super-packets", True, 40),
)


@dataclass
class Found:
    """One kind; rates in Mbit/s, medians of the rounds."""

    kind: str
    flooded: float  # packets a second
    paced_mbit: float  # the good peer alone
    paced_kept: float  # of that, during the flood
    full_mbit: float
    full_kept: float
    ping_alone_ms: float
    ping_ms: float
    counted: dict[str, int]  # by cause, during the floods


class Scene:
    """Two hosts, a tunnel, and dead peers."""

    def __init__(self, lab: Lab, kind: Kind, peers: int, settings: str | None) -> None:
        from plait.bench.peers import wg_text
        from plait.lab.namespaces import Peer, keypair

        self.kind, self.peers = kind, peers
        self.gateway, self.good = lab.add_hosts(["gateway", "good"])
        cable = lab.link(self.gateway, self.good)
        self.engine = self.gateway.engine(settings=settings)
        keys = [keypair() for _ in range(2)]
        self.engine.configure(
            keys[0][0], [Peer(keys[1][1], [f"{GOOD}/32"])], [f"{GATEWAY}/24"], PORT
        )
        to_gateway = Peer(keys[0][1], [f"{GATEWAY}/32"], cable.endpoint(self.gateway, PORT), keepalive=1)
        self.good.engine().configure(keys[1][0], [to_gateway], [f"{GOOD}/24"], PORT)
        text = wg_text(peers)
        if kind.has_endpoint:
            endpoint = f"Endpoint = {cable.endpoint(self.good, CLOSED)}\n"
            text = text.replace("AllowedIPs", f"{endpoint}AllowedIPs")
        self.engine.wg("addconf", self.engine.interface, "/dev/stdin", text=text)
        self.gateway.ip(f"route add {NETWORK} dev {self.engine.interface}")
        if not self.good.ping(GATEWAY, 3).received:
            raise Failure("no tunnel", "the good peer's echoes are not answered", "Try `plait demo`")

    def flood(self, rate: float, seconds: float) -> Process:
        """Begin one."""
        words = [str(self.peers), str(rate), str(self.kind.together), str(seconds)]
        return self.gateway.popen([sys.executable, "-I", "-S", "-c", SENDER, *words])

    def stream(self, seconds: int, paced: bool) -> float:
        """TCP from the gateway to the good peer; Mbit/s as received."""
        extra = ["--connect-timeout", "3000", *(["-b", PACED] if paced else [])]
        return self.gateway.iperf3(self.good, GOOD, seconds, extra=extra).bits_per_second / 1e6

    def figures(self, seconds: int) -> tuple[float, float, float]:
        """Paced, full, and the median ping in ms."""
        ping = self.gateway.ping(GOOD, 40, 0.025).quantile(0.5)
        return self.stream(seconds, True), self.stream(seconds, False), ping


def measure(scene: Scene, rate: float, seconds: int, rounds: int) -> Found:
    """Alone and flooded by turns."""
    alone, flooded, sent = [], [], []
    before = scene.engine.counters()
    for _ in range(rounds):
        alone.append(scene.figures(seconds))
        begun = time.monotonic()
        flooder = scene.flood(rate, 3 * seconds + 10)
        time.sleep(1)
        flooded.append(scene.figures(seconds))
        flooder.wait(3 * seconds + 60)
        sent.append(int(flooder.output()) / (time.monotonic() - begun))
    counted = {
        name: count - before[name]
        for name, count in scene.engine.counters().items()
        if count != before[name] and name.startswith(("drop_", "slots_", "hs_initiation_sent"))
    }
    paced, full, ping = (statistics.median(column) for column in zip(*alone, strict=True))
    paced_during, full_during, ping_during = (
        statistics.median(column) for column in zip(*flooded, strict=True)
    )
    return Found(
        scene.kind.title, statistics.median(sent), paced, paced_during / paced, full, full_during / full,
        ping, ping_during, counted,
    )  # fmt: skip


def run(
    peers: int, rate: float, seconds: int, rounds: int, settings: str | None, report: Callable[[str], None]
) -> list[Found]:
    """All kinds. Failure when the hosts or engines cannot be had."""
    from plait.lab.namespaces import Lab, missing

    lacks = missing("wg", "iperf3", "ping")
    if lacks:
        raise Failure(lacks[0].what, lacks[0].why, lacks[0].next_step)
    found = []
    for kind in KINDS:
        report(f"{peers:,} peers: {kind.title}")
        with Lab() as lab:
            found.append(measure(Scene(lab, kind, peers, settings), rate, seconds, rounds))
    return found


def table(found: list[Found]) -> list[str]:
    """The figures lined up, and how to read them."""
    lines = [
        f"{'dead peers have':<28}{'flooded/s':>10}{'paced Mbit/s':>14}{'kept':>6}"
        f"{'full Mbit/s':>13}{'kept':>6}{'ping ms':>9}{'flooded':>9}"
    ]
    lines += [
        f"{f.kind:<28}{f.flooded:>10,.0f}{f.paced_mbit:>14.1f}{f.paced_kept:>6.2f}"
        f"{f.full_mbit:>13,.0f}{f.full_kept:>6.2f}{f.ping_alone_ms:>9.2f}{f.ping_ms:>9.2f}"
        for f in found
    ]
    lines += [
        "",
        f"The good peer's TCP, paced at {PACED}bit/s and as fast as it can; kept: its share under the flood.",
        "Everything runs on this machine's cores, the flooding program too: a stream that needs them all",
        "loses what that one takes, whoever carries it.",
        "",
    ]
    for f in found:
        causes = ", ".join(f"{name} {n:,}" for name, n in sorted(f.counted.items(), key=lambda one: -one[1]))
        lines.append(f"{f.kind}: {causes}")
    return lines


@click.command(short_help="What packets for unreachable peers leave of a good one.")
@click.option("--peers", type=click.IntRange(1, 65536), default=1000, show_default=True)
@click.option("--rate", type=float, default=10_000, show_default=True, help="Packets a second.")
@click.option("--seconds", type=click.IntRange(1, 60), default=3, show_default=True, help="Of each stream.")
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--handoff", type=HandoffChoice(), default=None, help="Of the engine measured.")
@click.option(
    "--least", type=float, default=None, help="Exit with 99 when a paced stream keeps less of its rate."
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def dead_peers(
    peers: int,
    rate: float,
    seconds: int,
    rounds: int,
    handoff: str | None,
    least: float | None,
    as_json: bool,
) -> None:
    """Flood peers that cannot be reached, from inside the gateway, beside a good peer. Needs root.

    Example: python -m tests.bench dead-peers --rounds 3 --least 0.9
    """

    def report(text: str) -> None:
        click.echo(f"dead peers: {text}", err=True)

    settings = f'handoff = "{handoff}"\n' if handoff else None
    found = run(peers, rate, seconds, rounds, settings, report)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        click.echo("\n".join(table(found)))
    if least is not None and any(one.paced_kept < least for one in found):
        sys.exit(EXIT_SHARE)
