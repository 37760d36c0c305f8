"""Calls that the filter allows with some arguments: each permitted one, and its neighbours.

What is made is harmless where it is allowed: pointers are null, sizes 0, signals 0.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import signal
import socket
import termios
from collections.abc import Callable, Iterator

from tests.unit.workers.confinement_deeds import Scene, call, numbers

Arguments = tuple[int, ...]
Permits = Callable[[Arguments], bool]

LOW = (1 << 32) - 1
SO_MARK, PR_SET_NAME, AT_REMOVEDIR = 36, 15, 0x200
FCNTL = {fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL}
FIOCLEX, FIONCLEX, TUNGETIFF, TUNGETDEVNETNS = 0x5451, 0x5450, 0x800454D2, 0x54E3
SIOCGIFNAME, SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFINDEX = 0x8910, 0x8913, 0x8921, 0x8933
IOCTL = {FIOCLEX, FIONCLEX, termios.FIONBIO, termios.TCGETS, TUNGETIFF, TUNGETDEVNETNS, SIOCGIFFLAGS,
         SIOCGIFMTU, SIOCGIFINDEX, SIOCGIFNAME}  # fmt: skip
CREATES = os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
KINDS = ~(socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) & LOW
# clone(2): the flags of pthread_create, and one that has no meaning any more.
THREAD, CLONE_DETACHED = 0x3D0F00, 0x400000
POLICIES = {policy | os.SCHED_RESET_ON_FORK for policy in (os.SCHED_OTHER, os.SCHED_RR)}
SOCKETS = {(socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_DGRAM)}


def is_socket(arguments: Arguments) -> bool:
    family, kind, protocol = arguments
    if (family, kind & KINDS) in SOCKETS:
        return True
    return (family, kind & KINDS, protocol) == (socket.AF_NETLINK, socket.SOCK_RAW, 0)


def of_packets() -> dict[str, tuple[list[Arguments], Permits]]:
    """By call: arguments to begin with, and which are permitted."""
    return {
        "mmap": ([(0, 0, mmap.PROT_READ)], lambda a: not a[2] & mmap.PROT_EXEC),
        "ioctl": ([(9, FIOCLEX, 0)], lambda a: a[1] == FIOCLEX),
        "sched_setscheduler": ([(0, each, 0) for each in POLICIES], lambda a: a[0] == 0 and a[1] in POLICIES),
        "sched_setaffinity": ([(0, 128, 0)], lambda a: a[0] == 0),
    } | {
        name: ([arguments], lambda a: False)
        for name, arguments in {
            "fcntl": (9, fcntl.F_GETFD, 0), "socket": (socket.AF_INET, socket.SOCK_DGRAM, 0),
            "mprotect": (1, 0, 0), "openat": (-100, 0, 0), "unlinkat": (-100, 0, 0), "setpriority": (0, 0, 0),
            "prlimit64": (0, 0, 0), "prctl": (PR_SET_NAME, 0, 0),
            "setsockopt": (9, socket.SOL_SOCKET, SO_MARK), "kill": (os.getpid(), 0, 0),
        }.items()
    }  # fmt: skip


def of_control() -> dict[str, tuple[list[Arguments], Permits]]:
    pid, tid = os.getpid(), numbers() and call("gettid")
    return {
        "mmap": ([(0, 0, mmap.PROT_READ)], lambda a: not a[2] & mmap.PROT_EXEC),
        "mprotect": ([(1, 0, mmap.PROT_READ)], lambda a: not a[2] & mmap.PROT_EXEC),
        "openat": ([(-100, 0, os.O_RDONLY)], lambda a: not a[2] & (os.O_ACCMODE | CREATES)),
        "unlinkat": ([(-100, 0, 0)], lambda a: not a[2] & AT_REMOVEDIR),
        "clone": ([(THREAD, 0, 0)], lambda a: a[0] & ~CLONE_DETACHED == THREAD),
        "socket": ([(*each, 0) for each in SOCKETS] + [(socket.AF_NETLINK, socket.SOCK_RAW, 0)], is_socket),
        "setsockopt": ([(9, socket.SOL_SOCKET, SO_MARK)], lambda a: a[1:] == (socket.SOL_SOCKET, SO_MARK)),
        "ioctl": ([(9, each, 0) for each in IOCTL], lambda a: a[1] in IOCTL),
        "fcntl": ([(9, each, 0) for each in FCNTL], lambda a: a[1] in FCNTL),
        "prctl": ([(PR_SET_NAME, 0, 0)], lambda a: a[0] == PR_SET_NAME),
        "prlimit64": ([(0, 3, 0), (0, 3, 1 << 40)], lambda a: (a[0] & LOW, a[2]) == (0, 0)),
        "sched_setscheduler": ([(0, 3, 0)], lambda a: a[0] == 0),
        "setpriority": ([(0, 0, 5)], lambda a: a[:2] == (0, 0)),
        "kill": ([(pid, 0, 0)], lambda a: a[0] == pid),
        "tgkill": ([(pid, tid, 0)], lambda a: a[0] == pid),
    }


def neighbours(begin: list[Arguments]) -> Iterator[Arguments]:
    """Each of these; with one argument changed by a bit, or to a number of any; with two exchanged."""
    values = {value for arguments in begin for value in arguments} | {0, 1, 2}
    for arguments in begin:
        yield arguments
        for at in range(len(arguments)):
            changed = values | {arguments[at] ^ 1 << bit for bit in range(31)} | {arguments[at] + 1}
            for value in changed - {arguments[at]}:
                yield (*arguments[:at], value, *arguments[at + 1 :])
        for one, other in itertools.combinations(range(len(arguments)), 2):
            exchanged = list(arguments)
            exchanged[one], exchanged[other] = arguments[other], arguments[one]
            yield tuple(exchanged)


def is_tried(name: str, arguments: Arguments, is_permitted: bool) -> bool:
    """Not what would do something: a thread without a program, a signal, a descriptor of the trial's own."""
    if name in ("kill", "tgkill"):
        return arguments[-1 if name == "tgkill" else 1] == 0
    if name in ("fcntl", "ioctl", "setsockopt") and arguments[0] != 9:
        return not is_permitted
    return name != "clone" or not is_permitted


def differences(role: str, scene: Scene) -> str | None:
    """Calls that are answered otherwise than they should be; None when there are none."""
    found = []
    for name, (begin, permits) in (of_packets() if role == "packets" else of_control()).items():
        for arguments in neighbours(begin):
            is_permitted = permits(arguments)
            if not is_tried(name, arguments, is_permitted):
                continue
            try:
                if call(name, *arguments) == 0 and name == "clone":
                    os.kill(os.getpid(), signal.SIGKILL)
                is_refused = False
            except OSError as error:
                is_refused = error.errno == errno.EPERM
            if is_refused is is_permitted:
                found.append(f"{name}{arguments} is {'refused' if is_refused else 'allowed'}")
    return "; ".join(found[:20]) or None
