"""A lock that one process holds for as long as it lives: flock(2) on a file that stays."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take(path: Path) -> int:
    """A descriptor that holds the lock while it is open; the directory is made where there is none.

    BlockingIOError when another process holds it, another OSError when the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
