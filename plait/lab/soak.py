"""`plait soak`: a gateway with 200 peers under traffic, while its processes are killed at random.

      field                         gateway                        client
    199 peers in one process       plaitd -f wg0                  plaitd -f wg0, stepped clock
    (soak_peers.py)                 10.202.0.1                     10.202.0.2
     | 10.200.1.2 --- cable --- 10.200.1.1 | 10.200.2.1 --- cable --- 10.200.2.2 |

The peers send numbered packets to an echo at the gateway, roam and renew their sessions; the client has a
TCP stream each way, hashed at both ends, and new keys each time its clock is stepped. Meanwhile one
process of the gateway after another is killed, or stopped for the watchdog to find; peers are added and
removed. Violations go to Result.wrong and make the exit code 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from plait.keys import decode
from plait.lab.namespaces import Engine, Host, Lab, Peer, Process, descriptors, keypair, read_proc, state
from plait.watch.processes import pss_bytes

INTERFACE = "wg0"
PORT = 51820
PEERS = 199
PACKETS_A_SECOND = 400
BYTES_A_SECOND = 2_000_000
KILL_SECONDS = 2.0
STOP_SHARE = 0.1  # of the kills: SIGSTOP, which the watchdog must notice
CHANGE_SECONDS = 1.5
STEP_SECONDS = 15.0  # between steps of the client's clock
STEP = 121  # seconds: its session is due for new keys
QUIET_SECONDS = 3.0
SETTINGS = 'receivers = 2\nconsumers = 2\nmax_peers = 512\npin = true\nhandoff = "{}"\n'
TITLES = ("control", "receiver 0", "receiver 1", "consumer 0", "consumer 1")
# Those of the workers' loops; asm/unistd_64.h, asm-generic/unistd.h.
SYSTEM_CALLS = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 19: "readv", 20: "writev", 44: "sendto", 45: "recvfrom",
        46: "sendmsg", 47: "recvmsg", 202: "futex", 230: "clock_nanosleep", 232: "epoll_wait",
        233: "epoll_ctl", 299: "recvmmsg", 307: "sendmmsg",
    },
    "aarch64": {
        21: "epoll_ctl", 22: "epoll_wait", 63: "read", 64: "write", 65: "readv", 66: "writev", 73: "poll",
        98: "futex", 115: "clock_nanosleep", 206: "sendto", 207: "recvfrom", 211: "sendmsg", 212: "recvmsg",
        243: "recvmmsg", 269: "sendmmsg",
    },
}  # fmt: skip
PSS_SLACK = 24 << 20  # bytes by which two samples of live processes may differ


@dataclass
class Result:
    """What the soak came to."""

    seconds: float
    handoff: str
    seed: int
    kills: dict[str, dict[str, int]] = field(default_factory=dict)  # process -> where it was -> how often
    stopped: int = 0  # of the kills: left to the watchdog
    longest_stall_ms: float = 0.0
    stream_bytes: int = 0
    streams_intact: bool = False
    packets_sent: int = 0
    packets_echoed: int = 0
    packets_killed: int = 0  # counted by the gateway as lost to kills
    roams: int = 0
    handshakes: int = 0
    handshakes_beyond: int = 0  # asked for by the gateway, whose peers renew their sessions themselves
    changes: int = 0
    duplicate_nonces: int = 0
    duplicate_packets: int = 0
    packets_out_of_order: int = 0
    leaks: int = 0
    lost_wakes: int = 0
    descriptors: tuple[int, int] = (0, 0)  # after the first kills, at the end
    memory_mib: tuple[float, float] = (0.0, 0.0)
    wrong: list[str] = field(default_factory=list)


class Soak:
    """The three hosts and what runs in them."""

    def __init__(self, lab: Lab, result: Result) -> None:
        self.result = result
        self.random = random.Random(result.seed)
        self.gateway, self.field, self.client = lab.add_hosts(["gateway", "field", "client"])
        self.field_link = lab.link(self.gateway, self.field)
        self.client_link = lab.link(self.gateway, self.client)
        self.clock = self.client.root / "run/clock"
        self.stepped = 0
        self._write_clock()
        settings = SETTINGS.format(result.handoff)
        self.engine = self.gateway.engine(INTERFACE, settings=settings, wait=False)
        environment = {"PLAIT_CLOCK": "/run/clock"}
        self.other = self.client.engine(INTERFACE, settings=settings, environment=environment, wait=False)
        self.engine.wait_ready(60)
        self.other.wait_ready(60)
        self.private_key, self.public_key = keypair()
        self._configure()

    def _configure(self) -> None:
        client_private, client_public = keypair()
        self.keys = [keypair() for _ in range(PEERS)]
        inners = [f"10.202.{1 + number // 250}.{1 + number % 250}" for number in range(PEERS)]
        peers = [Peer(key[1], [f"{inner}/32"]) for key, inner in zip(self.keys, inners, strict=True)]
        peers.append(Peer(client_public, ["10.202.0.2/32"]))
        self.engine.configure(self.private_key, peers, ["10.202.0.1/24"], PORT)
        endpoint = self.client_link.endpoint(self.gateway, PORT)
        self.other.configure(
            client_private, [Peer(self.public_key, ["10.202.0.1/32"], endpoint)], ["10.202.0.2/24"], PORT
        )
        text = {
            "seed": self.result.seed,
            "public_key": decode(self.public_key).hex(),
            "gateway": self.field_link.address(self.gateway),
            "port": PORT,
            "address": self.field_link.address(self.field),
            "echo": "10.202.0.1",
            "packets_a_second": PACKETS_A_SECOND,
            "until": "/run/enough",
            "quiet": QUIET_SECONDS,
            "peers": [
                {"private_key": decode(key[0]).hex(), "inner": inner}
                for key, inner in zip(self.keys, inners, strict=True)
            ],
        }
        (self.field.root / "run/peers.json").write_text(json.dumps(text))

    def start(self) -> None:
        """Traffic, from now on."""
        stream = [sys.executable, "-m", "plait.lab.soak_stream"]
        self.echo = self.gateway.popen([*stream, "echo", "7"])
        self.receivers: list[Process] = []
        self.senders: list[Process] = []
        ways = (
            (self.client, self.gateway, "10.202.0.1", 7001),
            (self.gateway, self.client, "10.202.0.2", 7002),
        )
        for source, target, address, port in ways:
            self.receivers.append(target.popen([*stream, "receive", str(port)]))
            target.wait_listening(port, self.receivers[-1], 60)
            if source is self.gateway:  # the client speaks first: it alone knows an endpoint
                _until(lambda: self._counters(self.other)["hs_response_accepted"])
            send = [*stream, "send", address, str(port), "/run/enough", str(BYTES_A_SECOND)]
            self.senders.append(source.popen(send))
        self.peers = self.field.popen([sys.executable, "-m", "plait.lab.soak_peers", "/run/peers.json"])

    def disturb(self, seconds: float, tell: Any) -> None:
        """Kill, change and step until the time is over."""
        begun = time.monotonic()
        due = {self._kill: (KILL_SECONDS, begun + 1.0), self._change: (CHANGE_SECONDS, begun + 0.5)}
        due[self._step] = (STEP_SECONDS, begun + 5.0)
        sampled = False
        while (now := time.monotonic()) < begun + seconds:
            for deed, (interval, at) in due.items():
                if now >= at:
                    deed()
                    due[deed] = (interval, now + interval * self.random.uniform(0.5, 1.5))
            if not sampled and now >= begun + seconds / 4:
                sampled = True
                self._sample(0)
            tell(f"{now - begun:.0f} of {seconds:.0f} s, {kills_of(self.result)} kills")
            time.sleep(0.05)

    def finish(self) -> None:
        """End the traffic, let everything come to rest, and look."""
        result = self.result
        _until(lambda: set(self._pids()) >= set(TITLES))
        for host in (self.gateway, self.field, self.client):
            (host.root / "run/enough").touch()
        got = [json.loads(_words(process, 90)) for process in self.receivers]  # their ends say more
        sent = [json.loads(_words(process, 90)) for process in self.senders]
        peers = json.loads(_words(self.peers, 90))
        result.stream_bytes = sum(one["bytes"] for one in got)
        result.streams_intact = [one["sha256"] for one in sent] == [one["sha256"] for one in got]
        stalls = [stall for one in got for _, stall in one["stalls"]]
        result.longest_stall_ms = round(1000 * max(stalls, default=0.0), 1)
        result.packets_sent, result.packets_echoed = peers["sent"], peers["echoed"]
        result.roams, result.handshakes = peers["roams"], peers["handshakes"]
        result.duplicate_nonces, result.duplicate_packets = peers["nonces_twice"], peers["twice"]
        result.packets_out_of_order = peers["early"]
        counters = self._counters(self.engine)
        result.handshakes_beyond = counters["hs_initiation_sent"]
        result.lost_wakes = counters["lost_wakes"]
        result.packets_killed = counters["drop_killed"]
        self._sample(1)
        report = self._report(self.engine)
        result.leaks = report["tokens"]["held"] + sum(pool["in_hand"] for pool in report["pools"])
        if not self._waiting(report):
            result.leaks += sum(pool["queued"] for pool in report["pools"])
        result.wrong = list(_wrong(result, peers["forged"]))

    # -- disturbances ---------------------------------------------------------------------------

    def _kill(self) -> None:
        pids = self._pids()
        victims = [title for title in TITLES if title in pids]
        if not victims:
            return
        victim = self.random.choice(victims)
        is_stop = self.random.random() < STOP_SHARE
        with contextlib.suppress(OSError):
            os.kill(pids[victim], signal.SIGSTOP)
            point = _point(pids[victim])
            if not is_stop:
                os.kill(pids[victim], signal.SIGKILL)
            points = self.result.kills.setdefault(victim, {})
            points[point] = points.get(point, 0) + 1
            self.result.stopped += is_stop

    def _change(self) -> None:
        """A peer comes, gets another allowed IP, and goes again."""
        key = decode(keypair()[1]).hex()
        texts = (
            f"public_key={key}\nallowed_ip=10.203.0.0/24\n",
            f"public_key={key}\nupdate_only=true\nreplace_allowed_ips=true\nallowed_ip=10.204.0.0/16\n",
            f"public_key={key}\nremove=true\n",
        )
        for text in texts:
            with contextlib.suppress(OSError):  # control is being replaced: this set never was
                self.engine.uapi(f"set=1\n{text}\n", 5)
                self.result.changes += 1

    def _step(self) -> None:
        self.stepped += STEP * 1_000_000_000
        self._write_clock()

    def _write_clock(self) -> None:
        """As workers/clock.h has it: ns to add to CLOCK_BOOTTIME and to the wall clock."""
        text = struct.pack("<qq", self.stepped, self.stepped)
        if not self.clock.exists():
            self.clock.write_bytes(text)
        with self.clock.open("r+b") as file:
            file.write(text)

    # -- looking --------------------------------------------------------------------------------

    def _pids(self) -> dict[str, int]:
        """The gateway's processes by title."""
        return self.gateway.titles(INTERFACE)

    def _sample(self, which: int) -> None:
        """Descriptors and memory of all processes of the gateway, once all are there and ready."""
        wanted = {*TITLES, "supervisor"}
        _until(lambda: set(self._pids()) >= wanted)
        looks: list[int] = []  # at descriptors; a worker has its title before it has its own

        def is_settled() -> bool:
            looks.append(sum(len(descriptors(pid)) for pid in self._pids().values()))
            time.sleep(0.1)
            return len(set(looks[-10:])) == 1 and len(looks) >= 10

        _until(is_settled)
        counts = [looks[-1], 0]
        for pid in self._pids().values():
            with contextlib.suppress(OSError):
                counts[1] += pss_bytes(pid)
        fds, mib = list(self.result.descriptors), list(self.result.memory_mib)
        fds[which], mib[which] = counts[0], round(counts[1] / (1 << 20), 1)
        self.result.descriptors, self.result.memory_mib = (fds[0], fds[1]), (mib[0], mib[1])

    @staticmethod
    def _report(engine: Engine) -> dict[str, Any]:
        answer = engine.uapi("get_engine=1\n\n", 30)
        line = next(line for line in answer.splitlines() if line.startswith("engine="))
        report: dict[str, Any] = json.loads(line.partition("=")[2])
        return report

    def _counters(self, engine: Engine) -> dict[str, int]:
        counters: dict[str, int] = self._report(engine)["counters"]
        return counters

    @staticmethod
    def _waiting(report: dict[str, Any]) -> int:
        """Packets that rightly wait: staged for a peer without a session."""
        return int(sum(way["waiting"] for way in report["queues"].values()))


def _wrong(result: Result, forged: int) -> Iterator[str]:
    """What must not be."""
    for name in ("duplicate_nonces", "duplicate_packets", "packets_out_of_order", "leaks", "lost_wakes",
                 "handshakes_beyond"):  # fmt: skip
        if value := getattr(result, name):
            yield f"{name.replace('_', ' ')}: {value}"
    if forged:
        yield f"packets that do not open: {forged}"
    if not result.streams_intact:
        yield "a stream arrived changed"
    if not result.packets_echoed:
        yield "no packet came back"
    if result.descriptors[1] != result.descriptors[0]:
        yield f"descriptors: {result.descriptors[0]} before, {result.descriptors[1]} at the end"
    if result.memory_mib[1] > result.memory_mib[0] + PSS_SLACK / (1 << 20):
        yield f"memory: {result.memory_mib[0]} MiB before, {result.memory_mib[1]} MiB at the end"


def _point(pid: int) -> str:
    """Where a process that is being stopped stands: its system call, or "own code". OSError when it ended."""
    deadline = time.monotonic() + 0.1
    while state(pid) not in ("T", "Z", "") and time.monotonic() < deadline:
        pass
    if not (call := system_call(pid)):
        raise ProcessLookupError(pid)
    return call


def system_call(pid: int) -> str:
    """The system call that a process waits in, "own code" for none, nothing when the process has gone."""
    number = (read_proc(pid, "syscall") or " ").partition(" ")[0].strip()
    if number and not number.isdecimal():
        return "own code"
    return number and SYSTEM_CALLS.get(os.uname().machine, {}).get(int(number), f"system call {number}")


def kills_of(result: Result) -> int:
    """All of them, and all stops."""
    return sum(sum(points.values()) for points in result.kills.values())


def _until(condition: Any, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the gateway did not come to rest within {seconds:.0f} s")
        time.sleep(0.05)


def _words(process: Process, seconds: float) -> str:
    code = process.wait(seconds)
    if code:
        raise RuntimeError(f"'{' '.join(process.arguments)}' ended with {code}: {process.output()[-2000:]}")
    return process.output()


def rows(result: Result) -> Iterator[tuple[str, str]]:
    """The table: what, how much."""
    for title, points in sorted(result.kills.items()):
        often = sorted(points.items(), key=lambda item: -item[1])
        where = ", ".join(f"{count} in {point}" for point, count in often)
        yield f"kills of {title}", f"{sum(points.values())}: {where}"
    yield "of these stopped, found by the watchdog", str(result.stopped)
    yield "longest stall of a stream", f"{result.longest_stall_ms} ms"
    yield "stream bytes, all hashed", f"{result.stream_bytes:,}" + (" intact" * result.streams_intact)
    yield "packets sent / echoed", f"{result.packets_sent:,} / {result.packets_echoed:,}"
    yield "packets counted as lost to kills", str(result.packets_killed)
    yield "roams, changes of configuration", f"{result.roams}, {result.changes}"
    yield "handshakes, of these beyond the expected", f"{result.handshakes}, {result.handshakes_beyond}"
    for name in ("duplicate_nonces", "duplicate_packets", "packets_out_of_order", "leaks", "lost_wakes"):
        yield name.replace("_", " "), str(getattr(result, name))
    yield "descriptors, first and last", " and ".join(map(str, result.descriptors))
    yield "MiB, first and last", " and ".join(map(str, result.memory_mib))


def run(minutes: float, handoff: str, seed: int | None, *, as_json: bool) -> int:
    """The command; its exit code."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    result = Result(minutes * 60, handoff, seed)
    is_seen = sys.stderr.isatty()

    def tell(words: str) -> None:
        if is_seen:
            print(f"\r\033[Kplait soak: {words}", end="", file=sys.stderr, flush=True)

    with Lab() as lab:
        soak = Soak(lab, result)
        soak.start()
        soak.disturb(result.seconds, tell)
        tell("coming to rest")
        soak.finish()
        tell("")
        if result.wrong:
            print(_tail(soak.gateway, soak.engine), file=sys.stderr)
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        table = list(rows(result))
        width = max(len(what) for what, _ in table)
        for what, value in table:
            print(f"{what:{width}}  {value}")
        for line in result.wrong:
            print(f"plait soak: wrong: {line} (seed {seed})", file=sys.stderr)
    return 1 if result.wrong else 0


def _tail(host: Host, engine: Engine) -> str:
    lines = engine.process.output().splitlines()
    kinds = Counter((line.partition(" plait: ")[2].partition(": ")[2] or line)[:60] for line in lines)
    repeated = [f"{count:5} {words}" for words, count in kinds.most_common(12)]
    head = f"the last words of {host.name}'s engine:"
    return "\n".join([head, *lines[-30:], "the most frequent:", *repeated])
