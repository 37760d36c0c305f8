"""What a worker must not be able to do: deeds by their effect, and the system calls that have it.

Each is tried by confinement_trials.py in a process of its own. A deed that is done without walls shows that
the kernel would have let it be done, and so that a wall refused it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.control import crypto_threads

DONE, EPERM, EACCES, ENOSYS, KILLED = "done", "EPERM", "EACCES", "ENOSYS", "SIGSYS"
PROT_RW, PROT_RX = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER = 0x20000, 0x4000000, 0x10000000
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
LOADED_LATER = "colorsys"  # a module of Python's alone, that nothing here imports

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p


@dataclass(frozen=True)
class Deed:
    """One attempt. Without walls it is done; `packets` and `control` say what comes of it behind the filter,
    with every capability and the file system open."""

    packets: str
    control: str
    attempt: Callable[[Scene], Any]


# Calls by what they would do, with arguments that the kernel would complain of: the filter answers before.
KILLED_BY_NAME = {
    "signal another": "rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
    "run another program": "execve execveat",
    "reach another's memory": "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease "
    "move_pages migrate_pages kcmp",
    "reach another's files": "pidfd_getfd open_by_handle_at fanotify_init",
    "gain privileges": "unshare setns setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid "
    "setgroups iopl ioperm modify_ldt",
    "mount": "mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick "
    "mount_setattr",
    "have the kernel work": "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register "
    "keyctl add_key request_key",
    "change the kernel": "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon "
    "swapoff quotactl acct personality",
}
REFUSED_BY_NAME = {
    "signal another": "tkill timer_create mq_notify",
    "change files": "creat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat rmdir mknod "
    "mknodat chmod fchmod fchmodat chown lchown fchown fchownat truncate utime utimes utimensat futimesat "
    "setxattr lsetxattr fsetxattr removexattr memfd_create name_to_handle_at inotify_init1 copy_file_range "
    "splice vmsplice tee sendfile flock chdir fchdir umask",
    "make sockets and processes": "socketpair bind connect listen fork wait4 waitid setpgid",
    "share memory": "shmget shmat shmctl msgget semget mq_open remap_file_pages",
    "steer another": "setrlimit sched_setparam sched_setattr sched_setaffinity ioprio_set "
    "set_mempolicy mbind",
    "change the machine": "capset settimeofday clock_settime adjtimex sethostname setdomainname syslog "
    "seccomp pkey_alloc pkey_mprotect arch_prctl",
}
# Younger calls: a library that is told ENOSYS takes the older one.
UNKNOWN_BY_NUMBER = {
    "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "faccessat2": 439,
    "epoll_pwait2": 441, "landlock_create_ruleset": 444, "memfd_secret": 447, "futex_waitv": 449,
    "fchmodat2": 452, "statmount": 457, "mseal": 462, "open_tree_attr": 467, "file_setattr": 469,
    "not made yet": 600,
}  # fmt: skip


@functools.cache
def numbers() -> dict[str, int]:
    """This architecture's system calls, by the headers."""
    command = ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    defined = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [line.split() for line in defined.splitlines() if line.startswith("#define __NR_")]
    return {line[1].removeprefix("__NR_"): int(line[2]) for line in words if line[2].isdigit()}


def call(name: str | int, *arguments: Any) -> int:
    """A system call, by whatever name or number. OSError when it fails."""
    number = numbers()[name] if isinstance(name, str) else name
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = libc.syscall(ctypes.c_long(number), *words, *[ctypes.c_long(0)] * (6 - len(words)))
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return int(result)


class Scene:
    """What deeds are done to, and what they need that a confined process could not make."""

    def __init__(self, directory: Path) -> None:
        self.readable, self.removable = directory / "readable", directory / "removable"
        self.elsewhere, self.mounted = directory / "elsewhere", directory / "mounted"
        self.spare = directory / "spare"
        for place in (self.readable, self.removable, self.elsewhere, self.mounted):
            place.mkdir()
        self.restore()
        self.bytes = ctypes.create_string_buffer(64)
        self.code = mmap.mmap(-1, mmap.PAGESIZE, prot=PROT_RW | mmap.PROT_EXEC)
        self.other = self._other_process()
        self.other_pidfd = os.pidfd_open(self.other)
        self.sockets = socket.socketpair()
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "listener"))
        self.listener.listen()
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0plait confinement {os.getpid()}")
        self.abstract.listen()
        self.memory = os.memfd_create("trial")
        os.ftruncate(self.memory, 4 * mmap.PAGESIZE)
        self.program = os.open("/bin/true", os.O_RDONLY)
        self.network = os.open("/proc/self/ns/net", os.O_RDONLY)
        call("mount", b"none", b"/", 0, 1 << 18 | 1 << 14, 0)  # nothing that is mounted here is seen outside
        call("mount", b"trial", self.path(self.mounted), b"tmpfs", 0, 0)
        (self.mounted / "file").touch()
        self.root = os.open(self.mounted, os.O_RDONLY)
        self.handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0), 128)
        call("name_to_handle_at", AT_FDCWD, self.path(self.mounted / "file"), self.handle, self.bytes, 0)
        self.context = call("fsopen", b"tmpfs", 0)
        self.superblock = call("fsopen", b"tmpfs", 0)
        call("fsconfig", self.superblock, 6, 0, 0, 0)  # create
        spare = call("fsopen", b"tmpfs", 0)
        call("fsconfig", spare, 6, 0, 0, 0)
        self.mount = call("fsmount", spare, 0, 0)
        self.shared_memory = call("shmget", 0, mmap.PAGESIZE, 0o1700)
        numbers()

    def restore(self) -> None:
        """Before each deed."""
        for place in (self.readable, self.removable, self.elsewhere):
            (place / "file").touch()
        (self.elsewhere / "new").unlink(missing_ok=True)
        self.spare.mkdir(exist_ok=True)

    @staticmethod
    def path(path: Path) -> bytes:
        return os.fsencode(path)

    @staticmethod
    def _other_process() -> int:
        pid = os.fork()
        if pid == 0:
            libc.prctl(1, signal.SIGKILL)
            signal.signal(signal.SIGWINCH, signal.SIG_IGN)
            while True:
                time.sleep(1000)
        return pid

    def map(self, protection: int) -> int:
        """Map a page of the memory file, shared; the address."""
        address = libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_SHARED, self.memory, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "")
        return int(address)

    def close(self) -> None:
        os.kill(self.other, signal.SIGKILL)
        os.waitpid(self.other, 0)
        call("shmctl", self.shared_memory, 0, 0)


# -- deeds that take more than a line ----------------------------------------------------------------


def clone_user_namespace(scene: Scene) -> None:
    if call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def clone3_user_namespace(scene: Scene) -> None:
    arguments = struct.pack("8Q", CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    if call("clone3", arguments, len(arguments)) == 0:
        os._exit(0)


def vector(scene: Scene) -> Any:
    return struct.pack("PL", ctypes.addressof(ctypes.c_char.from_buffer(scene.code)), mmap.PAGESIZE)


def queue_information(scene: Scene) -> bytes:
    return struct.pack("iii", signal.SIGWINCH, 0, -1).ljust(128, b"\0")  # SI_QUEUE


def pivot(scene: Scene) -> None:
    call("pivot_root", scene.path(scene.mounted), scene.path(scene.mounted))


def protect(first: int, then: int) -> Callable[[Scene], None]:
    """Change the protection of a page of the memory file."""

    def attempt(scene: Scene) -> None:
        call("mprotect", scene.map(first), mmap.PAGESIZE, then)

    return attempt


def grow_mapping(scene: Scene) -> None:
    """As a receiver would that wants the keys back behind the region in front of them."""
    call("mremap", scene.map(PROT_RW), mmap.PAGESIZE, 2 * mmap.PAGESIZE, 1)


def shift_mapping(scene: Scene) -> None:
    call("remap_file_pages", scene.map(PROT_RW), mmap.PAGESIZE, 0, 2, 0)


def owner(scene: Scene) -> bytes:
    return struct.pack("ii", 1, scene.other)  # F_OWNER_PID


def make_socket(family: int, kind: int, protocol: int = 0) -> Callable[[Scene], None]:
    """Make a socket."""
    return lambda scene: socket.socket(family, kind, protocol).close()


def set_option(option: int) -> Callable[[Scene], None]:
    """Of a UDP socket."""
    return lambda scene: scene.datagrams.setsockopt(socket.SOL_SOCKET, option, 4096)


def connect_abroad(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(scene.abstract.getsockname())


def listen_by_tcp(scene: Scene) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


def stand_back(scene: Scene) -> None:
    """A thread that lets others go first, as those of control do; here it does not pass over a refusal."""
    with ThreadPoolExecutor(1, initializer=crypto_threads.stand_back) as pool:
        try:
            assert pool.submit(threading.get_native_id).result() != os.getpid()
        except RuntimeError as error:
            raise PermissionError(errno.EPERM, "no thread") from error


def trace_error(scene: Scene) -> None:
    """A traceback with its lines of source, and a module that is loaded for it."""
    try:
        __import__(LOADED_LATER).rgb_to_hls("red", 0, 0)
    except TypeError:
        assert "maxc" in traceback.format_exc()


def ask_kernel(scene: Scene) -> None:
    """The state of `lo`, by ioctl and by netlink, and its number and name, as of the zone of an endpoint."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8913, struct.pack("16s24x", b"lo"))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        sock.settimeout(1)
        sock.send(struct.pack("=IHHII", 32, 18, 1, 0, 0) + struct.pack("=BxHiII", 0, 0, 1, 0, 0))
        assert sock.recv(1 << 16)
    assert socket.if_indextoname(socket.if_nametoindex("lo")) == "lo"


def grow(scene: Scene) -> None:
    """Memory of every size, grown and given back."""
    blocks = [bytearray(1 << size) for size in range(4, 24)]
    for block in blocks:
        block.extend(block)


def make_room(scene: Scene) -> None:
    os.ftruncate(scene.memory, 1 << 20)
    os.posix_fallocate(scene.memory, 0, 1 << 20)
    os.pwrite(scene.memory, b"redo", 4096)
    os.ftruncate(scene.memory, 4 * mmap.PAGESIZE)


def exchange(scene: Scene) -> None:
    ours, theirs = scene.sockets
    socket.send_fds(ours, [b"x"], [scene.memory])
    _, fds, *_ = socket.recv_fds(theirs, 1, 1)
    os.set_inheritable(fds[0], False)
    os.close(fds[0])
    mmap.mmap(-1, 1 << 20).close()
    os.urandom(8)
    time.sleep(0.0001)


def serve(scene: Scene) -> None:
    """Accept a client that came before."""
    sock, _ = scene.listener.accept()
    sock.setblocking(False)
    with sock, socket.socket(fileno=os.dup(sock.fileno())) as copy:
        assert copy.getsockname() == scene.listener.getsockname()
        with contextlib.suppress(BlockingIOError):
            sock.recv(1)


def signal_self(scene: Scene) -> None:
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    assert len(heard) == 3


def call_by_i386(scene: Scene) -> None:
    """getpid: mov eax, 20; int 0x80; ret."""
    scene.code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(scene.code))
    assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


def at(scene: Scene, place: str, flags: int) -> None:
    os.close(os.open(getattr(scene, place) / "file", flags))


W = signal.SIGWINCH
DEEDS: dict[str, Deed] = {
    # work: what each does all day
    "work": Deed(DONE, DONE, exchange),
    "work: grow": Deed(DONE, DONE, grow),
    "work: serve": Deed(EPERM, DONE, serve),
    "work: make room": Deed(EPERM, DONE, make_room),
    "work: ask the kernel": Deed(EPERM, DONE, ask_kernel),
    "work: a thread": Deed(EPERM, DONE, stand_back),
    "work: trace an error": Deed(EPERM, DONE, trace_error),
    "work: signal itself": Deed(EPERM, DONE, signal_self),
    "work: read there": Deed(EPERM, DONE, lambda s: at(s, "readable", os.O_RDONLY)),
    "work: list there": Deed(EPERM, DONE, lambda s: os.listdir(s.readable)),
    "work: remove there": Deed(EPERM, DONE, lambda s: os.unlink(s.removable / "file")),
    # signals to another process
    "kill": Deed(EPERM, EPERM, lambda s: call("kill", s.other, W)),
    "kill the group": Deed(EPERM, EPERM, lambda s: call("kill", 0, W)),
    "tkill": Deed(EPERM, EPERM, lambda s: call("tkill", s.other, W)),
    "tgkill": Deed(EPERM, EPERM, lambda s: call("tgkill", s.other, s.other, W)),
    "rt_sigqueueinfo": Deed(
        KILLED, KILLED, lambda s: call("rt_sigqueueinfo", s.other, W, queue_information(s))
    ),
    "rt_tgsigqueueinfo": Deed(
        KILLED, KILLED, lambda s: call("rt_tgsigqueueinfo", s.other, s.other, W, queue_information(s))
    ),
    "pidfd_send_signal": Deed(KILLED, KILLED, lambda s: call("pidfd_send_signal", s.other_pidfd, W, 0, 0)),
    "pidfd_open": Deed(ENOSYS, ENOSYS, lambda s: call("pidfd_open", s.other, 0)),
    "F_SETOWN": Deed(EPERM, EPERM, lambda s: fcntl.fcntl(s.sockets[0], fcntl.F_SETOWN, s.other)),
    "F_SETOWN_EX": Deed(EPERM, EPERM, lambda s: fcntl.fcntl(s.sockets[0], 15, owner(s))),
    "F_SETSIG": Deed(EPERM, EPERM, lambda s: fcntl.fcntl(s.sockets[0], 10, signal.SIGKILL)),
    "FIOSETOWN": Deed(
        EPERM, EPERM, lambda s: fcntl.ioctl(s.sockets[0], 0x8901, struct.pack("i", s.other))
    ),
    "outlive the supervisor": Deed(EPERM, EPERM, lambda s: call("prctl", 1, 0, 0, 0, 0)),
    # the scheduling and limits of another process
    "setpriority": Deed(EPERM, EPERM, lambda s: os.setpriority(os.PRIO_PROCESS, s.other, 5)),
    "setpriority of a group": Deed(EPERM, EPERM, lambda s: os.setpriority(os.PRIO_PGRP, 0, 5)),
    "sched_setscheduler": Deed(
        EPERM, EPERM, lambda s: os.sched_setscheduler(s.other, os.SCHED_BATCH, os.sched_param(0))
    ),
    "sched_setaffinity": Deed(EPERM, EPERM, lambda s: os.sched_setaffinity(s.other, {0})),
    "prlimit": Deed(EPERM, EPERM, lambda s: resource.prlimit(s.other, resource.RLIMIT_CORE, (0, 0))),
    # privileges, namespaces, processes
    "unshare": Deed(KILLED, KILLED, lambda s: call("unshare", CLONE_NEWUSER)),
    "clone into a user namespace": Deed(EPERM, EPERM, clone_user_namespace),
    "clone3 into a user namespace": Deed(ENOSYS, ENOSYS, clone3_user_namespace),
    "setns": Deed(KILLED, KILLED, lambda s: call("setns", s.network, 0)),
    "fork": Deed(EPERM, EPERM, lambda s: os.fork() or os._exit(0)),
    "be dumpable": Deed(EPERM, EPERM, lambda s: call("prctl", 4, 1, 0, 0, 0)),
    # mounts
    "mount": Deed(KILLED, KILLED, lambda s: call("mount", b"x", s.path(s.elsewhere), b"tmpfs", 0, 0)),
    "umount2": Deed(KILLED, KILLED, lambda s: call("umount2", s.path(s.mounted), 2)),
    "fsopen": Deed(KILLED, KILLED, lambda s: call("fsopen", b"tmpfs", 0)),
    "fsconfig": Deed(KILLED, KILLED, lambda s: call("fsconfig", s.context, 0, b"ro", 0, 0)),
    "fsmount": Deed(KILLED, KILLED, lambda s: call("fsmount", s.superblock, 0, 0)),
    "fspick": Deed(KILLED, KILLED, lambda s: call("fspick", AT_FDCWD, s.path(s.mounted), 0)),
    "move_mount": Deed(
        KILLED, KILLED, lambda s: call("move_mount", s.mount, b"", AT_FDCWD, s.path(s.elsewhere), 4)
    ),
    "open_tree": Deed(KILLED, KILLED, lambda s: call("open_tree", AT_FDCWD, s.path(s.mounted), 1)),
    "mount_setattr": Deed(
        KILLED,
        KILLED,
        lambda s: call("mount_setattr", AT_FDCWD, s.path(s.mounted), 0, struct.pack("4Q", 1, 0, 0, 0), 32),
    ),
    "pivot_root": Deed(KILLED, KILLED, pivot),
    "chroot": Deed(KILLED, KILLED, lambda s: call("chroot", s.path(s.mounted))),
    # the memory and descriptors of another process
    "ptrace": Deed(KILLED, KILLED, lambda s: call("ptrace", 0x4206, s.other, 0, 0)),  # seize
    "process_vm_readv": Deed(
        KILLED, KILLED, lambda s: call("process_vm_readv", s.other, vector(s), 1, vector(s), 1, 0)
    ),
    "process_vm_writev": Deed(
        KILLED, KILLED, lambda s: call("process_vm_writev", s.other, vector(s), 1, vector(s), 1, 0)
    ),
    "process_madvise": Deed(
        KILLED, KILLED, lambda s: call("process_madvise", s.other_pidfd, vector(s), 1, 20, 0)
    ),
    "pidfd_getfd": Deed(KILLED, KILLED, lambda s: call("pidfd_getfd", s.other_pidfd, 0, 0)),
    "kcmp": Deed(KILLED, KILLED, lambda s: call("kcmp", s.other, os.getpid(), 1, 0, 0)),
    "/proc/PID/mem": Deed(EPERM, DONE, lambda s: os.open(f"/proc/{s.other}/mem", os.O_RDONLY)),
    "/proc/PID/mem to write": Deed(EPERM, EPERM, lambda s: os.open(f"/proc/{s.other}/mem", os.O_RDWR)),
    # memory that is executed
    "mmap to execute": Deed(EPERM, EPERM, lambda s: mmap.mmap(-1, mmap.PAGESIZE, prot=PROT_RX)),
    "mmap a file to execute": Deed(EPERM, EPERM, lambda s: s.map(PROT_RX)),
    "mprotect to execute": Deed(EPERM, EPERM, protect(PROT_RW, PROT_RX)),
    "pkey_mprotect to execute": Deed(
        EPERM, EPERM, lambda s: call("pkey_mprotect", s.map(PROT_RW), mmap.PAGESIZE, PROT_RX, -1)
    ),
    "shmat to execute": Deed(EPERM, EPERM, lambda s: call("shmat", s.shared_memory, 0, 0o100000)),
    "personality": Deed(KILLED, KILLED, lambda s: call("personality", 0x400000)),  # READ_IMPLIES_EXEC
    # mappings: what was unmapped comes back, what is read-only is written
    "mremap": Deed(EPERM, DONE, grow_mapping),
    "remap_file_pages": Deed(EPERM, EPERM, shift_mapping),
    "mprotect to write": Deed(EPERM, DONE, protect(mmap.PROT_READ, PROT_RW)),
    "shmat": Deed(EPERM, EPERM, lambda s: call("shmat", s.shared_memory, 0, 0)),
    "userfaultfd": Deed(KILLED, KILLED, lambda s: call("userfaultfd", 0)),
    # files
    "read elsewhere": Deed(EPERM, DONE, lambda s: at(s, "elsewhere", os.O_RDONLY)),
    "write there": Deed(EPERM, EPERM, lambda s: at(s, "readable", os.O_WRONLY)),
    "write elsewhere": Deed(EPERM, EPERM, lambda s: at(s, "elsewhere", os.O_RDWR)),
    "cut": Deed(EPERM, EPERM, lambda s: at(s, "elsewhere", os.O_RDONLY | os.O_TRUNC)),
    "create": Deed(EPERM, EPERM, lambda s: os.open(s.elsewhere / "new", os.O_RDONLY | os.O_CREAT)),
    "create without a name": Deed(EPERM, EPERM, lambda s: os.open(s.elsewhere, os.O_WRONLY | os.O_TMPFILE)),
    "openat2": Deed(
        ENOSYS, ENOSYS, lambda s: call("openat2", AT_FDCWD, s.path(s.elsewhere / "file"), bytes(24), 24)
    ),
    "open_by_handle_at": Deed(
        KILLED, KILLED, lambda s: call("open_by_handle_at", s.root, s.handle, 0)
    ),
    "remove elsewhere": Deed(EPERM, DONE, lambda s: os.unlink(s.elsewhere / "file")),
    "remove a directory": Deed(EPERM, EPERM, lambda s: call("unlinkat", AT_FDCWD, s.path(s.spare), 0x200)),
    "io_uring": Deed(KILLED, KILLED, lambda s: call("io_uring_setup", 1, ctypes.create_string_buffer(120))),
    "memfd_create": Deed(EPERM, EPERM, lambda s: os.memfd_create("x")),
    # another program
    "execve": Deed(KILLED, KILLED, lambda s: call("execve", b"/bin/true", 0, 0)),
    "execveat": Deed(KILLED, KILLED, lambda s: call("execveat", s.program, b"", 0, 0, AT_EMPTY_PATH)),
    # sockets
    "TCP": Deed(EPERM, EPERM, make_socket(socket.AF_INET, socket.SOCK_STREAM)),
    "a raw socket": Deed(EPERM, EPERM, make_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
    "a packet socket": Deed(EPERM, EPERM, make_socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "a unix socket": Deed(EPERM, EPERM, make_socket(socket.AF_UNIX, socket.SOCK_STREAM)),
    "netlink of another kind": Deed(EPERM, EPERM, make_socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)),
    "listen by TCP": Deed(EPERM, EPERM, listen_by_tcp),
    "connect by an abstract name": Deed(EPERM, EPERM, connect_abroad),
    "work: mark a socket": Deed(EPERM, DONE, set_option(socket.SO_MARK)),
    "another socket option": Deed(EPERM, EPERM, set_option(socket.SO_RCVBUF)),
    "another ioctl": Deed(EPERM, EPERM, lambda s: fcntl.ioctl(s.sockets[0], 0x541B, bytes(4))),  # FIONREAD
    "the kernel's keys": Deed(KILLED, KILLED, lambda s: call("keyctl", 0, -3, 1)),
    "name the host": Deed(EPERM, EPERM, lambda s: socket.sethostname("other")),
}

# Another ABI, where there is one: the same calls by other numbers.
if platform.machine() == "x86_64":
    DEEDS["i386"] = Deed(KILLED, KILLED, call_by_i386)
    DEEDS["open by the older call"] = Deed(
        EPERM, EPERM, lambda s: call("open", s.path(s.elsewhere / "file"), os.O_RDWR)
    )
    KILLED_BY_NUMBER = {"x32: getpid": 0x40000000 | 39, "x32: execve": 0x40000000 | 520}
else:
    KILLED_BY_NUMBER = {}


def by_number() -> dict[str, tuple[int, str]]:
    """All calls that are refused whatever their arguments are: number and answer, by a name for reading."""
    found = {name: (number, ENOSYS) for name, number in UNKNOWN_BY_NUMBER.items()}
    found |= {name: (number, KILLED) for name, number in KILLED_BY_NUMBER.items()}
    for table, answer in ((KILLED_BY_NAME, KILLED), (REFUSED_BY_NAME, EPERM)):
        for effect, names in table.items():
            for name in names.split():
                if name in numbers() and name not in DEEDS:
                    found[f"{effect}: {name}"] = numbers()[name], answer
    return found


def call_all(calls: dict[str, int], scene: Scene) -> str:
    """Make these calls, one after another; JSON of what came of each."""
    answers = dict.fromkeys(calls, DONE)
    for name, number in calls.items():
        try:
            call(number)
        except OSError as error:
            answers[name] = name_of(error)
    return json.dumps(answers)


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
