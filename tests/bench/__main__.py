"""Benches that maintainers run: `python -m tests.bench --help`. `plait bench` has those for everybody."""

from __future__ import annotations

import click

from plait.command import Plait

LATER = {
    "changes": "tests.bench.changes:changes",
    "dead-peers": "tests.bench.dead_peers:dead_peers",
    "first-ping": "tests.bench.first_ping:first_ping",
    "knocks": "tests.bench.knocks:knocks",
    "lines": "tests.bench.lines:lines",
    "merged-load": "tests.bench.merged_load:merged_load",
    "profile": "tests.bench.profile:profile",
    "python-api": "tests.bench.python_api:python_api",
    "queue": "tests.bench.queue:queue",
    "rootless": "tests.bench.rootless:rootless",
    "sync": "tests.bench.sync:sync",
    "unknown-peers": "tests.bench.unknown_peers:unknown_peers",
}


@click.group(cls=Plait, later=LATER)
def bench() -> None:
    """Measure parts of the engine, on this machine, with nothing else running."""


if __name__ == "__main__":
    bench(prog_name="python -m tests.bench")
