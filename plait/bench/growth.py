"""`plait bench peers --growth FILE.svg`: bytes a peer and the time of a set from one peer to 2^20, plotted.

For each size an engine of its own, in a host of its own: what all of its processes hold (PSS) with the
peers less what they held before, and the seconds that `wg addconf` took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from engine.constants import MAX_PEERS
from plait.bench import plot
from plait.bench.implementation import INTERFACE, PORT
from plait.bench.peers import memory, wg_text
from plait.bench.progress import Progress, progress
from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.lab.namespaces import Lab
from plait.signals import interruptible

SIZES = tuple(1 << bits for bits in range(0, 21, 2))
BUDGETS = (1024, 20.0)  # bytes a peer and seconds, for 500,000 peers
SECONDS_A_PEER = 2e-5  # for the estimate of what is left


@dataclass(frozen=True)
class Point:
    """One size. bytes_a_peer: of growth; what grows in steps weighs on few peers."""

    peers: int
    bytes_a_peer: float
    configure_s: float


def run(file: str, as_json: bool) -> None:
    """Measure every size, write the plot, print the points."""
    plot.require()
    if not file.endswith(".svg"):
        raise Failure(f"cannot plot to {file}", "it is no .svg", "Name it so.")
    lacks = lab.missing("wg", lab.PLAIT[0])
    if lacks:
        raise Failure(f"the bench cannot start: {lacks[0].what}", lacks[0].why, lacks[0].next_step)
    with interruptible(), progress(sum(_estimate(size) for size in SIZES)) as told:
        points = [_measure(size, told) for size in SIZES]
    draw(points, Path(file))
    if as_json:
        json.dump([asdict(point) for point in points], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        click.echo("\n".join(table(points)))


def _estimate(size: int) -> float:
    return 2 + size * SECONDS_A_PEER


def _measure(size: int, told: Progress) -> Point:
    told.step(f"{size:,} peers", _estimate(size))
    with Lab() as hosts:
        host = hosts.host("gateway")
        engine = host.engine(INTERFACE, lab.PLAIT, settings=f"max_peers = {MAX_PEERS}\n")
        engine.configure(lab.keypair()[0], [], ["10.201.0.1/24"], PORT)
        time.sleep(1)  # what the start leaves to do
        before, text = memory(engine), wg_text(size)
        begun = time.monotonic()
        host.run(["wg", "addconf", INTERFACE, "/dev/stdin"], text=text, timeout=600)
        seconds = time.monotonic() - begun
        time.sleep(1)
        return Point(size, (memory(engine) - before) / size, seconds)


def table(points: Sequence[Point]) -> list[str]:
    """The points lined up."""
    lines = [f"{'peers':>10}  {'bytes a peer':>14}  {'configured in s':>16}"]
    lines += [f"{at.peers:>10,}  {at.bytes_a_peer:>14,.0f}  {at.configure_s:>16.3f}" for at in points]
    return lines


def draw(points: Sequence[Point], file: Path) -> None:
    """Two logarithmic plots side by side, with what is allowed for 500,000 peers as dashed lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "plait", "svg.fonttype": "none"}):
        drawing, both = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for axes, values, most, title in (
            (both[0], [at.bytes_a_peer for at in points], BUDGETS[0], "bytes a peer"),
            (both[1], [at.configure_s for at in points], BUDGETS[1], "seconds to configure them"),
        ):
            axes.loglog([at.peers for at in points], values, marker="o", markersize=4)
            axes.plot([500_000], [most], marker="v", linestyle="", color="tab:red")
            axes.annotate(f"at most {most:,.0f} for 500,000", (500_000, most), (-8, 6),
                          textcoords="offset points", ha="right", color="tab:red")  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xlabel("peers")
            axes.set_title(title, loc="left")
            axes.grid(alpha=0.3)
        drawing.savefig(file, metadata={"Date": None})
        pyplot.close(drawing)
