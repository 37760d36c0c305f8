"""The start of a worker, seen from both sides.

The supervisor has loaded all that a worker runs (entry_points.py) and calls `fork_worker`. The child closes
every descriptor but its end of the channel, and resets the signal handlers; the segments are not mapped in a
child (MADV_DONTFORK, resources.py). `begin_worker` goes on: the child ties its life to the supervisor's,
waits for the start message with all its fds, pins itself to its CPU and maps the data segment. When it has
all that it needs, `WorkerStart.enter_sandbox` gives up the rest: capabilities, files, system calls. It
answers with `WorkerStart.ready` when it can work, or `WorkerStart.fail` when it never will; an uncaught
exception before that is reported to the supervisor too. A child never returns into the supervisor's frames:
it ends in `os._exit`, so that no object of the supervisor's is finalised in it.

Why a fork and no exec: docs/adr/0006-workers-are-forks.md.

When the supervisor dies, the kernel kills its workers (PR_SET_PDEATHSIG). Control gets another signal, whose
handler removes the socket file before it ends the process (parent_death.h).
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import setproctitle

from shm.layout import layout_hash
from workers._workers import ffi, lib
from workers.channel import Channel, ChannelClosed
from workers.failure import explain
from workers.handoffs import PIPELINE
from workers.log import configure, leave_log, worker_stderr
from workers.promises import (
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Broken,
    Promise,
    be_victim,
    set_process_option,
    why,
)

if TYPE_CHECKING:
    from workers._workers import Chars, segment_p

CAP_NET_ADMIN = 12
PARENT_DIED = signal.SIGRTMIN + 4  # what tells control that its supervisor is gone
PARENT_DEATH_SECONDS = 5  # for that signal to come, or for the supervisor to kill

log = logging.getLogger("plait")


@dataclass
class WorkerStart:
    """What the supervisor gave a worker to work with.

    fds maps the names of the start message (`data`, `bell:1`, `udp4:0`, `tun:0`, …) to fds; the last two
    kinds change, and so do receivers and consumers, the numbers that run now, and away: consumers whose
    peers belong to others.
    segment is a `struct segment *` of workers._workers on the data segment. Control has it as mapping,
    and its fd. Elsewhere trie and index are read-only in it, public keys unreachable, and so are
    session keys in a receiver that hands all packets off.
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
    broken: Broken = field(default_factory=Broken)  # promises that this host does not let us keep
    _ready: bool = False

    def enter_sandbox(self) -> None:
        """Give up for ever what this worker needs no more (sandbox.h), as far as the kernel takes it.

        A receiver or consumer keeps no capability, no way to a file, and the system calls of its
        loop. Control keeps CAP_NET_ADMIN, for fwmark and for interfaces in other namespaces; it may read
        modules that are written in Python, which are loaded when first needed, start threads, and remove
        its socket's file.
        """
        is_control = self.kind == "control"
        others = _other_threads()
        readable = [path for path in {*sys.path, sys.prefix, sys.base_prefix + "/lib"} if path]
        socket_file = self.message.get("socket")
        removable = [os.path.dirname(socket_file[0])] if socket_file else []
        keep, lists = (1 << CAP_NET_ADMIN, (readable, removable)) if is_control else (0, ([], []))
        texts = [[ffi.new("char[]", os.fsencode(path)) for path in paths] for paths in lists]
        may_read, may_remove = (ffi.new("char *[]", [*paths, ffi.NULL]) for paths in texts)
        refused = lib.sandbox_enter(keep, may_read, may_remove, not is_control)
        self.broken.sandbox(refused)
        if others:
            self.broken[Promise.SYSTEM_CALLS] = others

    def ready(self) -> None:
        """Tell the supervisor that this worker works from now on."""
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
        """The channel is closed: the supervisor is gone, or about to kill us. Wait for either."""
        time.sleep(PARENT_DEATH_SECONDS)
        sys.exit(1)

    def replace_sockets(self, message: dict[str, Any], fds: list[int]) -> None:
        """Apply a `sockets` message: new UDP sockets and TUN queues by name, the old ones closed; perhaps the
        interface's new name.

        The supervisor hears of it: from now on this worker has no copy of the old ones.
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
    """A child process of ours, whoever started it: this program, or the one whose place it took."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Reap it; its exit code, or the number of the signal that killed it, below zero."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def has_ended(self) -> bool:
        """Whether `wait` would come back at once."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def fork_worker(work: Callable[[WorkerStart], None], title: str, interface: str, channel: Channel) -> Child:
    """Start a worker (title: `control`, `receiver 0`, …) that does `work` and inherits `channel` alone.

    This process has no other thread than the log's, which holds no lock that a worker uses. The caller closes
    its copy of the channel. OSError when the kernel has no process for us.
    """
    supervisor = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else what waits there is written twice
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            run_worker(work, title, interface, channel, supervisor)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Child(pid)


def run_worker(
    work: Callable[[WorkerStart], None], title: str, interface: str, channel: Channel, supervisor: int
) -> NoReturn:
    """Be this worker from now on, as a child of the process with the pid `supervisor`."""
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
    """Keep nothing of the supervisor's but stdout, the log and this descriptor.

    The worker gets a process group of its own, so that Ctrl-C at a terminal reaches the supervisor only.
    """
    signal.set_wakeup_fd(-1)
    if (log := worker_stderr()) is not None:
        os.dup2(log, 2)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    os.closerange(3, channel)
    # The limit may have been lowered since they were opened: fs.nr_open as Linux has it is above all.
    os.closerange(channel + 1, max(os.sysconf("SC_OPEN_MAX"), 1 << 20))
    nothing, writer = os.pipe()  # no file has to be there for it, unlike for /dev/null
    os.dup2(nothing, 0)
    os.close(nothing)
    os.close(writer)
    with contextlib.suppress(OSError):  # then Ctrl-C reaches it too, which it ignores
        os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def begin_worker(title: str, interface: str, channel: Channel, supervisor: int) -> WorkerStart:
    """Begin this process as a worker: what the start message gives it to work with.

    Never returns when the supervisor, whose pid is given, is gone. Raises ValueError for a data segment of
    another build of Plait.
    """
    leave_log()
    take_title(f"{interface} {title}")
    broken = Broken()
    _die_with(supervisor, broken)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
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
        # Refused where the limit is low; then control's lock on the same pages holds them (memory.py).
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

    Both live as long as the caller keeps them; the segment without the mapping is void.
    """
    mapping = mmap.mmap(fd, size)
    with contextlib.suppress(OSError):  # a kernel without it dumps more, no reason to stop
        mapping.madvise(mmap.MADV_DONTDUMP)
    return mapping, _attach(ffi.from_buffer(mapping), size)


def map_what_packets_need(fd: int, size: int, without_keys: bool) -> segment_p:
    """A `struct segment *` for a receiver or consumer, mapped as long as the process lives."""
    base = lib.segment_map(fd, size)
    if base == ffi.NULL:
        raise OSError(ffi.errno, f"mmap: {os.strerror(ffi.errno)}")
    segment = _attach(base, size)
    if lib.segment_protect(segment) != 0 or (without_keys and lib.segment_forget_keys(segment) != 0):
        raise OSError(ffi.errno, f"cannot protect the tables: {os.strerror(ffi.errno)}")
    return segment


def _other_threads() -> str:
    """Why this process may have threads that no wall stands around; empty when it has none."""
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError as error:
        return f"other threads would not be seen: {why(error)}"
    return f"{threads - 1} threads were there already" if threads > 1 else ""


def _attach(base: Chars, size: int) -> segment_p:
    segment = ffi.new("struct segment *")
    attached = lib.segment_attach(segment, base, size) == 0
    if not attached or segment.header.layout_hash != layout_hash():
        raise ValueError("the data segment has another layout than this build of Plait")
    return segment


def take_title(title: str) -> None:
    """Be called so in lists of processes and in the log."""
    # The kernel takes bytes for a name that are no text.
    title = os.fsencode(title).decode(errors="replace")
    setproctitle.setproctitle(f"plait: {title}")
    configure(title)


def _die_with(supervisor: int, broken: Broken) -> None:
    """Have the kernel kill us when the supervisor dies."""
    broken.try_to(Promise.DIE_TOGETHER, lambda: set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL))
    if os.getppid() != supervisor:  # it died before: the signal will never come
        sys.exit(1)
    broken.try_to(Promise.NOT_DUMPED, lambda: set_process_option(PR_SET_DUMPABLE, 0))


def leave_no_socket(supervisor: int, socket_file: Sequence[Any] | None, other: str | None = None) -> None:
    """The supervisor's death, signalled by PARENT_DIED, removes this file (path, device, inode) and ends us.

    other: where the same file may stand as well, while it is renamed.
    """
    path, device, inode = socket_file or (None, 0, 0)
    first, second = (ffi.NULL if name is None else os.fsencode(name) for name in (path, other))
    if lib.parent_death_prepare(PARENT_DIED, supervisor, first, second, device, inode) != 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def _report_failure(channel: Channel, title: str, start: WorkerStart | None = None) -> None:
    """Log an exception that nobody catches. Until the worker is ready, tell the supervisor of it, too."""

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
