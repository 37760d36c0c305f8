"""Whether a running engine is the program that is installed now, at the place it was started from.

New files over an engine's own do not change the engine, nor its workers, which are forks of it
(docs/adr/0006). So the engine's report tells its own version, and the program at its path is run with
--version to tell what would start there now.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from typing import Any

SECONDS = 10.0  # that a program may take to say its version
FRESH = 60.0  # an answer is used again for so long
NAMES = ("version", "layout", "commit")
_WORDS = re.compile(r"plaitd (\S+) \(memory layout (\S+), commit (\S+)\)")
_said: dict[tuple[str, ...], tuple[float, dict[str, str] | None]] = {}


def at(program: Sequence[str]) -> dict[str, str] | None:
    """Version, layout and commit that the program of this command prints; None when it prints none."""
    when, said = _said.get(tuple(program), (float("-inf"), None))
    if time.monotonic() - when > FRESH:
        said = _ask(program)
        _said[tuple(program)] = time.monotonic(), said
    return said


def difference(report: dict[str, Any]) -> str:
    """How the engine of this report differs from what is installed, in words; empty when it does not, or when
    that cannot be known."""
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
    """The next step where there is a difference."""
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
