"""An engine is signalled while it starts, each few milliseconds: it becomes ready, or nothing is left of it.

    python -m tests.robustness.kill.start_grid           each signal, to launcher and supervisor, each 5 ms
    python -m tests.robustness.kill.start_grid --step-ms 20 --signal SIGKILL --target supervisor
    python -m tests.robustness.kill.start_grid --json    a line for each start

The launcher is `plaitd IFACE`, which waits until the engine in the background is ready; foreground is the
supervisor of `plaitd --foreground IFACE`. Left may be no process, no interface, no socket file and no shared
memory. The launcher's exit code is 0 when the engine was ready at its end, and only then.

Prints a table of how the starts ended, and a line for each that was wrong; exit code 1 when there was one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from queue import SimpleQueue

from plait.failure import Failure
from plait.lab.namespaces import Engine, Host, Lab, Process, state
from plait.watch.processes import children

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGUSR2")
TARGETS = ("launcher", "supervisor", "foreground")
SETTINGS = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
ENVIRONMENT = {"LOG_LEVEL": "info", "PLAIT_CONFIG": "/run/wg0.toml"}  # with a level the log goes to stderr
SOCKET = "run/wireguard/wg0.sock"
SETTLE_SECONDS = 60.0
STAYS_SECONDS = 10.0  # one that answers although its launcher failed may be about to end
SIDE_BY_SIDE = 4


@dataclass
class Start:
    """One start and what became of it. at_ms: since plaitd was called; code: of who was called, None while it
    runs; end: ready, nothing, early (the target was not there yet), late (it was gone), wrong; is_late: the
    engine was ready before the signal."""

    target: str
    signal: str
    at_ms: float
    end: str = ""
    code: int | None = None
    why: str = ""
    is_late: bool = False


def settled(host: Host, process: Process, is_foreground: bool) -> str:
    """`ready` or `nothing` as soon as it is one of them for good; else what is left."""
    deadline, stays_since = time.monotonic() + SETTLE_SECONDS, None
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None and not left(host):
            return "nothing"
        is_through = "is ready" in process.output() and (is_foreground or code is not None)
        if is_through and answers(host, process):
            stays_since = stays_since or time.monotonic()
            may_stay = not is_foreground and time.monotonic() - stays_since > STAYS_SECONDS
            if not code or may_stay:
                return "ready"
        time.sleep(0.01)
    return f"after {SETTLE_SECONDS:.0f} s there is {', '.join(left(host)) or 'no answer'}"


def left(host: Host) -> list[str]:
    """What there is of an engine."""
    found = [f"process {pid}" for pid in host.pids()]
    found += [f"/dev/shm/{name}" for name in os.listdir(host.root / "dev/shm")]
    found += [f"/{SOCKET}"] * (host.root / SOCKET).exists()
    return found + ["interface wg0"] * (host.root / "sys/class/net/wg0").exists()


def answers(host: Host, process: Process) -> bool:
    """Whether control answers."""
    with contextlib.suppress(OSError, Failure):
        return "errno=0" in Engine(host, "wg0", process).uapi("get=1\n\n")
    return False


def judge(start: Start, outcome: str, words: str) -> None:
    """Whether that is as promised."""
    was_ready = "is ready" in words
    start.end = outcome if outcome in ("ready", "nothing") else "wrong"
    if "Traceback" in words and "KeyboardInterrupt" not in words:
        start.why = "a traceback"
    elif start.end == "wrong":
        start.why = outcome
    elif start.target != "foreground" and start.code == 0 and not was_ready and not loses_log(start):
        start.why = "exit code 0, and it was never ready"
    elif start.target != "foreground" and start.code and outcome == "ready" and start.signal != "SIGKILL":
        start.why = f"exit code {start.code}, and it runs"
    elif start.target == "foreground" and outcome == "ready" and start.code is not None:
        start.why = f"exit code {start.code}, and its processes run"
    if start.why:
        start.end = "wrong"


def loses_log(start: Start) -> bool:
    """Whether written lines stay unread: the thread that reads the log's pipe dies (workers/log.py)."""
    return (start.target, start.signal) == ("supervisor", "SIGKILL")


def try_start(host: Host, start: Start) -> Start:
    """Start an engine in this host, signal it, look, and clean up."""
    is_foreground = start.target == "foreground"
    began = time.monotonic()
    process = host.popen(["plaitd", *(["-f"] if is_foreground else []), "wg0"], environment=ENVIRONMENT)
    try:
        time.sleep(max(began + start.at_ms / 1000 - time.monotonic(), 0))
        called = process.pid or None
        target = called
        if called is not None and start.target == "supervisor":
            target = next(iter(children(called)), None)
        start.is_late = process.poll() is not None or "is ready" in process.output()
        if process.poll():
            start.end, start.code, start.why = "wrong", process.poll(), "it ends before the signal"
        elif target is None:
            start.end = "late" if start.is_late else "early"
        else:
            start.at_ms = round((time.monotonic() - began) * 1000, 1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, getattr(signal, start.signal))
            while start.signal == "SIGKILL" and state(target) not in ("", "Z"):
                time.sleep(0.002)  # it answers until it is killed indeed
            outcome = settled(host, process, is_foreground)
            start.code = process.poll()
            judge(start, outcome, process.output())
    finally:
        clear(host, process)
    return start


def clear(host: Host, process: Process) -> None:
    """Whatever is left ends; of a killed engine nothing is to be in the way of the next start."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while pids := host.pids():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {pids} do not end")
        time.sleep(0.01)
    process.close()
    (host.root / SOCKET).unlink(missing_ok=True)
    while (host.root / "sys/class/net/wg0").exists():
        time.sleep(0.01)


def ready_ms(host: Host) -> float:
    """How long a start takes here that nobody disturbs."""
    began = time.monotonic()
    process = host.popen(["plaitd", "wg0"], environment=ENVIRONMENT)
    try:
        code = process.wait()
        if code != 0:
            raise RuntimeError(f"plaitd does not start here: exit code {code}: {process.output()}")
        return (time.monotonic() - began) * 1000
    finally:
        clear(host, process)


def grid(
    signals: Sequence[str], targets: Sequence[str], step_ms: float | None, steps: int = 0
) -> Iterator[Start]:
    """Every start, each target and signal from the call until the engine was ready before the signal.

    step_ms: None for about so many steps.
    """
    with Lab() as lab:
        hosts: SimpleQueue[Host] = SimpleQueue()
        for host in lab.add_hosts([f"start{i}" for i in range(SIDE_BY_SIDE)]):
            (host.root / "run/wg0.toml").write_text(SETTINGS)
            hosts.put(host)
        first = hosts.get()
        step = step_ms or ready_ms(first) / steps
        hosts.put(first)

        def column(target: str, name: str) -> list[Start]:
            host, starts = hosts.get(), [Start(target, name, 0)]
            try:
                while not try_start(host, starts[-1]).is_late:
                    starts.append(Start(target, name, len(starts) * step))
                return starts
            finally:
                hosts.put(host)

        columns = [(target, name) for target in targets for name in signals]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for starts in pool.map(column, *zip(*columns, strict=True)):
                yield from starts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.kill.start_grid",
                                     description="Signal an engine at each few milliseconds of its start.")
    parser.add_argument("--step-ms", type=float, default=5.0, help="default: 5")
    parser.add_argument("--signal", choices=SIGNALS, action="append", help="default: all of them")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all of them")
    parser.add_argument("--json", action="store_true", help="a JSON object for each start, one a line")
    options = parser.parse_args(arguments)
    ends: dict[tuple[str, str], Counter[str]] = {}
    is_wrong = False
    for start in grid(options.signal or SIGNALS, options.target or TARGETS, options.step_ms):
        ends.setdefault((start.target, start.signal), Counter())[start.end] += 1
        is_wrong |= start.end == "wrong"
        if options.json:
            print(json.dumps(asdict(start)), flush=True)
        elif start.end == "wrong":
            print(f"{start.target} {start.signal} at {start.at_ms:.1f} ms: {start.why}", flush=True)
    if not options.json:
        names = ("ready", "nothing", "early", "late", "wrong")
        print(f"{'target':12}{'signal':10}" + "".join(f"{name:>9}" for name in names))
        for (target, name), counts in ends.items():
            print(f"{target:12}{name:10}" + "".join(f"{counts[each]:9}" for each in names))
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
