"""A run as JSON, and back: what `--json` writes, and `report` and `compare` read."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from plait.failure import Failure
from plait.load import result as load_result
from plait.load.run import Run
from plait.load.thresholds import Threshold

VERSION = 1


def judge(run: Run, thresholds: Sequence[Threshold]) -> list[dict[str, Any]]:
    """Each requirement with what was found."""
    by_name = {phase.name: load_result.metrics([phase]) for phase in run.phases}
    whole = load_result.metrics(run.phases) if run.phases else {}
    found = []
    for threshold in thresholds:
        measured = whole if threshold.phase is None else by_name.get(threshold.phase, {})
        value = measured.get(threshold.metric)
        found.append(
            {
                "text": threshold.text,
                "holds": threshold.holds(measured),
                "found": "nothing measured" if value is None else round(value, 9),
            }
        )
    return found


def document(run: Run, verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything of a run. Times in seconds, rates a second, shares of 1."""
    return {
        "plait_load": VERSION,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cores": run.cores,
        "stopped_early": run.stopped,
        "bytes_per_peer": run.bytes_per_peer,
        "precomputed": {
            "seconds": run.prepared_seconds,
            "ephemerals": run.ephemerals,
            "static_static": run.profile.peers,
        },
        "profile": msgspec.to_builtins(run.profile),
        "phases": [phase.as_json() for phase in run.phases],
        "total": {"metrics": load_result.metrics(run.phases) if run.phases else {}},
        "requirements": verdicts,
        "series": series(run),
    }


def series(run: Run) -> list[dict[str, Any]]:
    """What happened between each two looks, as rates."""
    found = []
    for before, look in zip([None, *run.looks], run.looks, strict=False):
        past = before if before is not None and before.phase == look.phase else None
        span = look.elapsed - (past.elapsed if past else 0.0)
        if span <= 0.01:
            continue

        def rate(name: str, past: Any = past, look: Any = look, span: float = span) -> float:
            return float(round((look.counters[name] - (past.counters[name] if past else 0)) / span, 3))

        buckets = look.round_trip - past.round_trip if past else look.round_trip
        entry = {
            "at": round(look.at, 3),
            "phase": run.profile.phase[look.phase].name,
            "sessions": look.sessions,
            "outstanding": look.outstanding,
        }
        for name in (
            "initiations",
            "handshakes",
            "cookies",
            "asked",
            "answered",
            "datagrams_out",
            "datagrams_in",
            "inner_out",
            "inner_in",
        ):
            entry[name] = rate(name)
        entry["round_trip"] = load_result.times(buckets)
        found.append(entry)
    return found


def write(path: str, made: dict[str, Any]) -> None:
    """To a file, or `-` for standard output."""
    text = json.dumps(made, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text)


def read(path: str) -> dict[str, Any]:
    """A document back from its file. Failure when it is none."""
    mend = "Give a file that `plait load run --json FILE` wrote."
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"cannot read {path}", str(error), mend) from error
    if not isinstance(found, dict) or found.get("plait_load") != VERSION:
        raise Failure(f"cannot read {path}", f"it is no load run of version {VERSION}", mend)
    return found
