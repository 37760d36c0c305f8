"""Whether a running engine is the program that is installed now, at the place it was started from.

An engine goes on as what it was when files are put over its own, and its workers with it (docs/adr/0006). So
it says of itself which it is, and the program at its path says what would start there now.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from typing import Any

SECONDS = 10.0  # for a program to say its version
FRESH = 60.0  # what it said is taken for true so long
NAMES = ("version", "layout", "commit")
_WORDS = re.compile(r"plaitd (\S+) \(memory layout (\S+), commit (\S+)\)")
_said: dict[tuple[str, ...], tuple[float, dict[str, str] | None]] = {}


def at(program: Sequence[str]) -> dict[str, str] | None:
    """What the program that this command starts says of itself; None when it does not."""
    when, said = _said.get(tuple(program), (float("-inf"), None))
    if time.monotonic() - when > FRESH:
        said = _ask(program)
        _said[tuple(program)] = time.monotonic(), said
    return said


def difference(report: dict[str, Any]) -> str:
    """Of an engine's report: how it is not what is installed, in words; empty when it is, or nobody knows."""
    program = report.get("program")
    if not program or "version" not in report:  # of an older engine
        return ""
    said = at(program)
    if said is None:
        return f"installed is not what runs: {program[-1]} does not say its version any more"
    differ = [name for name in NAMES if said[name] != report[name]]
    words = ", ".join(f"{name} {said[name]} instead of {report[name]}" for name in differ)
    return f"installed is not what runs: {program[-1]} is {words}" if differ else ""


def mend(interface: str, report: dict[str, Any]) -> str:
    """What to do about it."""
    said = at(report["program"])
    if said is None:
        return f"install Plait there again: {report['program'][-1]}"
    if said["layout"] != report["layout"]:
        return "stop the interface and start it again: its memory is laid out in another way"
    return f"`plait upgrade {interface}` has it go on as the new program, sessions and all"


def _ask(program: Sequence[str]) -> dict[str, str] | None:
    try:
        done = subprocess.run(
            [*program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _WORDS.match(done.stdout)
    return dict(zip(NAMES, found.groups(), strict=True)) if found else None
