"""The figures of `plait bench tunnel`: what each measures, in which units, and about how long that takes.

A figure is measured for one implementation after the other before the next figure begins, run by run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from plait.bench import neighbours
from plait.bench.comparison import Metric
from plait.bench.datagrams import trial
from plait.bench.implementation import Tunnel
from plait.bench.rate import Trial, highest_rate
from plait.failure import Failure
from plait.lab.namespaces import Host, Stream

PING_INTERVAL = 0.01  # seconds
WARM_SECONDS = 1
START_RATE = 20_000.0  # datagrams a second
HIGHEST_RATE = 2_000_000.0
SHORT_TRIAL = 1.0  # seconds
UNDER_WAY = 0.5  # seconds from the start of a stream to the first ping beside it


@dataclass(frozen=True)
class Effort:
    """How long things run. seconds: of a TCP stream, of a ping, of the trial that confirms a rate."""

    seconds: int


Values = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """One thing to measure. engine_only: the bare cable has none. own_tunnel: measured in a tunnel that is
    started for it, while there is no other. second_peer: that tunnel has one."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Tunnel, Effort], Values]
    estimate: Callable[[Effort], float]
    engine_only: bool = False
    own_tunnel: bool = False
    second_peer: bool = False


def _way(towards_b: bool) -> tuple[str, str]:
    return ("ab", "a -> b") if towards_b else ("ba", "b -> a")


def _tcp(streams: int) -> Figure:
    plural = "1 stream" if streams == 1 else f"{streams} streams"
    metrics = []
    for towards_b in (True, False):
        key, title = _way(towards_b)
        prefix = f"tcp{streams}.{key}"
        metrics += [
            Metric(f"{prefix}.gbit", f"TCP {plural} {title}", "Gbit/s", 2, "more"),
            Metric(f"{prefix}.cpu", f"TCP {plural} {title}, CPU", "s/GB", 2, "less"),
            Metric(f"{prefix}.retransmits", f"TCP {plural} {title}, sent again", "segments", 0),
        ]

    def measure(tunnel: Tunnel, effort: Effort) -> Values:
        warm(tunnel)
        values: Values = {}
        for towards_b in (True, False):
            source, target, address = tunnel.ends(towards_b)
            before = tunnel.cpu_seconds()
            stream = source.iperf3(target, address, effort.seconds, streams=streams)
            used = tunnel.cpu_seconds() - before
            if not stream.bytes:
                mend = "Try it by hand, or leave it out."
                raise Failure(f"cannot measure {tunnel.implementation.title}", "no byte of TCP arrived", mend)
            prefix = f"tcp{streams}.{_way(towards_b)[0]}"
            values[f"{prefix}.gbit"] = stream.bits_per_second / 1e9
            values[f"{prefix}.retransmits"] = stream.retransmits
            if tunnel.engines:
                values[f"{prefix}.cpu"] = used / (stream.bytes / 1e9)
        return values

    return Figure(f"tcp{streams}", f"TCP, {plural}", tuple(metrics), measure, lambda e: 2 * e.seconds + 2)


def warm(tunnel: Tunnel) -> None:
    """One stream that is not measured, once for each tunnel."""
    if not tunnel.is_warm:
        source, target, address = tunnel.ends(towards_b=True)
        source.iperf3(target, address, WARM_SECONDS)
        tunnel.is_warm = True


def _udp(tunnel: Tunnel, effort: Effort) -> Values:
    def attempt(rate: float, longer: bool) -> Trial:
        return trial(tunnel, rate, max(effort.seconds, 2 * SHORT_TRIAL) if longer else SHORT_TRIAL)

    found = highest_rate(attempt, START_RATE, HIGHEST_RATE)
    if found is None:
        return {"udp64.rate": 0.0}
    values = {"udp64.rate": found.trial.rate, "udp64.at_sender": float(found.at_sender)}
    return values | ({"udp64.cpu": found.trial.cpu_us} if tunnel.engines else {})


def measure_equal(tunnel: Tunnel, effort: Effort, rate: float) -> Values:
    """CPU a packet at a rate that every engine of the comparison bears."""
    return {"udp64.equal_cpu": trial(tunnel, rate, max(effort.seconds, 2 * SHORT_TRIAL)).cpu_us}


def _ping(tunnel: Tunnel, effort: Effort) -> Values:
    return _echoes("ping", tunnel, effort, tunnel.hosts[0])


def _ping_under_tcp(tunnel: Tunnel, effort: Effort) -> Values:
    return _under_tcp("pingtcp", tunnel, effort, tunnel.hosts[0])


def _ping_of_second_peer(tunnel: Tunnel, effort: Effort) -> Values:
    return _under_tcp("pingpeer", tunnel, effort, tunnel.hosts[2])


def _under_tcp(prefix: str, tunnel: Tunnel, effort: Effort, pinging: Host) -> Values:
    """Echoes from a host to b while a stream runs from a to b."""
    warm(tunnel)
    source, target, address = tunnel.ends(towards_b=True)
    with ThreadPoolExecutor(1) as other:
        stream = other.submit(_stream_beside, source, target, address, effort)
        time.sleep(UNDER_WAY)
        values = _echoes(prefix, tunnel, effort, pinging)
        carried = stream.result()
    return values | {f"{prefix}.gbit": carried.bits_per_second / 1e9}


def _stream_beside(source: Host, target: Host, address: str, effort: Effort) -> Stream:
    return source.iperf3(target, address, effort.seconds + 2)  # it must outlast the pings


def _echoes(prefix: str, tunnel: Tunnel, effort: Effort, source: Host) -> Values:
    address = tunnel.address_for(source)
    ping = source.ping(address, int(effort.seconds / PING_INTERVAL), PING_INTERVAL, wait=1)
    values = {f"{prefix}.lost": float(ping.sent - ping.received)}
    if ping.times:
        values[f"{prefix}.min"] = min(ping.times) * 1e3
        values[f"{prefix}.avg"] = sum(ping.times) / len(ping.times) * 1e3
        values[f"{prefix}.p99"] = ping.quantile(0.99) * 1e3
    return values


def _memory(tunnel: Tunnel, effort: Effort) -> Values:
    return {"memory.pss": sum(usage.pss_bytes for usage in tunnel.processes()) / 2**20}


def _stream_metric(prefix: str, title: str) -> Metric:
    """What the stream carried meanwhile: who is slow to take packets has short queues."""
    return Metric(f"{prefix}.gbit", title, "Gbit/s", 2)


def _echo_metrics(prefix: str, title: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{prefix}.min", f"{title}, least", "us", 0, "less"),
        Metric(f"{prefix}.avg", f"{title}, average", "us", 0, "less"),
        Metric(f"{prefix}.p99", f"{title}, 99 of 100 within", "us", 0, "less"),
        Metric(f"{prefix}.lost", f"{title}, unanswered", "echoes", 0),
    )


FIGURES = (
    _tcp(1),
    _tcp(4),
    Figure(
        "udp64",
        "UDP, 64 bytes: the rate that is borne",
        (
            Metric("udp64.rate", "UDP 64 bytes, <= 1 % lost", "packets/s", 0, "more"),
            Metric("udp64.cpu", "UDP 64 bytes, CPU at that rate", "us/packet", 2, "less"),
            Metric("udp64.equal_cpu", "UDP 64 bytes, CPU at the slowest's rate", "us/packet", 2, "less"),
        ),
        _udp,
        lambda effort: 14 * (SHORT_TRIAL + 0.3) + max(effort.seconds, 2) * 2,
    ),
    Figure("ping", "ping, idle", _echo_metrics("ping", "ping idle"), _ping, lambda e: e.seconds + 0.2),
    Figure(
        "pingtcp",
        "ping under one TCP stream",
        (*_echo_metrics("pingtcp", "ping under TCP"), _stream_metric("pingtcp", "TCP under ping")),
        _ping_under_tcp,
        lambda effort: effort.seconds + 3.5,
    ),
    Figure(
        "pingpeer",
        "ping of a second peer beside one with a TCP stream",
        (
            *_echo_metrics("pingpeer", "ping of a second peer"),
            _stream_metric("pingpeer", "TCP of the first peer"),
        ),
        _ping_of_second_peer,
        lambda effort: effort.seconds + 6,
        own_tunnel=True,
        second_peer=True,
    ),
    Figure(
        "flood",
        "a program beside a flood of small packets",
        (
            Metric("flood.kept", "program beside a flood, kept", "of alone", 2, "more"),
            Metric("flood.rate", "flood, sent", "packets/s", 0),
            Metric("flood.carried", "flood, delivered", "packets/s", 0),
        ),
        lambda tunnel, effort: neighbours.program_beside_flood(tunnel, effort.seconds),
        lambda effort: 2 * effort.seconds + 3.5,
        own_tunnel=True,
        second_peer=True,
    ),
    # In tunnels of its own, because two of one program at once share pages.
    Figure(
        "memory",
        "memory",
        (Metric("memory.pss", "memory, both ends (PSS)", "MiB", 1, "less"),),
        _memory,
        lambda effort: 1.5,
        engine_only=True,
        own_tunnel=True,
    ),
)


def selected(only: Sequence[str]) -> list[Figure]:
    """The figures of these names in their own order; all when there are none."""
    return [figure for figure in FIGURES if not only or figure.name in only]
