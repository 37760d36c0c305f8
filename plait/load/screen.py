"""What a load run shows: a live table on a terminal, lines elsewhere, and the summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from plait.load import result as load_result
from plait.load.progress import Look, Run, Screen
from plait.load.result import GARBAGE, PhaseResult

LINE_EVERY = 1.0  # seconds
NOTHING = ("0/s, 0 done, 0 open", "0 met", "0/s asked, 0/s", "p50 - p90", "0.000 Gbit")
NOT_BEGUN = ("handshakes_not_sent", "handshakes_not_begun_waiting", "handshakes_not_begun_few")


def milliseconds(seconds: float | None) -> str:
    """A time for a table."""
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def percent(share: float | None) -> str:
    """A share for a table."""
    return "-" if share is None else f"{share * 100:.3f} %"


def percentiles(buckets: Any) -> str:
    """Of round trips, in ms."""
    return (
        " ".join(
            f"{name} {milliseconds(load_result.quantile(buckets, share / 100))}"
            for name, share in load_result.PERCENTILES[:4]
        )
        + " ms"
    )


def facts(run: Run, look: Look, before: Look | None) -> list[tuple[str, str]]:
    """What the moment has to tell: rates and round trips since the last look; those of the whole phase."""
    phase = run.profile.phase[look.phase]
    counters = look.counters
    past = before.counters if before else dict.fromkeys(counters, 0)
    span = look.elapsed - before.elapsed if before else look.elapsed

    def rate(*names: str) -> float:
        return sum(counters[name] - past[name] for name in names) / span if span > 0 else 0.0

    left = max(0.0, phase.length() - look.elapsed) if phase.seconds is not None else None
    found = [
        ("phase", f"{phase.name} ({look.phase + 1} of {len(run.profile.phase)})"),
        ("time left", "until done" if left is None else f"{left:.0f} s"),
        ("sessions", f"{look.sessions:,} of {len(run.span):,}"),
        (
            "handshakes",
            f"{rate('handshakes'):,.0f}/s, {counters['handshakes']:,} done, {look.outstanding:,} open",
        ),
        ("cookies", f"{counters['cookies']:,} met, {counters['cookies_honoured']:,} honoured"),
        ("echoes", f"{rate('asked'):,.0f}/s asked, {rate('answered'):,.0f}/s answered"),
        ("datagrams", f"{rate('datagrams_out'):,.0f}/s out, {rate('datagrams_in'):,.0f}/s in"),
        ("inner", f"{rate('inner_out', 'inner_in', 'oneway_out') * 8e-9:.3f} Gbit/s"),
        (
            "round trip",
            percentiles(look.round_trip - before.round_trip if before else look.round_trip),
        ),
        ("of the phase", percentiles(look.round_trip)),
    ]
    if counters["oneway"]:
        found.append(("one-way", f"{rate('oneway'):,.0f}/s"))
    if counters["strangers_begun"]:
        answers = counters["strangers_answered"]
        found.append(("strangers", f"{rate('strangers_begun'):,.0f}/s, {answers} answered"))
    missing = sum(counters[name] for name in load_result.GENERATOR_NOT_SENT)
    late = sum(counters[name] for name in load_result.GENERATOR_LATE)
    if missing or late:
        found.append(("generator", f"{late:,} events late, {missing:,} not sent"))
    garbage = sum(counters[f"garbage_{kind}"] for kind in GARBAGE)
    if garbage:
        answers, cookies = counters["garbage_answers"], counters["garbage_cookies"]
        found.append(("garbage", f"{garbage:,} sent, {answers} answers, {cookies:,} cookies"))
    if phase.traffic is not None:
        # What is still on its way would count as lost: look at what was asked a moment ago.
        loss = 1 - counters["answered"] / past["asked"] if past["asked"] else 0.0
        found.append(("loss", percent(max(0.0, loss))))
    return found


class Lines(Screen):
    """A line a second on stderr."""

    def __init__(self) -> None:
        self._last = self._prepared = -LINE_EVERY
        self._before: Look | None = None

    def preparing(self, done: int, total: int) -> None:
        if time.monotonic() - self._prepared < LINE_EVERY:
            return
        self._prepared = time.monotonic()
        words = f"preparing keys, {done:,} of {total:,}" if total else "starting the load processes"
        print(f"load: {words}", file=sys.stderr, flush=True)

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        if self._before is not None and self._before.phase != look.phase:
            self._before, self._last = None, -LINE_EVERY
        if look.at - self._last < LINE_EVERY and before is not None:
            return
        words = [
            f"{name} {value}"
            for name, value in facts(run, look, self._before)[2:]
            if not value.startswith(NOTHING)
        ]
        name = run.profile.phase[look.phase].name
        print(f"load: {look.at:6.1f} s {name}: {'; '.join(words)}", file=sys.stderr, flush=True)
        self._last, self._before = look.at, look

    def say(self, text: str) -> None:
        print(f"load: {text}", file=sys.stderr, flush=True)


class Live(Screen):
    """A table that renews itself, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.live = RichLive(console=Console(stderr=True), refresh_per_second=8, transient=True)

    def preparing(self, done: int, total: int) -> None:
        words = f"{done:,} of {total:,} keys and secrets" if total else "the load processes start"
        self._show([("preparing", words)])

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        self._show(facts(run, look, before))

    def say(self, text: str) -> None:
        self.live.console.print(f"load: {text}", highlight=False)

    def _show(self, rows: Sequence[tuple[str, str]]) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(f"[bold]{name}[/bold]", value)
        self.live.update(table)


def screen() -> tuple[Screen, AbstractContextManager[Any]]:
    """The screen for this stderr, and what to enter while it is shown."""
    if sys.stderr.isatty():
        shown = Live()
        return shown, shown.live
    return Lines(), nullcontext()


# --- the summary --------------------------------------------------------------------------------


def summary(run: Run) -> None:
    """Print what was found, phase by phase, on stdout."""
    from plait.watch.engine import console, table

    printer = console()
    places = load_result.places(run.phases)
    phases = list(places.values())
    columns = (
        ("",),
        tuple(name if each.is_finished else f"{name} (ended early)" for name, each in places.items()),
    )
    peers = f"{len(run.span):,} peers"
    if len(run.span) < run.profile.peers:
        peers = f"{len(run.span):,} of {run.profile.peers:,} peers"
    made = table(f"Load on {run.profile.target}: {peers}", *columns)
    for name, cells in rows(phases):
        if any(cell not in ("", "-", "0") for cell in cells):
            made.add_row(name, *cells)
    printer.print(made)
    for line in notes(run):
        printer.print(line, highlight=False, soft_wrap=True)


def rows(phases: Sequence[PhaseResult]) -> list[tuple[str, list[str]]]:
    """Every figure of the summary: its name, and one cell a phase."""
    found: list[tuple[str, list[str]]] = [("seconds", [f"{phase.seconds:.2f}" for phase in phases])]
    measured = [load_result.metrics([phase]) for phase in phases]

    def counted(name: str, *counters: str) -> None:
        found.append(
            (name, [f"{sum(phase.counters[counter] for counter in counters):,}" for phase in phases])
        )

    def metric(name: str, key: str, text: Any) -> None:
        found.append((name, ["-" if (value := each.get(key)) is None else text(value) for each in measured]))

    counted("handshakes begun", "initiations")
    counted("  retries", "retries")
    counted("  confirmed", "handshakes")
    counted("  not answered", "unanswered")
    counted("  answered, not confirmed", "unconfirmed")
    counted("  due, never begun", *NOT_BEGUN)
    metric("  confirmed a second, until 95 %", "handshakes/s", lambda value: f"{value:,.0f}")
    metric("  confirmed a second, until the last", "handshakes_last/s", lambda value: f"{value:,.0f}")
    metric("  response p50 ms", "response_p50", milliseconds)
    metric("  response p99 ms", "response_p99", milliseconds)
    metric("  confirmed p50 ms", "handshake_p50", milliseconds)
    metric("  confirmed p99 ms", "handshake_p99", milliseconds)
    counted("begun by peers that nobody knows", "strangers_begun")
    counted("  not answered, as should be", "strangers_silent")
    counted("cookies met", "cookies")
    counted("cookies honoured", "cookies_honoured")
    counted("echoes asked", "asked")
    counted("  answered", "answered")
    counted("  due, never sent", "echoes_not_sent")
    counted("  not sent: no session", "unsent")
    counted("  late", "echoes_late")
    metric("  answered a second", "answers/s", lambda value: f"{value:,.0f}")
    metric("  loss", "loss", percent)
    for name, _ in load_result.PERCENTILES:
        metric(f"  round trip {name} ms", name, milliseconds)
    for name, _ in load_result.PERCENTILES:
        metric(f"  from departure {name} ms", f"departed_{name}", milliseconds)
    metric("longest gap of answers, s", "longest_gap", lambda value: f"{value:.3f}")
    counted("peers that lost the gateway and recovered", "recovered")
    counted("  still without an answer", "unrecovered")
    for name, _ in load_result.PERCENTILES:
        metric(f"  recovered after {name} s", f"recovery_{name}", lambda value: f"{value:.3f}")
    metric("  inner Gbit/s, both ways", "gbit/s", lambda value: f"{value:.3f}")
    counted("one-way packets", "oneway")
    counted("  due, never sent", "oneway_not_sent", "oneway_idle", "oneway_refused")
    metric("  a second", "oneway/s", lambda value: f"{value:,.0f}")
    metric("lost on the way there", "there_loss", percent)
    metric("  of what the gateway sent back", "back_loss", percent)
    counted("keepalives out", "keepalives")
    counted("keepalives in", "keepalives_back")
    counted("roamed", "roamed")
    counted("  data at a port left", "elsewhere")
    counted("garbage sent", *(f"garbage_{kind}" for kind in GARBAGE))
    counted("  answered by a cookie", "garbage_cookies")
    counted("  answered otherwise", "garbage_answers")
    for name in load_result.WRONG:
        counted(f"wrong: {name.replace('_', ' ')}", name)
    costs = [load_result.cost(phase) if phase.cpu_shares else {} for phase in phases]
    for name, key, text in (
        ("generator: share of a core", "cpu_share", "{:.2f}"),
        ("generator: us per handshake", "us_per_handshake", "{:.1f}"),
        ("generator: us per datagram", "us_per_datagram", "{:.1f}"),
    ):
        found.append((name, [text.format(each[key]) if key in each else "-" for each in costs]))
    return found


def notes(run: Run) -> list[str]:
    """What one must know to read the figures."""
    found = [
        f"Precomputed in {run.prepared_seconds:.1f} s before the clock started: {run.static_static:,} "
        f"static-static secrets and {run.ephemerals:,} ephemerals with their secrets, each used once.",
        f"Memory: {run.bytes_per_peer} bytes a simulated peer. "
        "Times at a rate count from when an event was due.",
    ]
    if run.stopped:
        left = [phase.name for phase in run.profile.phase[len(run.phases) :]]
        last = run.phases[-1] if run.phases else None
        where = f" {'after' if last.is_finished else 'in'} {last.name}" if last else " before the first phase"
        cause = f" by {run.signal}" if run.signal is not None else ""
        found.append(f"Ended early{cause}{where}" + (f"; not begun: {', '.join(left)}." if left else "."))
    for phase in run.phases:
        heard = load_result.heard(phase.counters)
        if phase.counters["initiations"] and not heard and not phase.counters["datagrams_in"]:
            found.append(f"Nobody answered in {phase.name}.")
        found += [
            f"Limit in {phase.name}, {each.party}: {each.text}." for each in load_result.parties(phase)
        ]
    return found
