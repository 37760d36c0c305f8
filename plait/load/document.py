"""A run as JSON, and back: what `--json` writes, and `report`, `compare` and `merge` read (schema.py)."""

from __future__ import annotations

import datetime
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from plait.failure import Failure
from plait.load import result as load_result
from plait.load import schema as load_schema
from plait.load.progress import Run
from plait.load.schema import VERSION
from plait.load.thresholds import Threshold

GATEWAY_TAG = "gateway"


def judge(run: Run, thresholds: Sequence[Threshold]) -> list[dict[str, Any]]:
    """Each requirement with what was found, None when nothing was measured."""
    by_name = {name: load_result.metrics([each]) for name, each in load_result.places(run.phases).items()}
    return judged(by_name, load_result.metrics(run.phases) if run.phases else {}, thresholds)


def judged(
    by_name: Mapping[str, Mapping[str, float | None]],
    whole: Mapping[str, float | None],
    thresholds: Sequence[Threshold],
) -> list[dict[str, Any]]:
    """The same, from the metrics of each phase and of the whole run."""
    found = []
    for threshold in thresholds:
        measured = whole if threshold.phase is None else by_name.get(threshold.phase, {})
        value = measured.get(threshold.metric)
        found.append(
            {
                "text": threshold.text,
                "holds": threshold.holds(measured),
                "found": None if value is None else round(value, 9),
                "blame": threshold.blame(measured),
            }
        )
    return found


def document(
    run: Run, verdicts: list[dict[str, Any]], tags: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything of a run, as load_schema.Run has it."""
    tags = dict(tags or {})
    return {
        "plait_load": VERSION,
        "command": ["plait", *sys.argv[1:]],
        "began": moment(run.began),
        "ended": moment(time.time()),
        "end": run.end,
        "why": why(run),
        "stopped_early": run.stopped,
        "machines": [machine(run)],
        "gateway": {"address": run.profile.target, "version": tags.get(GATEWAY_TAG)},
        "tags": tags,
        "bytes_per_peer": run.bytes_per_peer,
        "precomputed": {
            "seconds": run.prepared_seconds,
            "ephemerals": run.ephemerals,
            "static_static": run.static_static,
        },
        "profile": msgspec.to_builtins(run.profile),
        "phases": [phase.as_json() for phase in run.phases],
        "total": {"metrics": load_result.metrics(run.phases) if run.phases else {}},
        "requirements": verdicts,
        "series": [point.as_json(run.profile.phase[point.phase].name) for point in run.series.points],
    }


def places(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of the JSON of a run: phases by name, and their populations as PHASE/POPULATION, each with `finished`,
    `metrics` and `generator`."""
    found = {}
    for phase in run["phases"]:
        found[phase["name"]] = phase
        for name, each in phase.get("populations", {}).items():
            found[f"{phase['name']}/{name}"] = {
                **each, "finished": phase["finished"], "generator": {}, "name": f"{phase['name']}/{name}"
            }  # fmt: skip
    return found


def why(run: Run) -> str | None:
    """Why it ended before its time, None when it did not."""
    if run.signal is not None:
        return run.signal
    if run.failure is not None:
        return str(run.failure)
    if run.aborted is not None:
        return run.aborted
    return f"the gateway said nothing for {run.profile.give_up:g} s" if run.gave_up else None


def moment(seconds: float) -> str:
    """A time of day: seconds since 1970 as ISO 8601, in UTC."""
    made = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return made.isoformat(timespec="milliseconds")


def machine(run: Run) -> dict[str, Any]:
    """This machine, as load_schema.Machine has it."""
    from workers import version

    return {
        "host": socket.gethostname(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "plait": version.as_dict(),
        "cores": run.cores,
        "peers": [run.span.start, run.span.stop - 1],
        "began": moment(run.began),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def text(made: dict[str, Any]) -> str:
    """A document as it is written."""
    return json.dumps(made, indent=1) + "\n"


def read(path: str) -> dict[str, Any]:
    """The document of one run back from its file. Failure when it is none."""
    mend = "Give a file that `plait load run --json FILE` wrote."
    return _read(path, {"plait_load": load_schema.Run}, mend)


def read_any(path: str) -> dict[str, Any]:
    """The document of a run or of a lab."""
    kinds = {"plait_load": load_schema.Run, "plait_load_lab": load_schema.LabRun}
    return _read(path, kinds, "Give a file that `plait load run --json FILE` wrote, with --lab or without.")


class _Phase(msgspec.Struct):
    name: str


class _Profile(msgspec.Struct):
    """What each kept profile has; load_profile.Profile may know less or more than the one that ran."""

    peers: int
    target: str
    require: list[str]
    phase: list[_Phase]


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _read(path: str, kinds: Mapping[str, type], mend: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Failure(f"cannot read {path}", why, mend) from error
    kind = next((key for key in kinds if isinstance(found, dict) and key in found), None)
    if kind is None or found[kind] != VERSION:
        why = f"it is no load run of version {VERSION}"
        if kind is not None and found[kind] == 1:
            why += ": version 1 is of an earlier Plait"
            mend = "Run it again."
        raise Failure(f"cannot read {path}", why, mend)
    try:
        made: Any = msgspec.convert(found, kinds[kind])
        for run in (made, *(turn.run for turn in getattr(made, "turns", []) if turn.run is not None)):
            msgspec.convert(run.profile, _Profile)
    except msgspec.ValidationError as error:
        raise Failure(f"cannot read {path}", str(error).replace("`", ""), mend) from error
    answer: dict[str, Any] = found
    return answer
