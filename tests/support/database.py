"""A PostgreSQL server in a host of a lab, with what tests of `plait sync` need besides."""

from __future__ import annotations

from plait.lab.namespaces import Host
from plait.lab.postgresql import DATABASE, PostgreSQL, programs
from tests.support.needed import needed


class Database(PostgreSQL):
    """On a Unix socket alone. The database `empty` has no tables."""

    def __init__(self, host: Host) -> None:
        needed("postgresql", is_there=programs() is not None)
        super().__init__(host)
        self.prepare()
        self.run("create database empty", database="postgres")

    def local_url(self, user: str = "owner", database: str = DATABASE, more: str = "") -> str:
        """For programs in the host."""
        return f"postgres://{user}@/{database}?host={self.place}{more}"
