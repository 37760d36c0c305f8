"""What an engine promises of its processes, and how it says that this host does not let it keep one.

A process that finds a promise broken names it with the reason; the supervisor logs each once, and control
tells all in `plait show --engine`. `plait doctor` tries them beforehand in a process of its own.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from workers._workers import ffi, lib
from workers.failure import MOUNT_PROC, NO_PROC, is_without_proc
from workers.priorities import allow_realtime

if TYPE_CHECKING:
    from workers._workers import Address

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_THP_DISABLE = 41
OOM_SCORE = "/proc/self/oom_score_adj"
OOM_LOWERED = 300  # by so much the supervisor's is lowered, of 1000
OOM_RAISED = 300  # or, where that is refused, each worker's raised: the supervisor maps more than they do
FIRST_KEYS = 512 << 10  # bytes of shared memory with keys in it that a few peers need
OOM_LEAST = -999  # -1000 would keep a process from being killed at all


class Promise(StrEnum):
    """What may not hold on a host: the engine works without what its kernel or container refuses."""

    LOCKED = "locked"
    NOT_DUMPED = "not_dumped"
    CAPABILITIES = "capabilities"
    FILES = "files"
    SYSTEM_CALLS = "system_calls"
    THREADS = "threads"
    DIE_TOGETHER = "die_together"
    VICTIMS = "victims"
    CORES = "cores"
    WATCH = "watch"
    WAKES = "wakes"


class Words(NamedTuple):
    """The promise, and what keeps it."""

    promise: str
    mend: str


WORDS: dict[str, Words] = {
    Promise.LOCKED: Words(
        "keys in shared memory are never swapped out",
        "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=infinity, "
        "docker run --ulimit memlock=-1), add CAP_IPC_LOCK, or have no swap",
    ),
    Promise.NOT_DUMPED: Words(
        "no process leaves a core file or can be traced by its own user",
        "allow prctl(PR_SET_DUMPABLE) in the container's seccomp profile, or have no core files "
        "(ulimit -c 0)",
    ),
    Promise.CAPABILITIES: Words(
        "workers give up their capabilities",
        "allow prctl, capget and capset in the container's seccomp profile",
    ),
    Promise.FILES: Words(
        "workers can open no files (Landlock)",
        "run Linux 5.13 or later with landlock among its security modules (/sys/kernel/security/lsm), "
        "and allow landlock_* in the container's seccomp profile",
    ),
    Promise.SYSTEM_CALLS: Words(
        "workers make no system calls but those of their loops (seccomp)",
        "run a kernel with CONFIG_SECCOMP_FILTER on x86-64 or arm64, "
        "and allow seccomp and prctl in the container's seccomp profile",
    ),
    Promise.THREADS: Words(
        "no thread of a worker is outside its sandbox",
        "load nothing that starts threads into Python (LD_PRELOAD, sitecustomize)",
    ),
    Promise.DIE_TOGETHER: Words(
        "the kernel ends every worker when the supervisor dies",
        "allow prctl(PR_SET_PDEATHSIG) in the container's seccomp profile; "
        "until then they end when they find their channel closed",
    ),
    Promise.VICTIMS: Words(
        "short of memory, the kernel kills workers before the supervisor",
        "make /proc/self/oom_score_adj writable (no read-only /proc, no other owner)",
    ),
    Promise.CORES: Words(
        "receivers and consumers run on the cores of the settings",
        "allow sched_setaffinity in the container's seccomp profile, or leave out cores and pin",
    ),
    Promise.WATCH: Words(
        "changes of links and routes are followed at once (netlink)",
        "allow sockets of AF_NETLINK in the container's seccomp profile; "
        "until then the interface is looked at once a second",
    ),
    Promise.WAKES: Words(
        "receivers and consumers run before ordinary processes when they wake (SCHED_RR)",
        "allow priority 1 (LimitRTPRIO=1, docker run --ulimit rtprio=1, ulimit -r 1) and leave the control "
        'group its share of real-time (cpu.rt_runtime_us), or set priority = "normal"',
    ),
}

SANDBOXED = {
    lib.SANDBOX_CAPABILITIES: Promise.CAPABILITIES,
    lib.SANDBOX_FILES: Promise.FILES,
    lib.SANDBOX_SYSTEM_CALLS: Promise.SYSTEM_CALLS,
}


def say(promise: str, why: str) -> str:
    """One line: what does not hold here, why, and what would mend it."""
    if promise not in WORDS:  # of a worker of another version
        return f"a promise does not hold on this host: {promise}: {why}"
    return f"a promise does not hold on this host: {WORDS[promise].promise}: {why}; {mend(promise, why)}"


def mend(promise: str, why: str) -> str:
    """The next step. promise: one of WORDS. why: as it was found broken."""
    return MOUNT_PROC if why == NO_PROC else WORDS[promise].mend


def as_list(broken: Mapping[str, str]) -> list[dict[str, str]]:
    """For `get_engine`: what does not hold, why, and what would mend it."""
    return [
        {
            "name": name,
            "promise": WORDS[name].promise if name in WORDS else "",
            "why": why,
            "mend": mend(name, why) if name in WORDS else "",
        }
        for name, why in broken.items()
    ]


def why(error: OSError) -> str:
    """What the kernel said, without its number."""
    return NO_PROC if is_without_proc(error) else error.strerror or str(error)


class Broken(dict[str, str]):
    """By promise: why a process cannot keep it."""

    def try_to(self, promise: Promise, act: Callable[[], object]) -> None:
        """Do it; when the kernel refuses, the promise is broken."""
        try:
            act()
        except OSError as error:
            self[promise] = why(error)

    def sandbox(self, refused: int) -> None:
        """A mask of SANDBOX_* that the kernel refused."""
        for bit, promise in SANDBOXED.items():
            if refused & bit:
                self[promise] = "the kernel refused it"


def lock(start: Address, bytes_: int) -> str:
    """Lock these pages once they are in use; why not, or empty. start: of a cffi pointer."""
    if lib.memory_lock(start, bytes_) == 0:
        return ""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"a limit of {soft >> 10} KiB"
    return f"{os.strerror(ffi.errno)}, with {limit} on locked memory"


def tried() -> dict[str, str]:
    """What of it does not hold here, tried by a process of its own that then ends: by name, why."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(_try_all()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    broken: dict[str, str] = json.loads(text or b"{}")
    return broken


def _try_all() -> Broken:
    broken = Broken()
    broken.try_to(Promise.VICTIMS, lambda: be_victim(be_spared()))
    broken.try_to(Promise.NOT_DUMPED, lambda: set_process_option(PR_SET_DUMPABLE, 0))
    broken.try_to(Promise.DIE_TOGETHER, lambda: set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL))
    broken.try_to(Promise.CORES, lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
    broken.try_to(Promise.WAKES, run_in_realtime)
    broken.try_to(Promise.WATCH, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close())
    page = mmap.mmap(-1, FIRST_KEYS)
    if unlocked := lock(ffi.from_buffer(page), FIRST_KEYS):
        broken[Promise.LOCKED] = unlocked
    if others := other_threads():
        broken[Promise.THREADS] = others
    nothing = ffi.new("char *[]", [ffi.NULL])
    broken.sandbox(lib.sandbox_enter(0, nothing, nothing, 1))
    return broken


def be_spared() -> int | None:
    """The supervisor: be a worse victim than the workers. What they are to have; None: let them see to it."""
    try:
        own = _oom_score()
        _set_oom_score(max(own - OOM_LOWERED, OOM_LEAST))
    except OSError:  # no CAP_SYS_RESOURCE, as in a container, or no /proc
        return None
    return own


def be_victim(score: int | None) -> None:
    """A worker: be killed before the supervisor. score: what `be_spared` returned. OSError when refused."""
    if score is None:
        score = min(_oom_score() + OOM_RAISED, 1000)
    _set_oom_score(score)


def run_in_realtime() -> None:
    """Give this process the lowest real-time priority. OSError when the kernel refuses."""
    allow_realtime()
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def set_process_option(option: int, value: int) -> None:
    """prctl(2) with one argument. OSError when the kernel refuses."""
    if lib.process_option(option, value) != 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def other_threads() -> str:
    """Why other threads of this process may be outside the sandbox; empty when there are none."""
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError as error:
        return why(error)
    return f"{threads - 1} threads were there already" if threads > 1 else ""


def _oom_score() -> int:
    fd = os.open(OOM_SCORE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 32))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"{OOM_SCORE} tells no number") from error
    finally:
        os.close(fd)


def _set_oom_score(score: int) -> None:
    fd = os.open(OOM_SCORE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(score).encode())
    finally:
        os.close(fd)
