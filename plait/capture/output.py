"""Where a capture goes: a file that only its owner can read, a FIFO, or standard output."""

from __future__ import annotations

import os
import select
import stat
import sys

from plait.failure import Failure
from plait.standard_streams import NEXT_STEPS

STANDARD_OUTPUT = "-"


class Output:
    """An open place. What stands there is whole blocks, however it ends."""

    def __init__(self, target: str, *, has_keys: bool) -> None:
        """target: a path, or `-`. has_keys: not a file that others may read. Failure when it is no place."""
        self.target = target
        self._is_file = False
        self._whole = 0  # bytes of whole blocks
        if target == STANDARD_OUTPUT:
            self._fd = sys.stdout.fileno()
            if os.isatty(self._fd):
                step = "Name a file (-w FILE), or a reader: plait capture wg0 | tshark -r -"
                raise Failure("nothing is captured", "a capture is no text, and this is a terminal", step)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_NOFOLLOW if has_keys else 0)
        try:
            self._fd = os.open(target, flags, 0o600)  # of a FIFO: when its reader comes
            found = os.fstat(self._fd)
            self._is_file = stat.S_ISREG(found.st_mode)
            if has_keys and (why := _unfit(found)):
                os.close(self._fd)
                step = "Name another file, or make this one yours alone: chmod 600"
                raise Failure(f"no keys are written to {target}", why, step)
            if self._is_file:
                os.ftruncate(self._fd, 0)
        except OSError as error:
            raise self._unwritten(error) from error

    def write(self, blocks: bytes) -> None:
        """Whole blocks. BrokenPipeError when the reader is gone; behind a Failure the file is still whole."""
        rest = memoryview(blocks)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._is_file:
                os.ftruncate(self._fd, self._whole)
            raise self._unwritten(error) from error
        self._whole += len(blocks)

    def _unwritten(self, error: OSError) -> Failure:
        what = "standard output" if self.target == STANDARD_OUTPUT else self.target
        step = NEXT_STEPS.get(error.errno or 0, "Name another file: -w FILE")
        return Failure(f"{what} could not be written", error.strerror or str(error), step)

    def fileno(self) -> int:
        return self._fd

    @property
    def has_no_reader(self) -> bool:
        """Whether it is a pipe, and whoever read it is gone."""
        looked = select.poll()
        looked.register(self._fd, 0)
        return any(state & select.POLLERR for _, state in looked.poll(0))

    def close(self) -> None:
        if self.target != STANDARD_OUTPUT:
            os.close(self._fd)


def _unfit(found: os.stat_result) -> str:
    """Why others could read what is written there; empty when they cannot."""
    if found.st_uid != os.geteuid():
        return f"the file belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"its mode is {stat.S_IMODE(found.st_mode):04o}: others may read keys"
    return ""
