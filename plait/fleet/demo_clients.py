"""The clients of `plait fleet demo`, in a host of their own: simulated by the load generator (plait/load).

    python -m plait.fleet.demo_clients PROFILE.json FOUND.json TARGET

They make real handshakes and seal real packets; one that hears nothing for 15 s begins a handshake, as
WireGuard's clients do. SIGINT ends them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from plait.failure import Failure
from plait.load import result as load_result
from plait.load import run as load_run
from plait.load.answers import check_answered
from plait.load.profile import Handshakes, Phase, Profile, Traffic
from plait.load.progress import Run, Screen
from plait.load.stop import Stop

SECONDS: Final = 3600.0  # they are told when it is enough
OUTSTANDING: Final = 16  # handshakes at once
ECHOES: Final = 5  # a second, of each client
USE: Final = "use"  # the phase in which all have sessions
QUANTILES: Final = ("p50", "p90", "p99", "max")


def profile_of(clients: int, target: str, sources: str, seed: str) -> Profile:
    """All connect, then each sends echoes to its gateway and waits for the answers."""
    return Profile(
        peers=clients, target=target, sources=sources, seed=seed,
        phase=(
            Phase(name="connect", handshakes=Handshakes(outstanding=min(clients, OUTSTANDING))),
            Phase(name=USE, seconds=SECONDS, traffic=Traffic(rate=ECHOES * clients)),
        ),
    )  # fmt: skip


def found_by(run: Run) -> dict[str, Any]:
    """What they saw: times in seconds; `series` is of the time since 1970.

    gaps: of each client the longest time without an answer. renewals: of each one that began a handshake
    because it heard nothing, from its first echo without an answer to the next answer.
    """
    last = run.phases[-1]
    measured = load_result.metrics(run.phases)

    def quantiles(name: str) -> dict[str, float]:
        found = load_result.times(last.times(name), name)
        return {key: found[key] for key in QUANTILES if key in found}

    points = [point.as_json(run.profile.phase[point.phase].name) for point in run.series.points]
    return {
        "sessions": last.counters["sessions_held"],
        "handshakes": int(measured["handshakes"] or 0),
        "wrong": int(measured["wrong"] or 0),
        "waited": int(last.times("gap").sum()),
        "gaps": quantiles("gap"),
        "renewed": int(last.times("recovery").sum()),
        "renewals": quantiles("recovery"),
        "series": [
            {"at": run.began + (point["from"] + point["at"]) / 2,
             "asked": point["asked"], "answered": point["answered"], "handshakes": point["handshakes"]}
            for point in points if point["phase"] == USE
        ],
    }  # fmt: skip


def main() -> None:
    """Until SIGINT."""
    given, found, target = sys.argv[1:]
    profile = msgspec.json.decode(Path(given).read_bytes(), type=Profile)
    stop = Stop()
    with stop.listening():
        done = load_run.execute(profile, load_run.default_cores(), [target], Screen(), stop)
    if done.failure is not None:
        raise done.failure
    check_answered(done)
    Path(found).write_text(json.dumps(found_by(done)))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"plait: {failure}")
