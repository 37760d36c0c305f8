"""`plait bench queue`: what a packet's way through a peer's queue costs, in nanoseconds and in bytes.

Real processes over a real POSIX segment, running the C that ships (queue_bench.c says what is between two
looks at the clock). Each process is this module, started with the segments' descriptors and a plan of runs;
they meet in shared memory before each section of a run. Designs take turns within a round and rounds follow
each other, so that a machine whose speed drifts slows all of them alike: compare within one table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

import click

from plait.failure import Failure

BURSTS = (1, 32, 64)
NOBODY = 0xFFFFFFFF
MOST_OF_SINGLY = 0.25  # what a packet in chains of 32 may cost of one pushed alone, 2 producers

# In the order of enum bench_design.
TITLES = (
    "Plait's queue",
    "Plait's queue, counted per packet",
    "ring of 1,024 as the kernel's",
    "ring of 1,024, both ends locked",
    "no queue: slots and nodes alone",
)


@dataclass(frozen=True)
class Topology:
    """Who runs: for each process its receiver number (NOBODY: it does not push) and whether it takes."""

    title: str
    roles: tuple[tuple[int, bool], ...]

    @property
    def producers(self) -> int:
        """How many processes push."""
        return sum(receiver != NOBODY for receiver, _ in self.roles)


TOPOLOGIES = (
    Topology("1 process", ((0, True),)),
    Topology("1 producer", ((0, False), (NOBODY, True))),
    Topology("2 producers", ((0, False), (1, True))),
)


@dataclass(frozen=True)
class Run:
    """One design with bursts of one size."""

    design: int
    burst: int


@dataclass(frozen=True)
class Cost:
    """Nanoseconds a packet. A round's figure is the median of its sections; here are those of all rounds."""

    design: str
    burst: int
    topology: str
    median: float
    least: float
    most: float


def plan(topology: Topology) -> list[Run]:
    """Return the runs of one round. What has no queue needs only one process."""
    from plait.bench._bench import lib

    designs = range(lib.BENCH_DESIGNS if len(topology.roles) == 1 else lib.BENCH_POOL)
    return [Run(design, burst) for burst in BURSTS for design in designs]


@dataclass(frozen=True)
class Method:
    """What is run, for how long, and by whom."""

    plan: Callable[[Topology], list[Run]] = plan
    sections: int = 64  # of one run: each is BENCH_SECTION packets of each producer
    worker: tuple[str, ...] = (sys.executable, "-m", "plait.bench.queue")


METHOD = Method()


def costs(rounds: int, report: Callable[[str], None], method: Method = METHOD) -> list[Cost]:
    """Measure everything; raises Failure when a run fails. The first round warms up and does not count."""
    from statistics import median

    found: list[Cost] = []
    for topology in TOPOLOGIES:
        report(topology.title)
        runs = method.plan(topology)
        columns: list[list[float]] = [[] for _ in runs]
        for at, cost in enumerate(_rounds(topology, runs * (rounds + 1), method)):
            if at >= len(runs):
                columns[at % len(runs)].append(cost)
        for run, column in zip(runs, columns, strict=True):
            found.append(
                Cost(
                    TITLES[run.design],
                    run.burst,
                    topology.title,
                    median(column),
                    min(column),
                    max(column),
                )
            )
    return found


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def _segments() -> Iterator[tuple[Any, Any]]:
    """Make the segment with one peer and its producers' pools, and the area where processes meet."""
    from plait.bench._bench import ffi, lib
    from shm.segment import SegmentError, create, create_plain

    geometry = {
        "max_peers": 64,
        "max_keypairs": 64,
        "max_receivers": 2,
        "max_consumers": 1,
        "nodes_a_pool": 4097,
        "small_slots": 4096,
        "train_slots": 1,
        "mailbox_cells": 64,
        "max_trie_nodes": 64,
        "public_key_buckets": 64,
    }
    with ExitStack() as stack:
        try:
            data = create(geometry, "bench")
            stack.callback(data.close)
            area = create_plain(ffi.sizeof("struct bench_area"), "bench")
            stack.callback(area.close)
            area.ensure(0, area.bytes)
        except SegmentError as error:
            raise Failure(error.what, error.why, error.next) from error
        for queue in range(lib.DIRECTIONS):
            lib.queue_initialise(_of_bench(data), queue)
        yield data, area


def _of_bench(data: Any) -> Any:
    """The segment as the benches' extension module knows it."""
    from plait.bench._bench import ffi

    return ffi.cast("struct segment *", data.segment_address)


def _rounds(topology: Topology, runs: list[Run], method: Method) -> Iterator[float]:
    """Yield the nanoseconds a packet of each run. All processes live as long as this plan."""
    from plait.bench._bench import ffi, lib

    packets = lib.BENCH_SECTION * topology.producers
    with _segments() as (data, area), ExitStack() as stack:
        free = cores()
        for number, (receiver, takes) in enumerate(topology.roles):
            roles = [
                {
                    **asdict(run),
                    "producers": topology.producers,
                    "processes": len(topology.roles),
                    "receiver": receiver,
                    "takes": takes,
                }
                for run in runs
            ]
            orders = {
                "data": [data.fd, data.bytes],
                "area": [area.fd, area.bytes],
                "core": free[number] if len(free) >= len(topology.roles) else None,
                "sections": method.sections,
                "roles": roles,
            }
            process = subprocess.Popen(
                [*method.worker, json.dumps(orders)],
                stdout=subprocess.PIPE if takes else subprocess.DEVNULL,
                pass_fds=(data.fd, area.fd),
            )
            stack.callback(_end, process)
        # The consumer is the last process of each topology, and the only one that has times to tell.
        stream: IO[bytes] | None = process.stdout
        assert stream is not None
        for run in runs:
            line = stream.readline()
            if not line:
                raise _failure(run, ffi.cast("struct bench_area *", area.address).failed)
            yield float(line) / packets


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def _failure(run: Run, failed: int) -> Failure:
    from plait.bench._bench import lib

    why = "one of its processes ended"
    if failed == lib.BENCH_STUCK:
        why = "nothing moved for 20 seconds"
    if failed == lib.BENCH_DISORDER:
        why = "a producer's packets did not come out once each and in order"
    return Failure(
        f"cannot measure {TITLES[run.design]} in bursts of {run.burst}",
        why,
        "Run it again on an idle machine; if it stays, report it as a bug.",
    )


def work(orders: dict[str, Any], lib: Any) -> None:
    """Be one process of a plan: attach, pin, do every run; the consumer prints each one's median section.

    `lib` has what is measured: `plait.bench._bench.lib`, or a test's own.
    """
    from statistics import median

    from plait.bench._bench import ffi
    from shm.segment import DataSegment, PlainSegment

    data = DataSegment.attach(*orders["data"])
    plain = PlainSegment.attach(*orders["area"])
    area = ffi.cast("struct bench_area *", plain.address)
    segment = _of_bench(data)
    if orders["core"] is not None:
        os.sched_setaffinity(0, [orders["core"]])
    times = ffi.new("int64_t[]", orders["sections"])
    for role in orders["roles"]:
        how = ffi.new("struct bench_role *", role)
        if lib.bench_sections(segment, area, how, len(times), times) != 0:
            raise SystemExit(1)
        if role["takes"]:
            print(median(times), flush=True)


def bytes_a_peer() -> dict[str, int]:
    """Return what both directions of one peer occupy, by design, packets not counted."""
    from plait.bench._bench import ffi

    words = ffi.sizeof("struct queue_producers") + ffi.sizeof("struct queue_holder")
    return {"Plait's queue": 2 * words, "ring of 1,024": 2 * ffi.sizeof("struct bench_ring")}


def queue_table(found: list[Cost], rounds: int) -> list[str]:
    """Return the costs lined up, and how to read them, line by line."""
    by_place = {(cost.burst, cost.design, cost.topology): cost for cost in found}
    titles = [topology.title for topology in TOPOLOGIES]
    places = {place: (f"{c.median:.1f}", f"{c.least:.1f}..{c.most:.1f}") for place, c in by_place.items()}
    middle = max(8, *(len(median) for median, _ in places.values()))
    spread = max(10, *(len(text) for _, text in places.values()))
    width = max(map(len, TITLES))
    lines = [
        f"{'ns per packet':<{7 + width}}" + "".join(f"{title:>{middle + spread + 4}}" for title in titles),
        f"{'burst':>5}  {'':<{width}}" + f"  {'median':>{middle}}  {'min..max':>{spread}}" * len(titles),
    ]
    for burst in BURSTS:
        lines.append("")
        for design in TITLES:
            cells = [places.get((burst, design, title), ("", "")) for title in titles]
            row = "".join(f"  {median:>{middle}}  {text:>{spread}}" for median, text in cells)
            lines.append(f"{burst:>5}  {design:<{width}}{row}".rstrip())
    return [*lines, "", *_chains(found), "", *_notes(rounds), "", *_sizes()]


def chain_ratio(found: list[Cost]) -> tuple[float, float]:
    """Return ns a packet with 2 producers: in chains of 32, and singly with a count per packet."""
    chains, singly = (
        cost.median
        for place in ((32, TITLES[0]), (1, TITLES[1]))
        for cost in found
        if (cost.burst, cost.design, cost.topology) == (*place, TOPOLOGIES[-1].title)
    )
    return chains, singly


def _chains(found: list[Cost]) -> list[str]:
    chains, singly = chain_ratio(found)
    share, word = chains / singly, "within" if chains / singly <= MOST_OF_SINGLY else "NOT WITHIN"
    return [
        f"2 producers, chains of 32: {chains:.1f} ns a packet. Singly, with a shared count: {singly:.1f} ns.",
        f"Ratio {share:.3f}: {word} the {MOST_OF_SINGLY} that is wanted.",
    ]


def _notes(rounds: int) -> list[str]:
    """Return what rows and columns are, for a reader who has the table alone."""
    pinned = "each on a core of its own" if len(cores()) >= 2 else "both on this machine's one core"
    return [
        f"Wall time per packet: push, pop, a look at the node, the way home. Medians of {rounds} rounds; the",
        "order of every producer is verified. Slots and nodes are taken before the clock starts: last row.",
        "1 process: pushes a burst, then pops it, by turns.",
        f"1 producer: a producer and a consumer, {pinned}.",
        f"2 producers: one, and another that is also the consumer, by turns; {pinned}.",
        "A burst is one chain for the queue; a ring takes packets singly. As the kernel's: producers lock it",
        "for each packet, the only consumer does not. Counted per packet: what ships, and beside it a count",
        "that both ends change for each packet, as in the kernel's list.",
    ]


def _sizes() -> list[str]:
    sizes = bytes_a_peer().items()
    return [f"{design:<14}{size:>8,} bytes a peer, both directions" for design, size in sizes]


def run(rounds: int, *, as_json: bool, method: Method = METHOD) -> None:
    """Measure, then print the table or JSON on stdout."""

    def report(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"measuring: {text}", err=True)

    load = os.getloadavg()[0]
    if load > len(cores()) / 2:
        click.echo(
            f"plait: bench: other work is running (load {load:.1f} on {len(cores())} cores). Where two "
            "processes run, waiting for a core is measured too: trust the column of 1 process alone.",
            err=True,
        )
    found = costs(rounds, report, method)
    if not as_json:
        click.echo("\n".join(queue_table(found, rounds)))
        return
    chains, singly = chain_ratio(found)
    answer = {
        "cores": len(cores()),
        "load_at_start": round(load, 2),
        "rounds": rounds,
        "ns_per_packet": [asdict(cost) for cost in found],
        "chains_over_singly": {"ratio": chains / singly, "wanted": MOST_OF_SINGLY},
        "bytes_per_peer": bytes_a_peer(),
    }
    click.echo(json.dumps(answer, indent=2))


if __name__ == "__main__":
    from plait.bench._bench import lib

    work(json.loads(sys.argv[1]), lib)
