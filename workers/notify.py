"""Tell the service manager how the engine is: sd_notify(3), by hand.

A notification is one datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names (@ in front: an
abstract one). WATCHDOG_USEC asks for a sign of life within so many us; one is given at half of them, and only
while control turns: the supervisor alone being alive carries no tunnel.

Nobody else may speak for the engine: the variables are taken out of the environment that workers inherit.
Without NOTIFY_SOCKET nothing is sent, and a manager that does not listen any more is no error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping

from workers.environment import unknown

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
        self.environment = {"NOTIFY_SOCKET": address} if address else {}  # for a program that becomes us
        if self.interval is not None:
            self.environment["WATCHDOG_USEC"] = microseconds

    def ready(self, status: str, now: float) -> None:
        """The interface works. now: time.monotonic()."""
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")
        self._status = status
        if self.interval is not None:
            self._due = now + self.interval

    def status(self, status: str) -> None:
        """One line for people; said again only when it changes."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def stopping(self, reason: str) -> None:
        """The end has begun."""
        self._due = None
        self._send("STOPPING=1", f"STATUS=ending: {reason}")

    @property
    def due(self) -> float | None:
        """When `watch` wants to be called next, time.monotonic(); None when the manager does not watch."""
        return self._due

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
        self._due = now + self.interval
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)
