"""The listening UAPI socket: /var/run/wireguard/IFACE.sock, where `wg` finds an engine.

The supervisor opens the socket and keeps it, so that a restarted control serves the same socket.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from workers.descriptors import identity, is_gone, open_directory
from workers.failure import Exit, Failure, explain

DIRECTORY = Path("/var/run/wireguard")
BACKLOG = 128
OWN = "have it be root's alone: chown root:root {0}; chmod 755 {0}"
ENDING_SECONDS = 2  # an engine whose interface was just deleted needs a moment to end
log = logging.getLogger("plait")


class Guard(NamedTuple):
    """A process that removes the socket file when the supervisor dies before control can remove it."""

    pid: int

    @classmethod
    def fork(cls, path: Path) -> Guard | None:
        """Start the guard; None when the kernel refuses a process."""
        from workers.launch import let_go

        supervisor = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    let_go(2)
                    while os.getppid() == supervisor:
                        time.sleep(0.02)
                    _remove_dead(path)
                finally:
                    os._exit(0)
        except OSError:
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(pid)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@dataclass
class UapiSocket:
    """A listening socket and the file that leads to it."""

    fd: int
    path: Path | None  # None when it was given to us without a name
    identity: tuple[int, int]  # device and inode of the file, so that another engine's file is never removed
    directory: int | None = None  # fd of path.parent, opened at the start: a later mount hides no file
    guard: Guard | None = None  # removes the file if the supervisor is killed

    @property
    def file(self) -> tuple[str, int, int] | None:
        """Path, device and inode of our file, None without one."""
        return None if self.path is None else (str(self.path), *self.identity)

    def dismiss_guard(self) -> None:
        """End the guard: from now on control removes the file (parent_death.h)."""
        if self.guard is not None:
            self.guard.end()
            self.guard = None

    def is_gone(self) -> bool:
        """Whether somebody removed our file, or put another in its place."""
        return self.path is not None and is_gone(self.path, self.identity, self.directory)

    def follow(self, interface: str) -> None:
        """Name the socket file after the interface, for `wg` to find it. On Failure the file keeps its name.

        The new name is linked before the old one is unlinked, so that the file always has a name. The socket
        file of a running engine is never replaced. A file outside DIRECTORY keeps its name.
        """
        if self.path is None or self.is_gone():
            return
        new = self.path.with_name(f"{interface}.sock")
        if new == self.path:
            return
        what = f"the socket file stays {self.path}, though the interface is called {interface} now"
        try:
            if not self.path.parent.samefile(DIRECTORY):
                return
            if _is_live(new):
                why = f"a running engine listens at {new}"
                next_step = "rename the interface again when that one has ended"
                raise Failure(what, why, next_step, Exit.UAPI, errno.EADDRINUSE)
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
            os.link(self.path, new)
            old, self.path = self.path, new
            old.unlink()
        except OSError as error:
            why, number = error.strerror or str(error), error.errno or 0
            next_step = f"see to the directory {new.parent}, then rename the interface again"
            raise Failure(what, why, next_step, Exit.UAPI, number) from error

    def close(self) -> None:
        """Stop listening and remove the file, if it is still ours."""
        self.dismiss_guard()
        os.close(self.fd)
        with contextlib.suppress(OSError):
            if self.path is not None and identity(self.path, self.directory) == self.identity:
                os.unlink(self.path if self.directory is None else self.path.name, dir_fd=self.directory)
        if self.directory is not None:
            os.close(self.directory)


def open_uapi(interface: str, directory: Path = DIRECTORY) -> UapiSocket:
    """Listen for `wg`. Replaces a dead engine's socket file; Failure when a running engine listens there."""
    path = directory / f"{interface}.sock"
    what = f"cannot listen at {path}"
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)
        _own(directory, what)
        if not _wait_for_its_end(path):
            raise Failure(
                what,
                f"a running engine for {interface} listens there already",
                "stop that one first, or choose another interface name",
                Exit.UAPI,
                errno.EADDRINUSE,
            )
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        opened = open_directory(directory)
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            os.close(opened)
            raise
        guard = Guard.fork(path)
        umask = os.umask(0o077)
        try:
            sock.bind(str(path))
            made = identity(path, opened)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            os.close(opened)
            if guard is not None:
                guard.end()
            raise
        finally:
            os.umask(umask)
    except OSError as error:
        permission = error.errno in (errno.EACCES, errno.EPERM)
        raise Failure(
            what,
            *_why(error, directory),
            Exit.PRIVILEGE if permission else Exit.UAPI,
            error.errno or 0,
        ) from error
    return UapiSocket(sock.detach(), path, made, opened, guard)


def _remove_dead(path: Path) -> None:
    """Remove the socket file of an engine that was killed, once nobody listens there."""
    with contextlib.suppress(OSError):
        if path.is_socket() and _wait_for_its_end(path):
            path.unlink()


def adopt_uapi(fd: int) -> UapiSocket:
    """Take over a listening socket that the caller of plaitd opened (WG_UAPI_FD)."""
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=os.dup(fd))
        with sock:
            if sock.family != socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, "it is not a listening unix socket")
            name = sock.getsockname()
    except OSError as error:
        raise Failure(
            f"cannot use the UAPI socket given as WG_UAPI_FD={fd}",
            error.strerror or str(error),
            "pass a listening unix stream socket, or let plaitd open it",
            Exit.UAPI,
            error.errno or 0,
        ) from error
    if not isinstance(name, str) or not name:
        return UapiSocket(fd, None, (0, 0))
    path = Path(name)
    try:
        made = identity(path)
    except OSError:  # the socket's file is gone, or has another path here
        return UapiSocket(fd, None, (0, 0))
    return UapiSocket(fd, path, made, look_into(path.parent))


def look_into(directory: Path) -> int | None:
    """Descriptor of the directory (`open_directory`), or None when the kernel refuses it."""
    with contextlib.suppress(OSError):
        return open_directory(directory)
    return None


def strangers(directory: Path) -> str:
    """Why users other than root and our own could replace the socket file; empty when they cannot."""
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()):
        return f"the directory {directory} belongs to user {status.st_uid}, who could replace the socket"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        return f"the directory {directory} has mode {mode:04o}: not only its owner could replace the socket"
    return ""


def _own(directory: Path, what: str) -> None:
    """Let only the owner write to the directory. Failure when the owner is neither root nor our own user."""
    why = strangers(directory)
    if not why:
        return
    with contextlib.suppress(OSError):
        if directory.stat().st_uid in (0, os.geteuid()):
            directory.chmod(stat.S_IMODE(directory.stat().st_mode) & ~0o022)
            if not strangers(directory):
                log.warning("%s; nobody else may write there now", why)
                return
    raise Failure(what, why, OWN.format(directory), Exit.UAPI, errno.EPERM)


def _why(error: OSError, directory: Path) -> tuple[str, str]:
    words = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        if os.access(directory, os.W_OK):
            return explain(error)  # the directory is writable: something else refuses
        return words, f"run plaitd as root, with a writable {directory}"
    if error.errno == errno.EROFS:
        return words, f"mount {directory} for writing, or a tmpfs there"
    return explain(error) if error.errno == errno.ENOSYS else (words, f"see to the directory {directory}")


def _wait_for_its_end(path: Path) -> bool:
    """Whether nobody listens at the path, after a wait of up to ENDING_SECONDS for that.

    A script may delete an interface and start it again before the old engine has ended.
    """
    deadline = time.monotonic() + ENDING_SECONDS
    while _is_live(path):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _is_live(path: Path) -> bool:
    """Whether somebody listens at the path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            return True  # the backlog is full: the engine lives, but does not accept
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK):
                return False
            raise
    return True
