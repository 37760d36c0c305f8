"""Why an engine does not start, in words and as an exit code.

Each failure has three parts: what could not be done, why, and the next step. They make one
sentence: `what: why; next`.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of plaitd. Part of its interface: scripts may rely on them."""

    OK = 0
    INTERNAL = 1  # a fault of Plait's own
    USAGE = 2  # wrong command line or environment
    SETTINGS = 3  # the settings file was refused
    PRIVILEGE = 4  # CAP_NET_ADMIN or access to /dev/net/tun is missing
    INTERFACE = 5  # no TUN device on this host, or the interface name is taken
    UAPI = 6  # the UAPI socket is in use or cannot be made
    PORT = 7  # the UDP sockets cannot be opened
    MEMORY = 8  # no room for the shared memory
    WORKER = 9  # a worker process failed while starting


class Failure(Exception):
    """One clear error: what, why, next step; code is the exit code it leads to."""

    def __init__(self, what: str, why: str, next_step: str, code: Exit, errno: int = 0) -> None:
        super().__init__(f"{what}: {why}; {next_step}")
        self.what = what
        self.why = why
        self.next_step = next_step
        self.code = code
        self.errno = errno
