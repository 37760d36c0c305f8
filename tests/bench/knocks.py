"""What forged knocks leave of a TCP stream: `python -m tests.bench knocks`.

    host forger ── cable ──┐
    host good   ── cable ──┴─ host gateway: plaitd, for which another gateway is dead

The forger knows no index of the dead gateway's sessions, or that of each. The good peer's TCP to the gateway,
as fast as it can, alone and during the flood, by turns.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from plait.bench.floods import EXIT_SHARE
from plait.failure import Failure

if TYPE_CHECKING:
    from tests.support.knocked_gateway import Forged, KnockedGateway

PEERS = 1000  # of the dead gateway
REST = 2  # seconds of a flood before and behind the stream
KINDS = {"no index": 0, "an index of each": PEERS}


@dataclass
class Found:
    """One kind; rates in Mbit/s, medians of the rounds."""

    kind: str
    sent: float  # messages a second
    alone_mbit: float
    kept: float  # of that, during the flood
    initiations: float  # a second, to the source that got most
    counted: dict[str, int]  # by end, during the floods


def stream(scene: KnockedGateway, seconds: int) -> float:
    """TCP from the good peer to the gateway; Mbit/s as received."""
    from tests.support.knocked_gateway import GATEWAY

    return scene.good.iperf3(scene.gateway, GATEWAY, seconds).bits_per_second / 1e6


def flooded(scene: KnockedGateway, sessions: int, rate: int, seconds: int) -> tuple[float, Forged]:
    """The stream, and what the forger tells."""
    scene.tell()
    forger = scene.forge(sessions, rate, seconds + 2 * REST)
    return stream(scene, seconds), scene.forged(forger)


def measure(scene: KnockedGateway, kind: str, rate: int, seconds: int, rounds: int) -> Found:
    """Alone and flooded by turns."""
    alone, during, told = [], [], []
    before = scene.engine.counters()
    for _ in range(rounds):
        alone.append(stream(scene, seconds))
        mbit, forged = flooded(scene, KINDS[kind], rate, seconds)
        during.append(mbit)
        told.append(forged)
    gained = {name: count - before[name] for name, count in scene.engine.counters().items()}
    return Found(
        kind,
        statistics.median(each.sent / each.seconds for each in told),
        statistics.median(alone),
        statistics.median(during) / statistics.median(alone),
        max(max(each.initiations.values()) / each.seconds for each in told),
        {name: count for name, count in gained.items() if count and name.startswith("knock_")},
    )


def run(rate: int, seconds: int, rounds: int, report: Callable[[str], None]) -> list[Found]:
    """All kinds. Failure when the hosts or engines cannot be had."""
    from plait.lab.namespaces import Lab, missing
    from tests.support.knocked_gateway import GATEWAY, KnockedGateway

    if lacks := missing("wg", "iperf3", "ping"):
        raise Failure(lacks[0].what, lacks[0].why, lacks[0].next_step)
    found = []
    for kind in KINDS:
        report(f"{rate:,} messages a second with {kind}")
        with Lab() as lab:
            scene = KnockedGateway(lab, PEERS)
            if not scene.good.ping(GATEWAY, 3).received:
                raise Failure("no tunnel", "the good peer's echoes are not answered", "Try `plait demo`")
            found.append(measure(scene, kind, rate, seconds, rounds))
    return found


def table(found: list[Found]) -> list[str]:
    """The figures lined up, and how to read them."""
    lines = [f"{'forged with':<18}{'sent/s':>9}{'alone Mbit/s':>14}{'kept':>6}{'initiations/s':>15}"]
    lines += [
        f"{f.kind:<18}{f.sent:>9,.0f}{f.alone_mbit:>14,.0f}{f.kept:>6.2f}{f.initiations:>15.1f}"
        for f in found
    ]
    lines += [
        "",
        "alone: the good peer's TCP; kept: its share during the flood; initiations: to one source, at most.",
        "Everything runs on this machine's cores, the forger too.",
        "",
    ]
    for f in found:
        ends = ", ".join(f"{name} {n:,}" for name, n in sorted(f.counted.items(), key=lambda one: -one[1]))
        lines.append(f"{f.kind}: {ends}")
    return lines


@click.command(short_help="What forged knocks leave of a TCP stream.")
@click.option("--rate", type=click.IntRange(1), default=10_000, show_default=True, help="Messages a second.")
@click.option("--seconds", type=click.IntRange(1, 20), default=3, show_default=True, help="Of each stream.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--least", type=float, default=None, help="Exit with 99 when a stream keeps less of its rate.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def knocks(rate: int, seconds: int, rounds: int, least: float | None, as_json: bool) -> None:
    """Flood a gateway with data messages for a dead neighbour, beside a good peer's stream. Needs root.

    Example: python -m tests.bench knocks --least 0.8
    """
    found = run(rate, seconds, rounds, lambda text: click.echo(f"knocks: {text}", err=True))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        click.echo("\n".join(table(found)))
    if least is not None and any(one.kept < least for one in found):
        sys.exit(EXIT_SHARE)
