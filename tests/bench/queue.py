"""What a packet's way through a peer's queue costs, in nanoseconds: `python -m tests.bench queue`.

Real processes over a real POSIX segment, running the C that ships (queue_bench.c, compiled beside it, says
what is between two looks at the clock). Each process is this module, started with the segments' descriptors
and a plan of runs; they meet in shared memory before each section of a run. Runs take turns within a round
and rounds follow each other, so that a machine whose speed drifts slows all of them alike: compare within
one table. docs/adr/0001-publication-of-a-chain.md has what other designs cost.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

import click

from plait.failure import Failure
from shm.segment import DataSegment, PlainSegment, create, create_plain
from tests.support.sources import ROOT, sources

BURSTS = (1, 32, 64)
NOBODY = 0xFFFFFFFF
ROUNDS = 7
NAME = "_queue_bench"
TITLES = {True: "the queue", False: "no queue: slots and nodes alone"}


def build(directory: Path) -> Path:
    """Compile the bench beside the sources that ship; returns the module's path."""
    from cffi import FFI

    sys.path.insert(0, str(ROOT / "scripts"))
    from cdef import cdef

    ffi = FFI()
    headers = ("shm/layout.h", "shm/segment.h", "shm/queue.h", "tests/bench/queue_bench.h")
    ffi.cdef("\n".join(cdef(ROOT / header) for header in headers))
    ffi.set_source(
        NAME,
        "\n".join(f'#include "{header}"' for header in headers),
        sources=[*map(str, sources("shm/**/*.c", at_least=14)), str(ROOT / "tests/bench/queue_bench.c")],
        include_dirs=[str(ROOT)],
        extra_compile_args=["-O3", "-std=gnu11", "-D_GNU_SOURCE", "-fno-strict-aliasing"],
    )
    return Path(ffi.compile(tmpdir=str(directory)))


def load(path: Path) -> Any:
    """The built module: ffi and lib."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    """Bursts of one size."""

    has_queue: bool
    burst: int


@dataclass(frozen=True)
class Cost:
    """Nanoseconds a packet. A round's figure is the median of its sections; here are those of all rounds."""

    title: str
    burst: int
    topology: str
    median: float
    least: float
    most: float


def plan(topology: Topology) -> list[Run]:
    """Return the runs of one round. What has no queue needs only one process."""
    return [
        Run(has_queue, burst)
        for burst in BURSTS
        for has_queue in ((True, False) if len(topology.roles) == 1 else (True,))
    ]


@dataclass(frozen=True)
class Method:
    """What is run, for how long, and by which build."""

    module: Path
    plan: Callable[[Topology], list[Run]] = plan
    sections: int = 64  # of one run: each is BENCH_SECTION packets of each producer


def costs(rounds: int, report: Callable[[str], None], method: Method) -> list[Cost]:
    """Measure everything; raises Failure when a run fails. The first round warms up and does not count."""
    found: list[Cost] = []
    for topology in TOPOLOGIES:
        report(topology.title)
        runs = method.plan(topology)
        columns: list[list[float]] = [[] for _ in runs]
        for at, cost in enumerate(_rounds(topology, runs * (rounds + 1), method)):
            if at >= len(runs):
                columns[at % len(runs)].append(cost)
        found += [
            Cost(TITLES[run.has_queue], run.burst, topology.title, median(column), min(column), max(column))
            for run, column in zip(runs, columns, strict=True)
        ]
    return found


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def segments(built: Any) -> Iterator[tuple[DataSegment, PlainSegment]]:
    """Make the segment with one peer and its producers' pools, and the area where processes meet."""
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
        data = create(geometry, "bench")
        stack.callback(data.close)
        area = create_plain(built.ffi.sizeof("struct bench_area"), "bench")
        stack.callback(area.close)
        area.ensure(0, area.bytes)
        for queue in range(built.lib.DIRECTIONS):
            built.lib.queue_initialise(pointer(built, data), queue)
        yield data, area


def pointer(built: Any, data: DataSegment) -> Any:
    """The segment as the built module knows it."""
    return built.ffi.cast("struct segment *", data.segment_address)


def _rounds(topology: Topology, runs: list[Run], method: Method) -> Iterator[float]:
    """Yield the nanoseconds a packet of each run. All processes live as long as this plan."""
    built = load(method.module)
    packets = built.lib.BENCH_SECTION * topology.producers
    with segments(built) as (data, area), ExitStack() as stack:
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
                "module": str(method.module),
                "data": [data.fd, data.bytes],
                "area": [area.fd, area.bytes],
                "core": free[number] if len(free) >= len(topology.roles) else None,
                "sections": method.sections,
                "roles": roles,
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.queue", json.dumps(orders)],
                cwd=ROOT,
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
                raise failure(run, built.ffi.cast("struct bench_area *", area.address).failed, built.lib)
            yield float(line) / packets


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def failure(run: Run, failed: int, lib: Any) -> Failure:
    why = "one of its processes ended"
    if failed == lib.BENCH_STUCK:
        why = "nothing moved for 20 seconds"
    if failed == lib.BENCH_DISORDER:
        why = "a producer's packets did not come out once each and in order"
    return Failure(
        f"cannot measure {TITLES[run.has_queue]} in bursts of {run.burst}",
        why,
        "Run it again on an idle machine; if it stays, report it as a bug.",
    )


def work(orders: dict[str, Any]) -> None:
    """Be one process of a plan: attach, pin, do every run; the consumer prints each one's median section."""
    built = load(Path(orders["module"]))
    ffi, lib = built.ffi, built.lib
    data = DataSegment.attach(*orders["data"])
    plain = PlainSegment.attach(*orders["area"])
    area = ffi.cast("struct bench_area *", plain.address)
    segment = pointer(built, data)
    if orders["core"] is not None:
        os.sched_setaffinity(0, [orders["core"]])
    times = ffi.new("int64_t[]", orders["sections"])
    for role in orders["roles"]:
        how = ffi.new("struct bench_role *", role)
        if lib.bench_sections(segment, area, how, len(times), times) != 0:
            raise SystemExit(1)
        if role["takes"]:
            print(median(times), flush=True)


def table(found: list[Cost], rounds: int) -> list[str]:
    """Return the costs lined up, and how to read them, line by line."""
    by_place = {(cost.burst, cost.title, cost.topology): cost for cost in found}
    titles = [topology.title for topology in TOPOLOGIES]
    places = {place: (f"{c.median:.1f}", f"{c.least:.1f}..{c.most:.1f}") for place, c in by_place.items()}
    middle = max(8, *(len(median) for median, _ in places.values()))
    spread = max(10, *(len(text) for _, text in places.values()))
    width = max(map(len, TITLES.values()))
    lines = [
        f"{'ns per packet':<{7 + width}}" + "".join(f"{title:>{middle + spread + 4}}" for title in titles),
        f"{'burst':>5}  {'':<{width}}" + f"  {'median':>{middle}}  {'min..max':>{spread}}" * len(titles),
    ]
    for burst in BURSTS:
        lines.append("")
        for title in TITLES.values():
            cells = [places.get((burst, title, topology), ("", "")) for topology in titles]
            row = "".join(f"  {median:>{middle}}  {text:>{spread}}" for median, text in cells)
            lines.append(f"{burst:>5}  {title:<{width}}{row}".rstrip())
    return [*lines, "", *_notes(rounds)]


def _notes(rounds: int) -> list[str]:
    """Return what rows and columns are, for a reader who has the table alone."""
    pinned = "each on a core of its own" if len(cores()) >= 2 else "both on this machine's one core"
    return [
        f"Wall time per packet: push, pop, a look at the node, the way home. Medians of {rounds} rounds; the",
        "order of every producer is verified. Slots and nodes are taken before the clock starts: last row.",
        "A burst is one chain. 1 process: pushes a burst, then pops it, by turns.",
        f"1 producer: a producer and a consumer, {pinned}.",
        f"2 producers: one, and another that is also the consumer, by turns; {pinned}.",
    ]


@click.command(short_help="A peer's queue: push and pop, in bursts, with 1 and 2 producers.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=ROUNDS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def queue(rounds: int, as_json: bool) -> None:
    """Measure what a packet costs in bursts of 1, 32 and 64, with 1 and 2 producers."""

    def report(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"measuring: {text}", err=True)

    busy = os.getloadavg()[0]
    if busy > len(cores()) / 2:
        click.echo(
            f"other work is running (load {busy:.1f} on {len(cores())} cores). Where two processes run, "
            "waiting for a core is measured too: trust the column of 1 process alone.",
            err=True,
        )
    with tempfile.TemporaryDirectory() as directory:
        found = costs(rounds, report, Method(build(Path(directory))))
    if not as_json:
        click.echo("\n".join(table(found, rounds)))
        return
    answer = {
        "cores": len(cores()),
        "load_at_start": round(busy, 2),
        "rounds": rounds,
        "ns_per_packet": [asdict(cost) for cost in found],
    }
    click.echo(json.dumps(answer, indent=2))


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
