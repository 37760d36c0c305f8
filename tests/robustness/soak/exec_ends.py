"""Starts and ends of `plait exec`: `python -m tests.robustness.soak.exec_ends --count 200`, as root.

A third of them end by kill -9 of a random process of the tree at a random time, which may be before the
program runs (a worker that is killed is replaced: then the command is told to end); a third by a signal to
the command, which passes it on to a program that heeds it; the others by themselves. Behind each end nothing
may be left on the host: no process (and so no namespace), file, mount, interface or socket. An AssertionError
says what is.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress

import click

from plait.failure import Failure
from plait.lab.namespaces import Lab, Process
from tests.support.rootless import CONF, SERVER, Scene, tree
from tests.support.waiting import until

INSIDE = "import time\nprint('up', flush=True)\ntime.sleep(86400)"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SURVIVES_SECONDS = 3  # a worker that is killed is replaced: the command goes on, and is told to end
START_SECONDS = 1.5  # about how long a start takes; a kill comes before twice that


def end(program: Process, how: str, chance: random.Random) -> int:
    """End it so, or wait for its own end; exit code."""
    if how != "itself":
        time.sleep(chance.uniform(0, 2 * START_SECONDS))
    with suppress(ProcessLookupError):
        if how == "kill":
            os.kill(chance.choice(tree(program.pid)), signal.SIGKILL)
            with suppress(Failure):
                return program.wait(SURVIVES_SECONDS)
            os.kill(program.pid, signal.SIGTERM)
        elif how == "signal":
            os.kill(program.pid, chance.choice(SIGNALS))
    return program.wait()


@click.command()
@click.option("--count", default=200, show_default=True)
@click.option("--seed", default=0, help="0: another one each time; it is printed.")
def main(count: int, seed: int) -> None:
    """Start and end it so many times, and see that nothing is left."""
    # A shell without job control starts what it puts in the background with SIGINT ignored, and programs
    # inherit that: a SIGINT that comes before `plait exec` looks would end nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = seed or random.SystemRandom().randrange(1, 1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    ends: Counter[tuple[str, int]] = Counter()
    with Lab() as lab:
        scene = Scene(lab, INSIDE)
        before = scene.left()
        for number in range(count):
            how = ("kill", "signal", "itself")[number % 3]
            last = "true" if how == "itself" else "sleep 600 & wait"
            script = f"trap 'exit 9' HUP INT TERM; ping -c 1 {SERVER} > /dev/null & wait; {last}"
            program = scene.plait("exec", CONF, "--", "sh", "-c", script)
            ends[how, end(program, how, chance)] += 1
            until(lambda: scene.left() == before, f"number {number}, {how}, nothing left; before: {before}")
    for (how, code), times in sorted(ends.items()):
        print(f"{how}: exit code {code}, {times} times")
    print(f"{count} starts and ends, and nothing is left")


if __name__ == "__main__":
    main(prog_name="python -m tests.robustness.soak.exec_ends")
