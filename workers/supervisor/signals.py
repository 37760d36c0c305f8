"""Signals as something to read: the handlers only enqueue, a loop takes them when it has time."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections import deque
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """Catches the given signals while it is entered. fileno() is readable when there is one.

    Entered before the first resource is opened, so that no signal finds something half open.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self.numbers = tuple(numbers)
        self._caught: deque[int] = deque()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._enqueue) for number in self.numbers}
        # Who became us may have left them blocked until somebody listens (upgrade.py).
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    @property
    def are_waiting(self) -> bool:
        """Whether there are some that nobody took."""
        return bool(self._caught)

    def take(self) -> list[signal.Signals]:
        """Those that came since the last call, in their order."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(64):
                pass
        taken = []
        while self._caught:
            taken.append(signal.Signals(self._caught.popleft()))
        return taken

    def _enqueue(self, number: int, frame: FrameType | None) -> None:
        self._caught.append(number)
