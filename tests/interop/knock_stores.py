"""Stores in which gateways beat, at the router of a fleet: what a test needs of each, by the same names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import quote

from plait.lab.examples import example
from plait.lab.namespaces import Host, search_path
from plait.lab.nats_server import BUCKET, NatsServer
from plait.lab.postgresql import DATABASE, PostgreSQL, programs
from plait.sync.store import Store
from tests.support.needed import needed

Lacking = tuple[str, Mapping[str, str], Sequence[str]]  # a URL, an environment, and words of the complaint


class KnockStore(Protocol):
    """A server. address: of it, as a gateway reaches it."""

    def url(self, address: str) -> str:
        """For `plait sync --knock` in a gateway."""

    def credentials(self, host: Host) -> Mapping[str, str]:
        """The environment of one there."""

    def reached(self) -> Store:
        """For a thread in its host's network."""

    def lacking(self, host: Host, address: str) -> Iterator[Lacking]:
        """What lacks one thing, for as long as nobody goes on."""

    def beating(self) -> set[int]:
        """Gateways that have beaten."""

    def telling(self) -> set[int]:
        """Gateways that have told of sessions."""

    def free(self, number: int) -> None:
        """Whoever beat with this number did so a minute ago; or it is waited for, by whoever wants it."""

    def forget(self, number: int) -> None:
        """Its latest beat is no more there."""

    def close(self) -> None:
        """Before its host ends."""


class InPostgreSQL:
    """Tables."""

    def __init__(self, host: Host, addresses: Sequence[str]) -> None:
        needed("postgresql", is_there=programs() is not None)
        self.server = PostgreSQL(host, ",".join(addresses))
        self.server.prepare()
        self.server.run(example("sync/postgresql-knock.sql"))
        self.server.run("grant plait_gateway to gateway")

    def url(self, address: str, database: str = DATABASE) -> str:
        return f"postgres://gateway@{address}/{database}"

    def credentials(self, host: Host) -> Mapping[str, str]:
        return self.server.credentials(host)

    def reached(self) -> Store:
        from plait.sync.postgres import Postgres

        return Postgres(f"postgres://owner@/{DATABASE}?host={quote(str(self.server.outside), safe='')}")

    def lacking(self, host: Host, address: str) -> Iterator[Lacking]:
        told = self.credentials(host)
        self.server.run("create database bare", database="postgres")
        self.server.run(example("sync/postgresql.sql"), database="bare")
        self.server.run("grant plait_reader to gateway", database="bare")
        words = ("lacks the tables of gateways", "psql -f configs/sync/postgresql-knock.sql")
        yield self.url(address, "bare"), told, words
        self.server.run("revoke plait_gateway from gateway")
        yield self.url(address), told, ["grant plait_gateway to USER"]
        self.server.run("grant plait_gateway to gateway")

    def beating(self) -> set[int]:
        return {number for (number,) in self.server.run("select number from plait.gateway")}

    def telling(self) -> set[int]:
        return {number for (number,) in self.server.run("select gateway from plait.session")}

    def free(self, number: int) -> None:
        earlier = "update plait.gateway set beat = beat - interval '1 minute' where number = %s"
        self.server.run(earlier, number)

    def forget(self, number: int) -> None:
        self.server.run("delete from plait.gateway where number = %s", number)

    def close(self) -> None:
        self.server.close()


class InNats:
    """A bucket."""

    def __init__(self, host: Host, addresses: Sequence[str]) -> None:
        needed("nats-server", is_there=shutil.which("nats-server", path=search_path()) is not None)
        self.server = NatsServer(host, "0.0.0.0")
        self.server.prepare()

    def url(self, address: str, bucket: str = BUCKET) -> str:
        return f"nats://{address}/{bucket}"

    def credentials(self, host: Host) -> Mapping[str, str]:
        return self.server.credentials(host, "knocker")

    def reached(self) -> Store:
        from plait.sync.jetstream import JetStream

        return JetStream(self.url("127.0.0.1"), self.credentials(self.server.host))

    def lacking(self, host: Host, address: str) -> Iterator[Lacking]:
        owner = {"NATS_USER": "owner", "NATS_PASSWORD": "owner"}
        self.server.make("bare")
        make = "nats kv add bare_gateways --history=1 --ttl=200s --storage=memory"
        yield self.url(address, "bare"), owner, ["no such bucket", make]
        self.server.make("bare_gateways", 100)
        yield self.url(address, "bare"), owner, ["no TTL of 200 s", make]
        reader = self.server.credentials(host)
        yield self.url(address), reader, ["ermissions", "configs/sync/nats-gateway-knock.conf"]

    def beating(self) -> set[int]:
        return self._gateways("beat")

    def telling(self) -> set[int]:
        return self._gateways("session")

    def _gateways(self, kind: str) -> set[int]:
        keys = (key.split(".") for key in self.server.beats())
        return {int(words[1]) for words in keys if words[0] == kind}

    def free(self, number: int) -> None:
        """Behind ten seconds: the clock that counts is that of the gateway that waits."""

    def forget(self, number: int) -> None:
        self.server.forget(f"beat.{number}")

    def close(self) -> None:
        self.server.close()


STORES: Final[dict[str, Callable[[Host, Sequence[str]], KnockStore]]] = {
    "postgresql": InPostgreSQL, "nats": InNats,
}  # fmt: skip
