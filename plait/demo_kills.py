"""The end of `plait demo`: workers are killed with SIGKILL under a TCP stream, and what it costs is measured.

Each victim is the busiest of its kind at the stream's receiving end. A pause is a time in which the stream's
receiver got no byte (lab/soak_stream.py); one that ends between a kill and the next belongs to that kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from plait.failure import Failure
from plait.lab.namespaces import Engine, Process
from plait.lab.soak_stream import STALL_SECONDS

ROLES = ("receiver", "consumer", "control")
PORT = 7001
SETTLE_SECONDS = 0.5  # of undisturbed traffic before and after each kill
BACK_SECONDS = 30.0
SESSION_SECONDS = 115.0  # until then no handshake is due: REKEY_AFTER_TIME less the demo's own time
ENOUGH = "/run/enough"


@dataclass
class KillResult:
    """One kill. pause_ms: 0 when none was as long as STALL_SECONDS. packets_lost: counted as killed.
    handshakes: begun by either end since."""

    host: str
    name: str
    pause_ms: float
    packets_lost: int
    handshakes: int


def kill_workers(
    source: Engine, target: Engine, address: str, step: Callable[[str], None], wrong: list[str]
) -> list[KillResult]:
    """Kill one worker of each kind of the target's engine under a stream from source to address."""
    age = time.time() - _handshake_time(source)
    stream = [sys.executable, "-m", "plait.lab.soak_stream"]
    receiver = target.host.popen([*stream, "receive", str(PORT)])
    target.host.wait_listening(PORT, receiver, BACK_SECONDS)
    sender = source.host.popen([*stream, "send", address, str(PORT), ENOUGH])
    moments, results = [], []
    try:
        for role in ROLES:
            time.sleep(SETTLE_SECONDS)
            name = _busiest(target, role)
            step(f"kill -9 {name} of host {target.host.name}, under TCP")
            before = _sums((source, target))
            moments.append(time.monotonic())
            _replace(target, name)
            time.sleep(SETTLE_SECONDS)
            lost, handshakes = (now - then for now, then in zip(_sums((source, target)), before, strict=True))
            results.append(KillResult(target.host.name, name, 0.0, lost, handshakes))
        (source.host.root / ENOUGH.lstrip("/")).touch()
        sent, got = _words(sender), _words(receiver)
    finally:
        sender.close()
        receiver.close()
    if (sent["bytes"], sent["sha256"]) != (got["bytes"], got["sha256"]):
        wrong.append(f"of {sent['bytes']} bytes sent under kills, {got['bytes']} arrived or others")
    for result, pause in zip(results, _pauses(moments, got["stalls"]), strict=True):
        result.pause_ms = round(1000 * pause, 1)
        if result.handshakes and age < SESSION_SECONDS:
            wrong.append(f"{result.handshakes} handshakes after the kill of {result.name}")
    return results


def pause_words(result: KillResult) -> str:
    return f"{result.pause_ms:.0f} ms" if result.pause_ms else f"< {1000 * STALL_SECONDS:.0f} ms"


def _pauses(moments: Sequence[float], stalls: Sequence[tuple[float, float]]) -> Iterator[float]:
    """The longest pause that ended since each moment and before the next, seconds."""
    for begin, end in zip(moments, [*moments[1:], float("inf")], strict=True):
        yield max((seconds for at, seconds in stalls if begin <= at < end), default=0.0)


def _handshake_time(engine: Engine) -> int:
    return int(engine.wg("show", engine.interface, "latest-handshakes").split()[1])


def _busiest(engine: Engine, role: str) -> str:
    """The title of the process of that role that carried most packets."""
    processes = [each for each in engine.report()["processes"] if each["role"] == role]
    most = max(processes, key=lambda each: sum(each["packets"].values()))
    return f"{role} {most['number']}" if role != "control" else role


def _replace(engine: Engine, name: str) -> None:
    """Kill that process and wait until the engine runs as many again, and answers."""
    pid = engine.host.titles(engine.interface)[name]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + BACK_SECONDS
    while engine.host.titles(engine.interface).get(name, pid) == pid or not _runs(engine):
        if time.monotonic() > deadline:
            raise Failure(
                f"{name} of host {engine.host.name} was killed and did not come back",
                f"it is away for {BACK_SECONDS:.0f} s",
                "This is a fault of the engine; please report it",
            )
        time.sleep(0.01)


def _runs(engine: Engine) -> bool:
    """Whether control answers and every worker is at work."""
    try:
        return all(each["state"] == "running" for each in engine.report()["processes"])
    except (OSError, StopIteration):  # control is not there yet
        return False


def _sums(engines: Sequence[Engine]) -> tuple[int, int]:
    """Packets counted as killed, and initiations sent, at both ends."""
    counters = [engine.counters() for engine in engines]
    return (
        sum(each["drop_killed"] for each in counters),
        sum(each["hs_initiation_sent"] for each in counters),
    )


def _words(process: Process) -> dict[str, Any]:
    """The line of JSON that the program prints at its end."""
    if process.wait() != 0:
        raise Failure(
            "the stream under kills broke",
            process.output().strip()[-300:],
            "This is a fault of the engine; please report it",
        )
    words: dict[str, Any] = json.loads(process.output().splitlines()[-1])
    return words
