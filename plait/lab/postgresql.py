"""A PostgreSQL server in a host of a lab: run by an unprivileged user, gone with the host.

The database `vpn` has the tables of configs/sync/postgresql.sql. `owner` needs no password on the Unix
socket; all others do, everywhere. The library psycopg is needed from `start` on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from plait.failure import Failure
from plait.lab.examples import example
from plait.lab.namespaces import Host, Process, how_to_get

if TYPE_CHECKING:
    import psycopg

DATABASE: Final = "vpn"
PASSWORD: Final = "not-for-lists"
PATIENCE: Final = 60.0
USER: Final = 65534
UNPRIVILEGED: Final = (  # and in a directory that it may enter
    "env", "-C", "/", "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all",
    "--bounding-set=-all",
)  # fmt: skip
OPTIONS: Final = ("fsync=off", "max_connections=20", "shared_buffers=16MB", "wal_level=minimal",
                  "max_wal_senders=0")  # fmt: skip
ACCESS: Final = "local all owner trust\nlocal all all scram-sha-256\nhost all all all scram-sha-256\n"


def programs() -> Path | None:
    """The folder of initdb and postgres, of the newest that is installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: float(path.parts[4]), default=None)


class PostgreSQL:
    """A server with one database. Its files stand in the host's own /run, and go with the host."""

    place = Path("/run/postgresql-lab")  # of its files and its socket, in the host

    def __init__(self, host: Host, listen: str = "") -> None:
        """listen: an address for TCP; none: the Unix socket alone."""
        folder = programs()
        if folder is None:
            why = "the program is not below /usr/lib/postgresql"
            raise Failure("no initdb", why, how_to_get(["initdb"]))
        self.host, self._programs, self._listen = host, folder, listen
        self.process: Process | None = None
        self.host.run(["install", "-d", "-o", str(USER), "-g", str(USER), str(self.place)])
        self._initdb = self.host.popen(
            [*UNPRIVILEGED, str(folder / "initdb"), "--no-sync", "--auth=trust", "--username=owner",
             "--locale=C", "--encoding=UTF8", str(self.place / "data")]
        )  # fmt: skip

    def prepare(self) -> None:
        """Behind it, the server runs, with its tables; `gateway` may read them."""
        if self._initdb.wait():
            why = self._initdb.output().strip()[-500:] or "it said nothing"
            raise Failure("PostgreSQL cannot be set up", why, "Free some memory: its files are kept there")
        (self.outside / "data/pg_hba.conf").write_text(ACCESS)
        self.start()
        self.run(f"create database {DATABASE}", database="postgres")
        self.run(example("sync/postgresql.sql"))
        self.run(f"create role gateway login password '{PASSWORD}'; grant plait_reader to gateway")

    @property
    def outside(self) -> Path:
        """Its place as seen from outside the host."""
        return self.host.root / str(self.place).lstrip("/")

    @property
    def url(self) -> str:
        """For `plait sync` in another host."""
        return f"postgres://gateway@{self._listen}/{DATABASE}"

    @staticmethod
    def credentials(host: Host) -> dict[str, str]:
        """The environment of `plait sync` in a host, which gets a file with gateway's password."""
        file = host.root / "run/passwords"
        file.touch(mode=0o600)
        file.write_text(f"*:*:*:gateway:{PASSWORD}\n")
        return {"PGPASSFILE": "/run/passwords"}

    def start(self) -> None:
        """Until it takes connections."""
        wanted = (*OPTIONS, f"listen_addresses={self._listen}")
        options = [word for option in wanted for word in ("-c", option)]
        program = [*UNPRIVILEGED, str(self._programs / "postgres")]
        data = ["-D", str(self.place / "data"), "-k", str(self.place)]
        self.process = process = self.host.popen([*program, *data, *options])
        until = time.monotonic() + PATIENCE
        while not self._is_up():
            if process.poll() is not None or time.monotonic() > until:
                why = process.output().strip()[-500:] or "it said nothing"
                raise Failure("PostgreSQL does not start", why, "See what it says")
            time.sleep(0.02)

    def _is_up(self) -> bool:
        import psycopg

        try:
            self.run("select 1", database="postgres")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: connections are ended, all is written. SIGQUIT: as a crash."""
        if self.process is not None:
            self.process.signal(number)
            self.process.wait()

    def close(self) -> None:
        """Nothing is left to do: the server and its files go with the host."""

    def connect(self, user: str = "owner", database: str = DATABASE) -> psycopg.Connection[Any]:
        """A connection of ours, from outside the host."""
        import psycopg

        return psycopg.connect(
            host=str(self.outside), user=user, dbname=database, autocommit=True, password=PASSWORD
        )

    def run(self, sql: str, *values: object, database: str = DATABASE) -> list[Any]:
        """One statement, or several without values; the rows of the last one."""
        with self.connect(database=database) as connection:
            cursor = connection.execute(sql, values or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Peers, as one transaction: a public key, and the one prefix of each."""
        import psycopg

        statement = "insert into plait.peer (public_key, allowed_ips) values (%s, array[%s]::cidr[])"
        try:
            with self.connect() as connection, connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(statement, list(rows))
        except psycopg.Error as error:
            why = str(error).partition("\n")[0]  # the library's next step follows
            raise Failure("peers cannot be written to PostgreSQL", why, "Is it running?") from error
