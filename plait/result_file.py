"""A file for what a long measurement finds: opened before it begins, so that a wrong name is told first."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import IO

from plait.failure import Failure


class ResultFile:
    """One file that is written whole, perhaps several times; `-` is standard output, written once by last().

    A name that cannot be written to is a Failure here, before anything is measured. The file keeps what it
    had until the first write; one that was made here and never written is taken away.
    """

    def __init__(self, path: str) -> None:
        self.path, self._is_written = path, False
        self._file: IO[str] | None = None
        if path == "-":
            return
        self._is_new = not os.path.exists(path)
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "w")
        except OSError as error:
            mend = "Name a file in a directory that is there and that you may write to."
            raise Failure(f"cannot write {path}", error.strerror or str(error), mend) from error
        self._is_regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        self._file.close()
        if self._is_new and self._is_regular and not self._is_written:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def write(self, text: str) -> None:
        """What is known so far; the text takes the place of what was written before."""
        if self._file is not None and self._is_regular:
            self._put(text)

    def last(self, text: str) -> None:
        """All of it, at the end."""
        if self._file is None:
            sys.stdout.write(text)
        else:
            self._put(text)

    def _put(self, text: str) -> None:
        assert self._file is not None
        try:
            if self._is_regular:
                self._file.seek(0)
            self._file.write(text)
            if self._is_regular:
                self._file.truncate()
            self._file.flush()
        except OSError as error:
            mend = "Free some space, or name another file."
            raise Failure(f"cannot write {self.path}", error.strerror or str(error), mend) from error
        self._is_written = True
