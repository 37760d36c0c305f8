"""Peers in a key-value bucket of NATS JetStream, read by nats-py.

A bucket is a stream that keeps the last message of each key, deletions among them. So everything behind a
sequence number is what changed since, each key once, however long ago that was.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import nats
from nats import errors
from nats.js import api
from nats.js.errors import NotFoundError

from plait.failure import Failure
from plait.sync.jetstream_bucket import Bucket, plain
from plait.sync.jetstream_gateways import SUFFIX, JetStreamGateways
from plait.sync.store import (
    BATCH,
    GATHER,
    PATIENCE,
    POLL,
    Batch,
    Row,
    another,
    from_the_future,
    secret_in_url,
)

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

BUCKET: Final = "plait"
FIELDS: Final = ("allowed_ips", "preshared_key", "endpoint", "keepalive")
CREDENTIALS: Final = "Give NATS_CREDS or NATS_NKEY, files, or NATS_USER and NATS_PASSWORD in the environment."
SHOWN: Final = {
    "NATS_CREDS": "user_credentials", "NATS_NKEY": "nkeys_seed", "NATS_USER": "user",
    "NATS_PASSWORD": "password", "NATS_TOKEN": "token",
}  # fmt: skip
TO_KEY: Final = str.maketrans("-_", "+/")  # a bucket's keys have no +
TO_NAME: Final = str.maketrans("+/", "-_")


class JetStream:
    """A bucket by its URL, nats://HOST/BUCKET; further hosts behind commas."""

    is_exclusive = False

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        scheme, _, rest = url.partition("://")
        hosts, _, bucket = rest.partition("/")
        if "@" in hosts:
            raise secret_in_url("user or a token", CREDENTIALS)
        self._bucket = unquote(bucket) or BUCKET
        try:
            for host in hosts.split(","):
                if not urlsplit(f"//{host}").hostname or (urlsplit(f"//{host}").port or 4222) > 65535:
                    raise ValueError
            if not re.fullmatch(r"[A-Za-z0-9_-]+", self._bucket):
                raise ValueError
        except ValueError:
            step = "Write nats://HOST/BUCKET, or nats://HOST:PORT,HOST:PORT/BUCKET."
            why = "its address has no hosts, or no name of a bucket"
            raise Failure("the store is not understood", why, step) from None
        self._servers = [f"{scheme}://{host}" for host in hosts.split(",")]
        self._options = _credentials(environment)
        self._hosts = hosts
        self.shown = f"the bucket {self._bucket} on {hosts}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[JetStreamFeed]:
        """As Store.open."""
        async with self._connected() as (client, said):
            feed = JetStreamFeed(self.shown, self._bucket, client, said)
            await feed.position()
            yield feed

    @asynccontextmanager
    async def gateways(self) -> AsyncIterator[JetStreamGateways]:
        """As Store.gateways."""
        bucket = self._bucket + SUFFIX
        async with self._connected() as (client, said):
            shown = f"the bucket {bucket} on {self._hosts}"
            async with JetStreamGateways(shown, bucket, client, said).opened() as gateways:
                yield gateways

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Client, list[str]]]:
        """A client, and its latest complaint."""
        said: list[str] = []

        async def hear(failed: Exception) -> None:
            said[:] = [getattr(failed, "strerror", None) or str(failed)]

        try:
            async with asyncio.timeout(PATIENCE):
                client = await nats.connect(
                    servers=self._servers, name="plait sync", allow_reconnect=False, connect_timeout=10,
                    max_reconnect_attempts=1, reconnect_time_wait=0, ping_interval=5, max_outstanding_pings=2,
                    error_cb=hear, **self._options,
                )  # fmt: skip
        except (errors.Error, OSError, ValueError, TimeoutError) as failed:
            why = said[-1] if said else getattr(failed, "strerror", None) or str(failed) or "no answer came"
            is_refused = "uthoriz" in why or "uthenti" in why
            step = "Is it running, and is the way to it open?"
            if is_refused:
                step = f"Mend its user. {CREDENTIALS}"
            raise Failure(f"{self.shown} cannot be asked", plain(why), step) from failed
        try:
            yield client, said
        finally:
            with suppress(errors.Error, OSError, TimeoutError):
                await client.close()


def _credentials(environment: Mapping[str, str]) -> dict[str, Any]:
    """What nats-py is to show, by the names of the nats command line."""
    options: dict[str, Any] = {}
    for name, option in SHOWN.items():
        if environment.get(name):
            options[option] = environment[name]
    if environment.get("NATS_CA") or environment.get("NATS_CERT"):
        try:
            context = ssl.create_default_context(cafile=environment.get("NATS_CA") or None)
            if environment.get("NATS_CERT"):
                context.load_cert_chain(environment["NATS_CERT"], environment.get("NATS_KEY") or None)
        except OSError as error:  # of ssl, too
            why = error.strerror or str(error)
            step = "Name files in PEM in NATS_CA, NATS_CERT and NATS_KEY."
            raise Failure("the certificates cannot be used", why, step) from error
        options["tls"] = context
    return options


class JetStreamFeed(Bucket):
    """One connection."""

    identity = ""

    def __init__(self, shown: str, bucket: str, client: Client, said: list[str]) -> None:
        super().__init__(shown, bucket, client, said, "--history=1", "configs/sync/nats-gateway.conf")

    async def position(self) -> int:
        """The sequence number of the last message."""
        told = await self._look()
        config = told["config"]
        if config.get("max_msgs_per_subject") != 1 or config.get("max_age"):
            why = "it keeps more than the last value of each key, or forgets values"
            raise Failure(f"{self._shown} is no store of peers", why, self._make("one without a TTL"))
        self.identity = told["created"]
        return int(told["state"]["last_seq"])

    async def snapshot(self) -> AsyncGenerator[Batch]:
        """As Feed.snapshot: a key that changes meanwhile is among them, or among what follows."""
        greatest = await self.position()
        async with self._consumer(">", deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT) as consumer:
            with self._explained():
                pending = (await consumer.consumer_info()).num_pending or 0
            while pending:
                with self._explained():
                    found = await consumer.fetch(min(BATCH, pending), timeout=PATIENCE)
                pending = found[-1].metadata.num_pending
                rows = [row for row in map(self._row, found) if not row.is_gone]
                yield Batch(_last_of_each(rows), greatest, False)
        yield Batch((), greatest, True)

    async def follow(self, position: int) -> AsyncGenerator[Batch]:
        """As Feed.follow. The bucket keeps the deletions, so it is never too late."""
        identity, greatest = self.identity, await self.position()
        if self.identity != identity:
            raise another(self._shown)
        if position > greatest:
            raise from_the_future(self._shown, position, greatest)
        start = api.DeliverPolicy.BY_START_SEQUENCE
        async with self._consumer(">", deliver_policy=start, opt_start_seq=position + 1) as consumer:
            expected = 1
            while True:
                found = await self._gathered(consumer)
                for message in found:
                    if message.metadata.sequence.consumer != expected:
                        why = "messages were lost on the way"
                        raise Failure(f"{self._shown} is read once more", why, "Nothing has to be done.")
                    expected += 1
                if found:
                    position = found[-1].metadata.sequence.stream
                    is_last = found[-1].metadata.num_pending == 0
                    yield Batch(_last_of_each(map(self._row, found)), position, is_last)
                else:
                    await self._check_alive()
                    yield Batch((), position, True)

    async def rows(self, public_keys: Sequence[str]) -> list[Row]:
        """As Feed.rows."""
        found = []
        for key in public_keys:
            with self._explained():
                try:
                    subject = self._prefix + key.translate(TO_NAME)
                    told = await self._streams.get_last_msg(self._stream, subject, direct=True)
                except NotFoundError:
                    continue
            headers = told.headers or {}
            row = self._row_of(key, told.data or b"", headers)
            if not row.is_gone:
                found.append(row)
        return found

    async def _gathered(self, consumer: Any) -> list[Msg]:
        """The next messages, none after POLL seconds without one."""
        with self._explained():
            try:
                found: list[Msg] = await consumer.fetch(1, timeout=POLL)
            except TimeoutError:
                return []
            with suppress(TimeoutError):
                found += await consumer.fetch(BATCH - 1, timeout=GATHER)
            return found

    async def _check_alive(self) -> None:
        """A connection that broke does not fail a fetch by itself."""
        with self._explained():
            await self._client.flush(timeout=10)

    def _row(self, message: Msg) -> Row:
        key = message.subject.removeprefix(self._prefix).translate(TO_KEY)
        return self._row_of(key, message.data, message.headers or {})

    def _row_of(self, key: str, value: bytes, headers: Mapping[str, str]) -> Row:
        if headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers:
            return Row(key, is_gone=True)
        try:
            told = json.loads(value)
            if not isinstance(told, dict):
                raise ValueError
        except ValueError:
            return Row(key, wrong="its value is no JSON object")
        if unknown := next((name for name in told if name not in FIELDS), None):
            return Row(key, wrong=f"its value has {unknown[:40]!r}; {', '.join(FIELDS)} are known")
        return Row(key, False, told.get("allowed_ips", ()), told.get("preshared_key"), told.get("endpoint"),
                   told.get("keepalive"))  # fmt: skip


def _last_of_each(rows: Iterator[Row] | Sequence[Row]) -> list[Row]:
    """One row a key, in the order of their last changes."""
    found: dict[str, Row] = {}
    for row in rows:
        found.pop(row.public_key, None)
        found[row.public_key] = row
    return list(found.values())
