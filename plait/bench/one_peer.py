"""`plait bench one-peer`: one direction of one peer, with 1 and 2 cores for the engine, beside other engines.

    host peer (no engine) ── cable ── host gateway: the engine that is measured

Inbound, messages that were sealed beforehand go to the gateway, and what it opens ends in a socket there.
Outbound, a socket in the gateway fills super-packets, and what the engine seals ends in the peer's socket.
One thread sends and counts (flow.c) at a small part of what the engine spends on a packet. Its priority is
above every engine's, and it sends what has room in a window: the engine always has work and loses none.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, get_args

import click

from engine.constants import MTU
from engine.noise import Session
from plait.bench.implementation import ADDRESSES, INTERFACE, PORT, Implementation, chosen, cpu_seconds
from plait.bench.neighbours import run_before_engines
from plait.bench.progress import progress
from plait.bench.scale import cores_of_load
from plait.bench.simulated_peer import SINK_PORT, handshake, packet
from plait.failure import Failure
from plait.handoff_option import HandoffChoice
from plait.lab import namespaces as lab
from plait.lab.namespaces import Lab
from plait.signals import interruptible
from workers.sharing import Share

GATEWAY, PEER = ADDRESSES[:2]
DIRECTIONS = ("inbound", "outbound")
MESSAGE = MTU + 32  # a data message with a full packet: its padding ends at the MTU
PAYLOAD = MTU - 28  # UDP in IPv4
UDP_SEGMENT, UDP_GRO, SO_RCVBUFFORCE = 103, 104, 33  # linux/udp.h, asm-generic/socket.h
BUFFER = 32 << 20  # bytes of a socket that counts
WINDOW = 1024  # packets on their way: what a peer's queue holds
TICK_US = 250  # at 10 Gbit/s a quarter of the window
TRAINS_A_ROUND = 2900  # sealed in advance: 190 MB, about a quarter of a second
START_SECONDS = 3.0


@dataclass(frozen=True)
class Sample:
    """One run of one direction. gbit: of inner packets. lost: share of the packets that were sent."""

    gbit: float
    cpu_s_per_gb: float
    lost: float


@dataclass(frozen=True)
class Row:
    """Medians of the runs. apart: the generator had a core of its own."""

    direction: str
    cores: int
    implementation: str
    apart: bool
    gbit: float
    gbit_least: float
    gbit_most: float
    cpu_s_per_gb: float
    lost: float


@click.command(short_help="One direction of one peer, with 1 and 2 cores for the engine.")
@click.option(
    "--vs",
    "others",
    multiple=True,
    metavar="NAME[@VERSION]|COMMAND",
    help="Another engine, as of `plait bench tunnel`. May be given again.",
)
@click.option("--handoff", "handoffs", multiple=True, type=HandoffChoice(), help="Plait in this mode.")
@click.option(
    "--share", "shares", multiple=True, type=click.Choice(get_args(Share)),
    help="Plait with this setting `share`; several are compared with each other.",
)  # fmt: skip
# Outbound is one session, which ends after 180 s.
@click.option("--seconds", type=click.IntRange(1, 150), default=2, show_default=True, help="Of a direction.")
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def one_peer(
    others: tuple[str, ...], handoffs: tuple[str, ...], shares: tuple[str, ...], seconds: int, runs: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure how much of one direction of one peer an engine carries, and what a second core adds.

    Inbound the packets are sealed beforehand, outbound they are super-packets; what comes out is discarded.
    Needs root and 400 MB of memory; it touches nothing outside its own namespaces.

    Examples: plait bench one-peer; plait bench one-peer --vs wireguard-go@latest --seconds 5
    """
    lacks = lab.missing("wg", "taskset", lab.PLAIT[0])
    if lacks:
        first = lacks[0]
        mend = f"{first.next_step}; `plait doctor` tells all"
        raise Failure(f"the bench cannot start: {first.what}", first.why, mend)
    implementations = [
        variant
        for one in chosen(others, list(dict.fromkeys(handoffs)))
        if one.command
        for variant in _sharing(one, shares)
    ]
    with interruptible():
        rows = measure(implementations, sorted(os.sched_getaffinity(0)), seconds, runs)
    if as_json:
        names = {one.title: one.name for one in implementations}
        json.dump({"engines": names, "rows": [asdict(row) for row in rows]}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _show(implementations, rows, seconds, runs)


def _sharing(one: Implementation, shares: Sequence[str]) -> list[Implementation]:
    """Plait once for each of the settings `share`; another engine as it is."""
    if not one.is_plait or not shares:
        return [one]
    return [replace(one, title=f"{one.title} share {share}", share=share) for share in dict.fromkeys(shares)]


def measure(
    implementations: Sequence[Implementation], cores: Sequence[int], seconds: int, runs: int
) -> list[Row]:
    """Every direction of every implementation with 1 core and with 2, by turns."""
    found: dict[tuple[str, int, str], list[Sample]] = {}
    counts = [count for count in (1, 2) if count <= len(cores)]
    each = START_SECONDS + 3 * seconds
    with progress(runs * len(counts) * len(implementations) * each) as steps:
        for number in range(runs):
            for count in counts:
                for one in implementations[:: -1 if number % 2 else 1]:
                    steps.step(f"run {number + 1} of {runs}: {one.title}, {count} of the cores", each)
                    with Gateway(one, cores, count) as gateway:
                        for direction in DIRECTIONS:
                            sample = gateway.sample(direction, seconds)
                            found.setdefault((direction, count, one.title), []).append(sample)
    return [
        Row(
            direction,
            count,
            one.title,
            cores_of_load(cores, count)[1],
            median(sample.gbit for sample in samples),
            min(sample.gbit for sample in samples),
            max(sample.gbit for sample in samples),
            median(sample.cpu_s_per_gb for sample in samples),
            median(sample.lost for sample in samples),
        )
        for direction in DIRECTIONS
        for count in counts
        for one in implementations
        for samples in (found[direction, count, one.title],)
    ]


class Gateway:
    """The engine on the first of the cores, and the sockets that fill and empty it. A context manager."""

    def __init__(self, implementation: Implementation, cores: Sequence[int], count: int) -> None:
        self._implementation = implementation
        self._cores = list(cores[:count])
        self._load, _ = cores_of_load(cores, count)

    def __enter__(self) -> Gateway:
        self._lab = Lab()
        try:
            self._start()
        except BaseException:
            self._lab.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for one in (self._wire, self._inside):
            one.close()
        self._lab.close()

    def _start(self) -> None:
        self._gateway, peer = self._lab.add_hosts(["gateway", "peer"])
        cable = self._lab.link(self._gateway, peer)
        (private, public), (own, own_public) = lab.keypair(), lab.keypair()
        one = self._implementation
        on_cores = ("taskset", "-c", ",".join(map(str, self._cores)), *(one.command or ()))
        said = {"handoff": one.handoff, "share": one.share}
        settings = "".join(f'{key} = "{word}"\n' for key, word in said.items() if word)
        self._engine = self._gateway.engine(INTERFACE, on_cores, settings=settings or None)
        peers = [lab.Peer(own_public, [f"{PEER}/32"])]
        self._engine.configure(private, peers, [f"{GATEWAY}/24"], PORT, MTU)
        self._keys = base64.b64decode(own), base64.b64decode(public)
        self._wire, self._inside = _counting(peer), _counting(self._gateway)
        self._wire.connect((cable.address(self._gateway), PORT))
        self._inside.bind((GATEWAY, SINK_PORT))
        self._inside.connect((PEER, SINK_PORT))
        self._pids = [usage.pid for usage in self._gateway.usage()]

    def sample(self, direction: str, seconds: float) -> Sample:
        """One direction for so many seconds of sending."""
        measured = self._inbound(seconds) if direction == "inbound" else self._outbound(seconds)
        sent = received = nanoseconds = 0
        cpu = 0.0
        for flow, used in measured:
            sent, received = sent + flow.sent, received + flow.received
            nanoseconds, cpu = nanoseconds + flow.ns, cpu + used
        if not received:
            said = " / ".join(self._engine.process.output().splitlines()[-2:]) or "(nothing)"
            title = self._implementation.title
            raise Failure(
                f"cannot measure {title}",
                f"no packet of its {direction} direction came out; it said: {said}",
                "Try it by hand, or leave it out.",
            )
        gigabytes = received * MTU / 1e9
        return Sample(gigabytes * 8e9 / nanoseconds, cpu / gigabytes, 1 - received / sent)

    def _inbound(self, seconds: float) -> Iterator[tuple[Any, float]]:
        """Round by round a new session: a message counts once, and memory holds so many."""
        from plait.bench._bench import ffi

        train = 65_507 // MESSAGE
        count = TRAINS_A_ROUND * train
        messages = ffi.new("uint8_t[]", count * MESSAGE)
        inner = packet(PEER, GATEWAY, bytes(PAYLOAD))
        left = int(seconds * 10**9)
        while left > 0:
            _seal(messages, count, self._session(), inner)
            self._wire.setsockopt(socket.SOL_UDP, UDP_SEGMENT, MESSAGE)
            flow, used = self._run(
                self._wire, self._inside, messages, count, count, left, MESSAGE, PAYLOAD, train
            )
            left -= max(flow.ns, 1_000_000)
            yield flow, used

    def _outbound(self, seconds: float) -> Iterator[tuple[Any, float]]:
        from plait.bench._bench import ffi

        confirmation = ffi.new("uint8_t[]", 32)
        _seal(confirmation, 1, self._session(), b"")  # a keepalive: from now on the gateway may send
        self._wire.send(ffi.buffer(confirmation))
        train = min(64, 65_507 // PAYLOAD)
        payload = ffi.new("uint8_t[]", train * PAYLOAD)
        self._inside.setsockopt(socket.SOL_UDP, UDP_SEGMENT, PAYLOAD)
        most = 2**62 // train * train
        yield self._run(
            self._inside, self._wire, payload, train, most, int(seconds * 10**9), PAYLOAD, MESSAGE, train
        )

    def _session(self) -> Session:
        self._wire.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)
        return handshake(*self._keys, self._wire, self._implementation.title)

    def _run(
        self, source: socket.socket, sink: socket.socket, data: Any, stored: int, count: int,
        most_ns: int, size: int, arriving: int, train: int,
    ) -> tuple[Any, float]:  # fmt: skip
        """A flow, and the CPU seconds of the engine meanwhile."""
        from plait.bench._bench import ffi, lib

        flow = ffi.new("struct flow *", {
            "datagrams": data, "stored": stored, "count": count, "most_ns": most_ns, "bytes": size,
            "arriving_bytes": arriving, "train": train, "window": WINDOW, "tick_us": TICK_US,
        })  # fmt: skip

        def run() -> int:
            os.sched_setaffinity(0, self._load)
            run_before_engines()
            result: int = lib.flow_run(source.fileno(), sink.fileno(), flow)
            return result

        before = cpu_seconds(self._pids)
        with ThreadPoolExecutor(1) as thread:
            failed = thread.submit(run).result()
        if failed:
            mend = "Run it again; if it stays, report it."
            raise Failure("cannot send through the tunnel", os.strerror(flow.error), mend)
        return flow, cpu_seconds(self._pids) - before


def _counting(host: lab.Host) -> socket.socket:
    """A UDP socket in a host that takes trains, and has room for them."""
    made = host.socket()
    made.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    return made


def _seal(messages: Any, count: int, session: Session, inner: bytes) -> None:
    from plait.bench._bench import lib

    if lib.flow_seal(messages, count, session.send_key, session.remote_index, inner, len(inner)):
        why = "no provider of ChaCha20-Poly1305 works here"
        raise Failure("cannot seal packets", why, "See `plait doctor`.")


def _show(implementations: Sequence[Implementation], rows: Sequence[Row], seconds: int, runs: int) -> None:
    from plait.watch.engine import console, table

    by_place = {(row.direction, row.cores, row.implementation): row for row in rows}
    first = implementations[0].title
    columns = ("Gbit/s", "min..max", "of 1 core", f"{first} / this", "CPU s/GB", "lost")
    made = table("One direction of one peer", ("direction", "cores", "generator", "engine"), columns)
    for row in rows:
        alone, ours = (
            by_place[row.direction, cores, title]
            for cores, title in ((1, row.implementation), (row.cores, first))
        )
        made.add_row(
            row.direction,
            str(row.cores),
            "apart" if row.apart else "on the same cores",
            next(one.name for one in implementations if one.title == row.implementation),
            f"{row.gbit:.2f}",
            f"{row.gbit_least:.2f}..{row.gbit_most:.2f}",
            f"{row.gbit / alone.gbit:.2f} x",
            f"{ours.gbit / row.gbit:.2f} x",
            f"{row.cpu_s_per_gb:.2f}",
            f"{100 * row.lost:.1f} %",
        )
    console().print(made)
    click.echo(
        f"Packets of {MTU} bytes, {seconds} s a direction; medians of {runs} run{'s' * (runs != 1)}.\n"
        "CPU: of the engine's processes. Where the generator is on the same cores, the engine has less of\n"
        "them. Of more than 2 cores this says nothing."
    )
