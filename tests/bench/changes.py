"""How soon three gateways have what changed in their store: `python -m tests.bench changes`.

    host store   PostgreSQL or NATS, with N peers
      |  |  |
    hosts 1, 2, 3   plaitd, and `plait sync`

One peer after the other is changed, so many a second; a change is in force when the engine of a gateway tells
it. Each gateway is asked for its oldest change that it has not told yet, so a figure is never too good.
Then the third gateway has no sync while peers change and go, and gets one again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import click

from plait import uapi_client
from plait.bench.floods import EXIT_SHARE
from plait.failure import Failure
from plait.keys import encode

if TYPE_CHECKING:
    from plait.lab.namespaces import Engine, Host, Lab, Process
    from plait.lab.nats_server import NatsServer
    from plait.lab.postgresql import PostgreSQL

ADDRESS: Final = "10.255.0.1"  # of the store
GATEWAYS: Final = 3
LOOK_EVERY: Final = 0.005  # seconds
PATIENCE: Final = 600.0  # seconds until what is waited for is given up
ROW = tuple[str, list[str]]  # a public key, its allowed IPs


@dataclass
class Found:
    """Seconds."""

    store: str
    peers: int
    first: float  # from the start of the three syncs until the last of them has all peers
    changes: int
    rate: float  # changes a second, as written
    median: float  # until a change is in force at all three
    p99: float
    most: float
    changed: int  # while the third gateway had no sync
    removed: int
    right: float  # from the start of its sync until it tells what the others tell, the asking included


class Writer(Protocol):
    """Writes to a store."""

    url: str

    def environment(self, host: Host) -> dict[str, str]:
        """Of `plait sync` in a host."""

    def write(self, rows: Sequence[ROW], keepalive: int) -> None:
        """Add these peers, or change them."""

    def remove(self, keys: Sequence[str]) -> None: ...


class PostgreSQLWriter:
    def __init__(self, server: PostgreSQL) -> None:
        server.prepare()
        self.url, self.environment = server.url, server.credentials
        self._connection = server.connect()

    def write(self, rows: Sequence[ROW], keepalive: int) -> None:
        statement = (
            "insert into plait.peer (public_key, allowed_ips, keepalive) values (%s, %s::cidr[], %s) "
            "on conflict (public_key) do update set keepalive = excluded.keepalive"
        )
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(statement, [(key, ips, keepalive) for key, ips in rows])

    def remove(self, keys: Sequence[str]) -> None:
        self._connection.execute("delete from plait.peer where public_key = any(%s)", [list(keys)])


class NatsWriter:
    def __init__(self, server: NatsServer) -> None:
        server.prepare()
        self.url, self.environment = server.url, server.credentials
        self._server = server

    def write(self, rows: Sequence[ROW], keepalive: int) -> None:
        self._server.put((key, {"allowed_ips": ips, "keepalive": keepalive}) for key, ips in rows)

    def remove(self, keys: Sequence[str]) -> None:
        self._server.remove(keys)


@dataclass
class Gateway:
    host: Host
    engine: Engine
    sync: Process | None = None

    @property
    def socket(self) -> str:
        return str(self.engine.socket_path)

    def keepalive(self, key: str) -> int:
        """Of a peer; -1: there is no such peer."""
        with contextlib.suppress(uapi_client.Unknown):
            return uapi_client.get_peer(self.socket, key).keepalive
        return -1

    def peers(self) -> list[uapi_client.Peer]:
        """All of them, in the order of their keys."""
        return sorted(uapi_client.get(self.socket).peers, key=lambda peer: peer.public_key)


class Scene:
    """The store with its rows, and the gateways without a sync."""

    def __init__(self, lab: Lab, store: str, peers: int) -> None:
        from plait.lab.nats_server import NatsServer
        from plait.lab.postgresql import PostgreSQL

        host, *hosts = lab.add_hosts(["store", *(f"gateway {number + 1}" for number in range(GATEWAYS))])
        host.ip(f"address add {ADDRESS}/32 dev lo")
        private = encode(secrets.token_bytes(32))
        self.gateways = []
        for each in hosts:
            link = lab.link(each, host)
            each.ip(f"route add {ADDRESS} via {link.address(host)}")
            engine = each.engine("wg0", settings="receivers = 1\nconsumers = 1\n", wait=False)
            self.gateways.append(Gateway(each, engine))
        self._nats = NatsServer(host, ADDRESS) if store == "nats" else None
        self.writer: Writer = (
            NatsWriter(self._nats) if self._nats else PostgreSQLWriter(PostgreSQL(host, ADDRESS))
        )
        self.rows: list[ROW] = [
            (encode(os.urandom(32)), [f"100.{64 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32"])
            for n in range(peers)
        ]
        self.writer.write(self.rows, 0)
        for gateway in self.gateways:
            gateway.engine.wait_ready()
            gateway.engine.configure(private, [], [], 51820)

    def close(self) -> None:
        """The rest goes with the lab."""
        if self._nats:
            self._nats.close()

    def start_sync(self, gateway: Gateway) -> None:
        command = [sys.executable, "-m", "plait", "sync", "wg0", self.writer.url]
        gateway.sync = gateway.host.popen(command, environment=self.writer.environment(gateway.host))

    def check(self) -> None:
        """Failure when a sync has ended."""
        for gateway in self.gateways:
            if gateway.sync is not None and gateway.sync.poll() is not None:
                raise Failure("a sync ended", gateway.sync.output().strip()[-300:], "See what it says")

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Failure when it is not so within PATIENCE."""
        end = time.monotonic() + PATIENCE
        while not is_so():
            self.check()
            if time.monotonic() > end:
                raise Failure(
                    "the changes cannot be followed", f"not within {PATIENCE:.0f} s: {what}", "See above"
                )
            time.sleep(LOOK_EVERY)


def follow(scene: Scene, changes: int, rate: float) -> tuple[float, list[float]]:
    """Change peers one by one. The rate, and for each the seconds until all gateways had it."""
    rows = scene.rows[:changes]
    written: list[float] = []  # time.monotonic() before each was sent

    def write() -> None:
        begun = time.monotonic()
        for number, row in enumerate(rows):
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            written.append(time.monotonic())
            scene.writer.write([row], of(number))

    def of(number: int) -> int:
        return 1 + number % 60_000

    lags = [0.0] * changes
    told = [0] * GATEWAYS

    def look() -> bool:
        for place, gateway in enumerate(scene.gateways):
            while told[place] < len(written) and gateway.keepalive(rows[told[place]][0]) == of(told[place]):
                lags[told[place]] = max(lags[told[place]], time.monotonic() - written[told[place]])
                told[place] += 1
        return min(told) == changes

    writer = threading.Thread(target=write)
    writer.start()
    scene.until(look, "every change is in force at every gateway")
    writer.join()
    return (changes - 1) / (written[-1] - written[0]), lags


def measure(store: str, peers: int, changes: int, rate: float, changed: int, removed: int,
            report: Callable[[str], None]) -> Found:  # fmt: skip
    """One run in hosts of its own. Needs root and the store's server."""
    from plait.lab.namespaces import Lab

    report(f"{peers:,} peers into {store}")
    with Lab() as lab, contextlib.closing(Scene(lab, store, peers)) as scene:
        report("all of them to three gateways")
        begun = time.monotonic()
        for gateway in scene.gateways:
            scene.start_sync(gateway)
        scene.until(
            lambda: all(each.engine.report()["peers"] == peers for each in scene.gateways), "all peers"
        )
        first = time.monotonic() - begun
        report(f"{changes:,} changes, {rate:g} a second")
        actual, lags = follow(scene, changes, rate)
        report(f"the third gateway without its sync: {changed:,} peers change and {removed:,} go")
        right = return_of_the_third(scene, changed, removed)
    lags.sort()
    p99 = lags[min(len(lags) - 1, len(lags) * 99 // 100)]
    return Found(
        store, peers, first, changes, actual, statistics.median(lags), p99, lags[-1], changed, removed, right
    )


def return_of_the_third(scene: Scene, changed: int, removed: int) -> float:
    """Seconds until it is right again."""
    *others, third = scene.gateways
    assert third.sync is not None
    third.sync.signal(signal.SIGKILL)
    third.sync.wait()
    third.sync = None
    gone = [key for key, _ in scene.rows[-removed:]]
    rows = scene.rows[: len(scene.rows) - removed]
    scene.writer.write(rows[-changed:], 61_000)
    scene.writer.remove(gone)
    scene.until(
        lambda: all(each.engine.report()["peers"] == len(rows) for each in others), "the others have it"
    )
    scene.until(lambda: all(each.keepalive(rows[-1][0]) == 61_000 for each in others), "the others have it")
    wanted = others[0].peers()
    assert wanted == others[1].peers() and len(wanted) == len(rows)
    assert sum(peer.keepalive == 61_000 for peer in wanted) == changed
    begun = time.monotonic()
    scene.start_sync(third)
    scene.until(lambda: third.engine.report()["peers"] == len(rows), "the third gateway has as many peers")
    scene.until(lambda: third.peers() == wanted, "the third gateway tells what the others tell")
    return time.monotonic() - begun


def lines(found: Found) -> Iterator[str]:
    yield f"{found.peers:,} peers from {found.store} to three gateways   {found.first:8.2f} s"
    within = f"median {found.median:.3f} s, 99 % within {found.p99:.3f} s, all within {found.most:.3f} s"
    yield f"{found.changes:,} changes, {found.rate:.1f} a second, in force at all three: {within}"
    missed = f"{found.changed:,} changes and {found.removed:,} removals"
    yield f"a gateway that missed {missed} is right after {found.right:.2f} s"


@click.command(short_help="How soon three gateways have what changed in their store.")
@click.option("--store", type=click.Choice(["postgresql", "nats"]), default="postgresql", show_default=True)
@click.option("--peers", type=click.IntRange(3, 1 << 20), default=100_000, show_default=True)
@click.option("--changes", type=click.IntRange(2), default=3000, show_default=True, help="One by one.")
@click.option(
    "--rate", type=click.FloatRange(0.1), default=100.0, show_default=True, help="Changes a second."
)
@click.option("--at-most", type=float, default=None, help="Exit with 99 when 1 % of the changes take longer.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def changes(store: str, peers: int, changes: int, rate: float, at_most: float | None, as_json: bool) -> None:
    """Change peers in a store, and ask three gateways until each has every change. Needs root and the server.

    A tenth of the peers change, and a hundredth goes, while the third gateway has no sync.

    Example: python -m tests.bench changes --store nats --at-most 1
    """
    from plait.lab.namespaces import missing
    from plait.lab.postgresql import programs

    server = ["nats-server"] if store == "nats" else [] if programs() else ["initdb"]
    if lacks := missing("wg", *server):
        raise Failure(lacks[0].what, lacks[0].why, lacks[0].next_step)
    found = measure(
        store, peers, min(changes, peers), rate, max(1, peers // 10), max(1, peers // 100),
        lambda text: click.echo(f"changes: {text}", err=True),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        click.echo("\n".join(lines(found)))
    if at_most is not None and found.p99 > at_most:
        sys.exit(EXIT_SHARE)
