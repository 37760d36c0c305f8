"""`plait bench scale`: one gateway with 1, 2, … receivers and consumers; as many clients as cores.

    client 1 ── cable ──┐
    client 2 ── cable ──┤ gateway: n receivers and n consumers on n cores
    …                   ┘

A peer has one consumer, so only several peers can use several consumers: every client is a peer with a TCP
stream of its own, all at once. Clients and iperf3 run on the cores that the step leaves over; where it
leaves none they share the gateway's, and the step says so.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click

from engine.constants import MTU
from plait.bench.implementation import INTERFACE, PORT, cpu_seconds
from plait.bench.progress import progress
from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab
from plait.signals import interruptible

GATEWAY = "10.201.0.1"
START_SECONDS = 3.0


@dataclass(frozen=True)
class Step:
    """One step, medians of its runs. apart: the load had cores of its own. CPU: of the gateway."""

    workers: int
    direction: str
    apart: bool
    gbit: float
    gbit_least: float
    gbit_most: float
    cpu_s_per_gb: float
    cores_busy: float


def run(*, seconds: int, runs: int, as_json: bool) -> None:
    """Measure every step, then print the table or JSON on stdout."""
    lacks = lab.missing("wg", "iperf3", "ping", lab.PLAIT[0])
    if lacks:
        first = lacks[0]
        mend = f"{first.next_step}; `plait doctor` tells all"
        raise Failure(f"the bench cannot start: {first.what}", first.why, mend)
    cores = sorted(os.sched_getaffinity(0))
    with interruptible():
        steps = _steps(cores, seconds, runs)
    if as_json:
        answer = {
            "cores": len(cores),
            "clients": clients_of(cores),
            "steps": [asdict(step) for step in steps],
        }
        json.dump(answer, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    _show(steps, len(cores), clients_of(cores), runs)


def clients_of(cores: Sequence[int]) -> int:
    """As many in each step, so that steps differ in the gateway alone."""
    return max(2, len(cores))


def cores_of_load(cores: Sequence[int], workers: int) -> tuple[list[int], bool]:
    """Where clients and iperf3 run beside a gateway on the first cores, and whether that is apart."""
    spare = list(cores[workers:])
    return (spare, True) if spare else (list(cores), False)


def _steps(cores: Sequence[int], seconds: int, runs: int) -> list[Step]:
    each = START_SECONDS + 2 * (seconds + 1)
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    with progress(len(cores) * runs * each) as steps:
        for number in range(runs):
            for workers in range(1, len(cores) + 1):
                steps.step(f"run {number + 1} of {runs}: {workers} x {workers}", each)
                for direction, values in _measure(cores, workers, seconds).items():
                    found.setdefault((workers, direction), []).append(values)
    return [
        Step(
            workers,
            direction,
            cores_of_load(cores, workers)[1],
            median(gbit for gbit, _, _ in values),
            min(gbit for gbit, _, _ in values),
            max(gbit for gbit, _, _ in values),
            median(cpu for _, cpu, _ in values),
            median(busy for _, _, busy in values),
        )
        for (workers, direction), values in found.items()
    ]


def _measure(cores: Sequence[int], workers: int, seconds: int) -> dict[str, tuple[float, float, float]]:
    """Gbit/s of all streams, the gateway's CPU s/GB and the machine's busy cores, for each direction."""
    load, _ = cores_of_load(cores, workers)
    with Lab() as laboratory:
        gateway = laboratory.host("gateway")
        clients = laboratory.add_hosts([f"client {number + 1}" for number in range(clients_of(cores))])
        engine = gateway.engine(INTERFACE, settings=_settings(workers, cores[:workers]))
        with ThreadPoolExecutor(
            len(clients), initializer=os.sched_setaffinity, initargs=(0, load)
        ) as threads:
            _connect(laboratory, engine, clients, load, threads)
            pids = [usage.pid for usage in gateway.usage()]
            return {
                name: _stream_all(pids, gateway, clients, inwards, seconds, threads)
                for name, inwards in (("in", True), ("out", False))
            }


def _settings(workers: int, cores: Sequence[int]) -> str:
    return f"receivers = {workers}\nconsumers = {workers}\ncores = {list(cores)}\n"


def _connect(
    laboratory: Lab, engine: Engine, clients: Sequence[Host], load: list[int], threads: ThreadPoolExecutor
) -> None:
    """An engine in each client, a peer of the gateway; returns when all have answered a ping."""
    gateway = engine.host
    cables = [laboratory.link(gateway, client) for client in clients]
    keys = [lab.keypair() for _ in clients]
    private, public = lab.keypair()
    peers = [lab.Peer(key[1], [f"{_address(number)}/32"]) for number, key in enumerate(keys)]
    engine.configure(private, peers, [f"{GATEWAY}/24"], PORT, MTU)

    def start(number: int) -> None:
        own = clients[number].engine(INTERFACE, settings=_settings(1, load[number % len(load) :][:1]))
        endpoint = cables[number].endpoint(gateway, PORT)
        peer = lab.Peer(public, [f"{GATEWAY}/32"], endpoint)
        own.configure(keys[number][0], [peer], [f"{_address(number)}/24"], PORT, MTU)
        if not clients[number].ping(GATEWAY, 1, wait=10).received:
            said = engine.process.output().strip()[-300:] or "(nothing)"
            why = f"{clients[number].name} got no answer from the gateway; it said: {said}"
            raise Failure("cannot measure the steps", why, "Run it again; if it stays, report it.")

    list(threads.map(start, range(len(clients))))


def _address(number: int) -> str:
    return f"10.201.{(number + 10) // 256}.{(number + 10) % 256}"


def _stream_all(
    pids: Sequence[int],
    gateway: Host,
    clients: Sequence[Host],
    inwards: bool,
    seconds: int,
    threads: ThreadPoolExecutor,
) -> tuple[float, float, float]:
    """A stream of every client at once, to the gateway or from it."""
    ready = threading.Barrier(len(clients))

    def stream(number: int) -> lab.Stream:
        ready.wait(30)
        port = 5201 + number
        return clients[number].iperf3(gateway, GATEWAY, seconds, reverse=not inwards, port=port)

    cpu, busy, begun = cpu_seconds(pids), _busy_seconds(), time.monotonic()
    streams = list(threads.map(stream, range(len(clients))))
    used = cpu_seconds(pids) - cpu
    gbit = sum(one.bits_per_second for one in streams) / 1e9
    share = (_busy_seconds() - busy) / (time.monotonic() - begun)
    total = sum(one.bytes for one in streams) / 1e9
    return gbit, used / total if total else float("nan"), share


def _busy_seconds(stat: str | None = None) -> float:
    """Of all cores, since the machine started. stat: the text of /proc/stat, read when not given."""
    # proc(5): user nice system idle iowait irq softirq steal, then guests, which are in user and nice.
    words = (stat or Path("/proc/stat").read_text()).split("\n", 1)[0].split()
    fields = [int(word) for word in words[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _show(steps: Sequence[Step], cores: int, clients: int, runs: int) -> None:
    from plait.watch.engine import console, table

    columns = ("Gbit/s", "min..max", "of the first", "gateway's CPU s/GB", "cores busy")
    made = table("Receivers x consumers of one gateway", ("step", "streams", "load"), columns)
    for direction in ("in", "out"):
        of_way = [step for step in steps if step.direction == direction]
        for step in of_way:
            made.add_row(
                f"{step.workers} x {step.workers}",
                "to the gateway" if direction == "in" else "from the gateway",
                "apart" if step.apart else "on the same cores",
                f"{step.gbit:.2f}",
                f"{step.gbit_least:.2f}..{step.gbit_most:.2f}",
                f"{step.gbit / of_way[0].gbit:.2f} x" if of_way[0].gbit else "-",
                f"{step.cpu_s_per_gb:.2f}",
                f"{step.cores_busy:.1f}",
            )
    console().print(made)
    click.echo(
        f"{clients} clients with a TCP stream each; medians of {runs} run{'s' * (runs != 1)}. CPU: all of\n"
        "the gateway's processes. Cores busy: of the whole machine, clients and iperf3 with it; where\n"
        f"that is all of its {cores} cores, the load is the limit, not the gateway. Of more than {cores}\n"
        "cores this says nothing."
    )
