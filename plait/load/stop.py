"""How a load run is told to end before its time: Ctrl-C, SIGTERM and SIGHUP are a word that its loops read.

No exception cuts a phase in two: the loops see the word, let answers come for the phase's drain, and keep
what was measured. A second signal leaves the drain out; results are written all the same.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 105  # of a run that was stopped, as k6 has it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_SECONDS = 0.5  # timeout(1) and service managers send a signal to a process and to its group


class Stopped(BaseException):
    """A signal came where nothing is measured yet; raised only within Stop.at_once()."""


class Stop:
    """signal: the first that came, None before; urgent: another one came later."""

    def __init__(self, same_seconds: float = SAME_SECONDS) -> None:
        self._same_seconds = same_seconds
        self.signal: signal.Signals | None = None
        self.is_urgent = False
        self._raises = False
        self._came = 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are taken here, but for those that are ignored already, as nohup has it."""
        before = {}
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, self._heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises Stopped: for work that keeps no results, and may take long."""
        self._raises = True
        try:
            if self.signal is not None:
                raise Stopped
            yield
        finally:
            self._raises = False

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Within at_once(): signals are a word again, for work that keeps results."""
        self._raises = False
        yield
        self._raises = True

    def _heard(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._came = signal.Signals(number), now
        elif now - self._came >= self._same_seconds:
            self.is_urgent = True
        if self._raises:
            self._raises = False
            raise Stopped


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Children started within do not get SIGNALS, unless they unblock them: a mask is inherited. A terminal
    and a service manager tell every process of the group, and only the command may decide what the others do
    then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
