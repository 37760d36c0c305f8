"""`plait bench handshakes`: what the steps of a handshake cost, and how many a second control answers alone.

The steps are engine/handshake.c over arrays, on one thread. For the rate, the control process's own loop
runs in this process on segments and sockets of its own: initiations of many peers, made beforehand,
are put into the mailbox as a receiver does, and the clock runs while the loop takes them, answers, sends
(to a socket of this process, over the loopback) and puts away what the holder let go. The holder has its
turns while the clock stands; there is no receiver or other end.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

ROUNDS = 5
BATCH = 64
PEERS = 1024
WAITING = 256  # initiations in the mailbox at once: too few to mean "under load"
NAME = "bench"
NOBODY = 0xFFFFFFFF


@dataclass(frozen=True)
class Step:
    """Microseconds of CPU of one handshake; a round's figure is its mean over an array."""

    step: str
    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Rate:
    """What control alone answered. CPU is of all its threads."""

    peers: int
    threads: int
    a_second: float
    cpu_us: float
    accepted: int


class Ends:
    """Initiators and one responder, and their handshakes in two arrays."""

    def __init__(self, count: int) -> None:
        from engine._engine import ffi, lib

        self.ffi, self.lib, self.count = ffi, lib, count
        self.crypto = ffi.gc(lib.handshake_crypto_new(), lib.handshake_crypto_free)
        self.responder = self._identity()
        self.initiators = [self._identity() for _ in range(count)]
        self.sent = ffi.new("struct handshake[]", count)
        self.heard = ffi.new("struct handshake[]", count)
        for i in range(count):
            ffi.memmove(self.sent[i].remote_public, self.responder.public_key, 32)
            self.sent[i].identity, self.sent[i].local_index = self.initiators[i], 1 + i
            self.heard[i].identity, self.heard[i].local_index = self.responder, 1 + i

    def _identity(self) -> Any:
        identity = self.ffi.new("struct handshake_identity *")
        self.lib.handshake_identity(self.crypto, os.urandom(32), identity)
        return identity

    def initiate(self, stamp: bytes) -> float:
        """Make every initiation anew; seconds of CPU."""
        for i in range(self.count):
            self.sent[i].result = self.sent[i].has_ephemeral = 0
            self.ffi.memmove(self.sent[i].timestamp, stamp, len(stamp))
        return self._time(self.lib.handshake_create_initiation, self.sent)

    def answer(self) -> tuple[float, float]:
        """Seconds of CPU to open, and to respond."""
        for i in range(self.count):
            self.heard[i].result = 0
            self.ffi.memmove(self.heard[i].initiation, self.sent[i].initiation, self.lib.INITIATION_BYTES)
        opened = self._time(self.lib.handshake_open_initiation, self.heard)
        opened += self._time(self.lib.handshake_open_timestamp, self.heard)
        responded = self._time(self.lib.handshake_create_response, self.heard)
        for i in range(self.count):
            self.ffi.memmove(self.sent[i].response, self.heard[i].response, self.lib.RESPONSE_BYTES)
        return opened, responded

    def complete(self) -> float:
        seconds = self._time(self.lib.handshake_consume_response, self.sent)
        for i in range(self.count):
            if bytes(self.sent[i].send_key) != bytes(self.heard[i].receive_key):
                raise AssertionError(f"handshake {i} did not end in one session")
        return seconds

    def _time(self, step: Callable[[Any, Any, int], None], handshakes: Any) -> float:
        begun = time.thread_time()
        step(self.crypto, handshakes, self.count)
        return time.thread_time() - begun


def steps(rounds: int) -> list[Step]:
    """Every step over an array; the first round computes the static-static secrets and does not count."""
    from engine import tai64n

    ends = Ends(BATCH)
    columns: dict[str, list[float]] = {}
    for at in range(rounds + 1):
        created = ends.initiate(tai64n.stamp(time.time_ns()))
        opened, responded = ends.answer()
        completed = ends.complete()
        if at:
            for name, seconds in (
                ("initiation, create", created),
                ("initiation, consume", opened),
                ("response, create", responded),
                ("response, consume", completed),
            ):
                columns.setdefault(name, []).append(seconds / BATCH * 1e6)
    return [Step(name, statistics.median(us), min(us), max(us)) for name, us in columns.items()]


@contextmanager
def _control(peers: int) -> Iterator[tuple[Any, Any]]:
    """A control process's inside on segments of its own, begun, and a holder of its peers."""
    import shm.segment
    from workers._workers import lib
    from workers.channel import Channel
    from workers.control.process import Control
    from workers.datapath.holder import free_holder, new_holder
    from workers.launch import WorkerStart, map_segment
    from workers.settings import Settings, geometry
    from workers.supervisor.sockets import close_sockets, open_sockets

    room = -(-2 * peers // 64) * 64  # new sessions of all peers at once, beside the old ones
    settings = Settings(
        receivers=1, consumers=1, cores=(0,), max_peers=room, small_slots=64, train_slots=1
    )
    with ExitStack() as stack:
        data = shm.segment.create(geometry(settings))
        data_fd, data_bytes = os.dup(data.fd), data.bytes
        data.close()
        vault = shm.segment.create_plain(4096)
        vault_fd = os.dup(vault.fd)
        vault.close()
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (data_fd, bell):
            stack.callback(os.close, fd)
        pairs = open_sockets(0, 1)
        stack.callback(close_sockets, pairs)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="plait-bench-"))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(Path(directory) / "control.sock"))
        listener.listen(1)
        near, far = Channel.pair()
        stack.callback(near.close)
        stack.callback(far.close)
        mapping, segment = map_segment(data_fd, data_bytes)
        fds = {"data": data_fd, "vault": vault_fd, "uapi": listener.fileno(), "bell:1": bell}
        if pairs[0][0] is not None:
            fds["udp4:0"] = pairs[0][0]
        start = WorkerStart(
            message={"aead": "auto"}, kind="control", interface=NAME, worker=1, number=0, incarnation=1,
            receivers=1, consumers=1, fds=fds, segment=segment, channel=far, mapping=mapping,
        )  # fmt: skip
        control = Control(start)
        control.begin()
        message = {**start.message, "joins": True, "trains": True, "share": "never", "cores": 1}
        holder = new_holder(replace(start, worker=lib.WORKER_CONSUMER, message=message))
        stack.callback(free_holder, holder)
        yield control, holder
        control.outgoing.close()
        control.handshakes.crypto_threads.close()


def rate(peers: int, rounds: int) -> Rate:
    """Answered handshakes of `rounds` initiations of each peer; the first round's do not count: each
    peer's static-static secret is computed with the first."""
    from engine import constants, tai64n
    from engine.uapi import parse_set
    from workers._workers import ffi, lib

    ends = Ends(peers)
    seconds = cpu = 0.0
    with _control(peers) as (control, holder), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        segment = control.segment
        other.bind(("127.0.0.1", 0))
        text = f"set=1\nprivate_key={bytes(ends.responder.private_key).hex()}\n"
        text += "".join(f"public_key={bytes(peer.public_key).hex()}\n" for peer in ends.initiators)
        for _ in control.configuration.apply(parse_set(text)):
            pass
        place = ffi.new("struct endpoint *")
        place.family, place.port = socket.AF_INET, socket.htons(other.getsockname()[1])
        ffi.memmove(place.address, socket.inet_aton("127.0.0.1"), 4)
        before = 0
        for at in range(rounds + 1):
            time.sleep(constants.INITIATION_FLOOD_TIME / constants.SECOND)  # sooner it would be a flood
            ends.initiate(tai64n.stamp(time.time_ns() + at * 1_000_000_000))
            if at == 1:
                seconds = cpu = 0.0
                before = lib.counter_sum(segment, lib.HS_INITIATION_ACCEPTED)
            for first in range(0, peers, WAITING):
                for i in range(first, min(first + WAITING, peers)):
                    message = bytes(ends.sent[i].initiation)
                    if lib.mailbox_put(segment, 0, place, message, len(message)) != 0:
                        raise AssertionError("the mailbox has no room")
                for _ in range(2):  # the messages, then what the holder says of the sessions
                    begun, used = time.perf_counter(), time.process_time()
                    while control.turn(lib.clock_now()):
                        pass
                    seconds += time.perf_counter() - begun
                    cpu += time.process_time() - used
                    _hold(segment, holder)
        accepted = lib.counter_sum(segment, lib.HS_INITIATION_ACCEPTED) - before
        if accepted != rounds * peers:
            raise AssertionError(f"{accepted} of {rounds * peers} initiations were accepted")
        threads = len(control.handshakes.crypto_threads.cryptos)
    return Rate(peers, threads, accepted / seconds, cpu / accepted * 1e6, accepted)


def _hold(segment: Any, holder: Any) -> None:
    """Every peer that is ready has its turn."""
    from workers._workers import ffi, lib

    cursor = ffi.new("uint32_t *")
    while (queue := lib.ready_take(segment, 1, cursor)) != NOBODY:
        if lib.token_take(segment, queue, holder.mark):
            lib.holder_take_turn(holder, queue, lib.clock_now())


def table(found: list[Step], answered: Rate) -> list[str]:
    lines = [f"{'us CPU per handshake':<30}{'median':>8}  {'min..max':>15}"]
    for step in found:
        lines.append(f"{step.step:<30}{step.median:>8.1f}  {f'{step.least:.1f}..{step.most:.1f}':>15}")
    return [
        *lines,
        "",
        f"control alone, {answered.threads} threads, {answered.peers} peers:"
        f" {answered.a_second:,.0f} handshakes a second, {answered.cpu_us:.1f} us CPU each",
    ]


@click.command(short_help="Steps of a handshake, and answers a second of control.")
@click.option("--peers", type=click.IntRange(1, 100_000), default=PEERS, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 1000), default=ROUNDS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def handshakes(peers: int, rounds: int, as_json: bool) -> None:
    """Measure the four steps of a handshake, and how many a second the control process answers by itself."""
    found = steps(rounds)
    answered = rate(peers, rounds)
    if as_json:
        steps_as = [asdict(step) for step in found]
        click.echo(json.dumps({"us_per_handshake": steps_as, "control": asdict(answered)}, indent=2))
    else:
        click.echo("\n".join(table(found, answered)))
