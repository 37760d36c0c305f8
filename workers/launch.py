"""The start of a worker, seen from both sides.

The supervisor calls `spawn`: a fresh Python by exec, that inherits nothing but its end of the
channel. The worker calls `begin_worker` first of all: it ties its life to the supervisor's,
waits for the start message with all its fds, takes its CPU and maps the data segment. When it
has all that it needs, `WorkerStart.confine` gives up the rest: capabilities, files, system calls. It
answers with `WorkerStart.ready` when it can work, or `WorkerStart.fail` when it never will;
an exception that nobody catches before that is told to the supervisor too.

Whoever loses its supervisor is killed by the kernel (PR_SET_PDEATHSIG). Control alone is sent another
signal, that removes the socket file before it ends the process (orphan.h).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn

import setproctitle

from shm.layout import layout_hash
from workers._workers import ffi, lib
from workers.channel import Channel, ChannelClosed

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
CAP_NET_ADMIN = 12
CONFINED = {
    lib.CONFINE_CAPABILITIES: "capabilities",
    lib.CONFINE_FILES: "files (Landlock)",
    lib.CONFINE_SYSTEM_CALLS: "system calls (seccomp)",
}
ORPHANED = signal.SIGRTMIN + 4  # what tells control that its supervisor is gone
ORPHAN_SECONDS = 5  # for that signal to come, or for the supervisor to kill

LOG_LEVELS = {
    "silent": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "verbose": logging.DEBUG,
    "trace": logging.DEBUG,
}


@dataclass
class WorkerStart:
    """What the supervisor gave a worker to work with.

    fds maps the names of the start message (`data`, `bell:1`, `udp4:0`, `tun:0`, …) to fds; the last two
    kinds change, and so do receivers and consumers, the numbers that run now.
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
    segment: Any
    channel: Channel
    mapping: mmap.mmap | None = field(repr=False)
    kept: list[str] = field(default_factory=list)  # what the kernel refused to take away
    _ready: bool = False

    def confine(self) -> None:
        """Give up for ever what this worker needs no more (confine.h), as far as the kernel takes it.

        A receiver or consumer keeps no capability, no way to a file, and the system calls of its
        loop. Control keeps CAP_NET_ADMIN, for fwmark and for interfaces in other namespaces; it may
        read Python's modules, which are loaded when first needed, and remove its socket's file.
        """
        is_control = self.kind == "control"
        threads = len(os.listdir("/proc/self/task"))
        readable = [path for path in {*sys.path, sys.prefix, sys.base_prefix + "/lib"} if path]
        socket_file = self.message.get("socket")
        removable = [os.path.dirname(socket_file[0])] if socket_file else []
        keep, lists = (1 << CAP_NET_ADMIN, (readable, removable)) if is_control else (0, ([], []))
        texts = [[ffi.new("char[]", os.fsencode(path)) for path in paths] for paths in lists]
        arrays = [ffi.new("char *[]", [*paths, ffi.NULL]) for paths in texts]
        refused = lib.confine(keep, *arrays, not is_control)
        self.kept = [words for bit, words in CONFINED.items() if refused & bit]
        if threads > 1:
            self.kept.append(f"what {threads - 1} threads besides the first may do")

    def ready(self) -> None:
        """Tell the supervisor that this worker works from now on."""
        self._ready = True
        self.channel.send({"kind": "ready", "kept": self.kept})

    def fail(self, what: str, why: str, next_step: str) -> NoReturn:
        """Tell the supervisor why this worker cannot start, and end."""
        self.channel.send({"kind": "failed", "what": what, "why": why, "next": next_step})
        sys.exit(1)

    def log(self, level: str, text: str) -> None:
        """Have the supervisor log a line (level: error, info or debug)."""
        self.channel.send({"kind": "log", "level": level, "text": text})

    def lost(self) -> NoReturn:
        """The channel is closed: the supervisor is gone, or about to kill us. Wait for either."""
        time.sleep(ORPHAN_SECONDS)
        sys.exit(1)

    def replace_sockets(self, message: dict[str, Any], fds: list[int]) -> None:
        """Apply a `sockets` message: new UDP sockets and TUN queues by name, the old ones closed.

        The supervisor hears of it: from now on this worker has no copy of the old ones.
        """
        for name in [name for name in self.fds if name.startswith(("udp", "tun"))]:
            os.close(self.fds.pop(name))
        self.fds.update(zip(message["fds"], fds, strict=True))
        self.receivers, self.consumers = int(message["receivers"]), int(message["consumers"])
        self.channel.send({"kind": "replaced"})


def spawn(kind: str, interface: str, channel: Channel) -> subprocess.Popen[bytes]:
    """Start a worker (kind: control, receiver, consumer, standby) that inherits `channel` alone.

    The caller closes its copy of the channel. The worker gets a process group of its own, so
    that Ctrl-C at a terminal reaches the supervisor only; -P keeps a directory that plaitd
    happens to be started in from being searched for modules. It has one thread: numpy's linear algebra, which
    nobody needs, would start more, and what a worker gives up it gives up for one thread.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", f"workers.{kind}", *arguments_for(interface, channel)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, pass_fds=(channel.fileno(),), process_group=0, env=environment
    )


def arguments_for(interface: str, channel: Channel) -> list[str]:
    """What begin_worker finds on its command line."""
    return ["--channel", str(channel.fileno()), "--interface", interface]


def begin_worker(kind: str) -> WorkerStart:
    """Begin this process as a worker. kind is for its title until the start message says what it is.

    A standby says that it waits. Never returns when the supervisor is gone. Raises ValueError for a data
    segment of another build of Plait.
    """
    parser = argparse.ArgumentParser(description=f"A worker of plaitd, started by it ({kind}).")
    parser.add_argument("--channel", type=int, required=True, metavar="FD")
    parser.add_argument("--interface", required=True, metavar="IFACE")
    arguments = parser.parse_args()
    channel = Channel.inherited(arguments.channel)
    channel.socket.set_inheritable(False)

    supervisor = _die_with_supervisor(channel)
    setproctitle.setproctitle(f"plait: {arguments.interface} {kind}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _report_failure(channel, kind)
    if kind == "standby":
        channel.send({"kind": "waiting"})
    try:
        message, fds = channel.receive()
    except ChannelClosed:
        sys.exit(1)
    kind, interface, number = str(message["role"]), str(message["interface"]), int(message["number"])
    title = f"{interface} {kind}" if kind == "control" else f"{interface} {kind} {number}"
    setproctitle.setproctitle(f"plait: {title}")
    configure_log(title)
    if message["cpus"]:
        os.sched_setaffinity(0, message["cpus"])

    named = dict(zip(message["fds"], fds, strict=True))
    data, size = named["data"], int(message["segment_bytes"])
    mapping = None
    if kind == "control":
        mapping, segment = map_segment(data, size)
    else:
        segment = map_what_packets_need(data, size, kind == "receiver" and message["handoff"] == "split")
        os.close(named.pop("data"))
    if segment.keypairs:
        lib.segment_lock_keys(segment)  # refused where the limit on locked memory is low
    if os.environ.get("PLAIT_CLOCK") and lib.clock_open_steps(os.environ["PLAIT_CLOCK"].encode()) != 0:
        raise ValueError(f"PLAIT_CLOCK={os.environ['PLAIT_CLOCK']} is not a file of 16 bytes")
    if kind == "control":
        _leave_no_socket(supervisor, message["socket"])
    start = WorkerStart(
        message=message,
        kind=kind,
        interface=interface,
        worker=int(message["worker"]),
        number=number,
        incarnation=int(message["incarnation"]),
        receivers=int(message["receivers"]),
        consumers=int(message["consumers"]),
        fds=named,
        segment=segment,
        mapping=mapping,
        channel=channel,
    )
    _report_failure(channel, kind, start)
    return start


def map_segment(fd: int, size: int) -> tuple[mmap.mmap, Any]:
    """Map a data segment of `size` bytes: (the mapping, a `struct segment *` on it).

    Both live as long as the caller keeps them; the segment without the mapping is void.
    """
    mapping = mmap.mmap(fd, size)
    with contextlib.suppress(OSError):  # a kernel without it dumps more, no reason to stop
        mapping.madvise(mmap.MADV_DONTDUMP)
    return mapping, _attach(ffi.from_buffer(mapping), size)


def map_what_packets_need(fd: int, size: int, without_keys: bool) -> Any:
    """A `struct segment *` for a receiver or consumer, mapped as long as the process lives."""
    base = lib.segment_map(fd, size)
    if base == ffi.NULL:
        raise OSError(ffi.errno, f"mmap: {os.strerror(ffi.errno)}")
    segment = _attach(base, size)
    if lib.segment_protect(segment) != 0 or (without_keys and lib.segment_forget_keys(segment) != 0):
        raise OSError(ffi.errno, f"cannot protect the tables: {os.strerror(ffi.errno)}")
    return segment


def _attach(base: Any, size: int) -> Any:
    segment = ffi.new("struct segment *")
    attached = lib.segment_attach(segment, base, size) == 0
    if not attached or segment.header.layout_hash != layout_hash():
        raise ValueError("the data segment has another layout than this build of Plait")
    return segment


def configure_log(title: str) -> None:
    """Log to stderr as `plait: TITLE: text`, at the level of LOG_LEVEL, WG_LOG_LEVEL or info."""
    name = os.environ.get("LOG_LEVEL") or os.environ.get("WG_LOG_LEVEL") or "info"
    level = LOG_LEVELS.get(name.lower(), logging.INFO)
    logging.basicConfig(
        level=level, format=f"plait: {title.replace('%', '%%')}: %(message)s", stream=sys.stderr, force=True
    )


def set_process_option(option: int, value: int) -> None:
    """prctl(2) with one argument. OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
        != 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _die_with_supervisor(channel: Channel) -> int:
    """Have the kernel kill us when the supervisor dies; its pid."""
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The supervisor made the socket pair, so its credentials name it.
    peer, _, _ = struct.unpack("3i", channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    _end_if_orphaned(peer)
    set_process_option(PR_SET_DUMPABLE, 0)
    return int(peer)


def _end_if_orphaned(supervisor: int) -> None:
    """It may have died before its death would have been told: the signal will never come then."""
    if os.getppid() != supervisor:
        sys.exit(1)


def _leave_no_socket(supervisor: int, socket_file: tuple[str, int, int] | None) -> None:
    """From now on the supervisor's death removes this file (path, device, inode) and ends us."""
    path, device, inode = socket_file or (None, 0, 0)
    name = ffi.NULL if path is None else os.fsencode(path)
    if lib.orphan_prepare(ORPHANED, supervisor, name, device, inode) != 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    set_process_option(PR_SET_PDEATHSIG, ORPHANED)
    if os.getppid() != supervisor:
        os.kill(os.getpid(), ORPHANED)


def _report_failure(channel: Channel, kind: str, start: WorkerStart | None = None) -> None:
    """Until the worker is ready, tell the supervisor of an exception that nobody catches."""

    def hook(kind_of: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if start is None or not start._ready:
            with contextlib.suppress(OSError):
                channel.send(
                    {
                        "kind": "failed",
                        "what": f"the {kind} process cannot start",
                        "why": f"{kind_of.__name__}: {error}",
                        "next": "see its traceback with `plaitd --foreground`",
                    }
                )
        sys.__excepthook__(kind_of, error, traceback)

    sys.excepthook = hook
