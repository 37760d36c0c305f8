"""A NATS server in a host of a lab, with the bucket of peers that `plait sync` follows; gone with the host.

The account's owner may do everything; `gateway` has the rights of configs/sync/nats-gateway.conf. The library
nats-py is needed from `prepare` on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from plait.failure import Failure
from plait.lab.examples import example
from plait.lab.namespaces import Host, Process

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

BUCKET: Final = "plait"
PASSWORD: Final = "not-for-lists"
PATIENCE: Final = 60.0
CONFIGURATION: Final = """
listen: "{listen}:4222"
jetstream {{ store_dir: "{place}/streams" }}
accounts {{ VPN {{ jetstream: enabled, users: [
  {{ user: owner, password: owner }}
  {{ user: gateway, password: "{password}", permissions: {{ include "rights.conf" }} }}
] }} }}
"""


class NatsServer:
    """A server with one bucket. Its files stand in the host's own /run, and go with the host."""

    place = Path("/run/nats-lab")

    def __init__(self, host: Host, listen: str) -> None:
        """listen: its address."""
        self.host = host
        inside = host.root / str(self.place).lstrip("/")
        inside.mkdir()
        (inside / "rights.conf").write_text(example("sync/nats-gateway.conf"))
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
    def credentials(host: Host) -> dict[str, str]:
        """The environment of `plait sync` in a host."""
        return {"NATS_USER": "gateway", "NATS_PASSWORD": PASSWORD}

    def start(self) -> Process:
        """Begin."""
        self.process = self.host.popen(["nats-server", "-c", str(self.place / "server.conf")])
        return self.process

    def prepare(self) -> None:
        """Behind it, the server takes connections and has the bucket, empty."""
        process, until = self.start(), time.monotonic() + PATIENCE
        while "Server is ready" not in process.output():
            if process.poll() is not None or time.monotonic() > until:
                why = process.output().strip()[-500:] or "it said nothing"
                raise Failure("NATS does not start", why, "See what it says")
            time.sleep(0.02)
        self._bucket = self._thread.submit(self._runner.run, self._made()).result()

    async def _made(self) -> KeyValue:
        import nats

        async def ignore(error: Exception) -> None:
            """Whoever waits is told by an exception."""

        client = await nats.connect(
            f"nats://{self._listen}:4222", user="owner", password="owner", allow_reconnect=False,
            error_cb=ignore,
        )  # fmt: skip
        return await client.jetstream().create_key_value(bucket=BUCKET, history=1, direct=True)

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Peers: a public key, and the one prefix of each."""
        from nats.errors import Error

        try:
            self._thread.submit(self._runner.run, self._put(list(rows))).result()
        except (Error, OSError) as error:
            why = str(error).removeprefix("nats: ") or type(error).__name__
            raise Failure("peers cannot be written to NATS", why, "Is it running?") from error

    async def _put(self, rows: Iterable[tuple[str, str]]) -> None:
        for key, prefix in rows:
            value = json.dumps({"allowed_ips": [prefix]}).encode()
            await self._bucket.put(key.translate(str.maketrans("+/", "-_")), value)

    def close(self) -> None:
        """The client ends; the server goes with the host."""
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
