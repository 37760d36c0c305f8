"""`plait load report`: one self-contained page with a run's figures and plots, or the plots alone as PNG."""

from __future__ import annotations

import base64
import html
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plait.failure import Failure
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import thresholds as load_thresholds

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
img { max-width: 100% } .bad { color: #b00 } pre { background: #f4f4f4; padding: 1em; overflow-x: auto }
"""


def write(run_json: str, output: str | None) -> None:
    """The report of a run's JSON to a file, or the page to standard output."""
    run = load_json.read(run_json)
    if output is not None and output.endswith(".png"):
        Path(output).write_bytes(plots(run))
        return
    text = page(run, plots(run))
    if output is None:
        sys.stdout.write(text)
    else:
        Path(output).write_text(text)


def page(run: dict[str, Any], image: bytes) -> str:
    """The HTML page; it fetches nothing."""
    phases = run["phases"]
    heads = "".join(f"<th>{html.escape(phase['name'])}</th>" for phase in phases)
    rows = []
    for metric in load_thresholds.METRICS:
        values = [phase["metrics"].get(metric) for phase in phases]
        if any(values):
            cells = "".join(f"<td>{load_compare.text(metric, value)}</td>" for value in values)
            rows.append(f"<tr><td>{html.escape(metric)}</td>{cells}</tr>")
    limits = [
        f"<li class=bad>{html.escape(phase['name'])}: {html.escape(limit)}</li>"
        for phase in phases
        for limit in phase["generator"]["limits"]
    ]
    required = [
        f"<li{'' if each['holds'] else ' class=bad'}>{html.escape(each['text'])}: "
        f"found {load_thresholds.in_its_unit(each['text'], each['found'])}</li>"
        for each in run["requirements"]
    ]
    profile = run["profile"]
    title = f"{profile['peers']:,} peers on {html.escape(profile['target'])}"
    encoded = base64.b64encode(image).decode()
    return "".join(
        [
            f"<!doctype html><meta charset=utf-8><title>{title}</title>",
            f"<style>{STYLE}</style><h1>{title}</h1>",
            f"<p>{run['written']}, Linux {html.escape(run['kernel'])}, load on cores {run['cores']}. ",
            f"Times at a rate count from when an event was due. {run['precomputed']['ephemerals']:,} ",
            "ephemerals were computed before the clock started.</p>",
            f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>",
            f"<h2>Requirements</h2><ul>{''.join(required)}</ul>" if required else "",
            f"<h2>Limits of the generator</h2><ul>{''.join(limits)}</ul>" if limits else "",
            f"<h2>Over time</h2><img alt='plots' src='data:image/png;base64,{encoded}'>",
            "\n",
        ]
    )


def plots(run: dict[str, Any]) -> bytes:
    """Rates, round trips and loss over time, and the distribution of each phase, as one PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Failure("cannot draw", "matplotlib is not installed", "pip install 'plait[report]'") from error
    figure = Figure(figsize=(10, 13), layout="constrained")
    FigureCanvasAgg(figure)
    rates, echoes, trips, tails = figure.subplots(4, 1)
    _over_time(
        run,
        rates,
        "handshakes",
        "a second",
        {"confirmed": lambda e: e["handshakes"], "cookies": lambda e: e["cookies"]},
    )
    _over_time(
        run,
        echoes,
        "echoes",
        "a second",
        {"asked": lambda e: e["asked"], "answered": lambda e: e["answered"]},
    )
    _over_time(
        run,
        trips,
        "round trip",
        "ms",
        {name: _milliseconds(name) for name in ("p50", "p90", "p99")},
    )
    _tails(run, tails)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return out.getvalue()


def _over_time(
    run: dict[str, Any], axes: Any, title: str, unit: str, curves: dict[str, Callable[[dict[str, Any]], Any]]
) -> None:
    """Curves over the run's seconds, with a line where each phase begins."""
    for label, value in curves.items():
        points = [(entry["at"], value(entry)) for entry in run["series"]]
        known = [(at, y) for at, y in points if y is not None]
        axes.plot([at for at, _ in known], [y for _, y in known], label=label, linewidth=1)
    last = None
    for entry in run["series"]:
        if entry["phase"] != last:
            axes.axvline(entry["at"], color="#bbb", linewidth=0.8)
            axes.text(
                entry["at"],
                1.0,
                entry["phase"],
                transform=axes.get_xaxis_transform(),
                fontsize=8,
                va="bottom",
            )
            last = entry["phase"]
    axes.set(ylabel=f"{title}, {unit}", xlabel="s")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", fontsize=8)


def _milliseconds(name: str) -> Callable[[dict[str, Any]], Any]:
    """Of an entry of the series: that percentile of its round trips, None without any."""
    return lambda entry: entry["round_trip"][name] * 1e3 if name in entry["round_trip"] else None


def _tails(run: dict[str, Any], axes: Any) -> None:
    """The share of round trips that took longer, on two logarithmic scales: tails as lines."""
    from hdrh.histogram import HdrHistogram

    for phase in run["phases"]:
        found = phase["times"].get("round_trip")
        if found is None:
            continue
        histogram = HdrHistogram.decode(found["hdr"].encode())
        shares = [1 - 10 ** (-step / 10) for step in range(51)]
        values = [histogram.get_value_at_percentile(share * 100) / 1e6 for share in shares]
        axes.plot(values, [1 - share for share in shares], label=phase["name"], linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="round trip, ms", ylabel="share that took longer")
    if axes.lines:
        axes.legend(loc="upper right", fontsize=8)
