"""Why an engine does not start, in words and as an exit code.

Each failure has three parts: what could not be done, why, and the next step. They make one
sentence: `what: why; next`.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from enum import IntEnum

ALLOW = (
    "allow it in the container's seccomp profile (docker run --security-opt seccomp=FILE), "
    "or run a newer kernel"
)

NO_PROC, MOUNT_PROC = "there is no /proc to look at", "mount it (mount -t proc proc /proc)"

# What a host, a container or a process is short of for now: the same call may be granted a moment later.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)


class Exit(IntEnum):
    """The exit codes of plaitd. Part of its interface: scripts may rely on them."""

    OK = 0
    INTERNAL = 1  # a fault of Plait's own
    USAGE = 2  # wrong command line or environment
    SETTINGS = 3  # the settings file was refused
    PRIVILEGE = 4  # CAP_NET_ADMIN or access to /dev/net/tun is missing, or a system call is refused
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


def explain(error: OSError | RuntimeError | MemoryError, call: str = "") -> tuple[str, str]:
    """Why the kernel refused something that no program can be without, and the next step.

    call: what was refused; else the function that the error came out of.
    """
    if isinstance(error, RuntimeError):  # threading's, without an errno
        return str(error), (
            "allow clone3 in the container's seccomp profile (Docker has since 20.10.10), "
            "or raise the limit on processes (ulimit -u, TasksMax=, docker run --pids-limit)"
        )
    if isinstance(error, MemoryError):  # of an allocation, which has no errno either
        return "no memory is left for it", "free memory, or raise the limits on memory (ulimit -d, ulimit -v)"
    words = error.strerror or str(error)
    if error.errno == errno.EMFILE:
        return words.lower(), "raise the limit on open files (ulimit -n; LimitNOFILE=)"
    if error.errno == errno.ENFILE:
        return words.lower(), "raise this host's limit on open files (sysctl fs.file-max)"
    if error.errno == errno.EAGAIN:
        return (
            "the limit on processes is reached",
            "raise it (ulimit -u; TasksMax=; docker run --pids-limit)",
        )
    if error.errno in (errno.ENOMEM, errno.ENOSPC):
        return words.lower(), "free memory, enlarge /dev/shm, or raise the limits on memory"
    if is_without_proc(error):
        return NO_PROC, MOUNT_PROC
    refused = call or _call_of(error) or "a system call"
    privilege = os.geteuid() != 0 and error.errno in (errno.EPERM, errno.EACCES)
    return f"the kernel refuses {refused} ({words})", "run it as root, or " * privilege + ALLOW


def is_without_proc(error: OSError) -> bool:
    """A file of /proc is not there."""
    return error.errno == errno.ENOENT and str(error.filename).startswith("/proc/")


def _call_of(error: OSError) -> str:
    """The function that raised it, in the last line of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    line = frames[-1].line or "" if frames else ""
    names = [name for name in re.findall(r"(\w+)\(", line) if name != "unpack"]
    return {"__init__": "socket"}.get(names[0], str(names[0])) if names else ""
