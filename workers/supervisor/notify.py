"""Tell the service manager how the engine is: sd_notify(3), by hand.

A notification is one datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names (@ in front: an
abstract one). WATCHDOG_USEC asks for a sign of life within so many us; one is given at half of them, and
only while control's loop turns: a tunnel needs more than a supervisor that lives.

No other process may speak for the engine: the variables are removed from the environment of workers. Without
NOTIFY_SOCKET nothing is sent, and a manager that does not listen any more is no error. A manager that does
not read is not waited for: while its socket is full, or no socket can be opened, the latest value of each
name is kept and sent when that is possible. A sign of life is sent later instead.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping

from workers.environment import unknown
from workers.failure import SHORTAGES

BEAT_SECONDS = 10.0  # control turns at least once a second; a loaded machine takes its time
RETRY_SECONDS = 0.5  # between two looks at a control that gave no sign when one was due

NO_WATCHDOG = "the service manager gets no signs of life"
log = logging.getLogger("plait")


class ServiceManager:
    """The process that started this one, when it is systemd or its like."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Take NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of environment."""
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        # It may have asked our parent, who went to the background and left the tunnel to us.
        is_meant = not pid or pid in (str(os.getpid()), str(os.getppid()))
        self.interval: float | None = None  # seconds between two signs of life
        if self._address and is_meant and microseconds.isdecimal() and int(microseconds):
            self.interval = int(microseconds) / 2e6
        elif self._address and is_meant and microseconds.strip("0"):
            words = unknown("WATCHDOG_USEC", microseconds, ("a number of microseconds", "0"), NO_WATCHDOG)
            log.warning("%s", words)
        self._due: float | None = None
        self._status = ""
        self._unsent: dict[str, str] = {}  # by name; the manager did not take them yet
        self._again: float | None = None  # when they are tried again
        self.refused = 0  # notifications in a row that it did not take
        self.environment = {"NOTIFY_SOCKET": address} if address else {}  # for a program that becomes us
        if self.interval is not None:
            self.environment["WATCHDOG_USEC"] = microseconds

    def ready(self, status: str, now: float) -> None:
        """The interface works. now: time.monotonic()."""
        self._say(now, READY="1", MAINPID=str(os.getpid()), STATUS=status)
        self._status = status
        if self.interval is not None:
            self._due = now + self.interval

    def status(self, status: str, now: float) -> None:
        """One line for people; said again only when it changes, or was not taken."""
        if status != self._status:
            self._status = status
            self._say(now, STATUS=status)
        elif self._again is not None and self._again <= now:
            self._say(now)

    def stopping(self, reason: str) -> None:
        """The end has begun."""
        self._due = None
        self._say(0.0, STOPPING="1", STATUS=f"ending: {reason}")
        self._again = None

    @property
    def due(self) -> float | None:
        """When `status` and `watch` want to be called next, time.monotonic(); None when nothing is due."""
        return min((at for at in (self._due, self._again) if at is not None), default=None)

    def watch(self, now: float, beat_age: float | None) -> None:
        """Give the sign of life that is due.

        beat_age: seconds since control's latest turn; None: it is not there.
        """
        if self._due is None or now < self._due:
            return
        if beat_age is None or beat_age > BEAT_SECONDS:
            self._due = now + RETRY_SECONDS
            return
        assert self.interval is not None
        self._due = now + (self.interval if self._send({"WATCHDOG": "1"}) else RETRY_SECONDS)

    def _say(self, now: float, **values: str) -> None:
        self._unsent |= values
        if self._send(self._unsent):
            self._unsent, self._again = {}, None
        else:
            self._again = now + RETRY_SECONDS

    def _send(self, values: Mapping[str, str]) -> bool:
        """One notification. False when it may be taken later."""
        if not self._address:
            return True
        text = "\n".join(f"{name}={value}".replace("\n", " ") for name, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            if error.errno in SHORTAGES:
                if self.refused == 0:
                    log.warning("the service manager does not take notifications for now: %s", error.strerror)
                self.refused += 1
                return False
        if self.refused:
            log.info("the service manager takes notifications again, after %d that it did not", self.refused)
            self.refused = 0
        return True
