"""A NATS server in a host of a lab, with the buckets that `plait sync` uses; gone with the host.

The account's owner may do everything; `gateway` has the rights of configs/sync/nats-gateway.conf, `knocker`
those of nats-gateway-knock.conf. The library nats-py is needed from `prepare` on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from plait.failure import Failure
from plait.lab.examples import example
from plait.lab.namespaces import Host, Process

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.kv import KeyValue

BUCKET: Final = "plait"
BEATS: Final = "plait_gateways"
KEPT: Final = 200  # seconds, of beats: what plait/sync asks for; the lab stands below it
PASSWORD: Final = "not-for-lists"
PATIENCE: Final = 60.0
AT_ONCE: Final = 100  # writes
CONFIGURATION: Final = """
listen: "{listen}:4222"
jetstream {{ store_dir: "{place}/streams" }}
accounts {{ VPN {{ jetstream: enabled, users: [
  {{ user: owner, password: owner }}
  {{ user: gateway, password: "{password}", permissions: {{ include "rights.conf" }} }}
  {{ user: knocker, password: "{password}", permissions: {{ include "knock.conf" }} }}
] }} }}
"""


class NatsServer:
    """A server with a bucket of peers, and one of beats. Its files stand in the host's own /run, and go with
    the host."""

    place = Path("/run/nats-lab")

    def __init__(self, host: Host, listen: str) -> None:
        """listen: its address."""
        self.host = host
        inside = host.root / str(self.place).lstrip("/")
        inside.mkdir()
        (inside / "rights.conf").write_text(example("sync/nats-gateway.conf"))
        (inside / "knock.conf").write_text(example("sync/nats-gateway-knock.conf"))
        text = CONFIGURATION.format(listen=listen, place=self.place, password=PASSWORD)
        (inside / "server.conf").write_text(text)
        self.process: Process | None = None
        self._listen = listen
        # The client lives where the server is: in a thread, as a network namespace belongs to one.
        self._thread = host.thread()
        self._runner = asyncio.Runner()

    @property
    def url(self) -> str:
        """For `plait sync` in another host."""
        return f"nats://{self._listen}/{BUCKET}"

    @staticmethod
    def credentials(host: Host, user: str = "gateway") -> dict[str, str]:
        """The environment of `plait sync` in a host."""
        return {"NATS_USER": user, "NATS_PASSWORD": PASSWORD}

    def start(self) -> Process:
        """Begin."""
        self.process = self.host.popen(["nats-server", "-c", str(self.place / "server.conf")])
        return self.process

    def prepare(self) -> None:
        """Behind it, the server takes connections and has the buckets, empty."""
        process, until = self.start(), time.monotonic() + PATIENCE
        while "Server is ready" not in process.output():
            if process.poll() is not None or time.monotonic() > until:
                why = process.output().strip()[-500:] or "it said nothing"
                raise Failure("NATS does not start", why, "See what it says")
            time.sleep(0.02)
        self._streams = self._thread.submit(self._runner.run, self._connected()).result()
        self._bucket, self._beats = self.make(BUCKET), self.make(BEATS, KEPT)

    async def _connected(self) -> JetStreamContext:
        import nats

        async def ignore(error: Exception) -> None:
            """Whoever waits is told by an exception."""

        client = await nats.connect(
            f"nats://{self._listen}:4222", user="owner", password="owner", allow_reconnect=False,
            error_cb=ignore,
        )  # fmt: skip
        return client.jetstream()

    def make(self, bucket: str, ttl: int = 0) -> KeyValue:
        """One more bucket, in memory where it forgets."""
        from nats.js.api import StorageType

        storage = StorageType.MEMORY if ttl else StorageType.FILE
        made = self._streams.create_key_value(
            bucket=bucket, history=1, direct=True, ttl=ttl or None, storage=storage
        )
        return self._thread.submit(self._runner.run, made).result()

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Peers: a public key, and the one prefix of each."""
        self.put((key, {"allowed_ips": [prefix]}) for key, prefix in rows)

    def put(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Peers, new or changed: a public key, and the rest of its row."""
        self._written([partial(self._bucket.put, _name(key), json.dumps(row).encode()) for key, row in rows])

    def remove(self, keys: Iterable[str]) -> None:
        """Peers go."""
        self._written([partial(self._bucket.delete, _name(key)) for key in keys])

    def _written(self, works: list[Callable[[], Coroutine[Any, Any, object]]]) -> None:
        from nats.errors import Error

        try:
            self._thread.submit(self._runner.run, self._all(works)).result()
        except (Error, OSError) as error:
            why = str(error).removeprefix("nats: ") or type(error).__name__
            raise Failure("peers cannot be written to NATS", why, "Is it running?") from error

    async def _all(self, works: list[Callable[[], Coroutine[Any, Any, object]]]) -> None:
        for first in range(0, len(works), AT_ONCE):
            await asyncio.gather(*(work() for work in works[first : first + AT_ONCE]))

    def beats(self) -> list[str]:
        """Keys of the bucket of beats: beat.N, and session.N.M."""
        return self._thread.submit(self._runner.run, self._keys()).result()

    async def _keys(self) -> list[str]:
        from nats.js.errors import NoKeysError

        try:
            return await self._beats.keys()
        except NoKeysError:
            return []

    def forget(self, key: str) -> None:
        """A beat's TTL is over."""
        purge = self._streams.purge_stream(f"KV_{BEATS}", subject=f"$KV.{BEATS}.{key}")
        self._thread.submit(self._runner.run, purge).result()

    def close(self) -> None:
        """The client ends; the server goes with the host."""
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


def _name(public_key: str) -> str:
    """Of a peer's entry, as docs/fleet.md has it."""
    return public_key.translate(str.maketrans("+/", "-_"))
