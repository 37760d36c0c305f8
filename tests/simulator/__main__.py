"""Many simulations, or one again: `python -m tests.simulator --seeds 2000 --days 1`."""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from .schedule import HOUR, live
from .watch import Broken


def main() -> int:
    """Exit 1 when a simulation broke; its seed is printed, and one seed is always one life."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--days", type=float, default=0.01, help="simulated length of each (default: %(default)s)"
    )
    arguments = parser.parse_args()
    begin, broken = monotonic(), 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            tally = live(seed, int(arguments.days * 24 * HOUR))
        except Broken as error:
            broken += 1
            print(f"BROKEN {error}", flush=True)
        else:
            print(
                f"seed {seed}: {tally.datagrams} datagrams, {tally.sessions} sessions, "
                f"{tally.delivered} packets delivered, {sum(tally.fired.values())} timers fired",
                flush=True,
            )
    print(f"{arguments.seeds} simulations, {broken} broken, {monotonic() - begin:.0f} s", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
