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


def open_directory(path: Path) -> int:
    """A descriptor to look into this directory with, whatever is mounted over it later. OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def identity(path: Path, directory: int | None = None) -> tuple[int, int]:
    """Device and inode of the file at a path, which no rename changes. directory: what `open_directory` gave
    for the path's, to look there."""
    status = os.lstat(path) if directory is None else os.lstat(path.name, dir_fd=directory)
    return status.st_dev, status.st_ino


def is_gone(path: Path, before: tuple[int, int], directory: int | None = None) -> bool:
    """Whether the file at a path is not, or no longer, the one of this identity.

    Only the answer that there is none proves it, or another file in its place. Whoever may not look (EACCES:
    the directory's mode or owner was changed) or cannot (ENOMEM, EIO) knows nothing, nor does who sees
    another file system, which is mounted there: the file is taken to be there.
    """
    try:
        device, inode = identity(path, directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return device == before[0] and inode != before[1]


def is_covered(path: Path, before: tuple[int, int]) -> bool:
    """Whether this path leads to no file, or to another one: when `is_gone` takes it to be there, something
    is mounted over it, or its directory has another name."""
    try:
        return identity(path) != before
    except FileNotFoundError:
        return True
    except OSError:
        return False
