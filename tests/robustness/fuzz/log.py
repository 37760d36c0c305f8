"""The log of fuzzing: a line of JSON for each slice of a target's run, in build/fuzz/log.jsonl.

CPU time is the user and system time of the fuzzing process and its children, as the kernel accounts it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .targets import BUILD, NAMES

LOG = BUILD / "log.jsonl"


@dataclass(frozen=True)
class Slice:
    """One run of one target."""

    target: str
    ended: str  # UTC
    cpu_seconds: float
    wall_seconds: float
    inputs: int
    corpus: int  # files after it
    finding: str = ""  # the file that broke it, relative to build/fuzz


def append(entry: Slice) -> None:
    """One line more."""
    with LOG.open("a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")


def read(path: Path = LOG) -> list[Slice]:
    """All slices, the oldest first."""
    if not path.exists():
        return []
    return [Slice(**json.loads(line)) for line in path.read_text().splitlines()]


def totals(slices: list[Slice]) -> dict[str, dict[str, float]]:
    """By target: CPU seconds, inputs, files of the working corpus, findings."""
    sums: dict[str, dict[str, float]] = {
        name: {"cpu_seconds": 0.0, "inputs": 0, "corpus": 0, "findings": 0} for name in NAMES
    }
    for entry in slices:
        row = sums.setdefault(entry.target, {"cpu_seconds": 0.0, "inputs": 0, "corpus": 0, "findings": 0})
        row["cpu_seconds"] += entry.cpu_seconds
        row["inputs"] += entry.inputs
        row["corpus"] = entry.corpus
        row["findings"] += bool(entry.finding)
    return sums


def table(sums: dict[str, dict[str, float]]) -> list[str]:
    """The same, lined up, with a row of sums."""
    lines = [f"{'target':<14}{'core-hours':>12}{'inputs':>16}{'corpus':>8}{'findings':>10}"]
    for name, row in sums.items():
        lines.append(
            f"{name:<14}{row['cpu_seconds'] / 3600:>12.3f}{row['inputs']:>16,.0f}"
            f"{row['corpus']:>8.0f}{row['findings']:>10.0f}"
        )
    whole = {
        key: sum(row[key] for row in sums.values()) for key in ("cpu_seconds", "inputs", "corpus", "findings")
    }
    lines.append(
        f"{'all':<14}{whole['cpu_seconds'] / 3600:>12.3f}{whole['inputs']:>16,.0f}"
        f"{whole['corpus']:>8.0f}{whole['findings']:>10.0f}"
    )
    return lines
