"""python -m tests.robustness.mutants: how many small faults do the tests find?

    python -m tests.robustness.mutants                         the kept list
    python -m tests.robustness.mutants --count 150 --seed 3    150 new ones, of all areas alike
    python -m tests.robustness.mutants --area fences --area wiping
    python -m tests.robustness.mutants --count 150 --go-on     the rest of it, and its survivors once more
    python -m tests.robustness.mutants --list                  what would be tried, and where

A mutant is *caught* when a test that runs its line fails or does not end, *equivalent* when nobody could
see it (the compiler makes the same code of it, or the lists say why), and else it *survived*. What does not
build is no mutant. Areas and their tests stand in areas.py, the kept list in kept.py, the reasons for random
ones in equivalent.py. Nothing of the working tree is changed: each job has its own copy and build directory,
in builddir-mutants/. There stands as well which tests run which lines, recorded when it is missing or old
(recording.py), and what came of each mutant: --go-on takes over what is known and tries the survivors again.

Exit code 0, or 99 when a mutant survived, or 1.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import c_operators, python_operators
from .areas import AREAS, OTHERS, Area
from .equivalent import explained
from .kept import KEPT
from .mutant import Kept, Mutant
from .recording import Map, recorded
from .workshop import ROOT, CannotWork, Test, Workshop, say

SURVIVED = 99
VERDICTS = ("caught", "survived", "equivalent")


@dataclass(frozen=True)
class Judged:
    mutant: Mutant
    verdict: str
    why: str
    seconds: float

    def told(self) -> dict[str, object]:
        m = self.mutant
        return {"area": m.area, "path": m.path, "line": m.line, "kind": m.kind, "old": m.old, "new": m.new,
                "verdict": self.verdict, "why": self.why, "seconds": round(self.seconds, 1)}

    def line(self) -> str:
        m = self.mutant
        why = f" ({self.why})" if self.why else ""
        return f"{self.verdict:10} {m.path}:{m.line}  {m.kind}: {m.change()}{why}"


# -- which ---------------------------------------------------------------------------------------


def places(area: Area, root: Path) -> list[Mutant]:
    """Every mutant that the operators make of the area's sources."""
    found: list[Mutant] = []
    for path in area.files(root):
        operators = {".c": c_operators, ".py": python_operators}[path.suffix]
        found += operators.mutants(str(path.relative_to(root)), path.read_text())
    return found


def drawn(areas: Mapping[str, Area], root: Path, seed: int) -> Iterator[Mutant]:
    """Mutants without end: the areas in turn, then an operator, then one of its places, each once."""
    dice = random.Random(seed)
    left: dict[str, dict[str, list[Mutant]]] = {}
    for name, area in areas.items():
        for mutant in places(area, root):
            left.setdefault(name, {}).setdefault(mutant.kind, []).append(mutant)
    while left:
        for name in list(left):
            kind = dice.choice(sorted(left[name]))
            at = dice.randrange(len(left[name][kind]))
            yield left[name][kind].pop(at).of(name)
            if not left[name][kind]:
                del left[name][kind]
            if not left[name]:
                del left[name]


# -- the work ------------------------------------------------------------------------------------


class Journal:
    """What came of each mutant, a line of JSON each, also when the run is stopped."""

    def __init__(self, path: Path, root: Path, goes_on: bool) -> None:
        self.path, self.root = path, root
        self.known: dict[str, dict[str, Any]] = {}
        if goes_on and path.exists():
            told = map(json.loads, path.read_text().splitlines())
            self.known = {each["key"]: each for each in told}
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def key(self, mutant: Mutant) -> str:
        text = hashlib.sha256((self.root / mutant.path).read_bytes()).hexdigest()[:16]
        return f"{mutant.area}:{mutant.path}:{mutant.start}:{mutant.end}:{mutant.new}:{text}"

    def take(self, mutant: Mutant) -> Judged | None:
        """What came of it before; None when that has to be seen, perhaps again."""
        known = self.known.get(self.key(mutant))
        if known is None or known["verdict"] == "survived":
            return None
        return Judged(mutant, known["verdict"], known["why"], known["seconds"])

    def add(self, judged: Judged) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(judged.told() | {"key": self.key(judged.mutant)}) + "\n")


class Work:
    """What is still to be tried, and what came of the rest; jobs share it."""

    def __init__(self, areas: Mapping[str, Area], kept: Sequence[Mutant], fresh: Iterator[Mutant], count: int,
                 tests: Map, journal: Journal) -> None:
        self.areas, self.fresh, self.count, self.map, self.journal = areas, fresh, count, tests, journal
        # One file after the other: what was mutated last is compiled again only once.
        self.kept = sorted(kept, key=lambda mutant: (mutant.area, mutant.path, mutant.line))
        self.lock = threading.Lock()
        self.judged: list[Judged] = []
        self.proved: set[str] = set()
        self.failed: list[str] = []

    def next(self) -> Mutant | None:
        with self.lock:
            if self.failed:
                return None
            if self.kept:
                return self.kept.pop(0)
            if self.count > 0:
                self.count -= 1
                return next(self.fresh, None)
            return None

    def stop(self) -> None:
        """The mutants in hand are the last."""
        with self.lock:
            self.kept, self.fresh = [], iter(())

    def prove(self, test: Test, workshop: Workshop) -> None:
        """The first time that a test catches a mutant: that it passes without one."""
        with self.lock:
            if test.name in self.proved:
                return
        if not workshop.passes(test):
            raise CannotWork(f"{test.name} fails without a mutant. Mend it first.")
        with self.lock:
            self.proved.add(test.name)

    def note(self, judged: Judged, is_new: bool) -> None:
        with self.lock:
            if is_new:
                self.journal.add(judged)
            if judged.verdict == "broken":
                if judged.mutant.kind in c_operators.KINDS | python_operators.KINDS:
                    self.count += 1  # no mutant: another one in its place
                else:
                    self.failed.append(f"kept mutant '{judged.mutant.kind}' does not build")
                return
            self.judged.append(judged)
        if is_new:
            say(f"{len(self.judged)}: {judged.line()}, {judged.seconds:.0f} s")

    def job(self, directory: Path, root: Path) -> None:
        try:
            workshop = Workshop(directory, root)
            while (mutant := self.next()) is not None:
                before = self.journal.take(mutant)
                self.note(before or self.judge(mutant, workshop, root), before is None)
        except CannotWork as error:
            self.failed.append(str(error))

    def judge(self, mutant: Mutant, workshop: Workshop, root: Path) -> Judged:
        begin = time.monotonic()
        tests = self.map.of(mutant, self.areas[mutant.area], (root / mutant.path).read_text())
        verdict, why = workshop.judge(mutant, tests)
        seconds = time.monotonic() - begin
        if verdict == "caught":
            # Whoever catches by not being collected has no name.
            self.prove(next((test for test in tests if test.name == why), tests[0]), workshop)
        return Judged(mutant, verdict, why, seconds)


def run(areas: Mapping[str, Area], kept: Sequence[Kept], *, directory: Path, root: Path = ROOT,
        count: int = 0, seed: int = 1, jobs: int = 1, goes_on: bool = False,
        others: Sequence[str] = ()) -> list[Judged]:
    """Judge the kept mutants of these areas and `count` random ones; CannotWork where that cannot be done."""
    old = [each.mutant(root) for each in kept if each.area in areas]
    fresh = (explained(mutant, (root / mutant.path).read_text()) for mutant in drawn(areas, root, seed))
    journal = Journal(directory / "judged.jsonl", root, goes_on)
    asked = {mutant.area for mutant in old} | {name for name, area in areas.items() if count and area.sources}
    tests = {test for name in asked for test in areas[name].tests} | ({*others} if count else set())
    work = Work(areas, old, fresh, count, recorded(tests, directory, root, jobs), journal)
    threads = [threading.Thread(target=work.job, args=(directory / str(n), root)) for n in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        work.stop()
        say("interrupted: the answer follows when the mutants in hand are judged")
        for thread in threads:
            thread.join()
    if work.failed:
        raise CannotWork(work.failed[0])
    return work.judged


# -- the answer ----------------------------------------------------------------------------------


def table(judged: Sequence[Judged], areas: Mapping[str, Area]) -> list[dict[str, object]]:
    """A row an area, and one for all: how many of each verdict, and the rate of the non-equivalent ones."""
    rows: list[dict[str, object]] = []
    for name in [*areas, "all"]:
        ours = [each for each in judged if name in (each.mutant.area, "all")]
        counts = {verdict: sum(each.verdict == verdict for each in ours) for verdict in VERDICTS}
        seen = counts["caught"] + counts["survived"]
        rows.append({"area": name, **counts, "rate": round(counts["caught"] / seen, 3) if seen else None})
    return [row for row in rows if any(row[verdict] for verdict in VERDICTS)]


def show(judged: Sequence[Judged], areas: Mapping[str, Area]) -> None:
    print(f"{'area':12} {'caught':>8} {'survived':>9} {'equivalent':>11} {'rate':>7}")
    for row in table(judged, areas):
        rate = row["rate"]
        shown = f"{100 * rate:.0f} %" if isinstance(rate, float) else "-"
        print(f"{row['area']:12} {row['caught']:8} {row['survived']:9} {row['equivalent']:11} {shown:>7}")
    for verdict in ("survived", "equivalent"):
        for each in judged:
            if each.verdict == verdict:
                print(each.line())


def main(words: Sequence[str] | None = None) -> int:
    about, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("python -m tests.robustness.mutants", description=about, epilog=examples,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=0, metavar="N", help="so many random mutants besides")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random ones (1)")
    parser.add_argument("--only", choices=("kept", "random"), help="leave the others out")
    parser.add_argument("--area", action="append", choices=list(AREAS), help="these alone; may be repeated")
    parser.add_argument("--name", metavar="TEXT", help="of the kept ones, those with this text in the name")
    parser.add_argument("--go-on", action="store_true", help="take over what is known; survivors again")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once, a build for each (2)")
    parser.add_argument("--list", action="store_true", help="name the mutants, try none")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    asked = parser.parse_args(words)
    areas = {name: AREAS[name] for name in asked.area or AREAS}
    kept = [each for each in KEPT if asked.only != "random" and (asked.name or "") in each.name]
    if asked.list:
        found = [each.mutant(ROOT) for each in kept if each.area in areas]
        fresh = drawn(areas, ROOT, asked.seed)
        found += itertools.islice(fresh, asked.count)
        for mutant in found:
            print(f"{mutant.area:12} {mutant.path}:{mutant.line}  {mutant.kind}: {mutant.change()}")
        return 0
    try:
        judged = run(areas, kept, directory=ROOT / "builddir-mutants", seed=asked.seed, jobs=asked.jobs,
                     goes_on=asked.go_on, count=0 if asked.only == "kept" else asked.count, others=OTHERS)
    except (CannotWork, ValueError) as error:
        say(str(error))
        return 1
    if asked.json:
        print(json.dumps({"seed": asked.seed, "areas": table(judged, areas),
                          "mutants": [each.told() for each in judged]}, indent=1))
    else:
        show(judged, areas)
    return SURVIVED if any(each.verdict == "survived" for each in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
