"""One bucket of NATS JetStream over one connection, and what may go wrong with it, in three parts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nats import errors
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from plait.failure import Failure
from plait.sync.store import PATIENCE

if TYPE_CHECKING:
    from nats.aio.client import Client


class Bucket:
    """Of peers, or of gateways. made: options of `nats kv add`. rights: the file that has those it takes."""

    def __init__(
        self, shown: str, bucket: str, client: Client, said: list[str], made: str, rights: str
    ) -> None:
        self._shown = shown
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._client = client
        self._said = said  # the last complaint that belongs to no call, as that of a right that lacks
        self._made = made
        self._rights = rights
        self._streams = client.jetstream(timeout=PATIENCE / 3)

    async def _look(self) -> dict[str, Any]:
        """What the server tells of the stream of this bucket."""
        with self._explained():
            asked = f"$JS.API.STREAM.INFO.{self._stream}"
            told: dict[str, Any] = json.loads(
                (await self._client.request(asked, b"", timeout=PATIENCE / 3)).data
            )
            if code := told.get("error", {}).get("code"):
                raise NotFoundError() if code == 404 else APIError(code, told["error"].get("description"))
        return told

    @asynccontextmanager
    async def _consumer(self, keys: str, **policy: Any) -> AsyncIterator[Any]:
        """One that is asked for messages of these keys."""
        config = api.ConsumerConfig(
            ack_policy=api.AckPolicy.NONE, mem_storage=True, inactive_threshold=60.0, num_replicas=1, **policy
        )
        with self._explained():
            subject = self._prefix + keys
            consumer = await self._streams.pull_subscribe(subject, stream=self._stream, config=config)
        try:
            yield consumer
        finally:
            with suppress(errors.Error, OSError, TimeoutError):
                await consumer.unsubscribe()

    def _make(self, what: str) -> str:
        return f"Make {what}: nats kv add {self._stream.removeprefix('KV_')} {self._made}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of nats-py into a Failure."""
        what = f"{self._shown} cannot be read"
        try:
            yield
        except NotFoundError as failed:
            raise Failure(what, "there is no such bucket", self._make("it")) from failed
        except (TimeoutError, errors.NoRespondersError) as failed:
            if self._said:
                step = f"Give its user what a gateway needs: {self._rights}"
                raise Failure(what, plain(self._said.pop()), step) from failed
            why = f"no answer came within {PATIENCE / 3:.0f} s"
            raise Failure(what, why, "Is JetStream switched on there, and has it a leader?") from failed
        except (errors.Error, OSError) as failed:
            why = plain(str(failed) or type(failed).__name__)
            raise Failure(what, why, "See the log of NATS.") from failed


def plain(text: str) -> str:
    """A complaint of the library or the server, in one line."""
    return " ".join(text.removeprefix("nats: ").strip("'\"").split())
