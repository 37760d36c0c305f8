"""`plait load merge`: what several machines found, each with a range of one profile's peers, as one run.

Counts add up, and so do histograms, bucket by bucket: percentiles are those of all together. Of an interval
of `series` the machines have told percentiles alone, which do not add up; its `max` is the greatest of them.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from plait.failure import Failure
from plait.load import document as load_json
from plait.load import result as load_result
from plait.load import thresholds as load_thresholds
from plait.load.result import HISTOGRAMS, PhaseResult
from plait.load.series import COUNTERS
from plait.load.stop import EXIT_CODE as STOPPED_EXIT_CODE
from plait.result_file import ResultFile

APART_SECONDS = 1.0  # more is said: what was measured then did not happen at once
# The first that any machine has is the whole's, and decides the exit code; None: the requirements do.
_ENDS = {
    "failed": 1,
    "gave_up": 1,
    "running": 1,  # the command was killed
    "aborted": load_thresholds.EXIT_CODE,
    "stopped": STOPPED_EXIT_CODE,
    "finished": None,
}


def run(files: Sequence[str], output: str, require: Sequence[str]) -> int:
    """Merge files into one, and hold requirements against it. The exit code."""
    documents = [load_json.read(file) for file in files]
    for name, each in zip(files, documents, strict=True):
        _check_histograms(name, each)
    for line in check(files, documents):
        print(f"load: {line}", file=sys.stderr)
    with ResultFile(output) as file:
        made = merged(documents, require)
        file.last(load_json.text(made))
    for verdict in made["requirements"]:
        if not verdict["holds"]:
            found = load_thresholds.in_its_unit(verdict["text"], verdict["found"])
            why = ": the generator's doing, not the gateway's" if verdict["blame"] else ""
            print(f"plait: load: required {verdict['text']}, found {found}{why}", file=sys.stderr)
    if (code := _ENDS[made["end"]]) is not None:
        return code
    blames = [verdict["blame"] for verdict in made["requirements"] if not verdict["holds"]]
    has_limit = load_result.is_limit([phase["counters"] for phase in made["phases"]])
    return load_thresholds.exit_code(blames, has_limit=has_limit)


def check(files: Sequence[str], documents: Sequence[dict[str, Any]]) -> list[str]:
    """What one should know of them. Failure when they are no parts of one run."""
    first = documents[0]
    spans: list[tuple[int, int, str]] = []
    for file, each in zip(files, documents, strict=True):
        kept = [{**one["profile"], "target": None, "sources": None} for one in (first, each)]
        if kept[0] != kept[1]:
            differs = ", ".join(key for key in kept[0] if kept[0][key] != kept[1].get(key))
            mend = "Run one profile on all machines, each with its --peers-range."
            raise Failure(f"cannot merge {files[0]} and {file}", f"their profiles differ in {differs}", mend)
        names = set(load_result.counter_names())
        if any(set(phase["counters"]) != names for phase in each["phases"]):
            why = "it counts what this Plait does not, or lacks what it counts"
            raise Failure(f"cannot merge {file}", why, "Use the same version of Plait on all machines.")
        spans += [(*machine["peers"], file) for machine in each["machines"]]
    spans.sort()
    for (_, last, one), (begin, _, other) in pairwise(spans):
        if begin <= last:
            mend = "Give each machine peers of its own: --peers-range 0-49999, --peers-range 50000-99999."
            raise Failure(f"cannot merge {one} and {other}", f"both have peer {begin}", mend)
    said = []
    missing = first["profile"]["peers"] - sum(last + 1 - begin for begin, last, _ in spans)
    if missing:
        said.append(
            f"{missing:,} of the profile's {first['profile']['peers']:,} peers are in none of these files"
        )
    moments = [_seconds(each["began"]) for each in documents]
    if (apart := max(moments) - min(moments)) > APART_SECONDS:
        said.append(f"they began up to {apart:.1f} s apart: they did not load the gateway together")
    said += [
        f"{file} ended early: {_why(each)}"
        for file, each in zip(files, documents, strict=True)
        if each["end"] != "finished"
    ]
    return said


def _check_histograms(file: str, document: dict[str, Any]) -> None:
    """Failure when one cannot be read."""
    for phase in document["phases"]:
        for place in (phase, *phase.get("populations", {}).values()):
            for name, found in place["times"].items():
                try:
                    _histogram(found)
                except Exception as error:  # of base64, zlib, ctypes or hdrh
                    why = f"the histogram {name} of phase {phase['name']} is damaged"
                    raise Failure(f"cannot merge {file}", why, "Use the file that the run wrote.") from error


def _histogram(found: dict[str, Any]) -> Any:
    from hdrh.histogram import HdrHistogram

    return HdrHistogram.decode(found["hdr"].encode())


def _why(document: dict[str, Any]) -> str | None:
    """Why it ended before its time; None when it did not."""
    if document["end"] == "running":
        return "the command was killed"
    why: str | None = document["why"]
    return why


def merged(documents: Sequence[dict[str, Any]], require: Sequence[str] = ()) -> dict[str, Any]:
    """One document of several."""
    first = documents[0]
    names = [phase["name"] for phase in first["profile"]["phase"]]
    places = [
        place
        for name in names
        for place in (name, *(f"{name}/{each['name']}" for each in first["profile"].get("population", ())))
    ]
    parts = {
        name: [phase for each in documents for phase in each["phases"] if phase["name"] == name]
        for name in names
    }
    phases = [
        together([restored(part) for part in parts[name]], len(documents)) for name in names if parts[name]
    ]
    thresholds = [load_thresholds.parse(text) for text in (*first["profile"]["require"], *require)]
    load_thresholds.check_phases(thresholds, places)
    by_name = {name: load_result.metrics([each]) for name, each in load_result.places(phases).items()}
    whole = load_result.metrics(phases) if phases else {}
    ends = [each["end"] for each in documents]
    end = next(end for end in _ENDS if end in ends)
    return {
        **first,
        "command": ["plait", *sys.argv[1:]],
        "began": min((each["began"] for each in documents), key=_seconds),
        "ended": max((each["ended"] for each in documents), key=_seconds),
        "end": end,
        "why": _why(documents[ends.index(end)]),
        "stopped_early": any(each["stopped_early"] for each in documents),
        "machines": [machine for each in documents for machine in each["machines"]],
        "tags": {name: text for each in reversed(documents) for name, text in each["tags"].items()},
        "precomputed": {
            "seconds": max(each["precomputed"]["seconds"] for each in documents),
            "ephemerals": sum(each["precomputed"]["ephemerals"] for each in documents),
            "static_static": sum(each["precomputed"]["static_static"] for each in documents),
        },
        "phases": [phase.as_json() for phase in phases],
        "total": {"metrics": whole},
        "requirements": load_json.judged(by_name, whole, thresholds),
        "series": series(documents),
    }


def restored(phase: dict[str, Any]) -> PhaseResult:
    """A phase back from its JSON. An HdrHistogram is finer than a bucket, so each count finds its bucket."""
    made = _restored(phase)
    for name, each in phase.get("populations", {}).items():
        whole = {**phase, **each, "generator": {"lag_most": each["lag_most"]}}
        made.populations[name] = _restored(whole)
    return made


def _restored(phase: dict[str, Any]) -> PhaseResult:
    from plait.load._generator import lib

    rows = np.zeros((len(HISTOGRAMS), len(load_result.bucket_middles())), dtype=np.uint64)
    for row, name in zip(rows, HISTOGRAMS, strict=True):
        bucket = lib.load_recovery_bucket if name == "recovery" else lib.load_bucket
        if name in phase["times"]:
            for item in _histogram(phase["times"][name]).get_recorded_iterator():
                row[bucket(item.value_iterated_to)] += item.count_added_in_this_iter_step
    share = phase["generator"].get("cpu_share")
    return PhaseResult(
        name=phase["name"],
        counters=phase["counters"],
        histograms=rows,
        lag_most=phase["generator"]["lag_most"],
        seconds=phase["seconds"],
        cpu_shares=[] if share is None else [share],
        began=phase["began"],
        is_finished=phase["finished"],
        gap_most=phase["longest_gap"],
        confirmed_last=phase["confirmed_last"],
    )


def together(parts: Sequence[PhaseResult], machines: int) -> PhaseResult:
    """One phase of so many machines: of those that came so far. A population may be on some of them alone."""
    populations = dict.fromkeys(name for part in parts for name in part.populations)
    return PhaseResult(
        name=parts[0].name,
        counters={name: sum(part.counters[name] for part in parts) for name in parts[0].counters},
        histograms=np.sum([part.histograms for part in parts], axis=0),
        lag_most=max(part.lag_most for part in parts),
        seconds=max(part.seconds for part in parts),
        cpu_shares=[share for part in parts for share in part.cpu_shares],
        began=min(part.began for part in parts),
        gap_most=max(part.gap_most for part in parts),
        confirmed_last=max(part.confirmed_last for part in parts),
        is_finished=len(parts) == machines and all(part.is_finished for part in parts),
        populations={
            name: together(own, len(own))
            for name in populations
            for own in [[part.populations[name] for part in parts if name in part.populations]]
        },
    )


def series(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The intervals of the machine that has most of them, with what all did meanwhile."""
    start = min(_seconds(each["began"]) for each in documents)
    shifted = [_shifted(each["series"], _seconds(each["began"]) - start) for each in documents]
    made = []
    for phase in dict.fromkeys(entry["phase"] for entries in shifted for entry in entries):
        parts = [[entry for entry in entries if entry["phase"] == phase] for entries in shifted]
        grid = max(parts, key=len)
        edges = [entry["from"] for entry in grid] + [grid[-1]["at"]]
        edges[0] = min(part[0]["from"] for part in parts if part)
        edges[-1] = max(part[-1]["at"] for part in parts if part)
        made += [_interval(phase, begin, end, parts) for begin, end in pairwise(edges) if end > begin]
    return made


def _shifted(entries: Sequence[dict[str, Any]], by: float) -> list[dict[str, Any]]:
    return [{**entry, "from": entry["from"] + by, "at": entry["at"] + by} for entry in entries]


def _interval(
    phase: str, begin: float, end: float, parts: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """What all did between two moments; an interval of theirs that lies partly in it counts by its part."""
    meant = [[entry for entry in part if entry["from"] < end and entry["at"] > begin] for part in parts]
    rates = dict.fromkeys(COUNTERS, 0.0)
    for entry in (entry for part in meant for entry in part):
        share = (min(entry["at"], end) - max(entry["from"], begin)) / (end - begin)
        for name in COUNTERS:
            rates[name] += entry.get(name, 0.0) * share
    greatest = [entry["round_trip"]["max"] for part in meant for entry in part if entry["round_trip"]]
    last = [part[-1] for part in meant if part]
    return {
        "from": round(begin, 3),
        "at": round(end, 3),
        "phase": phase,
        "sessions": sum(entry["sessions"] for entry in last),
        "outstanding": sum(entry["outstanding"] for entry in last),
        **{name: round(rate, 3) for name, rate in rates.items()},
        "round_trip": {"max": max(greatest)} if greatest else {},
    }


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
