"""`plait bench peers`: what many configured peers cost, in bytes and in time, beside a tunnel that is in use.

    client ── cable ── gateway: the engine that is measured, with one true peer and N more

The N have a public key and an allowed IP each and are never heard of. Bytes are growth: PSS of all of
the gateway's processes with N peers, less what it was before. Sessions are measured apart, in a process of
their own: keypairs installed by control's own code in real segments. Lookups run through the C that ships.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any

import click

from engine.constants import MAX_PEERS
from plait.bench.implementation import INTERFACE, PORT, chosen, cpu_seconds
from plait.bench.progress import Progress, progress
from plait.failure import Failure
from plait.keys import encode
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab, Peer
from plait.signals import interruptible
from plait.watch.processes import pss_bytes

INSIDE = ("10.201.0.1", "10.201.0.2")
WIREGUARD_GO_MOST = 65_535  # its limit is 65,536, and one is the tunnel's
PING_INTERVAL = 0.002
GETS = 5
ALONE_SECONDS = 3.0
IDLE_SECONDS = 10.0
SESSIONS = 50_000
LOOKUPS = 1_000_000


@dataclass
class Found:
    """One engine's figures; a field that was not measured is None. Seconds, bytes, milliseconds, Gbit/s."""

    engine: str
    peers: int
    idle_bytes: float | None = None
    configure_s: float | None = None
    get_s: float | None = None
    get_megabytes: float | None = None
    get_growth_mb: float | None = None
    bad_set_refused: bool | None = None
    bad_set_s: float | None = None
    idle_cpu_percent: float | None = None
    ping_p99_alone_ms: float | None = None
    ping_p99_configuring_ms: float | None = None
    ping_p99_getting_ms: float | None = None
    gbit_alone: float | None = None
    gbit_beside: float | None = None
    longest_turn_ms: dict[str, float] = field(default_factory=dict)  # of control, by operation


def run(*, peers: int, others: Sequence[str], as_json: bool) -> None:
    """Measure, then print tables or JSON on stdout."""
    lacks = lab.missing("wg", "iperf3", "ping", lab.PLAIT[0])
    if lacks:
        first = lacks[0]
        raise Failure(
            f"the bench cannot start: {first.what}", first.why, f"{first.next_step}; see `plait doctor`"
        )
    engines = [one for one in chosen(others, ()) if one.command is not None]
    with interruptible(), progress(60.0 * len(engines) + 30) as told:
        found = []
        for one in engines:
            count = peers if one.is_plait else min(peers, WIREGUARD_GO_MOST)
            assert one.command is not None
            found.append(gateway(one.name, one.command, count, one.is_plait, told))
        told.step("sessions", 15)
        sessions = _apart("sessions", min(peers, SESSIONS))
        told.step("lookups", 15)
        lookups = _apart("lookups", peers)
    answer = {
        "engines": [asdict(one) for one in found],
        "bytes_by_part": parts(),
        "session_bytes": sessions,
        "lookup_ns": lookups,
    }
    if as_json:
        json.dump(answer, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        click.echo("\n".join(tables(found, parts(), sessions, lookups)))


# -- the gateway --------------------------------------------------------------------------------


def gateway(name: str, command: Sequence[str], peers: int, is_plait: bool, told: Progress) -> Found:
    """Everything that is measured of one engine beside a tunnel in use."""
    found = Found(name, peers)
    with Lab() as hosts:
        client, host = hosts.host("client"), hosts.host("gateway")
        engine = _tunnel(hosts, client, host, command, is_plait)
        told.step(f"{name}: the tunnel alone", 10)
        found.gbit_alone = client.iperf3(host, INSIDE[0], 3).bits_per_second / 1e9
        time.sleep(1)
        with pinging(client) as alone:
            time.sleep(ALONE_SECONDS)
        found.ping_p99_alone_ms = alone.p99()
        before = memory(engine)
        told.step(f"{name}: configuring {peers} peers", 20)
        text = wg_text(peers)
        with pinging(client) as meanwhile:
            begun = time.monotonic()
            host.run(["wg", "addconf", INTERFACE, "/dev/stdin"], text=text, timeout=600)
            found.configure_s = time.monotonic() - begun
        found.ping_p99_configuring_ms = meanwhile.p99()
        del text
        time.sleep(2)
        found.idle_bytes = (memory(engine) - before) / peers
        told.step(f"{name}: idle", IDLE_SECONDS)
        found.idle_cpu_percent = idle_percent(engine)
        told.step(f"{name}: get", 10)
        _get(engine, client, found)
        told.step(f"{name}: the tunnel beside {peers} peers", 5)
        found.gbit_beside = client.iperf3(host, INSIDE[0], 3).bits_per_second / 1e9
        told.step(f"{name}: a bad line", 10)
        _bad_set(engine, peers, found)  # who applies it in part has lost the tunnel's peer
        if is_plait:
            told.step(f"{name}: control's longest turns", 60)
            found.longest_turn_ms = _turns(engine, host, peers)
    return found


def _tunnel(hosts: Lab, client: Host, host: Host, command: Sequence[str], is_plait: bool) -> Engine:
    cable = hosts.link(client, host)
    keys = {one.name: lab.keypair() for one in (client, host)}
    settings = f"max_peers = {MAX_PEERS}\n" if is_plait else None
    engine = host.engine(INTERFACE, command, settings=settings)
    other = client.engine(INTERFACE)
    engine.configure(
        keys["gateway"][0], [Peer(keys["client"][1], [f"{INSIDE[1]}/32"])], [f"{INSIDE[0]}/24"], PORT
    )
    endpoint = cable.endpoint(host, PORT)
    to_gateway = Peer(keys["gateway"][1], [f"{INSIDE[0]}/32"], endpoint)
    other.configure(keys["client"][0], [to_gateway], [f"{INSIDE[1]}/24"], PORT)
    if not client.ping(INSIDE[0], 3, 0.1).received:
        raise Failure("no answer through the tunnel", "three pings were lost", "Look at `plait events`")
    return engine


def _get(engine: Engine, client: Host, found: Found) -> None:
    pids = [usage.pid for usage in engine.processes()]
    before = anonymous(pids)
    most = before
    times: list[float] = []
    with pinging(client) as meanwhile, ThreadPoolExecutor(1) as thread:

        def ask() -> None:
            for _ in range(GETS):
                begun = time.monotonic()
                found.get_megabytes = conversation(engine, (b"get=1\n\n",))[0] / 1e6
                times.append(time.monotonic() - begun)

        asking = thread.submit(ask)
        while not asking.done():
            most = max(most, anonymous(pids))
            time.sleep(0.02)
        asking.result()
    found.get_s = median(times)
    found.get_growth_mb = (most - before) / 1e6
    found.ping_p99_getting_ms = meanwhile.p99()


def _bad_set(engine: Engine, peers: int, found: Found) -> None:
    """As many lines as `peers` make, the last of them wrong: refused, and a get as before."""
    before = _configured(engine)
    begun = time.monotonic()
    _, tail = conversation(engine, uapi_text(peers, b"nonsense=1\n"))
    found.bad_set_s = time.monotonic() - begun
    found.bad_set_refused = b"errno=0\n" not in tail and _configured(engine) == before


def _turns(engine: Engine, host: Host, peers: int) -> dict[str, float]:
    """CPU that control's longest turn took during each operation, ms. Nothing is left as it was."""
    ips = "".join(
        f"allowed_ip=10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32\n"
        for n in range(min(peers * 2, MAX_PEERS))
    )
    one = f"public_key={'01' * 32}\n"
    sets = {
        "set of one peer with {ips} allowed IPs": f"{one}{ips}",
        "get with it": "",
        "the same allowed IPs replace it": f"{one}replace_allowed_ips=true\n{ips}",
        "none replaces them": f"{one}replace_allowed_ips=true\n",
        "set of them again": f"{one}{ips}",
        "removal of it": f"{one}remove=true\n",
        "another private key": f"private_key={'42' * 32}\n",
        "another firewall mark": "fwmark=7\n",
        "another port": "listen_port=0\n",
    }
    found = {"nothing but being asked": _longest_turn(engine, lambda: None)}

    def configure(text: str) -> None:
        conversation(engine, [f"set=1\n{text}\n".encode() if text else b"get=1\n\n"])

    def change(*command: str) -> None:
        host.run(["ip", *command])

    for name, text in sets.items():
        found[name.format(ips=f"{ips.count('='):,}")] = _longest_turn(engine, partial(configure, text))
    found["get of all"] = _longest_turn(engine, lambda: configure(""))
    found["the busiest peers"] = _longest_turn(
        engine, lambda: conversation(engine, [b"get_busiest=30\n\n"])
    )
    blackhole = ("blackhole", "198.51.100.0/24")
    found["route change"] = _longest_turn(engine, lambda: change("route", "add", *blackhole))
    for way in ("down", "up"):
        found[f"interface {way}"] = _longest_turn(engine, partial(change, "link", "set", INTERFACE, way))
    found["same peers, all replaced"] = _longest_turn(
        engine, lambda: conversation(engine, uapi_text(peers, b""))
    )
    found["removal of all"] = _longest_turn(engine, lambda: configure("replace_peers=true\n"))
    return found


def _longest_turn(engine: Engine, operation: Callable[[], object]) -> float:
    """Of control, from the operation's beginning until a little after its end."""

    def ask() -> float:
        with _connected(engine) as sock, sock.makefile("rb") as lines:
            sock.sendall(b"get_engine=1\n\n")
            return float(json.loads(lines.readline().removeprefix(b"engine="))["longest_turn_ms"])

    ask()
    operation()
    longest = ask()
    for _ in range(20):
        time.sleep(0.1)
        longest = max(longest, ask())
    return longest


def _configured(engine: Engine) -> str:
    """A digest of a get without what the tunnel in use changes by itself."""
    digest = hashlib.sha256()
    with _connected(engine) as sock:
        sock.sendall(b"get=1\n\n")
        with sock.makefile("rb") as lines:
            for line in lines:
                if line == b"\n":
                    break
                if not line.startswith((b"last_handshake", b"tx_bytes", b"rx_bytes")):
                    digest.update(line)
    return digest.hexdigest()


def _connected(engine: Engine) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(600)
    sock.connect(str(engine.socket_path))
    return sock


def conversation(engine: Engine, parts_: Sequence[bytes] | Iterator[bytes]) -> tuple[int, bytes]:
    """One operation: bytes of its answer, and the last of them."""
    with _connected(engine) as sock:
        for part in parts_:
            sock.sendall(part)
        count, tail = 0, b""
        while not tail.endswith(b"\n\n"):
            part = sock.recv(1 << 18)
            if not part:
                break
            count += len(part)
            tail = (tail + part)[-100:]
    return count, tail


def peer_keys(peers: int) -> Iterator[tuple[bytes, str]]:
    """A key and a prefix for each peer, the same each time."""
    for number in range(peers):
        key = hashlib.sha256(number.to_bytes(4, "big")).digest()
        yield key, f"100.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32"


def wg_text(peers: int) -> str:
    """The peers as `wg addconf` reads them."""
    return "".join(
        f"[Peer]\nPublicKey = {encode(key)}\nAllowedIPs = {prefix}\n"
        for key, prefix in peer_keys(peers)
    )


def uapi_text(peers: int, last_line: bytes) -> Iterator[bytes]:
    """The same peers, four lines each, as a set that would replace all; in pieces."""
    piece = bytearray(b"set=1\nreplace_peers=true\n")
    for key, prefix in peer_keys(peers):
        piece += f"public_key={key.hex()}\npreshared_key={'0' * 64}\n".encode()
        piece += f"replace_allowed_ips=true\nallowed_ip={prefix}\n".encode()
        if len(piece) > 1 << 16:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + last_line + b"\n"


def memory(engine: Engine) -> int:
    """PSS of all processes together."""
    return sum(usage.pss_bytes for usage in engine.processes())


def anonymous(pids: Sequence[int]) -> int:
    """Private memory of these processes, bytes: what a get could make grow."""
    total = 0
    for pid in pids:
        for line in (lab.read_proc(pid, "status") or "").splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
    return total


def idle_percent(engine: Engine) -> float:
    """CPU of all processes together while nothing happens, per cent of a core."""
    pids = [usage.pid for usage in engine.processes()]
    before = cpu_seconds(pids)
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(pids) - before) / IDLE_SECONDS * 100


class Pinging:
    """Echoes through the tunnel, while something else happens."""

    def __init__(self, client: Host) -> None:
        self.process = client.popen(["ping", "-n", "-i", str(PING_INTERVAL), INSIDE[0]])
        self.times: list[float] = []

    def end(self) -> None:
        self.process.signal(signal.SIGINT)
        self.process.wait(10)
        for line in self.process.output().splitlines():
            if " time=" in line:
                self.times.append(float(line.rpartition(" time=")[2].split()[0]))

    def p99(self) -> float | None:
        """Milliseconds; None of fewer than 100 answers."""
        ordered = sorted(self.times)
        return ordered[int(len(ordered) * 0.99)] if len(ordered) >= 100 else None


@contextmanager
def pinging(client: Host) -> Iterator[Pinging]:
    """Pings as long as the block runs."""
    pings = Pinging(client)
    try:
        yield pings
    finally:
        pings.end()


# -- apart from any engine ----------------------------------------------------------------------


def parts() -> dict[str, dict[str, float]]:
    """Bytes a peer by part, worked out from the layout: idle, and what a session adds."""
    from workers._workers import ffi
    from workers.control.engine_report import bytes_per_peer
    from workers.settings import Settings, geometry

    workers = len(os.sched_getaffinity(0))
    settings = Settings(receivers=workers, consumers=workers, cores=(0,), max_peers=MAX_PEERS)
    found = bytes_per_peer(ffi.new("struct geometry *", geometry(settings))[0])
    return {name: {**rows, "sum": sum(rows.values())} for name, rows in found.items()}


def _apart(what: str, count: int) -> dict[str, float]:
    """In a process of its own, so that nothing else's memory is counted."""
    done = subprocess.run(
        [sys.executable, "-m", "plait.bench.peers", what, str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(
            f"cannot measure {what}", done.stderr.strip()[-500:] or "it failed", "Try fewer --peers."
        )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


@contextmanager
def _table(peers: int) -> Iterator[Any]:
    """Control's own table of so many peers in real segments."""
    import shm.segment
    from workers._workers import ffi, lib
    from workers.control.grace_periods import GracePeriods
    from workers.control.keypairs import Keypairs
    from workers.control.memory import Memory
    from workers.control.peers import Peers
    from workers.control.vault import Vault
    from workers.launch import map_segment
    from workers.settings import Settings, geometry

    settings = Settings(
        receivers=1, consumers=1, cores=(0,), max_peers=MAX_PEERS, small_slots=64, train_slots=1
    )
    data = shm.segment.create(geometry(settings))
    plain = shm.segment.create_plain(4096)
    mapping, segment = map_segment(data.fd, data.bytes)
    vault = Vault(os.dup(plain.fd), MAX_PEERS)
    held = Memory(data.fd, mapping, segment, vault)
    segment.device.index_key = [1, 2]
    grace_periods = GracePeriods(segment)
    table = Peers(held, grace_periods, Keypairs(held, grace_periods), 1)
    table.recover()
    for _ in table.room(peers, peers, 2 * peers):
        pass
    for key, _ in peer_keys(peers):
        lib.table_add(table.table, ffi.from_buffer("uint8_t[]", key))
    yield table


def sessions(count: int) -> dict[str, float]:
    """Bytes that a session adds: one keypair, and two as just after a rekey."""
    from workers._workers import ffi

    answer = {}
    filled = ffi.new("struct keypair *", {"birth": 1, "peer_generation": 1})
    with _table(count) as table:
        keypairs = table.keypairs
        before = pss_bytes(os.getpid())
        for title in ("one keypair", "two keypairs"):
            for row in range(count):
                number, _ = keypairs.reserve(row)
                filled.peer = row
                ffi.memmove(keypairs.slab + number, filled, ffi.sizeof("struct keypair"))
            answer[title] = (pss_bytes(os.getpid()) - before) / count
    return answer


def lookups(peers: int) -> dict[str, float]:
    """ns a lookup with so many /32 and as many /128, addresses in random order or one peer's only."""
    import numpy as np

    from plait.bench._bench import ffi, lib

    answer = {}
    numbers = np.random.default_rng(1).integers(0, peers, LOOKUPS, np.uint32)
    for bits in (32, 128):
        most = 2 * peers + 2
        nodes = ffi.new("struct trie_node[]", most)
        roots = ffi.new("uint32_t[]", 2)
        first = ffi.new("uint32_t[]", peers)
        ips = ffi.new("struct allowedips *")
        lib.allowedips_open(ips, nodes, most, roots, roots + 1)
        texts = np.zeros((peers, bits // 8), np.uint8)
        texts[:, 0] = 100 if bits == 32 else 0xFD
        for byte in range(3):
            texts[:, -1 - byte] = np.arange(peers) >> 8 * byte & 255
        where = ffi.cast("uint8_t *", texts.ctypes.data)
        for row in range(peers):
            lib.allowedips_insert(
                ips, where + row * (bits // 8), bits, bits, row, ffi.cast("uint8_t *", first), 4
            )
        for title, order in (("random", numbers), ("one busy peer", np.full(LOOKUPS, peers // 3, np.uint32))):
            asked = np.ascontiguousarray(texts[order])
            address = ffi.cast("uint8_t *", asked.ctypes.data)
            root = roots[0] if bits == 32 else roots[1]
            begun = time.process_time_ns()
            total = lib.bench_lookups(nodes, most, root, address, bits, LOOKUPS)
            answer[f"/{bits}, {title}"] = (time.process_time_ns() - begun) / LOOKUPS
            if total != int(order.sum(dtype=np.uint64)):
                raise SystemExit("a lookup found another peer than its own")
    return answer


# -- showing ------------------------------------------------------------------------------------

ROWS: tuple[tuple[str, str, str], ...] = (
    ("idle_bytes", "bytes an idle peer (PSS, all processes)", ",.0f"),
    ("configure_s", "configured by wg addconf, s", ".2f"),
    ("get_s", "get of all, s", ".2f"),
    ("get_megabytes", "  its text, MB", ".1f"),
    ("get_growth_mb", "  private memory that grew meanwhile, MB", ".1f"),
    ("bad_set_s", "a set with a bad last line, s until its answer", ".2f"),
    ("bad_set_refused", "  refused, and everything as it was", ""),
    ("idle_cpu_percent", "CPU while idle, % of a core", ".2f"),
    ("ping_p99_alone_ms", "ping p99, ms: tunnel alone", ".2f"),
    ("ping_p99_configuring_ms", "  while peers are configured", ".2f"),
    ("ping_p99_getting_ms", "  during the get", ".2f"),
    ("gbit_alone", "TCP of a busy peer, Gbit/s: alone", ".2f"),
    ("gbit_beside", "  beside all those peers", ".2f"),
)


def tables(
    found: Sequence[Found],
    by_part: dict[str, dict[str, float]],
    sessions_: dict[str, float],
    ns: dict[str, float],
) -> list[str]:
    """The figures lined up, line by line."""
    width = max(max(len(one.engine) for one in found), 12)
    lines = [f"{'':<50}" + "".join(f"  {one.engine:>{width}}" for one in found)]
    lines.append(f"{'peers':<50}" + "".join(f"  {one.peers:>{width},}" for one in found))
    for name, title, form in ROWS:
        cells = []
        for one in found:
            value = getattr(one, name)
            text = "-" if value is None else ("yes" if value else "NO") if form == "" else format(value, form)
            cells.append(f"  {text:>{width}}")
        lines.append(f"{title:<50}" + "".join(cells))
    for one in found:
        if one.longest_turn_ms:
            lines += ["", f"CPU that control's longest turn took, ms: {one.engine}"]
            lines += [f"  {name:<48}{value:>10,.1f}" for name, value in one.longest_turn_ms.items()]
    for title, rows in (("an idle peer", by_part["idle"]), ("a session more", by_part["session"])):
        lines += ["", f"Bytes by the layout: {title}"]
        lines += [f"  {name:<48}{value:>10,.1f}" for name, value in rows.items()]
    lines += ["", "Bytes that a session adds, measured (PSS)"]
    lines += [f"  {name:<48}{value:>10,.1f}" for name, value in sessions_.items()]
    lines += ["", "ns a lookup of an allowed IP"]
    lines += [f"  {name:<48}{value:>10,.1f}" for name, value in ns.items()]
    return lines


if __name__ == "__main__":
    _measure: dict[str, Callable[[int], dict[str, float]]] = {"sessions": sessions, "lookups": lookups}
    print(json.dumps(_measure[sys.argv[1]](int(sys.argv[2]))))
