"""What `plait sync` does with its options."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from plait import extras
from plait.failure import Failure
from plait.peers.provider import say_what_is_logged
from plait.sync import difference, state
from plait.sync.follower import Follower, say
from plait.sync.knock import Knock
from plait.sync.on_demand import OnDemand
from plait.sync.progress import Knocks
from plait.sync.store import Store
from plait.sync.together import together
from workers.supervisor.notify import ServiceManager


def run(
    interface: str, url: str, *, once: bool, dry_run: bool, as_json: bool, on_demand: bool, fresh: bool,
    only: bool, knock: bool, directory: str, listen: str | None, window: int, ttl: int,
) -> None:  # fmt: skip
    """Follow until SIGINT or SIGTERM."""
    _check(once=once, dry_run=dry_run, as_json=as_json, on_demand=on_demand, only=only, knock=knock)
    store = store_of(url)
    if dry_run:
        difference.run(interface, store, directory, only=only, as_json=as_json)
        return
    remembered = state.State(state.path_of(directory, interface))
    if on_demand:
        say_what_is_logged()
        follower: Follower = OnDemand(interface, store, remembered, window, ttl)
    else:
        follower = Follower(interface, store, remembered, only=only)
    if knock:
        follower.progress.knocks = Knocks()
    if listen is not None:
        extras.require("prometheus_client", "cannot serve metrics")
        from plait.sync import metrics

        say(f"metrics at {metrics.serve(listen, follower.progress)}")
    works = [follower.run(once=once, fresh=fresh)]
    if follower.progress.knocks is not None:
        works.append(Knock(interface, store, follower.progress.knocks, say).run())
    asyncio.run(_run(follower, works))
    told = follower.progress
    if once:
        say(f"{interface}: position {told.position}, {told.applied} applied, {told.refused} refused")
    if once and told.refused:
        why = f"{told.refused} of its rows are refused, as said above"
        raise Failure(f"{interface} has not all of the store", why, "Mend these rows.")


def store_of(url: str) -> Store:
    """The store that a URL names. Failure when it names none, or has a password in it."""
    match url.partition("://")[:2]:
        case ["postgres" | "postgresql", "://"]:
            extras.require("psycopg", "PostgreSQL cannot be asked")
            from plait.sync.postgres import Postgres

            return Postgres(url)
        case ["nats" | "tls", "://"]:
            extras.require("nats", "NATS cannot be asked")
            from plait.sync.jetstream import JetStream

            return JetStream(url)
    why = "its address begins with neither postgres:// nor nats://"
    step = "Write postgres://USER@HOST/DATABASE, or nats://HOST/BUCKET."
    raise Failure("the store is not understood", why, step)


def _check(
    *, once: bool, dry_run: bool, as_json: bool, on_demand: bool, only: bool, knock: bool
) -> None:
    """Failure when options do not go together."""
    if on_demand and (once or dry_run or only):
        why = "peers on demand come when they come: there is nothing to do once, to print, or to remove"
        raise Failure("the options do not go together", why, "Leave out --once, --dry-run and --only.")
    if knock and (once or dry_run):
        why = "a gateway beats for as long as it follows the store"
        raise Failure("the options do not go together", why, "Leave out --once and --dry-run, or --knock.")
    if as_json and not dry_run:
        why = "--json is the form in which --dry-run prints"
        raise Failure("the options do not go together", why, "Add --dry-run, or leave out --json.")


async def _run(follower: Follower, works: Sequence[Coroutine[Any, Any, None]]) -> None:
    following = asyncio.create_task(together(*works))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, following.cancel)
    ready = asyncio.create_task(_tell_ready(follower))
    with suppress(asyncio.CancelledError):
        await following
    ready.cancel()


async def _tell_ready(follower: Follower) -> None:
    """The service manager waits for all that the store has to be in force."""
    manager = ServiceManager(os.environ)
    await follower.in_force.wait()
    told = follower.progress
    say(f"{follower.interface}: follows {follower.store.shown} from position {told.position}")
    manager.ready(f"follows {follower.store.shown}", time.monotonic())
