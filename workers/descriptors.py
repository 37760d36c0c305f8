"""Descriptors and files that belong to another process: used, looked at, never closed or removed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket whose descriptor stays its owner's. It takes no other one: there may be none left."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def identity(path: Path) -> tuple[int, int]:
    """Device and inode of the file at a path, which no rename changes."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def is_gone(path: Path, before: tuple[int, int]) -> bool:
    """Whether the file at a path is not, or no longer, the one of this identity.

    Only the answer that there is none proves it. Whoever may not look (EACCES: the directory's mode or owner
    was changed) or cannot (ENOMEM, EIO) knows nothing: the file is taken to be there.
    """
    try:
        return identity(path) != before
    except FileNotFoundError:
        return True
    except OSError:
        return False
