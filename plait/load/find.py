"""`plait load find`: the greatest rate at which a gateway meets requirements.

One run: the peers get their sessions, then trial follows trial, each a phase of its own whose rate
follows from what the trials before it found (Search). The rate doubles until a trial fails, then the
interval is halved until it is narrow, and a longer trial confirms what was found. A trial at which the
generator itself was the limit says nothing about the gateway: what is found then is a bound from below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from plait.failure import Failure
from plait.load import document as load_json
from plait.load import result as load_result
from plait.load import run as load_run
from plait.load import screen as load_screen
from plait.load import thresholds as load_thresholds
from plait.load.answers import check_answered
from plait.load.profile import PHASES_MOST, UNPACED_HANDSHAKES, Profile
from plait.load.progress import Run
from plait.load.result import PhaseResult
from plait.load.stop import EXIT_CODE as STOPPED_EXIT_CODE
from plait.load.stop import Stop
from plait.load.thresholds import Threshold
from plait.result_file import ResultFile

VERSION = 1
LEAST = 1.0  # a second
LATE_SHARE = 0.01  # of a trial's events: with more of them late, a failure may be the generator's


@dataclass
class Trial:
    """One rate (a second), for how many seconds, and what came of it. is_long: it confirms."""

    rate: float
    seconds: float
    is_long: bool = False
    holds: bool = False
    is_limited: bool = False  # by the generator
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass
class Search:
    """Which trial is next. It knows no gateway: what a trial found is told to it."""

    first: float
    most: float
    seconds: float
    long_seconds: float
    within: float  # share by which the greatest rate that holds may be missed
    low: float = 0.0  # holds
    high: float | None = None  # does not
    found: float | None = None  # confirmed
    is_limited: bool = False  # what lies above `low` was not the gateway's limit
    trials: list[Trial] = field(default_factory=list)

    def next(self) -> Trial | None:
        """The next trial, which is the last of `trials` then; None at the end."""
        if self.found is not None or (self.high is not None and self.high <= LEAST):
            return None
        if not self.low:
            rate = self.first if self.high is None else max(LEAST, self.high / 4)
        elif self.high is None:
            rate = min(2 * self.low, self.most)
        else:
            rate = (self.low + self.high) / 2
        # Narrow enough, or as far as was asked for: does it last?
        is_long = self.low >= self.most or (
            self.high is not None
            and self.high - self.low <= max(self.within * self.high * (1 + 1e-9), LEAST)
        )
        if is_long and self.low:
            rate = self.low
        rate = float(round(rate)) if rate >= 10 else rate
        is_long = is_long and bool(self.low)
        self.trials.append(Trial(rate, self.long_seconds if is_long else self.seconds, is_long))
        return self.trials[-1]

    def told(self, holds: bool, is_limited: bool) -> None:
        """What came of the last trial."""
        trial = self.trials[-1]
        trial.holds, trial.is_limited = holds, is_limited
        if holds and trial.is_long:
            self.found = trial.rate
            self.is_limited = self.is_limited and trial.rate < self.most
        elif holds:
            self.low = trial.rate
        elif trial.is_long:
            # What a short trial did not show: a little less, and that again for long.
            self.high, self.low = trial.rate, trial.rate * (1 - self.within)
            self.is_limited = is_limited
        else:
            self.high, self.is_limited = trial.rate, is_limited


@dataclass
class Pilot:
    """Leads a run from trial to trial."""

    search: Search
    requirements: Sequence[Threshold]

    def __call__(self, run: Run, number: int) -> tuple[float, float] | None:
        """Rate and seconds of phase `number`; None: the run is over."""
        if number == 0:
            return 0.0, 0.0  # the sessions, as they stand in the profile
        if number > 1:
            self.judge(run.phases[-1])
        trial = self.search.next()
        return None if trial is None else (trial.rate, trial.seconds)

    def judge(self, phase: PhaseResult) -> None:
        """Tell the search what a trial found."""
        measured = load_result.metrics([phase])
        failed = [each for each in self.requirements if not each.holds(measured)]
        due = sum(account["due"] for account in load_result.events(phase.counters).values())
        late = measured["generator_late"] or 0
        # What leaves late leaves in bursts, which a gateway may lose for that reason.
        is_limited = load_result.is_limit([phase.counters]) or (
            bool(failed)
            and (late > LATE_SHARE * due or all(each.blame(measured) == "generator" for each in failed))
        )
        trial = self.search.trials[-1]
        trial.metrics = measured
        self.search.told(not failed and not is_limited, is_limited)
        words = ", ".join(
            f"{each.metric} {load_thresholds.in_its_unit(each.text, measured.get(each.metric))}"
            for each in self.requirements
        )
        end = "holds" if trial.holds else "the generator is the limit" if is_limited else "does not hold"
        what = f"trial {len(self.search.trials)}: {trial.rate:,.0f}/s for {trial.seconds:g} s"
        print(f"load: {what}: {words}: {end}", file=sys.stderr, flush=True)


def phases(kind: str, bytes_: int) -> list[dict[str, Any]]:
    """Sessions for all, then as many trials as there may be; their rates are factors of 1."""
    what: dict[str, Any] = (
        {"traffic": {"rate": 1.0, "bytes": bytes_}} if kind == "echoes" else {"handshakes": {"rate": 1.0}}
    )
    trials = [{"name": f"trial {number}", "seconds": 1.0, **what} for number in range(1, PHASES_MOST)]
    return [{"name": "sessions", "handshakes": {"outstanding": 64}}, *trials]


def spare(kind: str, search: Search) -> int:
    """Ephemerals to prepare: a few trials at the rate that is likely, and the long one."""
    rate = min(search.most, UNPACED_HANDSHAKES) if kind == "handshakes" else 0
    return int(rate * (4 * search.seconds + search.long_seconds))


def run(
    profile: Profile,
    kind: str,
    requirements: Sequence[str],
    search: Search,
    cores: list[int],
    owned: list[str],
    json_file: str | None,
) -> int:
    """Search, and say what was found. Exit code: 0; 98: it is a bound from below; 99: nothing holds."""
    parsed = [load_thresholds.parse(text, "a requirement") for text in requirements]
    if any(each.phase is not None for each in parsed):
        raise Failure("cannot search", "a requirement names a phase", "Write it without: 'loss<0.1%'.")
    pilot = Pilot(search, parsed)
    with ExitStack() as stack:
        stop = Stop()
        stack.enter_context(stop.listening())
        file = None if json_file is None else stack.enter_context(ResultFile(json_file))
        screen, shown = load_screen.screen()
        with shown:
            done = load_run.execute(
                profile, cores, owned, screen, stop, pilot=pilot, spare=spare(kind, search)
            )
        if file is not None:
            file.last(load_json.text(document(done, kind, requirements, search)))
    if done.failure is not None:
        raise done.failure
    if json_file != "-" and search.trials:
        _show(kind, parsed, search)
    if done.signal is None:  # what was stopped may have had no time to be answered
        check_answered(done)
    if search.found is None:
        why = "the run was ended early" if done.stopped else "no trial held long enough to confirm it"
        print(f"plait: load: no rate found: {why}", file=sys.stderr)
        if done.stopped:
            return STOPPED_EXIT_CODE
        return load_thresholds.EXIT_GENERATOR if search.is_limited else load_thresholds.EXIT_CODE
    return load_thresholds.EXIT_GENERATOR if search.is_limited else 0


def document(done: Run, kind: str, requirements: Sequence[str], search: Search) -> dict[str, Any]:
    """What --json writes: rates a second, times in seconds, shares of 1."""
    return {
        "plait_load_find": VERSION,
        "target": done.profile.target,
        "peers": done.profile.peers,
        "of": kind,
        "requirements": list(requirements),
        "found": search.found,
        "is_bound_from_below": search.is_limited,
        "within": search.within,
        "trials": [
            {
                "rate": trial.rate,
                "seconds": trial.seconds,
                "confirms": trial.is_long,
                "holds": trial.holds,
                "generator_was_limit": trial.is_limited,
                "metrics": trial.metrics,
            }
            for trial in search.trials
        ],
    }


def _show(kind: str, requirements: Sequence[Threshold], search: Search) -> None:
    """The trials, and the rate in a sentence, on stdout."""
    from plait.watch.engine import console, table

    named = [each.metric for each in requirements]
    made = table("Trials", ("",), (f"{kind}/s", "seconds", *named, ""))
    for number, trial in enumerate(search.trials, 1):
        cells = [
            load_thresholds.in_its_unit(each.text, trial.metrics.get(each.metric)) for each in requirements
        ]
        end = "holds" if trial.holds else "generator" if trial.is_limited else "no"
        made.add_row(str(number), f"{trial.rate:,.0f}", f"{trial.seconds:g}", *cells, end)
    console().print(made)
    if search.found is not None:
        texts = ", ".join(each.text for each in requirements)
        least = "at least " if search.is_limited else ""
        why = "; the generator was the limit, give it more --cores" if search.is_limited else ""
        print(f"Found: {least}{search.found:,.0f} {kind} a second with {texts}{why}.")
