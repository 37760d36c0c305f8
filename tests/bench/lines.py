"""How many lines of memory move between cores for a packet: `python -m tests.bench lines`, as root.

One gateway after another, with 2, 4, 16 and 64 receivers and as many consumers, under the same traffic. The
gateway is a build whose loads and stores of the segment are counted (lines.c): each process stands for a
core of its own. So a machine with two cores tells what 128 processes move; it does not tell how long a line
takes between two real cores, nor what happens while more than two processes run in one moment. Loads and
stores by Python itself (control's columns of numpy) are not counted.

    echoes   64 peers of `plait load`, small packets one by one: who wakes whom, tokens, rows
    stream   one peer, TCP in 8 streams out of the gateway: receivers that feed one peer, batches
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import click

from engine.constants import MTU
from plait.failure import Failure
from plait.handoff_option import HandoffChoice
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Lab, Peer
from plait.load import profile as load_profile
from plait.load.lab_run import FIRST_SOURCE, SOURCES, configure
from plait.signals import interruptible
from tests.support import second_build
from tests.support.sources import ROOT
from workers.sharing import Share

HERE = Path(__file__).parent
BUILD = ROOT / "builddir-lines"
INTERFACE, PORT = "wg0", 51820
FILE = "/run/lines"
COUNTS = (2, 4, 16, 64)
TRAFFIC = ("echoes", "stream")
BAR = 1.2  # the most workers to the fewest
NOTHING = 0.1  # lines a packet: less is no cost, and its ratio says nothing
PEERS, STREAMS, IPERF_PORT = 64, 8, 5201
SETTINGS = """receivers = {0}
consumers = {0}
max_receivers = {0}
max_consumers = {0}
max_peers = 1024
small_slots = 512
"""
GATEWAY, CLIENT = "10.201.0.1", "10.201.0.2"
WARM = 20_000  # packets before any is counted
WAIT_SECONDS = 120.0
LOOK_SECONDS = 1.0  # between looks at the counters: whoever looks fetches the lines of all of them
TOLD = ("fetched", "revoked")
WRAPPED = ("segment_attach", "aead_seal", "aead_open", "memcpy", "memmove", "memset", "memcmp",
           "readv", "writev", "recvmmsg", "sendmmsg")  # fmt: skip
# As GCC with -fsanitize=thread, which would link its own runtime. What memcpy reads is seen in a call alone.
COMPILER = """#!/bin/sh
case " $* " in
*" -c "*) exec gcc "$@" -fsanitize=thread {plain} ;;
*" -E "* | *" -M"* | *" --version "* | *" --print"* | *" -print"*) exec gcc "$@" ;;
*) exec gcc "$@" {runtime} {wrapped} ;;
esac
"""
ECHOES = """
peers = {peers}
seed = "lines"
[[phase]]
name = "sessions"
seconds = 5
handshakes = {{ outstanding = 16, count = {peers} }}
[[phase]]
name = "echoes"
seconds = {seconds}
traffic = {{ rate = {rate}, bytes = 84 }}
"""


@dataclass(frozen=True)
class Row:
    """One gateway under one kind of traffic. Of a packet: lines fetched from the core that stored last, and
    stores to lines of which other cores had copies. regions, rows: the same by enum region of shm/layout.h
    and by line of struct peer_row, in TOLD's order."""

    traffic: str
    workers: int
    packets: int
    processes: int
    fetched: float
    revoked: float
    regions: dict[str, list[float]] = field(default_factory=dict)
    rows: list[list[float]] = field(default_factory=list)

    @property
    def moved(self) -> float:
        return self.fetched + self.revoked


@click.command(short_help="Lines of memory that move between cores for a packet, by number of workers.")
@click.option("--workers", "counts", multiple=True, type=click.IntRange(1, 256),
              help="Receivers, and as many consumers. May be given again.  [default: 2 4 16 64]")  # fmt: skip
@click.option("--traffic", "kinds", multiple=True, type=click.Choice(TRAFFIC), help="Default: all.")
@click.option("--packets", type=click.IntRange(1000), default=50_000, show_default=True, help="That count.")
@click.option("--rate", type=click.IntRange(100), default=1000, show_default=True, help="Echoes a second.")
@click.option("--handoff", type=HandoffChoice(), help="Default: the engine's default.")
@click.option("--share", type=click.Choice(get_args(Share)), default="never", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def lines(
    counts: tuple[int, ...], kinds: tuple[str, ...], packets: int, rate: int, handoff: str | None,
    share: str, as_json: bool,
) -> None:  # fmt: skip
    """Count lines that move between cores, in a gateway that counts its own loads and stores.

    Exits with 99 where the most workers move more than 1.2 times as many for a packet as the fewest. Needs
    root, gcc and meson; it touches nothing outside its own namespaces.
    """
    lacks = lab.missing("wg", "iperf3", "ping", "gcc", "meson", "ninja", lab.PLAIT[0])
    if lacks:
        first = lacks[0]
        raise Failure(f"the bench cannot start: {first.what}", first.why, first.next_step)
    command = build()
    text = "".join(f'{key} = "{word}"\n' for key, word in (("handoff", handoff), ("share", share)) if word)
    found = []
    with interruptible():
        for kind in kinds or TRAFFIC:
            for workers in sorted(set(counts or COUNTS)):
                settings = text + SETTINGS.format(workers)
                measured = {"echoes": echoes, "stream": stream}[kind](command, settings, packets, rate)
                found.append(row_of(kind, workers, *measured))
    if as_json:
        json.dump([asdict(row) for row in found], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _show(found)
    sys.exit(99 if any(ratio > BAR for _, ratio in ratios(found)) else 0)


def build() -> list[str]:
    """The command of a gateway that counts; {iface} is for the lab."""
    tools = BUILD / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    runtime, compiler = tools / "lines.o", tools / "cc"
    words = ["gcc", "-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-D_GNU_SOURCE", f"-I{ROOT}"]
    second_build.run([*words, "-c", str(HERE / "lines.c"), "-o", str(runtime)])
    plain = " ".join(f"-fno-builtin-{name}" for name in WRAPPED if name.startswith("mem"))
    wrapped = " ".join(f"-Wl,--wrap={name}" for name in WRAPPED)
    text = COMPILER.format(plain=plain, runtime=runtime, wrapped=wrapped)
    if not compiler.exists() or compiler.read_text() != text:
        compiler.write_text(text)
        compiler.chmod(0o755)
    packages = second_build.EXTENSIONS
    python = second_build.python(BUILD / "build", packages, (), {"CC": str(compiler)})
    return [str(python), "-P", "-m", "plait.daemon", "-f", "{iface}"]


# -- the file of counts ------------------------------------------------------------------------------


def _file() -> Any:
    """struct lines (lines.h), without its directory, and the bytes of the whole file."""
    from shm._shm import lib

    class Lines(ctypes.Structure):
        _fields_ = (
            ("counts", ctypes.c_uint32),
            ("processes", ctypes.c_uint32),
            ("too_many", ctypes.c_uint32),
            ("reserved", ctypes.c_uint32),
            ("events", ctypes.c_uint64 * lib.REGIONS * len(TOLD)),
            ("row_events", ctypes.c_uint64 * (lib.PEER_ROW_BYTES // 64) * len(TOLD)),
        )

    return Lines, ctypes.sizeof(Lines) + 8 * (1 << 27)


class Counts:
    """The file that the gateway's processes and this one share."""

    def __init__(self, path: Path) -> None:
        kind, size = _file()
        with path.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(kind))
        self.words = kind.from_buffer(self._map)

    @contextmanager
    def counting(self) -> Iterator[None]:
        self.words.counts = 1
        yield
        self.words.counts = 0
        if self.words.too_many:
            raise Failure("cannot count lines", "the segment is too large", "Lower max_peers or small_slots.")


def row_of(kind: str, workers: int, counts: Counts, packets: int) -> Row:
    """What was counted, of a packet."""
    from shm._shm import ffi

    regions = ffi.typeof("enum region").elements
    words, kinds = counts.words, range(len(TOLD))
    told = {
        name.removeprefix("REGION_").lower(): [words.events[event][number] / packets for event in kinds]
        for number, name in sorted(regions.items())
        if name != "REGIONS"
    }
    in_rows = range(len(words.row_events[0]))
    rows = [[words.row_events[event][line] / packets for event in kinds] for line in in_rows]
    fetched, revoked = (sum(each[event] for each in told.values()) for event in kinds)
    return Row(kind, workers, packets, words.processes, fetched, revoked, told, rows)


# -- traffic -------------------------------------------------------------------------------------------


def _packets(engine: Engine) -> int:
    counters = engine.counters()
    return counters["tun_sent"] + counters["udp_sent"]


def _count(engine: Engine, counts: Counts, packets: int, flows: Callable[[], bool]) -> int:
    """Lets so many packets pass, counts lines while as many again do; how many did."""
    before = _await(engine, _packets(engine) + WARM, flows)
    with counts.counting():
        after = _await(engine, before + packets, flows)
    return after - before


def _await(engine: Engine, packets: int, flows: Callable[[], bool]) -> int:
    until = time.monotonic() + WAIT_SECONDS
    while (passed := _packets(engine)) < packets:
        if not flows() or time.monotonic() > until:
            why = f"{packets - passed} packets are missing; it said: {engine.process.output()[-500:]}"
            raise Failure("cannot count lines", why, "Run it again with a greater --rate or fewer --packets.")
        time.sleep(LOOK_SECONDS)
    return passed


def echoes(command: Sequence[str], settings: str, packets: int, rate: int) -> tuple[Counts, int]:
    seconds = WAIT_SECONDS + (packets + WARM) / rate
    text = ECHOES.format(peers=PEERS, seconds=seconds, rate=rate)
    with Lab() as laboratory:
        gateway, field_host = laboratory.add_hosts(["gateway", "load"])
        cable = laboratory.link(field_host, gateway)
        field_host.ip(f"route add local {SOURCES} dev lo")
        gateway.ip(f"route add {SOURCES} via {cable.address(field_host)}")
        counts = Counts(gateway.root / FILE.lstrip("/"))
        engine = gateway.engine(INTERFACE, command, settings=settings, environment={"PLAIT_LINES": FILE})
        configure(engine, load_profile.parse(text, "lines"))
        (field_host.root / "run/lines.toml").write_text(text)
        address = cable.address(gateway)
        words = ["--target", f"{address}:{PORT}", "--i-own-this-target", address]
        words += ["--sources", f"{FIRST_SOURCE}+{PEERS}"]
        load = field_host.popen(["plait", "load", "run", "/run/lines.toml", *words])
        passed = _count(engine, counts, packets, lambda: load.poll() is None)
        load.stop()
        return counts, passed


def stream(command: Sequence[str], settings: str, packets: int, rate: int) -> tuple[Counts, int]:
    with Lab() as laboratory:
        gateway, client = laboratory.add_hosts(["gateway", "client"])
        cable = laboratory.link(client, gateway)
        counts = Counts(gateway.root / FILE.lstrip("/"))
        keys = [lab.keypair() for _ in range(2)]
        engine = gateway.engine(INTERFACE, command, settings=settings, environment={"PLAIT_LINES": FILE})
        ours = client.engine(INTERFACE, settings="receivers = 1\nconsumers = 1\n")
        engine.configure(keys[0][0], [Peer(keys[1][1], [f"{CLIENT}/32"])], [f"{GATEWAY}/24"], PORT, MTU)
        towards = Peer(keys[0][1], [f"{GATEWAY}/32"], cable.endpoint(gateway, PORT))
        ours.configure(keys[1][0], [towards], [f"{CLIENT}/24"], PORT, MTU)
        client.ping(GATEWAY, 1, wait=10)
        listener = client.popen(["iperf3", "-s", "-1"])
        client.wait_listening(IPERF_PORT, listener)
        words = ["-c", CLIENT, "-t", str(int(WAIT_SECONDS)), "-P", str(STREAMS)]
        running = gateway.popen(["iperf3", *words])
        return counts, _count(engine, counts, packets, lambda: running.poll() is None)


def ratio(row: Row, first: Row) -> float:
    """What it moves to what the first does; less than NOTHING counts as that."""
    return max(row.moved, NOTHING) / max(first.moved, NOTHING)


def ratios(rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """Of each kind of traffic, what the most workers move to what the fewest do."""
    for kind in dict.fromkeys(row.traffic for row in rows):
        of_kind = [row for row in rows if row.traffic == kind]
        yield kind, ratio(of_kind[-1], of_kind[0])


def _show(rows: Sequence[Row]) -> None:
    from plait.watch.engine import console, table

    columns = (*TOLD, "both", "of the first", "packets")
    made = table("Lines that move between cores for a packet", ("traffic", "workers"), columns)
    for row in rows:
        first = next(each for each in rows if each.traffic == row.traffic)
        made.add_row(row.traffic, f"{row.workers} x {row.workers}", f"{row.fetched:.2f}",
                     f"{row.revoked:.2f}", f"{row.moved:.2f}", f"{ratio(row, first):.2f} x",
                     f"{row.packets:,}")  # fmt: skip
    console().print(made)
    for kind in dict.fromkeys(row.traffic for row in rows):
        _show_regions([row for row in rows if row.traffic == kind])


def _show_regions(rows: Sequence[Row]) -> None:
    from plait.watch.engine import console, table

    columns = tuple(f"{row.workers} x {row.workers}" for row in rows)
    made = table(f"By region, {rows[0].traffic}", ("region",), columns)
    for name in rows[0].regions:
        if any(sum(row.regions[name]) >= 0.005 for row in rows):
            made.add_row(name, *(f"{sum(row.regions[name]):.2f}" for row in rows))
    for line in range(len(rows[0].rows)):
        made.add_row(f"rows, line {line}", *(f"{sum(row.rows[line]):.2f}" for row in rows))
    console().print(made)
