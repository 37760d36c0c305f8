"""What it takes to give an engine the peers of a database: `python -m tests.bench sync`.

    host initiator -- tunnel -- host responder: plaitd, PostgreSQL with N rows, `plait sync --once` by turns

Times are those of the whole command, the start of Python included; memory is the greatest resident set of
its process. A peer that no row is about pings through its tunnel: at rest, and while all rows come
the first time. Nothing of the database is on a disk that is waited for (fsync is off).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from plait.failure import Failure
from plait.keys import encode

if TYPE_CHECKING:
    from plait.lab.namespaces import Host
    from tests.support.database import Database
    from tests.support.tunnel import Side

REST = 3.0  # seconds of pings before
PING_EVERY = 0.02  # seconds

# Runs a program, and prints its seconds and its greatest resident set in KiB.
MEASURED = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL, check=True)
print(json.dumps([time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""
CHANGES = """
update plait.peer set keepalive = keepalive + 1
where public_key in (select public_key from plait.peer limit %s)"""


@dataclass
class Found:
    """Seconds, and MiB of the sync's process."""

    peers: int
    load_seconds: float  # the rows into the table, triggers included
    all_seconds: float  # all rows, into an engine without peers
    all_mib: float
    rest_ms: float  # 99 of 100 pings took less, before
    meanwhile_ms: float
    lost: int  # pings, meanwhile
    again_seconds: float  # all rows once more, of which none changed
    again_mib: float
    changes: int
    changes_seconds: float  # these alone, from the position


def measure(peers: int, changes: int) -> Found:
    """One run of each, in hosts of its own. Needs root and PostgreSQL."""
    from plait.lab.namespaces import PLAIT, Lab
    from tests.support.database import Database
    from tests.support.tunnel import two_hosts

    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT)
        peer, gateway = tunnel.sides
        database = Database(gateway.host)
        try:
            begun = time.monotonic()
            fill(database, peers)
            loaded = time.monotonic() - begun
            rest, _ = pinged(peer, gateway, lambda: time.sleep(REST))
            every: list[float] = []
            meanwhile, lost = pinged(peer, gateway, lambda: every.extend(synced(gateway.host, database)))
            again = synced(gateway.host, database, "--fresh")
            database.run(CHANGES, changes)
            some = synced(gateway.host, database)
            assert gateway.report()["peers"] == peers + 1
        finally:
            database.close()
    return Found(peers, loaded, *every, rest, meanwhile, lost, *again, changes, some[0])


def pinged(peer: Side, gateway: Side, work: Callable[[], object]) -> tuple[float, int]:
    """What 99 of 100 pings took no longer than while something was done, in ms; how many were lost."""
    process = peer.host.popen(["ping", "-n", "-i", str(PING_EVERY), gateway.address4])
    work()
    process.signal(signal.SIGINT)
    process.wait()
    said = process.output()
    times = sorted(float(time) for time in re.findall(r" time=([0-9.]+) ms", said))
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    if not times or counts is None:
        raise Failure("no ping was answered", said.strip()[-300:], "Try `plait demo`")
    # The last one was under way when ping(8) was ended.
    lost = max(0, int(counts[1]) - int(counts[2]) - 1)
    return times[len(times) * 99 // 100], lost


def fill(database: Database, peers: int) -> None:
    """Rows with a key and an address each."""
    with (
        database.connect() as connection,
        connection.cursor() as cursor,
        cursor.copy("copy plait.peer (public_key, allowed_ips) from stdin") as copy,
    ):
        for number in range(peers):
            address = f"100.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
            copy.write_row((encode(os.urandom(32)), [f"{address}/32"]))


def synced(host: Host, database: Database, *options: str) -> tuple[float, float]:
    """Seconds and MiB of one run."""
    command = [sys.executable, "-m", "plait", "sync", "wg0", database.local_url(), "--once", *options]
    seconds, kib = json.loads(host.run([sys.executable, "-c", MEASURED, *command], timeout=3600).stdout)
    return seconds, kib / 1024


@click.command()
@click.option("--peers", type=click.IntRange(1, 1 << 20), default=100_000, show_default=True)
@click.option("--changes", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def sync(peers: int, changes: int, as_json: bool) -> None:
    """What `plait sync` takes for all peers of a PostgreSQL table, for none, and for some changes."""
    found = measure(peers, min(changes, peers))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    click.echo(f"{found.peers:,} rows into the table   {found.load_seconds:8.2f} s")
    click.echo(f"all of them, first time    {found.all_seconds:8.2f} s {found.all_mib:7.1f} MiB")
    pings = f"{found.rest_ms:.2f} ms at rest, {found.meanwhile_ms:.2f} ms meanwhile ({found.lost} lost)"
    click.echo(f"99 % of pings within       {pings}")
    click.echo(f"all of them once more      {found.again_seconds:8.2f} s {found.again_mib:7.1f} MiB")
    click.echo(f"{found.changes:,} changes            {found.changes_seconds:8.2f} s")
