"""Peers in PostgreSQL: the tables of configs/sync/postgresql.sql, read by psycopg 3.

`rev` grows with every change in the order in which changes become visible: the triggers have writers wait
for each other. So `rev > position order by rev` misses nothing, and a notification is a bell only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from plait.failure import Failure
from plait.sync.store import (
    BATCH,
    GATHER,
    KEPT,
    PATIENCE,
    PIECE,
    POLL,
    Batch,
    Gateway,
    Row,
    TooOld,
    another,
    from_the_future,
    secret_in_url,
)

# A store that is away is noticed within so many seconds; what the URL says of these wins.
NOTICED: Final[dict[str, Any]] = {
    "application_name": "plait sync", "connect_timeout": 10, "keepalives_idle": 5, "keepalives_interval": 2,
    "keepalives_count": 3, "tcp_user_timeout": 10_000,
}  # fmt: skip
LAYOUT: Final = 1
SECRET: Final = re.compile(r"//[^/?#]*:[^/?#]*@|[?&](password|sslpassword|oauth_client_secret)=")

HEAD: Final = """
select layout, id::text, pruned,
    greatest((select max(rev) from plait.peer), (select max(rev) from plait.gone), pruned)
from plait.store"""
COLUMNS: Final = "public_key, allowed_ips::text[], preshared_key, endpoint, keepalive"
ALL: Final = f"select {COLUMNS} from plait.peer"
CHANGES: Final = f"""
select {COLUMNS}, rev, false from plait.peer where rev > %(position)s
union all select public_key, null, null, null, null, rev, true from plait.gone where rev > %(position)s
order by rev limit {BATCH}"""
LOOKUP: Final = f"{ALL} where public_key = any(%s)"

BEAT: Final = "select number, instance, silent from plait.beat(%s::smallint, %s, %s)"
ADDED: Final = f"""
select at, sessions from (
    select at, sessions, sum(length(sessions)) over (order by at) - length(sessions) as before
    from plait.session
    where gateway = %s and at > clock_timestamp() - interval '{KEPT:.0f} seconds'
        and at > %s::timestamptz) as later
where before < {PIECE} order by at"""

PLACES: Final = "Make them: psql -f configs/sync/postgresql-knock.sql. docs/fleet.md has more."
SCHEMA: Final = "Make them: psql -f configs/sync/postgresql.sql. docs/fleet.md has their layout."
CREDENTIALS: Final = "Give its password in a file that PGPASSFILE names, or sslcert in the URL."


class Postgres:
    """A database by its URL, as libpq takes it."""

    is_exclusive = True

    def __init__(self, url: str) -> None:
        if SECRET.search(url):  # first, since errors quote what is wrong
            raise secret_in_url("password", CREDENTIALS)
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error as failed:
            step = "Write postgres://USER@HOST/DATABASE?sslmode=verify-full, as psql takes it."
            raise Failure("the store is not understood", _words(failed), step) from None
        self._conninfo = make_conninfo(make_conninfo(**NOTICED), **{name: str(given[name]) for name in given})
        host = given.get("host") or given.get("hostaddr") or "this host"
        self.shown = f"the database {given.get('dbname') or given.get('user') or 'of this user'} on {host}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresFeed]:
        """As Store.open."""
        async with self._connected() as connection:
            with _explained(self.shown):
                feed = PostgresFeed(self.shown, connection)
                await feed.look()
                yield feed

    @asynccontextmanager
    async def gateways(self) -> AsyncIterator[PostgresGateways]:
        """As Store.gateways."""
        async with self._connected() as connection:
            yield PostgresGateways(self.shown, connection)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        except psycopg.Error as failed:
            raise self._unreachable(failed) from failed
        try:
            yield connection
        finally:
            await connection.close()

    def _unreachable(self, failed: psycopg.Error) -> Failure:
        why = _words(failed)
        # The server's own words begin with its severity; the library's do not.
        is_refused = "FATAL:" in why
        step = "Is it running, and is the way to it open?"
        if is_refused:
            step = f"Mend its user or its rights. {CREDENTIALS}"
        return Failure(f"{self.shown} cannot be asked", why.partition("FATAL:")[2].strip() or why, step)


class _explained:
    """Turns errors of psycopg into a Failure. tables: which; make: how to; role: who may read."""

    def __init__(
        self, shown: str, tables: str = "peers", make: str = SCHEMA, role: str = "plait_reader"
    ) -> None:
        self._shown = shown
        self._tables, self._make, self._role = tables, make, role

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, failed: BaseException | None, trace: object) -> None:
        what = f"{self._shown} cannot be read"
        match failed:
            case (errors.UndefinedTable() | errors.UndefinedColumn() | errors.InvalidSchemaName()
                  | errors.UndefinedFunction()):  # fmt: skip
                why = f"it lacks the tables of {self._tables} ({_words(failed)})"
                raise Failure(what, why, self._make) from failed
            case errors.InsufficientPrivilege():
                step = f"Let the owner of the tables give it: grant {self._role} to USER"
                raise Failure(what, f"this user may not read ({_words(failed)})", step) from failed
            case TimeoutError():
                why = f"no answer came within {PATIENCE:.0f} s"
                raise Failure(what, why, "Is it overloaded, or locked? See pg_stat_activity.") from failed
            case psycopg.Error():
                raise Failure(what, _words(failed), "See the log of the database.") from failed


class PostgresFeed:
    """One connection."""

    identity = ""

    def __init__(self, shown: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self._shown = shown
        self._connection = connection
        self._pruned = self._greatest = 0

    async def look(self) -> None:
        """Learn which store it is, and how far it is. Failure when its layout is another one."""
        found = await self._fetch(HEAD)
        if len(found) != 1 or found[0][0] != LAYOUT:
            why = f"its plait.store has not the one row of layout {LAYOUT}"
            raise Failure(f"{self._shown} cannot be read", why, SCHEMA)
        _, self.identity, self._pruned, self._greatest = found[0]

    async def position(self) -> int:
        await self.look()
        return self._greatest

    async def snapshot(self) -> AsyncGenerator[Batch]:
        connection = self._connection
        async with connection.transaction():
            await connection.execute("set transaction isolation level repeatable read, read only")
            await self.look()
            async with connection.cursor("plait_snapshot") as cursor:
                await cursor.execute(ALL)
                while found := await self._fetch_many(cursor):
                    yield Batch([Row(each[0], False, *each[1:]) for each in found], self._greatest, False)
            yield Batch((), self._greatest, True)

    @staticmethod
    async def _fetch_many(cursor: psycopg.AsyncServerCursor[Any]) -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            return await cursor.fetchmany(BATCH)

    async def follow(self, position: int) -> AsyncGenerator[Batch]:
        await self._connection.execute("listen plait_peer")
        while True:
            found = await self._fetch(CHANGES, {"position": position})
            identity = self.identity
            await self.look()  # behind the changes: what they missed would have been pruned by now
            if self.identity != identity:
                raise another(self._shown)
            if position > self._greatest:
                raise from_the_future(self._shown, position, self._greatest)
            if position < self._pruned:
                raise TooOld
            if found:
                position = found[-1][-2]
            rows = [Row(key, gone, *rest) for key, *rest, _, gone in found]
            yield Batch(rows, position, len(found) < BATCH)
            if len(found) < BATCH:
                bells = [bell async for bell in self._connection.notifies(timeout=POLL, stop_after=1)]
                if bells:  # once for all of them: each stands for a change, and more come meanwhile
                    await asyncio.sleep(GATHER)

    async def rows(self, public_keys: Sequence[str]) -> list[Row]:
        with _explained(self._shown):
            found = await self._fetch(LOOKUP, (list(public_keys),))
        return [Row(each[0], False, *each[1:]) for each in found]

    async def _fetch(self, query: str, values: Any = None) -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            cursor = await self._connection.execute(query, values)
            return await cursor.fetchall()


class PostgresGateways:
    """One connection for beats."""

    def __init__(self, shown: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self._shown = shown
        self._connection = connection

    async def beat(self, number: int, instance: str, added: bytes) -> list[Gateway]:
        """As Gateways.beat."""
        return [Gateway(*each) for each in await self._fetch(BEAT, (number, instance, added))]

    async def sessions(self, number: int) -> AsyncGenerator[bytes]:
        """As Gateways.sessions. No cursor: that would be a transaction, and hide our beats until its end."""
        latest: object = "-infinity"
        while found := await self._fetch(ADDED, (number, latest)):
            latest = found[-1][0]
            yield b"".join(bytes(each[1]) for each in found)

    async def _fetch(self, query: str, values: Any) -> list[Any]:
        with _explained(self._shown, "gateways", PLACES, "plait_gateway"):
            async with asyncio.timeout(PATIENCE):
                cursor = await self._connection.execute(query, values)
                return await cursor.fetchall()
        raise AssertionError("errors are raised")


def _words(failed: psycopg.Error) -> str:
    """What the library or the server says, in one line; neither tells passwords."""
    return " ".join((failed.diag.message_primary or str(failed)).split())
