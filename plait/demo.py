"""`plait demo`: two hosts and one tunnel on this machine, used, measured and taken away again.

      host a                                host b
    wg0 10.201.0.1  fd00:201::1           wg0 10.201.0.2  fd00:201::2
     |                                     |
    plaitd -f wg0                         plaitd -f wg0
     |                                     |
    eth0 10.200.1.1 ------ a cable ------ eth0 10.200.1.2

Both hosts are namespaces of lab/namespaces.py, which end with this process however it ends. At the end
workers are killed under a TCP stream (plait/demo_kills.py). What is wrong is collected in Result.wrong: a
demo that finds anything there exits with 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from plait import plaitd_client, uapi_client
from plait.demo_kills import KillResult, kill_workers, pause_words
from plait.failure import Failure
from plait.keys import decode
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab, Usage, read_proc
from plait.lab.steps import Step, steps
from plait.signals import interruptible
from shm.marks import marked

INTERFACE = "wg0"
PORT = 51820
ADDRESSES = {"a": ("10.201.0.1", "fd00:201::1"), "b": ("10.201.0.2", "fd00:201::2")}
PINGS = 200
PING_INTERVAL = 0.005  # seconds
HANDSHAKE_TIMEOUT = 10.0  # seconds
# Causes that have innocent reasons: a queue that is full under load, a router solicitation that no peer is
# there for. Two honest engines on one cable meet no other.
INNOCENT = (
    "drop_peer_share", "drop_no_slot", "drop_queue_full_inbound", "drop_tun_write", "drop_no_peer",
    "drop_no_endpoint", "drop_peer_share_outbound", "drop_no_slot_outbound", "drop_queue_full_outbound",
    "drop_staged", "drop_session_ended", "drop_udp_full", "drop_udp_send", "drop_loop", "hs_initiation_flood",
    "hs_down",
)  # fmt: skip
_LOSSES = marked("end in", "end out", "end both", "end message", but="fine")
FOREIGN = (
    *(name for name in _LOSSES if name not in INNOCENT), "hs_mac2_bad", "hs_send_failed", "lost_wakes",
)  # fmt: skip


@dataclass
class PingResult:
    """Echo through the tunnel; milliseconds."""

    path: str
    address: str
    sent: int
    received: int
    min_ms: float
    avg_ms: float
    p99_ms: float


@dataclass
class StreamResult:
    """One TCP stream through the tunnel, as its receiver saw it. cpu_s_per_gb: of both engines."""

    path: str
    gbit_per_second: float
    bytes: int
    retransmits: int
    cpu_s_per_gb: float


@dataclass
class ProcessResult:
    """One process of an engine, over the whole demo."""

    host: str
    name: str
    pid: int
    cpu_seconds: float
    pss_bytes: int


@dataclass
class Result:
    """Everything the demo found."""

    handshake_ms: float = 0.0
    aead: str = ""
    pings: list[PingResult] = field(default_factory=list)
    streams: list[StreamResult] = field(default_factory=list)
    kills: list[KillResult] = field(default_factory=list)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    processes: list[ProcessResult] = field(default_factory=list)
    show: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(
    *,
    as_json: bool,
    seconds: int,
    command: Sequence[str] = lab.PLAIT,
    pings: int = PINGS,
    foreign: Sequence[str] = FOREIGN,
) -> int:
    """Run the demo and print its results on stdout. 0, or 1 when anything is wrong.

    seconds: of TCP each way. command: the engine in each host ({iface} is replaced).
    pings: to each address. foreign: counters that must stay 0.
    """
    lacks = lab.missing("wg", "iperf3", "ping", command[0])
    if lacks:
        first = lacks[0]
        mend = f"{first.next_step}; `plait doctor` tells all"
        raise Failure(f"the demo cannot start: {first.what}", first.why, mend)
    result = Result()
    with interruptible(), steps("demo") as step:
        _measure(result, step, seconds, command, pings, foreign)
    if as_json:
        json.dump(dataclasses.asdict(result), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print(result)
    for line in result.wrong:
        print(f"plait: wrong: {line}", file=sys.stderr)
    return 1 if result.wrong else 0


# --- the measurements ---------------------------------------------------------------------------


def _measure(
    result: Result, step: Step, seconds: int, command: Sequence[str], pings: int, foreign: Sequence[str]
) -> None:
    with Lab() as laboratory:
        step("two hosts and a cable between them")
        a, b = laboratory.add_hosts(["a", "b"])
        cable = laboratory.link(a, b)
        step("an engine in each")
        engines = [host.engine(INTERFACE, command, wait=False) for host in (a, b)]
        for engine in engines:
            engine.wait_ready()
        step("keys, peers and addresses, by wg and ip")
        remote = _configure(engines[0], engines[1], cable.endpoint(b, PORT))
        step("the handshake")
        result.handshake_ms = _handshake(engines[0], remote) * 1e3
        for here, there in ((a, b), (b, a)):
            for address in ADDRESSES[there.name]:
                step(f"ping {here.name} -> {there.name} ({address})")
                result.pings.append(_ping(result, here, there, address, pings))
        for here, there in ((a, b), (b, a)):
            step(f"TCP {here.name} -> {there.name}, {seconds} s")
            result.streams.append(_stream(result, engines, here, there, seconds))
        step("what the engines say of it")
        for engine in engines:
            _ask(result, engine, foreign)
        result.kills = kill_workers(engines[0], engines[1], ADDRESSES["b"][0], step, result.wrong)
        step("taking it all down")
        for engine in engines:
            _stop(result, engine)


def _configure(a: Engine, b: Engine, endpoint: str) -> str:
    """Keys, peers and addresses of both ends; a alone knows where b is. Returns b's public key."""
    (private_a, public_a), (private_b, public_b) = lab.keypair(), lab.keypair()
    shared = lab.preshared_key()
    for engine, private, public, where, own, other in (
        (a, private_a, public_b, endpoint, "a", "b"),
        (b, private_b, public_a, None, "b", "a"),
    ):
        four, six = ADDRESSES[other]
        peer = lab.Peer(public, [f"{four}/32", f"{six}/128"], where, shared)
        four, six = ADDRESSES[own]
        engine.configure(private, [peer], [f"{four}/24", f"{six}/64"], PORT)
    return public_b


def _handshake(engine: Engine, remote: str) -> float:
    """Seconds from asking for a session until the engine has one.

    Switching on a persistent keepalive sends one at once, which needs a session; the engine itself
    stamps when it has it, so nothing of ours is measured but one write to its socket.
    """
    key = decode(remote).hex()
    asked = time.time_ns()
    answer = engine.uapi(f"set=1\npublic_key={key}\npersistent_keepalive_interval=25\n\n")
    if answer != "errno=0\n\n":
        raise Failure("the engine refused a keepalive", answer.strip(), "Look at what it logged.")
    deadline = time.monotonic() + HANDSHAKE_TIMEOUT
    while time.monotonic() < deadline:
        (peer,) = uapi_client.parse(INTERFACE, engine.uapi("get=1\n\n")).peers
        if peer.handshake_sec:
            return (peer.handshake_sec * 10**9 + peer.handshake_nsec - asked) / 1e9
        time.sleep(0.002)
    raise Failure(
        "no handshake",
        f"host a has no session after {HANDSHAKE_TIMEOUT:.0f} s; it said: {_last_words(engine)}",
        "This is a fault of the engine; please report it with these words",
    )


def _ping(result: Result, here: Host, there: Host, address: str, count: int) -> PingResult:
    path = f"{here.name} -> {there.name}"
    ping = here.ping(address, count, PING_INTERVAL, wait=2)
    # ping(8) may end before the last answers: what is missing there is late, if it is little.
    if ping.sent != count or ping.lost or count - ping.last > count // 10:
        result.wrong.append(f"ping {path} {address}: {ping.received} answers to {ping.sent} echoes")
    times = ping.times or (float("nan"),)
    average = sum(times) / len(times)
    return PingResult(path, address, ping.sent, ping.received, min(times), average, ping.quantile(0.99))


def _stream(result: Result, engines: Sequence[Engine], here: Host, there: Host, seconds: int) -> StreamResult:
    path = f"{here.name} -> {there.name}"
    before = _cpu(engines)
    stream = here.iperf3(there, ADDRESSES[there.name][0], seconds)
    used = _cpu(engines) - before
    if not stream.bytes:
        result.wrong.append(f"TCP {path}: not a byte arrived")
    cost = used / (stream.bytes / 1e9) if stream.bytes else float("nan")
    return StreamResult(path, stream.bits_per_second / 1e9, stream.bytes, stream.retransmits, cost)


def _cpu(engines: Sequence[Engine]) -> float:
    return sum(process.cpu_seconds for engine in engines for process in engine.processes())


def _ask(result: Result, engine: Engine, foreign: Sequence[str]) -> None:
    """Counters, processes and peers of one engine."""
    name = engine.host.name
    if engine.process.poll() is not None:
        result.wrong.append(f"the engine of host {name} ended: {_last_words(engine)}")
        return
    result.processes += [_process(name, usage) for usage in engine.processes()]
    result.show[name] = engine.wg("show", INTERFACE)
    report = plaitd_client.parse_engine(INTERFACE, engine.uapi("get_engine=1\n\n"))
    result.aead = report["aead"]
    result.counters[name] = report["counters"]
    for cause in foreign:
        if report["counters"].get(cause):
            result.wrong.append(f"host {name}: {report['counters'][cause]} x {cause}")
    for process in report["processes"]:
        if process["incarnation"] > 1:
            result.wrong.append(f"host {name}: {process['role']} {process['number']} had to be restarted")


def _process(host: str, usage: Usage) -> ProcessResult:
    words = (read_proc(usage.pid, "cmdline") or "").split("\0\0")[0].replace("\0", " ").strip()
    return ProcessResult(host, words or usage.name, usage.pid, usage.cpu_seconds, usage.pss_bytes)


def _stop(result: Result, engine: Engine) -> None:
    """Ask an engine to end; nothing of it may be left in its host."""
    name = engine.host.name
    code = engine.stop()
    if code:
        result.wrong.append(f"the engine of host {name} ended with exit code {code}: {_last_words(engine)}")
    left = [usage.name for usage in engine.processes()]
    for directory in ("run/wireguard", "dev/shm"):
        with contextlib.suppress(FileNotFoundError):
            left += [f"/{directory}/{path.name}" for path in (engine.host.root / directory).iterdir()]
    if left:
        result.wrong.append(f"the engine of host {name} left behind: {', '.join(left)}")


def _last_words(engine: Engine) -> str:
    return " / ".join(engine.process.output().strip().splitlines()[-3:]) or "(nothing)"


# --- the table ----------------------------------------------------------------------------------


def _print(result: Result) -> None:
    from plait.watch.engine import console as table_console
    from plait.watch.engine import mebibytes, table

    console = table_console()
    tunnel = table("Tunnel", ("measured", "path"), ("min", "avg", "p99", "answers", ""))
    tunnel.add_row("handshake", "a -> b", "", f"{result.handshake_ms:.2f} ms")
    for ping in result.pings:
        times = (f"{value:.3f} ms" for value in (ping.min_ms, ping.avg_ms, ping.p99_ms))
        tunnel.add_row(f"ping {ping.address}", ping.path, *times, f"{ping.received}/{ping.sent}")
    console.print(tunnel)

    streams = table("TCP", ("path",), ("Gbit/s", "MB", "retransmits", "engines' CPU s/GB"))
    for stream in result.streams:
        streams.add_row(
            stream.path,
            f"{stream.gbit_per_second:.2f}",
            f"{stream.bytes / 1e6:.0f}",
            str(stream.retransmits),
            f"{stream.cpu_s_per_gb:.2f}",
        )
    console.print(streams)

    kills = table(
        "kill -9 under one TCP stream", ("killed",), ("pause", "packets lost", "new handshakes")
    )
    for kill in result.kills:
        words = pause_words(kill), str(kill.packets_lost), str(kill.handshakes)
        kills.add_row(f"{kill.name} of host {kill.host}", *words)
    console.print(kills)

    packets = table(f"Packets, and drops by cause (AEAD: {result.aead})", ("what",), tuple(result.counters))
    for cause in next(iter(result.counters.values()), {}):
        row = [counters.get(cause, 0) for counters in result.counters.values()]
        if any(row):
            packets.add_row(cause, *map(str, row))
    console.print(packets)

    processes = table("Processes", ("host", "process"), ("pid", "CPU s", "PSS MiB"))
    for process in result.processes:
        processes.add_row(
            process.host,
            process.name,
            str(process.pid),
            f"{process.cpu_seconds:.2f}",
            mebibytes(process.pss_bytes),
        )
    console.print(processes)
    for name, text in result.show.items():
        console.print(f"[bold]host {name}: wg show {INTERFACE}[/bold]")
        console.print(text, markup=False, soft_wrap=True)
