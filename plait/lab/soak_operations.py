"""`plait soak --operations`: what administrators, container runtimes and laptops do to an engine, and kills.

Each operation is a deed (soak_deeds.py) at one end, under numbered packets both ways (soak_scene.py).
It has a bound on the silence of any flow: from the begin of the deed, or from its end where the deed itself
takes the tunnel away. Then nothing is sent until nothing comes, and the books of that span must balance
(soak_books.py): to the packet where no process was killed. Not counted are packets that the kernel had handed
to a killed process.

Operations come in an order, at an end and with numbers that the seed alone decides.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Final

from plait.failure import Failure
from plait.lab.namespaces import Lab
from plait.lab.soak_books import ON_THE_WIRE, Account, balance
from plait.lab.soak_deeds import HANDED_OVER, OPERATIONS, Operation, Unavailable
from plait.lab.soak_scene import BACK_SECONDS, INTERFACE, Scene, Side

FLOW_SECONDS: Final = 20.0  # until packets must flow again
REST_SECONDS: Final = 10.0  # until the books must balance
MEMORY_SLACK: Final = 24 << 20  # bytes by which two samples of live processes may differ
FAULTS: Final = (OSError, Failure, RuntimeError, KeyError)  # of a deed that did not come off
DEATHS: Final = ("deaths_killed", "deaths_ended", "deaths_stuck")


@dataclass
class Entry:
    """One operation as it went: a line of the log."""

    at: float  # seconds since the first one
    end: str
    operation: str
    silence_s: float = 0.0
    bound_s: float = 0.0
    lost: int = 0  # packets, both ways
    uncounted: int = 0  # of these; more than lost where something was counted twice
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        figures = f"{self.silence_s * 1000:5.0f} ms  {self.lost:5} lost"
        words = f"{self.at:7.1f} s  {self.end:7}  {self.operation:36}  {figures}"
        return "\n".join([words, *(f"           WRONG: {line}" for line in self.wrong)])


@dataclass
class Result:
    """What the soak came to."""

    seconds: float
    handoff: str
    seed: int
    pin: bool = True
    log: list[Entry] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # operation -> why
    sent: dict[str, int] = field(default_factory=dict)  # inside, by the end that sent
    received: dict[str, int] = field(default_factory=dict)  # of these, at the other end
    counted: dict[str, int] = field(default_factory=dict)  # losses by cause
    messages_lost: int = 0  # of those counted: keepalives and handshakes, no packets
    uncounted: int = 0  # by kills
    out_of_order: int = 0
    twice: int = 0
    before: dict[str, dict[str, int]] = field(default_factory=dict)  # by end: descriptors and so on
    after: dict[str, dict[str, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def deck(seed: int) -> Iterator[tuple[Operation, int, Random]]:
    """Operations without end, each with its end and its own numbers: all of them once, then again."""
    order = Random(seed)
    while True:
        for operation in order.sample(OPERATIONS, len(OPERATIONS)):
            yield operation, order.randrange(2), Random(order.getrandbits(32))


class Run:
    """Operations one after another, and the books."""

    def __init__(self, scene: Scene, result: Result, tell: Callable[[str], None]) -> None:
        self.scene, self.result, self.tell = scene, result, tell
        self.traffic = scene.traffic
        self.thread = ThreadPoolExecutor(1)

    def warm_up(self) -> None:
        """Traffic; and once what leaves more open than it found: other numbers of workers, an upgrade."""

        def prepare(side: Side) -> None:
            for words in (["scale", INTERFACE, "+1"], ["scale", INTERFACE, "-1"], ["upgrade", INTERFACE]):
                side.host.run(["plait", *words], timeout=BACK_SECONDS)
            side.await_complete()

        with ThreadPoolExecutor(2) as threads:
            works = [threads.submit(prepare, side) for side in self.scene.sides]
            self.traffic.pump(2 * BACK_SECONDS, lambda: all(work.done() for work in works))
            for work in works:
                work.result()
        if not self.traffic.pump(BACK_SECONDS, self.traffic.flowing()):
            raise TimeoutError("no packet came through")
        self.traffic.settle()
        self.result.before = {side.name: side.settled_holdings() for side in self.scene.sides}
        self.first = self.books = self.scene.accounts()

    def operate(self, seconds: float) -> None:
        """Until the time is over, or something does not come back."""
        begun = time.monotonic()
        for operation, number, numbers in deck(self.result.seed):
            at = time.monotonic() - begun
            if at >= seconds:
                return
            if operation.name in self.result.left_out:
                continue
            entry = Entry(
                round(at, 1), self.scene.sides[number].name, operation.name, bound_s=operation.bound
            )
            try:
                self.try_one(operation, self.scene.sides[number], numbers, entry)
            except Unavailable as error:
                self.result.left_out[operation.name] = str(error)
                continue
            except FAULTS as error:
                entry.wrong.append(f"{type(error).__name__}: {error}")
            self.result.log.append(entry)
            self.tell(str(entry))
            if any(side.engine.process.poll() is not None for side in self.scene.sides):
                raise RuntimeError(f"an engine ended: {operation.name} at {entry.end}")

    def try_one(
        self, operation: Operation, side: Side, numbers: Random, entry: Entry, rest: float = REST_SECONDS
    ) -> None:
        traffic = self.traffic
        traffic.pump(BACK_SECONDS, traffic.flowing())
        traffic.mark()
        work = self.thread.submit(operation.deed, side, numbers)
        traffic.pump(4 * BACK_SECONDS, work.done)
        if operation.takes_away:
            traffic.mark()
        if not traffic.pump(FLOW_SECONDS, traffic.flowing()):
            entry.wrong.append(f"packets do not flow again within {FLOW_SECONDS:.0f} s")
        entry.silence_s = round(traffic.silence(), 3)
        if entry.silence_s > entry.bound_s:
            entry.wrong.append(f"silent for {entry.silence_s} s, which may be {entry.bound_s} s")
        kills: int | None = None
        try:
            kills = work.result() or 0
        except FAULTS as error:
            entry.wrong.append(f"{type(error).__name__}: {error}")
        side.await_complete()
        self.balance(entry, kills, rest)

    def balance(self, entry: Entry, kills: int | None, rest: float) -> None:
        """At rest, after so many seconds at most: a figure may come a moment later, so it is looked for."""
        deadline = time.monotonic() + rest
        while True:
            self.traffic.settle()
            books = self.scene.accounts()
            spans = {name: account - self.books[name] for name, account in books.items()}
            wrong = list(self.judge(spans, entry, kills))
            if not wrong or time.monotonic() > deadline:
                break
        entry.wrong += wrong
        self.books = books

    def judge(self, spans: dict[str, Account], entry: Entry, kills: int | None) -> Iterator[str]:
        """kills: None when the deed failed half way, so that nobody knows."""
        gaps = list(balance(spans))
        entry.lost = sum(span.sent for span in spans.values()) - sum(span.received for span in spans.values())
        entry.uncounted = sum(abs(gap.packets) for gap in gaps)
        if kills is None:
            return
        if entry.uncounted > kills * HANDED_OVER:
            yield from map(str, gaps)
        deaths = sum(span.sum(DEATHS) for span in spans.values())
        if deaths != kills:
            yield f"{deaths} workers died, {kills} were killed"
        if mended := sum(span.counters["lost_wakes"] for span in spans.values()):
            yield f"{mended} wakes were lost"

    def finish(self) -> None:
        """What must not be, at the end."""
        result, sides = self.result, self.scene.sides
        self.thread.shutdown()
        result.after = {side.name: side.settled_holdings() for side in sides}
        self.traffic.settle()
        spans = {name: account - self.first[name] for name, account in self.scene.accounts().items()}
        result.sent = {name: span.sent for name, span in spans.items()}
        one, two = spans
        result.received = {one: spans[two].received, two: spans[one].received}
        counted: Counter[str] = Counter()
        for span in spans.values():
            counted += span.lost()
            gone = span.sum(ON_THE_WIRE[1:]) - span.counters["keepalive_received"]
            result.messages_lost += gone - span.counters["handshake_to_control"]
        result.counted = dict(counted.most_common())
        result.uncounted = sum(entry.uncounted for entry in result.log)
        result.twice = sum(flow.twice for flow in self.traffic.flows)
        result.out_of_order = sum(flow.early for flow in self.traffic.flows)
        result.wrong = list(wrong(result)) + self.scene.end()


def wrong(result: Result) -> Iterator[str]:
    """What must not be, from the figures."""
    for entry in result.log:
        yield from (f"at {entry.at} s, {entry.end}, {entry.operation}: {line}" for line in entry.wrong)
    if result.twice:
        yield f"{result.twice} packets arrived twice"
    lost = sum(result.sent.values()) - sum(result.received.values())
    missing = lost - sum(result.counted.values()) + result.messages_lost
    if abs(missing) > result.uncounted:
        yield f"{lost} packets were lost, {missing} more than were counted"
    for name, before in result.before.items():
        for what, count in result.after.get(name, {}).items():
            if count > before[what] + MEMORY_SLACK if what == "memory" else count != before[what]:
                yield f"{what} of {name}: {before[what]} before, {count} at the end"


@dataclass
class Row:
    """All that was done of one operation."""

    operation: str
    bound_s: float
    times: int = 0
    worst_silence_s: float = 0.0
    lost: int = 0


def summary(result: Result) -> list[Row]:
    """A row an operation, those that were not done included."""
    rows = {operation.name: Row(operation.name, operation.bound) for operation in OPERATIONS}
    for entry in result.log:
        row = rows[entry.operation]
        row.times += 1
        row.worst_silence_s = max(row.worst_silence_s, entry.silence_s)
        row.lost += entry.lost
    return list(rows.values())


def table(result: Result, columns: int) -> Iterator[str]:
    """A line an operation, then the books."""
    figures = f"{'times':>5} {'worst':>8} {'bound':>8} {'lost':>6}"
    width = max(20, min(columns - len(figures) - 2, max(len(operation.name) for operation in OPERATIONS)))
    yield f"{'operation':{width}}  {figures}"
    for row in summary(result):
        if not row.times:
            why = result.left_out.get(row.operation, "not reached")
            yield f"{row.operation[:width]:{width}}  {why}"[:columns]
            continue
        times = f"{row.times:5} {row.worst_silence_s * 1000:5.0f} ms {row.bound_s * 1000:5.0f} ms"
        yield f"{row.operation[:width]:{width}}  {times} {row.lost:6}"
    yield ""
    ways = result.sent.items()
    rows = [(f"sent at the {name}, received", f"{sent:,}, {result.received[name]:,}") for name, sent in ways]
    rows += [(f"lost: {cause}", f"{count:,}") for cause, count in result.counted.items()]
    rows += [
        ("of these keepalives and handshakes", f"{result.messages_lost:,}"),
        ("not counted, by kills", f"{result.uncounted:,}"),
        ("twice, out of order", f"{result.twice:,}, {result.out_of_order:,}"),
    ]
    for name, before in result.before.items():
        after = result.after.get(name, {})
        for what, count in before.items():
            unit, size = (" (MiB)", 1 << 20) if what == "memory" else ("", 1)
            figures = f"{count / size:.0f} and {after.get(what, 0) / size:.0f}"
            rows.append((f"{what}{unit} of the {name}, first and last", figures))
    wide = max(len(what) for what, _ in rows)
    for what, value in rows:
        yield f"{what:{wide}}  {value}"


def run(minutes: float, handoff: str, seed: int | None, *, as_json: bool) -> int:
    """The command; its exit code."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    result = Result(minutes * 60, handoff, seed)

    def tell(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    tell(f"plait soak: seed {seed}, handoff {handoff}, pin true")
    with Lab() as lab:
        work = Run(Scene(lab, handoff), result, tell)
        work.warm_up()
        try:
            work.operate(result.seconds)
            work.finish()
        except FAULTS as error:
            result.wrong = [*wrong(result), str(error)]
        if result.wrong:
            for side in work.scene.sides:
                tell(
                    f"the last words of {side.name}'s engine:\n"
                    + "\n".join(side.log.text().splitlines()[-30:])
                )
    if as_json:
        operations = [dataclasses.asdict(row) for row in summary(result)]
        print(json.dumps({**dataclasses.asdict(result), "operations": operations}))
    else:
        for line in table(result, shutil.get_terminal_size().columns):
            print(line)
    for line in result.wrong:
        tell(f"plait soak: wrong: {line} (seed {seed})")
    return 1 if result.wrong else 0
