"""Standard input, output and error of a command: what cannot be written is a sentence, not a traceback.

Output that nobody could write (a full disk, a descriptor that was closed before the start) fails the
command with a Failure. A reader that has seen enough (`plait show | head -1`) ends the command quietly.
Messages that cannot be written are dropped: a full disk under a log must not end an exporter.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING

from plait.failure import Failure

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NEXT_STEPS = {
    errno.ENOSPC: "Free some space there, or send the output to another place.",
    errno.EDQUOT: "Free some space there, or send the output to another place.",
    errno.EBADF: "Leave `>&-` out; `>/dev/null` drops the output.",
    errno.EFBIG: "Raise the limit (ulimit -f), or send the output to another place.",
}


class Output(io.FileIO):
    """Standard output. The first write that fails raises Failure; what comes later is dropped."""

    has_failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        if self.has_failed:
            return size
        try:
            return super().write(data)
        except BrokenPipeError:
            self.has_failed = True
            raise
        except OSError as error:
            self.has_failed = True
            step = NEXT_STEPS.get(error.errno or 0, "Send the output to another place.")
            why = error.strerror or str(error)
            if error.errno == errno.EBADF:
                why = "standard output is not open for writing"
            raise Failure("the output could not be written", why, step) from error


class Messages(io.FileIO):
    """Standard error. What cannot be written is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Put these streams in the place of Python's own.

    Descriptors 0 to 2 that are closed get /dev/null: else the next socket would get the number, and
    programs that are started would write into that socket.
    """
    opened = [_is_open(number) for number in range(3)]
    for number in range(3):
        if not opened[number]:
            # The lowest free number is this one, since lower ones are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY), True)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    # Descriptor 1 is open for reading alone where it was closed, so that writing fails as it should.
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(Output(1, "w", closefd=False), line_buffering=False)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(Messages(2, "w", closefd=False), line_buffering=True)


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None when it is none."""
    import shutil  # late: what decompresses archives comes with it, and an engine prints no tables

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def reader_is_gone() -> bool:
    """Whether standard output is a pipe, socket or terminal whose other end is closed."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    looked = select.poll()
    looked.register(number, 0)
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in looked.poll(0))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _text(raw: io.FileIO, *, line_buffering: bool) -> io.TextIOWrapper:
    """The stream as text. Characters that the locale's encoding lacks become `?`."""
    mine = sys.__stdout__ or sys.__stderr__
    encoding = mine.encoding if mine is not None else "utf-8"
    is_terminal = raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "replace", line_buffering=line_buffering or is_terminal
    )
