"""The engine's key log (workers/control/keylog.py), read as it grows."""

from __future__ import annotations

import os
import stat
from typing import Final

from plait.failure import Failure

BEGIN: Final = b"LOCAL_STATIC_PRIVATE_KEY ="  # of a block
PEER: Final = b"REMOTE_STATIC_PUBLIC_KEY = "
READ: Final = 1 << 20


class KeyLog:
    """What is written into it from now on; older keys belong to sessions that began before the capture."""

    def __init__(self, path: str, peer: str | None) -> None:
        """peer: the public key whose handshakes alone are wanted. Failure when it cannot be read."""
        self._wanted = None if peer is None else peer.encode()
        self._rest = b""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise _unread(path, error.strerror or str(error)) from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise _unread(path, "it is not a regular file")
        os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> bytes:
        """The whole blocks that have come since the latest look."""
        while piece := os.read(self._fd, READ):
            self._rest += piece
        lines, end, self._rest = self._rest.rpartition(b"\n")
        blocks = (lines + end).split(BEGIN)[1:]
        return b"".join(BEGIN + each for each in blocks if self._is_wanted(each))

    def _is_wanted(self, block: bytes) -> bool:
        return self._wanted is None or PEER + self._wanted in block.split(b"\n")

    def close(self) -> None:
        os.close(self._fd)


def _unread(path: str, why: str) -> Failure:
    step = "Run this where plaitd was started, in the same mount namespace."
    return Failure(f"the key log {path} cannot be read", why, step)
