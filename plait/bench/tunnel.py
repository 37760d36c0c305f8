"""`plait bench tunnel`: Plait, other engines and the bare cable in the same lab, by turns.

A run starts a tunnel of each implementation; then figure by figure each of them is measured, so that what
is compared is minutes, not a whole session, apart. Idle tunnels wait meanwhile and use next to nothing.
Every second run goes through the implementations backwards: nobody is always the one after another.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from plait.bench import comparison, competitors, figures, tunnel_table
from plait.bench.comparison import Samples
from plait.bench.competitors import NEWEST
from plait.bench.figures import Effort, Figure, Values
from plait.bench.implementation import Implementation, Tunnel, chosen
from plait.bench.progress import Progress, progress
from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.result_file import ResultFile
from plait.signals import interruptible
from workers.handoffs import INLINE

START_SECONDS = 1.0  # to start a tunnel
DEFAULT_HANDOFFS = ("", INLINE)  # those that are held against the bars


def run(
    *,
    others: Sequence[str],
    handoffs: Sequence[str],
    seconds: int,
    runs: int,
    only: Sequence[str],
    json_file: str | None,
    plot: str | None,
) -> None:
    """Measure, then print the table, or write JSON to a file ("-": stdout, in place of the table)."""
    lacks = lab.missing("wg", "iperf3", "ping", lab.PLAIT[0])
    if lacks:
        first = lacks[0]
        mend = f"{first.next_step}; `plait doctor` tells all"
        raise Failure(f"the bench cannot start: {first.what}", first.why, mend)
    implementations = chosen(others, handoffs)
    if plot:
        from plait.bench import plot as plotting

        plotting.require()
    load = os.getloadavg()[0]
    with nullcontext() if json_file is None else ResultFile(json_file) as file:
        with interruptible():
            samples = measure(implementations, figures.selected(only), Effort(seconds), runs)
        result = summary(implementations, samples, seconds, runs, load)
        if json_file != "-":
            tunnel_table.show(result)
        if file is not None:
            file.last(json.dumps(result, indent=2) + "\n")
    if plot:
        plotting.tunnel(result, Path(plot))


def show_competitors(json_file: str | None) -> None:
    """Print what --vs knows by name, or write it as JSON to a file ("-": stdout, in place of the table)."""
    rows = competitors.listing()
    if json_file == "-":
        click.echo(json.dumps(rows, indent=2))
        return
    tunnel_table.show_competitors(rows)
    if json_file:
        Path(json_file).write_text(json.dumps(rows, indent=2) + "\n")


def measure(
    implementations: Sequence[Implementation], chosen_figures: Sequence[Figure], effort: Effort, runs: int
) -> Samples:
    """Every figure of every implementation, run by run."""
    samples: Samples = {}
    each = sum(figure.estimate(effort) for figure in chosen_figures)
    engines = sum(one.command is not None for one in implementations)
    equal = effort.seconds + 0.3 if engines > 1 and any(f.name == "udp64" for f in chosen_figures) else 0.0
    with progress(runs * len(implementations) * (each + START_SECONDS + equal)) as steps:
        for number in range(runs):
            place = f"run {number + 1} of {runs}"
            _run(order(implementations, number), chosen_figures, effort, samples, steps, place)
    return samples


def order(implementations: Sequence[Implementation], number: int) -> Sequence[Implementation]:
    """Of one run, counted from 0."""
    return implementations[:: -1 if number % 2 else 1]


def _run(
    implementations: Sequence[Implementation],
    chosen_figures: Sequence[Figure],
    effort: Effort,
    samples: Samples,
    steps: Progress,
    place: str,
) -> None:
    solo = [figure for figure in chosen_figures if figure.own_tunnel]
    together = [figure for figure in chosen_figures if not figure.own_tunnel]
    with ExitStack() as stack:
        tunnels = []
        for one in implementations if together else ():
            steps.step(f"{place}: starting {one.title}", START_SECONDS)
            tunnels.append(stack.enter_context(Tunnel(one)))
        for figure in together:
            for tunnel in tunnels:
                steps.step(f"{place}: {figure.title}: {tunnel.implementation.title}", figure.estimate(effort))
                _add(samples, tunnel.implementation, figure.measure(tunnel, effort))
            if figure.name == "udp64":
                _equal_rate([tunnel for tunnel in tunnels if tunnel.engines], effort, samples, steps, place)
    for figure in solo:
        for one in implementations:
            if one.command is not None or not figure.engine_only:
                steps.step(f"{place}: {figure.title}: {one.title}", figure.estimate(effort))
                with Tunnel(one, second_peer=figure.second_peer) as tunnel:
                    _add(samples, one, figure.measure(tunnel, effort))


def _equal_rate(
    tunnels: Sequence[Tunnel], effort: Effort, samples: Samples, steps: Progress, place: str
) -> None:
    """CPU a packet of all engines at the rate of the slowest, as this run found it."""
    rates = [samples["udp64.rate"][tunnel.implementation.title][-1] for tunnel in tunnels]
    if len(tunnels) < 2 or not all(rates):
        return
    for tunnel in tunnels:
        title = f"UDP at {min(rates):,.0f} packets/s: {tunnel.implementation.title}"
        steps.step(f"{place}: {title}", effort.seconds + 0.3)
        _add(samples, tunnel.implementation, figures.measure_equal(tunnel, effort, min(rates)))
        _add(samples, tunnel.implementation, {"udp64.equal_rate": min(rates)})


def _add(samples: Samples, implementation: Implementation, values: Values) -> None:
    for key, value in values.items():
        samples.setdefault(key, {}).setdefault(implementation.title, []).append(value)


def summary(
    implementations: Sequence[Implementation], samples: Samples, seconds: int, runs: int, load: float
) -> dict[str, Any]:
    """The whole result, as --json writes it."""
    metrics = [metric for figure in figures.FIGURES for metric in figure.metrics if metric.key in samples]
    return {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "load_at_start": round(load, 2),
        },
        "seconds": seconds,
        "runs": runs,
        "implementations": [asdict(one) | {"name": one.name} for one in implementations],
        "figures": [_figure(metric, samples) for metric in metrics],
        "ratios": _ratios(implementations, metrics, samples),
        "verdicts": [asdict(verdict) for verdict in _verdicts(implementations, samples, seconds)],
        "sender_was_the_limit": [t for t, v in samples.get("udp64.at_sender", {}).items() if any(v)],
    }


def _figure(metric: comparison.Metric, samples: Samples) -> dict[str, Any]:
    found = {}
    for title, values in samples[metric.key].items():
        of = comparison.spread(values)
        assert of is not None  # a sample list is made with its first value
        found[title] = {"median": of.median, "min": of.least, "max": of.most, "values": values}
    return asdict(metric) | {"found": found}


def _ratios(
    implementations: Sequence[Implementation], metrics: Sequence[comparison.Metric], samples: Samples
) -> list[dict[str, Any]]:
    """Each Plait over each other implementation, and each mode of Plait over the first one."""
    rows = []
    plaits = [one for one in implementations if one.is_plait]
    for one in plaits:
        for other in implementations:
            if other is one or (other.is_plait and other is not plaits[0]):
                continue
            for metric in metrics:
                value = comparison.ratio(samples, metric.key, one.title, other.title)
                if value is not None and metric.better:
                    pair = {"one": one.title, "other": other.title}
                    rows.append({"metric": metric.key, **pair, "ratio": value})
    return rows


def _verdicts(
    implementations: Sequence[Implementation], samples: Samples, seconds: int
) -> list[comparison.Verdict]:
    if not any(one.title == NEWEST for one in implementations):
        return []
    plaits = [one.title for one in implementations if one.is_plait and one.handoff in DEFAULT_HANDOFFS]
    return comparison.verdicts(samples, plaits, NEWEST, seconds)
