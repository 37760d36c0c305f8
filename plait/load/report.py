"""`plait load report`: one page with the figures and plots of a run, or of each turn of a lab."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from plait.failure import Failure
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import plots as load_plots
from plait.load import thresholds as load_thresholds
from plait.result_file import ResultFile

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #d8d8d8; --shade: #f4f4f4;
  --bad: #b00020; --c0: #0b62a8; --c1: #c2500a; --c2: #1d7a3c; --c3: #8a3aa5 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #16181b; --faint: #3c4046;
  --shade: #22252a; --bad: #ff8f8f; --c0: #6cb6ff; --c1: #ffa657; --c2: #6fdd8b; --c3: #d6a5f0 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 1.5rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.2rem; margin-top: 2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--faint) }
th:first-child, td:first-child { text-align: left; padding-left: 0 } tbody th { font-weight: normal }
.bad { color: var(--bad) }
pre { background: var(--shade); padding: .8rem; overflow-x: auto; font-size: .85rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { opacity: .75 }
dd { margin: 0; min-width: 0 }
figure { margin: 1.5rem 0 } figcaption { font-weight: 600 }
svg { display: block; width: 100%; height: auto } svg.key { width: 30px; height: 8px }
figure ul { display: flex; flex-wrap: wrap; gap: 0 1.2rem; list-style: none; margin: .2rem 0; padding: 0;
  font-size: .85rem }
figure li { display: flex; align-items: center; gap: .4rem }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } .narrow { display: none }
.grid { stroke: var(--faint); fill: none } .axis { stroke: var(--ink); fill: none; opacity: .6 }
.mark { stroke: var(--ink); opacity: .45; stroke-dasharray: 1 3; fill: none }
.area { stroke: none; fill: currentColor; color: var(--c0); opacity: .18 }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round } .c0 { stroke: var(--c0) }
.c1 { stroke: var(--c1); stroke-dasharray: 6 3 } .c2 { stroke: var(--c2); stroke-dasharray: 2 3 }
.c3 { stroke: var(--c3); stroke-dasharray: 8 2 2 2 }
@media (max-width: 560px) { .wide { display: none } svg.narrow { display: block }
  dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } }
"""
TAIL_STEPS = 51  # points of a tail: ten for each power of ten of the share


def write(path: str, output: str | None) -> None:
    """Write the page of a run's or a lab's JSON to a file, or to standard output."""
    if output is not None and output.endswith((".png", ".svg", ".pdf")):
        raise Failure(
            f"cannot write {output}", "the report is a page of HTML", "Name a file such as run.html."
        )
    found = load_json.read_any(path)
    with ResultFile("-" if output is None else output) as file:
        file.last(page(found) if "plait_load" in found else lab_page(found))


def page(run: dict[str, Any]) -> str:
    """The page of one run. It is complete: a browser loads nothing else for it."""
    title = f"{run['profile']['peers']:,} peers on {run['gateway']['address']}"
    body = [_ended(run), *_figures(run), *_plots(run, "p"), *_how(run)]
    return _whole(title, body)


def lab_page(lab: dict[str, Any]) -> str:
    """The page of a lab: engines side by side, then each turn."""
    from plait.load import lab_run as load_lab

    names = [engine["name"] for engine in lab["engines"]]
    title = f"{', '.join(names)}: {lab['profile']['peers']:,} peers in a lab"
    rows = []
    for place, metric, spreads in load_lab.figures(names, lab["turns"], lab["requirements"]):
        rows.append((f"{place}: {metric}", [load_compare.spread_text(metric, each) for each in spreads]))
    body = [_ended(lab), "<h2>Side by side</h2>"]
    body.append("<p>Medians, and of several rounds the least and the greatest. A dash is not measured.</p>")
    body.append(_table(names, rows))
    body += _required(lab["requirements"], names=True)
    for at, turn in enumerate(lab["turns"]):
        body.append(f"<h2>{html.escape(turn['name'])}, round {turn['round'] + 1}</h2>")
        if turn["failed"] is not None:
            body.append(f"<p class=bad>Failed: {html.escape(turn['failed'])}</p>")
        if turn["run"] is not None:
            body += [*_limits(turn["run"]), *_plots(turn["run"], f"t{at}")]
    body += _how({**lab, **_first_run(lab)})
    return _whole(title, body)


def _first_run(lab: dict[str, Any]) -> dict[str, Any]:
    """What `_how` shows of a run, for a lab: taken from its first turn that ran."""
    runs = [turn["run"] for turn in lab["turns"] if turn["run"] is not None]
    versions = ", ".join(f"{one['name']} {one['version'] or 'of unknown version'}" for one in lab["engines"])
    return {
        "machines": runs[0]["machines"] if runs else [],
        "gateway": {"address": "", "version": versions},
        "precomputed": None,
    }


def _whole(title: str, body: Sequence[str]) -> str:
    return "".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            '<meta name=viewport content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style><main><h1>{html.escape(title)}</h1>",
            *body,
            "</main></html>\n",
        ]
    )


def _ended(made: dict[str, Any]) -> str:
    when = f"{_day(made['began'])} to {_day(made['ended'])}."
    if made["end"] == "finished":
        return f"<p>{when}</p>"
    why = f": {html.escape(made['why'])}" if made["why"] else ""
    return f"<p>{when} <strong class=bad>It ended early ({made['end'].replace('_', ' ')}{why}).</strong></p>"


def _day(moment: str) -> str:
    return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M:%S UTC")


def _figures(run: dict[str, Any]) -> Iterator[str]:
    yield from _required(run["requirements"])
    yield from _limits(run)
    places = load_json.places(run)
    heads = [name + ("" if place["finished"] else " (ended early)") for name, place in places.items()]
    rows = [("seconds", [f"{place['seconds']:.2f} s" for place in places.values()])]
    for name in load_compare.shown(run["requirements"]):
        find = load_compare.FIGURES[name]
        values = [find(place) for place in places.values()]
        if any(value is not None for value in values):
            rows.append((name, [load_compare.text(name, value) for value in values]))
    yield "<h2>Figures</h2><p>Times at a rate count from when an event was due. A dash is not measured.</p>"
    yield _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in heads)
    lines = []
    for name, cells in rows:
        shown = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th scope=row>{html.escape(name)}</th>{shown}</tr>")
    return (
        f"<div class=scroll tabindex=0><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _required(verdicts: Sequence[dict[str, Any]], *, names: bool = False) -> Iterator[str]:
    if not verdicts:
        return
    items = []
    for each in verdicts:
        found = load_thresholds.in_its_unit(each["text"], each["found"])
        word = "met" if each["holds"] else "<strong class=bad>✗ not met</strong>"
        who = f"{html.escape(each['name'])}, round {each['round'] + 1}: " if names else ""
        items.append(f"<li>{who}{html.escape(each['text'])}: {word}, found {html.escape(found)}</li>")
    yield f"<h2>Requirements</h2><ul>{''.join(items)}</ul>"


def _limits(run: dict[str, Any]) -> Iterator[str]:
    items = [
        f"<li>{html.escape(phase['name'])}, the {each['party']}: {html.escape(each['text'])}</li>"
        for phase in run["phases"]
        for each in phase["parties"]
    ]
    if items:
        yield f"<h2>What was the limit</h2><ul>{''.join(items)}</ul>"


def _plots(run: dict[str, Any], prefix: str) -> Iterator[str]:
    start = datetime.fromisoformat(run["began"]).timestamp()
    marks = [load_plots.Mark(max(phase["began"] - start, 0.0), phase["name"]) for phase in run["phases"]]
    yield "<h3>Over time, in seconds</h3>"
    yield from load_plots.over_time(run["series"], marks, prefix)
    yield from load_plots.tails([(phase["name"], _tail(phase)) for phase in run["phases"]], prefix)


def _tail(phase: dict[str, Any]) -> list[tuple[float, float]]:
    """(ms, share of the round trips that took longer), down to the share that is one round trip."""
    found = phase["times"].get("round_trip")
    if found is None:
        return []
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram.decode(found["hdr"].encode())
    shares = [10 ** (-step / 10) for step in range(TAIL_STEPS)]
    return [
        (histogram.get_value_at_percentile((1 - share) * 100) / 1e6, share)
        for share in shares
        if share * histogram.get_total_count() >= 1
    ]


def _how(made: dict[str, Any]) -> Iterator[str]:
    pairs = [("command", f"<code>{html.escape(shlex.join(made['command']))}</code>")]
    for machine in made["machines"]:
        first, last = machine["peers"]
        where = f"{machine['host']}, Linux {machine['kernel']}, {machine['cpu']}, {machine['cpus']} CPUs"
        cores = ", ".join(map(str, machine["cores"]))
        pairs.append(("load from", html.escape(f"{where}; peers {first} to {last} on cores {cores}")))
        plait = machine["plait"]
        words = f"{plait['version']} (memory layout {plait['layout']}, commit {plait['commit']})"
        pairs.append(("Plait", html.escape(words)))
    pairs.append(("gateway", html.escape(made["gateway"]["version"] or "of unknown version")))
    pairs += [
        (html.escape(name), html.escape(words))
        for name, words in made["tags"].items()
        if name != load_json.GATEWAY_TAG
    ]
    if made["precomputed"] is not None:
        count, seconds = made["precomputed"]["ephemerals"], made["precomputed"]["seconds"]
        words = f"{count:,} ephemerals, in {seconds:.1f} s before the clock started"
        pairs.append(("precomputed", words))
    listed = "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in pairs)
    profile = html.escape(json.dumps(_without_defaults(made["profile"]), indent=1))
    yield f"<h2>How it was run</h2><dl>{listed}</dl>"
    yield f"<details><summary>Profile</summary><pre>{profile}</pre></details>"


def _without_defaults(value: Any) -> Any:
    """A profile without the keys that it does not set (null)."""
    if isinstance(value, dict):
        return {key: _without_defaults(each) for key, each in value.items() if each not in (None, {}, [])}
    return [_without_defaults(each) for each in value] if isinstance(value, list) else value
