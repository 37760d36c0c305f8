"""Walk all scenarios, weaken every order, print a table of what was caught by which promise."""

from __future__ import annotations

import argparse
import sys
import time

from tests.robustness.weak.arguments import ARGUMENTS
from tests.robustness.weak.memory import history, judge, scenarios, walk


def main() -> int:
    """Return 0; 1: a promise is broken, or a mutant survives that has no argument."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.weak", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="walk these alone, without mutants")
    parser.add_argument("--large", action="store_true", help="the large ones too: minutes and a gigabyte")
    parser.add_argument("--mutants", action="store_true", help="with --large or names: mutants as well")
    options = parser.parse_args()
    told = {scenario.name: scenario for scenario in scenarios()}
    names = options.scenario or [name for name in told if options.large or not told[name].large]
    unknown = [name for name in names if name not in told]
    if unknown:
        parser.error(f"no scenario is called {unknown[0]}. There are: {', '.join(told)}.")
    began = time.perf_counter()
    sound = True
    for name in names:
        found = walk(name)
        counts = f"{found.states:>11,} states {found.executions:>9,} executions {found.seconds:>7.2f} s"
        print(f"{name:<9}{counts}  {told[name].says}", flush=True)
        if found.fault:
            sound = False
            print(f"  {found.fault}\n{history(found)}")
    is_chosen = bool(options.scenario) or options.large
    if not sound or (is_chosen and not options.mutants):
        return not sound
    verdict = judge(names)
    for mutant, (name, fault) in verdict.caught.items():
        print(f"caught   {mutant}\n         by {name}: {fault}")
    for mutant in verdict.survived:
        reasons = [argument.because for argument in ARGUMENTS if argument.covers(mutant)]
        sound = sound and len(reasons) == 1
        print(f"survived {mutant}\n         {reasons[0] if reasons else 'NO ARGUMENT'}")
    print(
        f"{len(verdict.places)} places, {len(verdict.caught)} mutants caught, "
        f"{len(verdict.survived)} survived, {time.perf_counter() - began:.0f} s"
    )
    return not sound


if __name__ == "__main__":
    sys.exit(main())
