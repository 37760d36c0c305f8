"""The start of a worker, in the supervisor and in the worker.

The supervisor has imported all code that a worker runs (entry_points.py) and calls `fork_worker`. The child
closes every descriptor but its end of the channel, and resets the signal handlers; the supervisor's segments
are not mapped in the child (MADV_DONTFORK, resources.py). In `begin_worker` the child arranges to die with
the supervisor, waits for the start message and its fds, pins itself to its CPU and maps the data segment.
Then `WorkerStart.enter_sandbox` gives up the capabilities, files and system calls that it needs no more.
The worker answers with `WorkerStart.ready` when it can work, or with `WorkerStart.fail` when it cannot; an
uncaught exception before that answer is reported to the supervisor too. A child never returns into the
supervisor's frames: it ends in `os._exit`, so that it finalises no object of the supervisor.

Why a fork and no exec: docs/adr/0006-workers-are-forks.md.

When the supervisor dies, the kernel kills its workers (PR_SET_PDEATHSIG). Control gets PARENT_DIED instead:
the handler removes the socket file and then ends the process (parent_death.h).
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import setproctitle

from shm.layout import layout_hash
from workers._workers import ffi, lib
from workers.channel import Channel, ChannelClosed
from workers.failure import explain
from workers.handoffs import PIPELINE
from workers.log import configure, leave_log, worker_stderr
from workers.priorities import REALTIME, allow_realtime, capabilities_to_return
from workers.promises import (
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Broken,
    Promise,
    be_victim,
    other_threads,
    set_process_option,
)

if TYPE_CHECKING:
    from workers._workers import Chars, segment_p

CAP_NET_ADMIN = 12
PARENT_DIED = signal.SIGRTMIN + 4  # control's PR_SET_PDEATHSIG: the supervisor is gone
PARENT_DEATH_SECONDS = 5  # wait for the death signal, or for a kill by the supervisor

log = logging.getLogger("plait")


@dataclass
class WorkerStart:
    """What the supervisor gave a worker to work with.

    fds: the names in the start message (`data`, `bell:1`, `udp4:0`, `tun:0`, …) -> fds.
    receivers, consumers: how many run now. away: consumers whose peers belong to other consumers for now.
    These three and the sockets and TUN queues in fds change while the worker runs (`replace_sockets`).
    segment: a `struct segment *` of workers._workers on the data segment. mapping: the same memory, kept by
    control alone, which also keeps the fd `data`. In a receiver or consumer the trie and the index are
    read-only and the public keys unreachable. In a receiver of the hand-off "pipeline" the session keys are
    unreachable too.
    """

    message: dict[str, Any]
    kind: str  # control, receiver, consumer
    interface: str
    worker: int  # worker number, shm/layout.h
    number: int  # of its kind, from 0
    incarnation: int
    receivers: int
    consumers: int
    fds: dict[str, int]
    segment: segment_p
    channel: Channel
    mapping: mmap.mmap | None = field(repr=False)
    away: list[int] = field(default_factory=list)
    broken: Broken = field(default_factory=Broken)  # promises that cannot be kept on this host
    _ready: bool = False
    _kept: int = 0  # capabilities, a mask

    def wake_at_once(self, open_priority: Callable[[], int]) -> None:
        """Have real-time priority, if the settings want it (workers/datapath/priority.h), by `open_priority`,
        which returns 0 or -1 with ffi.errno. `broken` notes a refusal."""
        if self.message["priority"] == REALTIME:
            allow_realtime()
            if open_priority() != 0:
                self.broken[Promise.WAKES] = os.strerror(ffi.errno)
            else:
                self._kept = capabilities_to_return()

    def stay_on_a_core(self, open_affinity: Callable[[int], int]) -> None:
        """Stay on the core of the start message, if it names one, while there is little to do
        (workers/datapath/affinity.h), by `open_affinity`, which returns 0 or -1 with ffi.errno. An ordinary
        process would wait there for whoever runs, so this is for real-time priority alone."""
        core = self.message["quiet_core"]
        if core is not None and Promise.WAKES not in self.broken and open_affinity(core) != 0:
            self.broken[Promise.CORES] = os.strerror(ffi.errno)

    def enter_sandbox(self) -> None:
        """Give up for ever what the worker needs no more (sandbox.h); `broken` notes each refusal.

        A receiver or consumer keeps the system calls of its loop and can open no file. It keeps no capability
        but CAP_SYS_NICE, where by nothing else a real-time priority that was given up comes back.
        Control keeps CAP_NET_ADMIN, for fwmark and for interfaces in other namespaces. Control may also start
        threads, read Python modules (they are imported when first needed), and remove its socket file.
        """
        is_control = self.kind == "control"
        others = other_threads()
        readable = [path for path in {*sys.path, sys.prefix, sys.base_prefix + "/lib"} if path]
        socket_file = self.message.get("socket")
        removable = [os.path.dirname(socket_file[0])] if socket_file else []
        keep, lists = (1 << CAP_NET_ADMIN, (readable, removable)) if is_control else (self._kept, ([], []))
        texts = [[ffi.new("char[]", os.fsencode(path)) for path in paths] for paths in lists]
        may_read, may_remove = (ffi.new("char *[]", [*paths, ffi.NULL]) for paths in texts)
        refused = lib.sandbox_enter(keep, may_read, may_remove, not is_control)
        self.broken.sandbox(refused)
        if others:
            self.broken[Promise.THREADS] = others

    def ready(self) -> None:
        """Tell the supervisor that this worker is ready."""
        self._ready = True
        self.channel.send({"kind": "ready", "broken": self.broken})

    def fail(self, what: str, why: str, next_step: str) -> NoReturn:
        """Tell the supervisor why this worker cannot start, and end."""
        self.channel.send({"kind": "failed", "what": what, "why": why, "next": next_step})
        sys.exit(1)

    def log(self, level: str, text: str) -> None:
        """Have the supervisor log a line (level: error, info or debug)."""
        self.channel.send({"kind": "log", "level": level, "text": text})

    def lost(self) -> NoReturn:
        """End after the channel was closed, unless the supervisor or its death kills this process first."""
        time.sleep(PARENT_DEATH_SECONDS)
        sys.exit(1)

    def replace_sockets(self, message: dict[str, Any], fds: list[int]) -> None:
        """Apply a `sockets` message: close the old UDP sockets and TUN queues, and use the new ones (`fds`).

        The message may also bring a new name of the interface. The answer `replaced` tells the supervisor
        that this worker has no copy of the old descriptors any more.
        """
        for name in [name for name in self.fds if name.startswith(("udp", "tun"))]:
            os.close(self.fds.pop(name))
        self.fds.update(zip(message["fds"], fds, strict=True))
        self.receivers, self.consumers = int(message["receivers"]), int(message["consumers"])
        self.away = message["away"]
        if message.get("interface", self.interface) != self.interface:
            self.interface = message["interface"]
            title = self.kind if self.kind == "control" else f"{self.kind} {self.number}"
            take_title(f"{self.interface} {title}")
        self.channel.send({"kind": "replaced"})


class Child:
    """A child of this process, started by this program or by the one that ran here before an upgrade."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Reap the child once it ends; its exit code, or minus the number of the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def has_ended(self) -> bool:
        """Whether the child has ended, so that `wait` returns at once."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Birth(NamedTuple):
    """A worker to fork: what it does, its title (`control`, `receiver 0`, …), and all that it inherits."""

    work: Callable[[WorkerStart], None]
    title: str
    channel: Channel


def fork_workers(births: Iterable[Birth], interface: str) -> list[Child | OSError]:
    """Start workers: for each its process, or why the kernel refuses one.

    A fork is safe here: the only other thread is the log's, which holds no lock that a worker uses. Between
    two forks nothing is done: each page that the supervisor writes to there is one more copy in memory. The
    caller closes its copies of the channels.
    """
    supervisor = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else the child would write buffered text once more
    children: list[Child | OSError] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for work, title, channel in births:
            try:
                pid = os.fork()
            except OSError as error:
                children.append(error)
                continue
            if pid == 0:
                run_worker(work, title, interface, channel, supervisor)
            children.append(Child(pid))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return children


def run_worker(
    work: Callable[[WorkerStart], None], title: str, interface: str, channel: Channel, supervisor: int
) -> NoReturn:
    """Run the worker in this forked child, then end. supervisor: the parent's pid."""
    code: object = 1
    try:
        let_go(channel.fileno())
        work(begin_worker(title, interface, channel, supervisor))
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def let_go(channel: int) -> None:
    """Drop all that a child inherits from the supervisor but stdout, the log and this descriptor.

    The worker gets a process group of its own, so that Ctrl-C at a terminal reaches the supervisor only.
    """
    signal.set_wakeup_fd(-1)
    if (log := worker_stderr()) is not None:
        os.dup2(log, 2)
    os.closerange(3, channel)
    # The limit may have been lowered after descriptors were opened; 1 << 20 is Linux's default fs.nr_open.
    os.closerange(channel + 1, max(os.sysconf("SC_OPEN_MAX"), 1 << 20))
    nothing, writer = os.pipe()  # an empty stdin, even on a host without /dev/null
    os.dup2(nothing, 0)
    os.close(nothing)
    os.close(writer)
    with contextlib.suppress(OSError):  # if refused, Ctrl-C reaches the worker too, which ignores it
        os.setpgid(0, 0)
    lib.signals_forget()


def begin_worker(title: str, interface: str, channel: Channel, supervisor: int) -> WorkerStart:
    """Make this process a worker, and return what the start message gives it to work with.

    supervisor: the parent's pid; if that process is gone, this one ends. Raises ValueError for a data segment
    of another build of Plait.
    """
    leave_log()
    take_title(f"{interface} {title}")
    broken = Broken()
    _die_with(supervisor, broken)
    lib.signal_ignore(signal.SIGINT)
    lib.signal_ignore(signal.SIGHUP)
    _report_failure(channel, title)
    try:
        message, fds = channel.receive()
    except ChannelClosed:
        sys.exit(1)
    kind, number = str(message["role"]), int(message["number"])
    broken.try_to(Promise.VICTIMS, lambda: be_victim(message["oom_score"]))
    if message["cpus"]:
        broken.try_to(Promise.CORES, lambda: os.sched_setaffinity(0, message["cpus"]))

    named = dict(zip(message["fds"], fds, strict=True))
    data, size = named["data"], int(message["segment_bytes"])
    mapping = None
    if kind == "control":
        mapping, segment = map_segment(data, size)
    else:
        segment = map_what_packets_need(data, size, kind == "receiver" and message["handoff"] == PIPELINE)
        os.close(named.pop("data"))
    if segment.keypairs and kind != "control":
        # A low limit refuses this lock; then control's lock keeps the same pages in memory (memory.py).
        lib.segment_lock_keys(segment)
    if os.environ.get("PLAIT_CLOCK") and lib.clock_open_steps(os.environ["PLAIT_CLOCK"].encode()) != 0:
        raise ValueError(f"PLAIT_CLOCK={os.environ['PLAIT_CLOCK']} is not a file of 16 bytes")
    if kind == "control":
        leave_no_socket(supervisor, message["socket"])
        broken.try_to(Promise.DIE_TOGETHER, lambda: set_process_option(PR_SET_PDEATHSIG, PARENT_DIED))
        if os.getppid() != supervisor:
            os.kill(os.getpid(), PARENT_DIED)
    start = WorkerStart(
        message=message,
        kind=kind,
        interface=interface,
        worker=int(message["worker"]),
        number=number,
        incarnation=int(message["incarnation"]),
        receivers=int(message["receivers"]),
        consumers=int(message["consumers"]),
        away=message["away"],
        fds=named,
        segment=segment,
        mapping=mapping,
        channel=channel,
        broken=broken,
    )
    _report_failure(channel, title, start)
    return start


def map_segment(fd: int, size: int) -> tuple[mmap.mmap, segment_p]:
    """Map a data segment of `size` bytes: (the mapping, a `struct segment *` on it).

    The caller keeps both: the pointer is invalid once the mapping is gone.
    """
    mapping = mmap.mmap(fd, size)
    with contextlib.suppress(OSError):  # without MADV_DONTDUMP a core dump has the segment, no more
        mapping.madvise(mmap.MADV_DONTDUMP)
    return mapping, _attach(ffi.from_buffer(mapping), size)


def map_what_packets_need(fd: int, size: int, without_keys: bool) -> segment_p:
    """A `struct segment *` for a receiver or consumer; its memory stays mapped until the process ends.

    without_keys: make the session keys unreachable too. OSError when the kernel refuses.
    """
    base = lib.segment_map(fd, size)
    if base == ffi.NULL:
        raise OSError(ffi.errno, f"mmap: {os.strerror(ffi.errno)}")
    segment = _attach(base, size)
    if lib.segment_protect(segment) != 0 or (without_keys and lib.segment_forget_keys(segment) != 0):
        raise OSError(ffi.errno, f"cannot protect the tables: {os.strerror(ffi.errno)}")
    return segment


def _attach(base: Chars, size: int) -> segment_p:
    segment = ffi.new("struct segment *")
    attached = lib.segment_attach(segment, base, size) == 0
    if not attached or segment.header.layout_hash != layout_hash():
        raise ValueError("the data segment has another layout than this build of Plait")
    return segment


def take_title(title: str) -> None:
    """Set the title of this process in process lists and in the log."""
    # The kernel accepts an interface name that is not valid UTF-8.
    title = os.fsencode(title).decode(errors="replace")
    setproctitle.setproctitle(f"plait: {title}")
    configure(title)


def _die_with(supervisor: int, broken: Broken) -> None:
    """Have the kernel kill this process when the supervisor dies, and make no core dump of it."""
    broken.try_to(Promise.DIE_TOGETHER, lambda: set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL))
    if os.getppid() != supervisor:  # the supervisor died first, so no signal will come
        sys.exit(1)
    broken.try_to(Promise.NOT_DUMPED, lambda: set_process_option(PR_SET_DUMPABLE, 0))


def leave_no_socket(supervisor: int, socket_file: Sequence[Any] | None, other: str | None = None) -> None:
    """Have PARENT_DIED, the supervisor's death, remove socket_file (path, device, inode) and end control.

    other: a second path that the same file may have while it is renamed.
    """
    path, device, inode = socket_file or (None, 0, 0)
    first, second = (ffi.NULL if name is None else os.fsencode(name) for name in (path, other))
    if lib.parent_death_prepare(PARENT_DIED, supervisor, first, second, device, inode) != 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def _report_failure(channel: Channel, title: str, start: WorkerStart | None = None) -> None:
    """Log uncaught exceptions. Until the worker is ready, also report them to the supervisor."""

    def hook(kind_of: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if start is None or not start._ready:
            words, mend = f"{kind_of.__name__}: {error}", "see its traceback with `plaitd --foreground`"
            if is_refusal := isinstance(error, OSError | MemoryError):
                words, mend = explain(error)
            what = f"the {title} process cannot start"
            message = {"kind": "failed", "what": what, "why": words, "next": mend}
            with contextlib.suppress(OSError):
                channel.send(message)
            if is_refusal:
                log.debug("cannot start", exc_info=(kind_of, error, traceback))
                return
        log.critical("ends on an error that nobody expected", exc_info=(kind_of, error, traceback))

    sys.excepthook = hook
