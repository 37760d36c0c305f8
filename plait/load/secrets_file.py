"""The secrets of simulated peers, kept between runs: computing half a million of them takes a good while.

They follow from the seed and the gateway's key, and are for tests alone, like the keys. A file that is not
whole, or not to be had, is as good as none: what it would have had is computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

PEERS_LEAST = 10_000  # fewer are computed in a second
BYTES_MOST = 512 << 20  # in all: the least recently used files go
PART, PART_SECONDS = ".part", 3600  # while one is written; an older one was left by a process that was killed
DIGEST = 32


def directory() -> str:
    """Where they are kept: plait/load in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "plait", "load")


def setup_digest(setup: dict[str, Any]) -> str:
    """What the secrets follow from, as a name: seed, gateway, and which peers."""
    words = (setup["seed"], setup["gateway_key"], setup["first_peer"], setup["peers"])
    return hashlib.blake2s(repr(words).encode()).hexdigest()


class SecretsFile:
    """One file: a digest of what follows, then `size` bytes. None is used for few peers. bytes_most: of all
    files of the folder."""

    def __init__(self, folder: str, name: str, size: int, bytes_most: int = BYTES_MOST) -> None:
        self._path, self._size = Path(folder) / f"{name}.secrets", size
        self._bytes_most = bytes_most
        self._is_used = size >= 64 * PEERS_LEAST

    def read(self) -> memoryview | None:
        """What was kept, None when it is not there or not whole."""
        if not self._is_used:
            return None
        try:
            found = self._path.read_bytes()
        except OSError:
            return None
        secrets = memoryview(found)[DIGEST:]
        if len(secrets) != self._size or hashlib.blake2s(secrets).digest() != found[:DIGEST]:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path)
        return secrets

    def write(self, secrets: bytes | memoryview) -> None:
        """Keep them, for this user's eyes; where that cannot be, nothing happens."""
        if not self._is_used:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, suffix=PART, delete=False) as file:
                try:
                    file.write(hashlib.blake2s(secrets).digest())
                    file.write(secrets)
                    file.flush()
                    os.replace(file.name, self._path)
                except OSError:
                    os.unlink(file.name)
                    raise
            self._forget()

    def _forget(self) -> None:
        found, left = [], self._bytes_most
        for path in self._path.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # other processes do the same
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        for changed, size, path in sorted(found, reverse=True):
            if path.suffix == self._path.suffix:
                left -= size
                is_over = left < 0
            else:
                is_over = path.suffix == PART and time.time() - changed > PART_SECONDS
            if is_over:
                path.unlink(missing_ok=True)
