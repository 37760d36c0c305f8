"""The process in reserve: a standby (standby.py) that waits beside the workers with everything loaded.

It takes the place of the next receiver or consumer that is needed; then the next one is made ready,
after a pause, since its start takes CPU from the traffic.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import time

from workers.channel import Channel, ChannelClosed
from workers.worker import Life, Worker

STANDBY_SECONDS = 0.2  # before the next standby is made ready
STANDBY_PAUSE = 5.0  # the same after one that died while it waited
log = logging.getLogger("plait")


class Reserve:
    """One standby, or none until `want` is called. Its life: waiting (not there), starting, running
    (it has loaded everything)."""

    def __init__(self, interface: str, selector: selectors.BaseSelector) -> None:
        self.interface = interface
        self.selector = selector
        self.standby = Worker("standby", 0, -1, (), life=Life.ENDED)

    def want(self) -> None:
        """From now on there shall be one."""
        self.standby.life = Life.WAITING

    @property
    def is_loaded(self) -> bool:
        """Whether one waits that has loaded everything."""
        return self.standby.life is Life.RUNNING

    @property
    def due(self) -> float | None:
        """When the next one is to be started, time.monotonic()."""
        return self.standby.start_at if self.standby.life is Life.WAITING else None

    def keep_time(self, now: float) -> None:
        """Start one when it is due."""
        if self.due is None or self.due > now:
            return
        standby = self.standby
        try:
            standby.spawn(self.interface)
        except OSError as error:
            log.error("there is no standby: %s", error.strerror)
            standby.start_at = time.monotonic() + STANDBY_PAUSE
            return
        standby.life = Life.STARTING
        self.selector.register(standby.pidfd, selectors.EVENT_READ, self._reap)
        self.selector.register(_channel(standby), selectors.EVENT_READ, self._hear)

    def send_in(self, worker: Worker) -> bool:
        """Have it take the place of this worker, which has no process. False without one."""
        if self.standby.process is None:
            return False
        self._forget()
        worker.take_from(self.standby)
        self._next_after(STANDBY_SECONDS)
        return True

    def end(self) -> None:
        """Kill it. Another one comes when it is due."""
        if self.standby.process is None:
            return
        self._forget()
        self.standby.kill()
        self.standby.bury()
        _channel(self.standby).close()
        self._next_after(STANDBY_SECONDS)

    def _hear(self) -> None:
        """It has loaded everything; or its channel is closed, and it will be reaped."""
        self.selector.unregister(_channel(self.standby))
        with contextlib.suppress(ChannelClosed, ValueError):
            _channel(self.standby).receive()
            self.standby.life = Life.RUNNING

    def _reap(self) -> None:
        """It ended while it waited."""
        log.error("the standby ended")
        self._forget()
        self.standby.bury()
        _channel(self.standby).close()
        self._next_after(STANDBY_PAUSE)

    def _forget(self) -> None:
        self.selector.unregister(self.standby.pidfd)
        with contextlib.suppress(KeyError):  # it was heard
            self.selector.unregister(_channel(self.standby))

    def _next_after(self, pause: float) -> None:
        self.standby = Worker("standby", 0, -1, (), start_at=time.monotonic() + pause)


def _channel(worker: Worker) -> Channel:
    assert worker.channel is not None
    return worker.channel
