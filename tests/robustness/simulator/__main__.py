"""Thousands of random lives of two engines in virtual time, held to the kernel's timers and the invariants.

    python -m tests.robustness.simulator --seeds 2000                  seeds 0 to 1999
    python -m tests.robustness.simulator --seeds 2000 --first 2000     the next 2,000
    python -m tests.robustness.simulator --seeds 1 --first 4711        one life: a seed is always the same one
    python -m tests.robustness.simulator --leaps                       clocks leap by minutes and hours, too

A life is a row of chapters (weather on the link, traffic, kills, restarts, sleeps, clocks that are set),
then a calm end in which everything must come through. No nonce is used twice, no packet is accepted twice
or outside its session's time, keys go when they should, and both sides find each other again in time.

Seeds that broke are printed on stdout with what was wrong; progress goes to stderr. Exit code: 0 when
all lives hold, 1 when one broke, 130 when interrupted (what to continue with is then said).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from time import monotonic

from .schedule import FINALE, HOUR, live
from .watch import Broken
from .world import Tally

PROGRESS = 10.0  # seconds between lines of progress where stderr is no terminal


def one(seed: int, length: int, live: Callable[[int, int], Tally]) -> tuple[int, dict[str, int], str]:
    """A life: (seed, what there was of everything, what broke or nothing)."""
    try:
        tally = live(seed, length)
    except Broken as error:
        return seed, {}, str(error)
    counts = {"datagrams": tally.datagrams, "sessions": tally.sessions, "delivered": tally.delivered,
              "timers fired": sum(tally.fired.values())}
    return seed, counts, ""


def lives(
    seeds: range, length: int, jobs: int, live: Callable[[int, int], Tally]
) -> Iterator[tuple[int, dict[str, int], str]]:
    """All of them, in order of their seeds."""
    if jobs == 1:
        yield from map(one, seeds, repeat(length), repeat(live))
        return
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        try:
            yield from pool.map(one, seeds, repeat(length), repeat(live), chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)


class Progress:
    """How far it is, on stderr: a line that moves on a terminal, one every few seconds elsewhere."""

    def __init__(self, count: int) -> None:
        self.count, self.begin, self.said = count, monotonic(), monotonic()

    def __call__(self, done: int, seed: int, broken: int) -> None:
        now, moves = monotonic(), sys.stderr.isatty()
        if now - self.said < (0.2 if moves else PROGRESS) and done < self.count:
            return
        self.said = now
        left = (now - self.begin) * (self.count - done) / done
        print(f"simulator: {done}/{self.count}, to seed {seed}, {broken} broken, about {left:.0f} s more ",
              end="\r" if moves and done < self.count else "\n", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None, live: Callable[[int, int], Tally] = live) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.simulator", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--days", type=float, default=0.002,
                        help="simulated length of each, before its calm end (default: %(default)s)")
    parser.add_argument("--leaps", action="store_true", help="boottimes leap, as behind a suspend")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    length = int(options.days * 24 * HOUR)
    lived = partial(live, leaps=True) if options.leaps else live
    seeds = range(options.first, options.first + options.seeds)
    begin, progress = monotonic(), Progress(len(seeds))
    totals: Counter[str] = Counter()
    broken: dict[int, str] = {}
    done, next_seed = 0, options.first
    try:
        for seed, counts, why in lives(seeds, length, options.jobs, lived):
            done, next_seed = done + 1, seed + 1
            totals.update(counts)
            if why:
                broken[seed] = why
                if not options.json:
                    print(f"BROKEN {why}", flush=True)
            progress(done, seed, len(broken))
    except KeyboardInterrupt:
        left = seeds.stop - next_seed
        print(f"\nsimulator: interrupted; continue with --first {next_seed} --seeds {left}", file=sys.stderr)
    summary = {"first": options.first, "lives": done, "broken": broken,
               "seconds": round(monotonic() - begin, 1),
               "simulated hours": round(done * (length + FINALE) / HOUR, 1), **totals}
    if options.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
    else:
        print(f"seeds {options.first} to {next_seed - 1}: " +
              ", ".join(f"{value:,} {name}" for name, value in summary.items()
                        if name not in ("first", "broken")) + f", {len(broken)} broken")
    return 1 if broken else 130 if done < options.seeds else 0


if __name__ == "__main__":
    sys.exit(main())
