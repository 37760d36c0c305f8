"""Where a run is written: files that are opened before it begins, and formats that go out while it runs.

`--out csv=FILE`, `--out ndjson=FILE` and `--out prometheus=[ADDRESS]:PORT` get each look at the counters;
what `--json` names is written after each phase (a lab: each turn) and at the end.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from plait import extras
from plait.failure import Failure
from plait.load import series as load_series
from plait.load.progress import Look, Run, Screen
from plait.load.result import PERCENTILES, PhaseResult
from plait.result_file import ResultFile

FORMATS = ("csv", "ndjson", "prometheus")
HOST = "127.0.0.1"
CSV_COLUMNS = (
    "time",
    "from",
    "at",
    "phase",
    "sessions",
    "outstanding",
    *load_series.COUNTERS,
    *(f"round_trip_{name}" for name, _ in PERCENTILES),
)


class Several(Screen):
    """One screen for several: each is told everything."""

    def __init__(self, screens: Sequence[Screen]) -> None:
        self.screens = screens


def _to_all(name: str) -> Callable[..., None]:
    def tell(self: Several, *words: Any) -> None:
        for screen in self.screens:
            getattr(screen, name)(*words)

    return tell


for _name in vars(Screen):
    if not _name.startswith("_"):
        setattr(Several, _name, _to_all(_name))


class Kept(Screen):
    """Writes the document after each phase, so that whatever ends the command leaves it."""

    def __init__(self, file: ResultFile, text: Any) -> None:
        self._file, self._text = file, text  # text: Run -> str

    def finished(self, run: Run, phase: PhaseResult) -> None:
        self._file.write(self._text(run))


class Csv(Screen):
    """A line for each look; times in seconds, rates a second."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(CSV_COLUMNS)
        file.flush()

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        entry = load_series.between(before, look).as_json(run.profile.phase[look.phase].name)
        entry["time"] = round(time.time(), 3)
        entry |= {f"round_trip_{name}": value for name, value in entry.pop("round_trip").items()}
        self._rows.writerow([entry.get(column, "") for column in CSV_COLUMNS])
        self._file.flush()


class Ndjson(Screen):
    """An object a line: `tick` for each look, `phase` for what a phase came to."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        entry = load_series.between(before, look).as_json(run.profile.phase[look.phase].name)
        self._put({"type": "tick", "time": round(time.time(), 3), **entry})

    def finished(self, run: Run, phase: PhaseResult) -> None:
        self._put({"type": "phase", "time": round(time.time(), 3), **phase.as_json()})

    def _put(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


class Prometheus(Screen):
    """A page for Prometheus while the run lasts: counters of each phase, percentiles of the last interval."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[str, int]] = {}  # of each phase
        self._entry: dict[str, Any] | None = None

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        name = run.profile.phase[look.phase].name
        entry = load_series.between(before, look).as_json(name)
        with self._lock:
            self._counters[name] = look.counters
            self._entry = entry

    def collect(self) -> Iterator[Any]:
        """Every metric; prometheus_client calls it, from a thread for each scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            counters, entry = dict(self._counters), self._entry
        for counter in next(iter(counters.values()), {}):
            family = CounterMetricFamily(
                f"plait_load_{counter}",
                f"{counter.replace('_', ' ')} of the load generator",
                labels=["phase"],
            )
            for phase, counted in counters.items():
                family.add_metric([phase], counted[counter])
            yield family
        if entry is None:
            return
        for name in ("sessions", "outstanding"):
            gauge = GaugeMetricFamily(f"plait_load_{name}", f"{name} now", labels=["phase"])
            gauge.add_metric([entry["phase"]], entry[name])
            yield gauge
        trips = GaugeMetricFamily(
            "plait_load_round_trip_seconds", "Round trips of the last interval", labels=["phase", "quantile"]
        )
        for name, percent in PERCENTILES:
            if name in entry["round_trip"]:
                trips.add_metric([entry["phase"], f"{percent / 100:g}"], entry["round_trip"][name])
        yield trips


@contextlib.contextmanager
def opened(texts: Sequence[str]) -> Iterator[list[Screen]]:
    """The screens that the words of --out ask for, with what they write to open. Failure before the run."""
    with contextlib.ExitStack() as stack:
        yield [_opened(text, stack) for text in texts]


def _opened(text: str, stack: contextlib.ExitStack) -> Screen:
    form, equals, place = text.partition("=")
    if form not in FORMATS or not equals or not place:
        mend = "Write csv=FILE, ndjson=FILE or prometheus=[ADDRESS]:PORT."
        raise Failure(f"cannot use --out {text}", f"it is not one of {', '.join(FORMATS)} and a place", mend)
    if form == "prometheus":
        return _served(place, stack)
    try:
        file = sys.stdout if place == "-" else open(place, "w", newline="")  # noqa: SIM115
        stack.callback(file.flush if place == "-" else file.close)
    except OSError as error:
        mend = "Name a file in a directory that is there and that you may write to."
        raise Failure(f"cannot write {place}", error.strerror or str(error), mend) from error
    return Csv(file) if form == "csv" else Ndjson(file)


def _served(place: str, stack: contextlib.ExitStack) -> Screen:
    extras.require("prometheus_client", f"cannot use --out prometheus={place}")
    from prometheus_client import CollectorRegistry, start_http_server

    host, colon, port = place.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        mend = f"Write prometheus=:9587 (at {HOST}) or prometheus=ADDRESS:PORT."
        why = "there is no port from 0 to 65535 behind a colon"
        raise Failure(f"cannot use --out prometheus={place}", why, mend)
    made, registry = Prometheus(), CollectorRegistry()
    registry.register(made)
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or HOST, registry)
    except OSError as error:
        mend = "Name an address of this host and a port that is free."
        raise Failure(f"cannot listen at {place}", error.strerror or str(error), mend) from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    stack.callback(close)
    print(f"load: metrics at http://{host or HOST}:{server.server_port}/metrics", file=sys.stderr, flush=True)
    return made
