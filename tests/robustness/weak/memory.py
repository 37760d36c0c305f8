"""Weak memory: shm/ under C11's rules, and each of its orders weakened in turn.

`build` compiles shm/ with the compiler's instrumentation for ThreadSanitizer and links it with
tests/robustness/weak/explore.c, which answers the instrumentation's calls and walks all executions of a
scenario (tests/robustness/weak/scenarios.c). Nothing is transcribed: what is walked is the C that ships, so
the two cannot drift apart. A mutant is the same program told to weaken the order of one place; a place is
a line of C, and the line that called it where the access stands in a function that serves several (fence.h,
token_swap).

usage: python -m tests.robustness.weak [--large] [--mutants] [SCENARIO...]     without arguments what CI runs
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "weak"
JUDGED_NAMES = ("bell", "epoch", "mailbox", "orders", "parts", "queue", "ready", "schedule", "token")
FILES = (*JUDGED_NAMES, "pool", "repair", "counters")
"""Of shm/: what is judged, and what scenarios need besides."""
JUDGED = tuple(f"shm/{name}.c" for name in JUDGED_NAMES)
COMMON = ["-std=gnu11", "-D_GNU_SOURCE", "-fno-strict-aliasing", "-fno-pie", "-U_FORTIFY_SOURCE", "-I.", "-g"]
# -O1: higher up the compiler inlines more, and one place of C has many addresses.
EXPLORED = ["-O1", "-fsanitize=thread", "-Wno-tsan", "-Dmemcpy=weak_memcpy", "-Dsyscall=weak_syscall",
            "-Dwrite=weak_write", "-Dcalloc=weak_calloc", "-Dmalloc=weak_malloc",
            "-Dfree=weak_free"]  # fmt: skip
ORDERS = ("relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst", "none")
WEAKER = {"acquire": ("relaxed",), "release": ("relaxed",), "acq_rel": ("acquire", "release"),
          "seq_cst": ("acq_rel",)}  # fmt: skip
"""One step down: if that is caught, so is all below."""
FENCE_WEAKER = {"seq_cst": ("acq_rel",), "acquire": ("none",), "release": ("none",)}


@dataclass(frozen=True, order=True)
class Place:
    """A line of C with an order of its own, named by its file, function and text, not by its number."""

    file: str
    function: str
    text: str
    kind: str
    written: str
    """The order there."""
    line: int = field(compare=False, default=0)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}: {self.kind} {self.written}: {self.text}"


@dataclass(frozen=True)
class Walk:
    """What the explorer said of one scenario."""

    states: int
    executions: int
    seconds: float
    fault: str
    """The broken promise, or nothing."""
    trace: tuple[str, ...]
    places: dict[Place, tuple[str, ...]]
    """Each place that was passed, and its addresses in the program."""


@dataclass(frozen=True)
class Scenario:
    """A line of `weak --list`."""

    name: str
    large: bool
    says: str


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


@cache
def build() -> Path:
    """Compile and link the explorer with shm/; return the program. Raises RuntimeError with gcc's words.

    Once for each state of the sources, whoever else builds here at the same time.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    read = [*sources("shm/**/*.[ch]", "tests/robustness/weak/*.[ch]", at_least=30), Path(__file__)]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in read)).hexdigest()[:16]
    program = BUILD / f"weak-{state}"
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(program)
    return program


def _build(program: Path) -> None:
    objects = [BUILD / f"{name}.o" for name in (*FILES, "scenarios", "explore")]
    jobs = [
        ["gcc", *COMMON, *EXPLORED, "-c", f"shm/{name}.c", "-o", str(BUILD / f"{name}.o")] for name in FILES
    ]
    # What a scenario compiles is looked at as shm/ is, but calls the explorer by its own names.
    scenarios = ["-O1", "-fsanitize=thread", "-Wno-tsan", "-c", "tests/robustness/weak/scenarios.c"]
    jobs.append(["gcc", *COMMON, *scenarios, "-o", str(BUILD / "scenarios.o")])
    explorer = ["-O2", "-Wall", "-c", "tests/robustness/weak/explore.c"]
    jobs.append(["gcc", *COMMON, *explorer, "-o", str(BUILD / "explore.o")])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_run, jobs))
    unfinished = program.with_suffix(".unfinished")
    _run(["gcc", "-no-pie", "-o", str(unfinished), *map(str, objects)])
    unfinished.rename(program)


def scenarios() -> list[Scenario]:
    """Return what can be walked."""
    lines = (line.split("\t") for line in _run([str(build()), "--list"]).splitlines())
    return [Scenario(name, large == "1", says) for name, large, says in lines]


@cache
def _source(file: str) -> list[str]:
    return (ROOT / file).read_text().splitlines()


_known: dict[str, tuple[tuple[str, str, int], ...]] = {}


def _look_up(addresses: list[str]) -> None:
    """Ask once for the frames, (function, file, line), of all return addresses that are new."""
    new = [address for address in addresses if address not in _known]
    if not new:
        return
    # One less: of the call, not of what follows it. -a: the address stands before its frames.
    before = [hex(int(address, 16) - 1) for address in new]
    told = _run(["addr2line", "-a", "-i", "-f", "-e", str(build()), *before])
    for address, text in zip(new, re.split(r"^0x[0-9a-f]+\n", told, flags=re.M)[1:], strict=True):
        lines, frames = text.splitlines(), []
        for function, where in zip(lines[::2], lines[1::2], strict=True):
            path, _, line = where.split(" ")[0].rpartition(":")
            full = (ROOT / path).resolve()
            file = str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else path
            frames.append((function, file, int(line) if line.isdigit() else 0))
        _known[address] = tuple(frames)


def _frames(address: str) -> tuple[tuple[str, str, int], ...]:
    """Return the frames of a return address, the innermost first."""
    _look_up([address])
    return _known[address]


def place_of(address: str, kind: str, order: int) -> Place:
    """Return the place of one instruction of the program."""
    frames = _frames(address)
    serves_many = frames[0][1] == "shm/fence.h" or frames[0][0] == "token_swap"
    function, file, line = frames[1] if serves_many and len(frames) > 1 else frames[0]
    text = re.sub(r"\s*/\*.*", "", _source(file)[line - 1]).strip() if (ROOT / file).exists() else ""
    return Place(file, function, text, kind, ORDERS[order], line)


def walk(scenario: str, weakened: dict[str, str] | None = None, limit: int = 20_000_000) -> Walk:
    """Walk one scenario to its end or to the first broken promise.

    `weakened` maps addresses (of `Walk.places`) to the order that they have instead. Raises RuntimeError when
    the scenario does not fit the explorer, or has more than `limit` states.
    """
    command = [str(build()), scenario, "--limit", str(limit)]
    for address, order in (weakened or {}).items():
        command += ["--weaken", f"{address}={ORDERS.index(order)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or f'more than {limit} states'}")
    told: dict[str, str] = {}
    trace: list[str] = []
    places: dict[Place, tuple[str, ...]] = {}
    lines = done.stdout.splitlines()
    _look_up([line.split()[1] for line in lines if line.startswith("used ")])
    for line in lines:
        key, _, rest = line.partition(" ")
        if key == "trace":
            trace.append(rest)
        elif key == "used":
            address, kind, order, _ = rest.split()
            place = place_of(address, kind, int(order))
            places[place] = (*places.get(place, ()), address)
        else:
            told[key] = rest
    return Walk(
        int(told["states"]), int(told["executions"]), float(told["seconds"]), told.get("fault", ""),
        tuple(trace), places,
    )  # fmt: skip


def history(found: Walk) -> str:
    """Return the steps to a fault, a line each: thread, step, value read, value given, place."""
    lines = []
    for step in found.trace:
        thread, *kind, address, _, value, operand = step.split()
        where = (
            " <- ".join(f"{f}:{line}" for _, f, line in _frames(address)) if address.startswith("0x") else ""
        )
        lines.append(f"  thread {thread}: {' '.join(kind)} {value} {operand}  {where}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Mutant:
    """One order weakened in one place."""

    place: Place
    order: str

    def __str__(self) -> str:
        return f"{self.place} -> {self.order}"


@dataclass
class Verdict:
    """What became of all mutants."""

    walks: dict[str, Walk]
    caught: dict[Mutant, tuple[str, str]]
    """By which scenario, and the promise that was broken."""
    survived: list[Mutant]

    @property
    def places(self) -> set[Place]:
        """The judged places that a scenario passes."""
        return {place for found in self.walks.values() for place in found.places if place.file in JUDGED}


def mutants_of(place: Place) -> list[Mutant]:
    """Return the mutants of one place: each order that is one step weaker."""
    weaker = FENCE_WEAKER if place.kind == "fence" else WEAKER
    kinds = {"load": ("release",), "store": ("acquire",)}.get(place.kind, ())
    return [Mutant(place, order) for order in weaker.get(place.written, ()) if order not in kinds]


def judge(names: list[str], processes: int = 2) -> Verdict:
    """Walk the scenarios as they are, then each mutant in those that pass its place, the fastest first."""
    with ThreadPoolExecutor(processes) as pool:
        walks = dict(zip(names, pool.map(walk, names), strict=True))
        order = sorted(names, key=lambda name: walks[name].seconds)
        places = {place for found in walks.values() for place in found.places if place.file in JUDGED}
        mutants = [mutant for place in sorted(places) for mutant in mutants_of(place)]

        def attempt(mutant: Mutant) -> tuple[str, str] | None:
            for name in order:
                addresses = walks[name].places.get(mutant.place)
                if addresses:
                    found = walk(name, dict.fromkeys(addresses, mutant.order))
                    if found.fault:
                        return name, found.fault
            return None

        answers = list(pool.map(attempt, mutants))
    caught = {mutant: answer for mutant, answer in zip(mutants, answers, strict=True) if answer}
    return Verdict(walks, caught, [mutant for mutant in mutants if mutant not in caught])
