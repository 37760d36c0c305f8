"""A PostgreSQL server in a host of a lab: run by an unprivileged user, on a Unix socket alone.

The database `vpn` has the tables of configs/sync/postgresql.sql. `owner` needs no password, all others do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from plait.lab.namespaces import Host, Process
from tests.support.sources import ROOT
from tests.support.unprivileged import UNPRIVILEGED, USER
from tests.support.waiting import until

TABLES = ROOT / "configs/sync/postgresql.sql"
PASSWORD = "not-for-lists"
OPTIONS = ("fsync=off", "listen_addresses=", "max_connections=20", "shared_buffers=16MB", "wal_level=minimal",
           "max_wal_senders=0")  # fmt: skip


def programs() -> Path:
    """The folder of initdb and postgres. Where there is none the test is skipped; with CI=true it fails."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        said = "no PostgreSQL: install the package postgresql, or run scripts/setup --dev"
        if os.environ.get("CI") == "true":
            pytest.fail(said, pytrace=False)
        pytest.skip(said)
    return found[-1].parent


class Database:
    """A server with one database. `close` takes its files away."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.programs = programs()
        # Not below pytest's own directory, which is root's alone.
        self.place = Path(tempfile.mkdtemp(prefix="plait-postgres-", dir="/tmp"))
        os.chown(self.place, USER, USER)
        self.data = self.place / "data"
        self.process: Process | None = None
        command = [*UNPRIVILEGED, str(self.programs / "initdb"), "--no-sync", "--auth=trust",
                   "--username=owner", "--locale=C", "--encoding=UTF8", str(self.data)]  # fmt: skip
        subprocess.run(command, cwd=self.place, capture_output=True, check=True)
        (self.data / "pg_hba.conf").write_text("local all owner trust\nlocal all all scram-sha-256\n")
        self.start()
        self.run("create database vpn", database="postgres")
        self.run("create database empty", database="postgres")
        self.run(TABLES.read_text())
        self.run(f"create role gateway login password '{PASSWORD}'; grant plait_reader to gateway")
        self.passwords = self.place / "passwords"
        self.passwords.write_text(f"*:*:*:gateway:{PASSWORD}\n")
        self.passwords.chmod(0o600)

    def start(self) -> None:
        options = [word for option in OPTIONS for word in ("-c", option)]
        program = [*UNPRIVILEGED, str(self.programs / "postgres")]
        self.process = self.host.popen([*program, "-D", str(self.data), "-k", str(self.place), *options])
        until(self._is_up, f"PostgreSQL takes connections; it said {self.process.output()[-1000:]}")

    def _is_up(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "PostgreSQL ended"
        try:
            self.run("select 1", database="postgres")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: connections are ended, all is written. SIGQUIT: as a crash."""
        assert self.process is not None
        self.process.signal(number)
        self.process.wait()

    def url(self, user: str = "owner", database: str = "vpn", more: str = "") -> str:
        return f"postgres://{user}@/{database}?host={self.place}{more}"

    def connect(self, user: str = "owner", database: str = "vpn") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(user, database), autocommit=True, password=PASSWORD)

    def run(self, sql: str, *values: object, database: str = "vpn") -> list[Any]:
        """One statement, or several without values; the rows of the last one."""
        with self.connect(database=database) as connection:
            cursor = connection.execute(sql, values or None)  # type: ignore[arg-type]
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.place)
