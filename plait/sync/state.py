"""What a sync remembers while it is away: how far it read, and which peers it has set.

It holds for one life of one engine, since the next one begins without peers. So it may stand in /run, and
needs no fsync: a power failure ends the engine as well.

The file is a log. A peer is noted before it is set, and a position after its changes were applied: after a
kill, changes are applied once more, and no peer that was set here is taken for somebody else's.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from plait import lock, uapi_client
from plait.failure import Failure

DIRECTORY: Final = "/run/plait/sync"
HEAD: Final = "plait sync 1"
SLACK: Final = 100_000  # lines that are no longer true, before the file is written again
FRESH_SECONDS: Final = 60.0  # how far the time of a position may be behind
KEPT_SECONDS: Final = 86400.0  # a position that is older is not followed: stores forget deletions


def life_of(interface: str) -> str:
    """Which life of which engine: its socket's number, and the boot. Empty when there is none."""
    number = uapi_client.socket_number(interface)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{number}" if number else ""


@dataclass
class Remembered:
    """What the file says."""

    life: str = ""
    store: str = ""
    position: int | None = None
    time: float = 0.0  # since 1970, when the position was true
    owned: set[bytes] = field(default_factory=set, repr=False)  # public keys of the peers that were set here

    def take(self, line: str) -> None:
        """The next line. ValueError when it is none."""
        kind, rest = line[:1], line[1:].rstrip("\n")
        if kind == "+":
            self.owned.add(base64.b64decode(rest))
        elif kind == "-":
            self.owned.discard(base64.b64decode(rest))
        elif kind == "@":
            position, _, seconds = rest.partition(" ")
            self.position, self.time = int(position), float(seconds)
        elif kind == "?":
            self.position = None
        elif kind == "=":
            self.life, _, self.store = rest.partition(" ")
        else:
            raise ValueError(f"it has a line that begins with {kind!r}")


def path_of(directory: str, interface: str) -> Path:
    """The file of one interface, which may be named by the path of its socket."""
    return Path(directory) / f"{uapi_client.interface_of(interface)}.state"


def read(path: Path) -> Remembered:
    """What a file says; nothing where there is none. Failure when it is no such file."""
    try:
        with path.open() as file:
            return _read(path, file)
    except FileNotFoundError:
        return Remembered()
    except OSError as error:
        raise _unusable(path, error) from error


def _read(path: Path, file: IO[str]) -> Remembered:
    found = Remembered()
    try:
        head = file.readline()
        if head and head != HEAD + "\n":
            raise ValueError("its first line is another program's")
        for line in file:
            if line.endswith("\n"):  # else a kill cut it off
                found.take(line)
    except ValueError as error:
        step = f"Delete it, then all of the store is read: rm {path}"
        raise Failure(f"{path} is not understood", str(error), step) from error
    return found


class State:
    """The file of one interface, written by one process."""

    def __init__(self, path: Path) -> None:
        """Failure when it cannot be used, or another process uses it."""
        self._path = path
        self._lock = _locked(path)
        self._lines, self._kept = 0, 0
        try:
            self._resume(read(path))
        except BaseException:
            os.close(self._lock)
            raise

    def _resume(self, found: Remembered) -> None:
        self.life, self.store, self.position, self.time = found.life, found.store, found.position, found.time
        self._file = self._written(found.owned)

    @property
    def is_old(self) -> bool:
        """Whether all rows have to be read: no position, or one from before a store may have forgotten."""
        return self.position is None or time.time() - self.time > KEPT_SECONDS

    def owned(self) -> set[bytes]:
        """The public keys of the peers that were set here, out of the file."""
        return read(self._path).owned

    def begin(self, life: str, store: str) -> None:
        """Another engine: nothing is set."""
        self.life, self.store, self.position = life, store, None
        self._file.close()
        self._file = self._written(())

    def move(self, store: str) -> None:
        """Another store, perhaps: all of it has to be read. What was set here is still known."""
        self.store, self.position = store, None
        self._append(f"={self.life} {store}\n?\n")

    def note(self, public_keys: Iterable[bytes]) -> None:
        """These are set next."""
        self._append("".join(_line("+", key) for key in public_keys))

    def forget(self, public_keys: Iterable[bytes]) -> None:
        """These were removed."""
        self._append("".join(_line("-", key) for key in public_keys))

    def unsettle(self) -> None:
        """From here to the next commit the engine is between two positions."""
        self.position = None
        self._append("?\n")

    def commit(self, position: int) -> None:
        """All up to this position is in force."""
        if position == self.position and time.time() - self.time < FRESH_SECONDS:
            return
        self.position, self.time = position, time.time()
        self._append(f"@{position} {self.time:.0f}\n")
        if self._lines > 2 * self._kept + SLACK:
            owned = self.owned()
            self._file.close()
            self._file = self._written(owned)

    def close(self) -> None:
        """The file stays."""
        self._file.close()
        os.close(self._lock)

    def _append(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise _unusable(self._path, error) from error
        self._lines += text.count("\n")

    def _written(self, owned: Iterable[bytes]) -> IO[str]:
        """A new file that says what is known now, in the place of the old one."""
        path = self._path.with_suffix(".new")
        position = "?" if self.position is None else f"@{self.position} {self.time:.0f}"
        try:
            path.unlink(missing_ok=True)
            file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w")
            file.write(f"{HEAD}\n={self.life} {self.store}\n{position}\n")
            self._lines = self._kept = 0
            for key in owned:
                self._kept += 1
                file.write(_line("+", key))
            file.flush()
            path.replace(self._path)
        except OSError as error:
            raise _unusable(self._path, error) from error
        return file


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of a file for as long as it is open."""
    try:
        return lock.take(path.with_suffix(".lock"))
    except BlockingIOError:
        what, step = f"{path.stem} is not followed twice", "See who does: systemctl status 'plait-sync@*'"
        raise Failure(what, f"another `plait sync {path.stem}` runs", step) from None
    except OSError as error:
        raise _unusable(path, error) from error


def _line(kind: str, public_key: bytes) -> str:
    return f"{kind}{base64.b64encode(public_key).decode()}\n"


def _unusable(path: Path, error: OSError) -> Failure:
    step = "Run this as root, or name a directory of this user's: --state DIRECTORY"
    return Failure(f"what was read cannot be remembered in {path}", error.strerror or str(error), step)
