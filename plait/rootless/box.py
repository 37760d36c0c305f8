"""A sandbox, seen from outside: a tunnel's file becomes namespaces whose only way out is the tunnel.

The UDP sockets are opened here, in the namespaces where this program is, and handed to the engine inside; so
outside there is nothing but datagrams to endpoints. rootless/init.py is the inside.
"""

from __future__ import annotations

import array
import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from engine import uapi
from engine.constants import MTU
from plait.failure import Failure
from plait.programs import plaitd
from plait.quick import conf as wgconf
from plait.quick.quick_file import read
from plait.quick.up_down import resolve
from plait.rootless import init
from plait.rootless.init import received
from plait.rootless.words import failure_of
from workers.failure import Failure as EngineFailure
from workers.supervisor.sockets import GIVEN, Pair, close_sockets, open_sockets

INIT: Final = Path(init.__file__)
LONG_BYTES: Final = 1 << 16  # less than the smallest buffer that a socket may have


class Sandbox:
    """Namespaces whose only network is a tunnel, as a context manager: `plait.sandbox(file)`.

    Needs no privilege. Everything in it ends with the `with` block, and with this program, however it ends.
    """

    def __init__(self, config: str) -> None:
        """config: a wg-quick file, or the name of one in /etc/wireguard: a bare word is such a name, so a
        file of this directory is "./home.conf". Its hooks, Table, FwMark and SaveConfig have no meaning here.
        Failure when the file is refused."""
        self.name, self.path, self._conf = read(config)
        if self._conf.interface.private_key is None or not self._conf.interface.addresses:
            why = "it has no PrivateKey or no Address, and a tunnel without them carries nothing"
            raise Failure(f"{self.path} makes no sandbox", why, "Add what is missing.")
        self._next = 0
        self._ends: dict[int, tuple[dict[str, Any], list[int]]] = {}
        self._unwanted: set[int] = set()  # numbers of sockets whose callers were interrupted
        self._news = threading.Condition()
        self._failure: Failure | None = None
        self._is_ready = False
        self._process: Future[subprocess.Popen[bytes]] = Future()
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pairs: list[Pair] = []
        try:
            orders = self._orders()
            pairs = _opened(self._conf.interface.listen_port or 0)
            fds = {name: fd for name, fd in zip(GIVEN.values(), pairs[0], strict=True) if fd is not None}
            orders["sockets"] = list(fds)
            self._start_reader(theirs)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it says why it has ended
                _send(self._control, orders, list(fds.values()))
            with self._news:
                self._news.wait_for(lambda: self._is_ready or self._failure)
                if self._failure:
                    raise self._failure
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            close_sockets(pairs)
        return self

    def _start_reader(self, theirs: socket.socket) -> None:
        """The thread that reads what process 1 says, and whose child that one is: the kernel kills it when
        its parent, a thread, has ended (prctl(2), PR_SET_PDEATHSIG), so this cannot be a caller's thread."""
        reader = threading.Thread(
            target=self._keep, args=(theirs,), daemon=True, name=f"sandbox {self.name}"
        )  # fmt: skip
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # which a new thread inherits
        try:
            reader.start()
            self._reader = reader
        except RuntimeError as error:
            raise _no_process(str(error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            self._process.result()
        except OSError as error:
            raise _no_process(error.strerror or str(error)) from error

    def _keep(self, theirs: socket.socket) -> None:
        try:
            process = _start(theirs)
        except BaseException as error:
            self._process.set_exception(error)
            return
        finally:
            theirs.close()
        self._process.set_result(process)
        self._listen()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    # -- programs -------------------------------------------------------------------------------

    def start(
        self, command: Sequence[str], *, stdin: int = 0, stdout: int = 1, stderr: int = 2,
        environment: Mapping[str, str] | None = None, directory: str | None = None,
        start_new_session: bool = False,
    ) -> int:
        """Start a program inside, as the user who is outside; the number by which `wait` and `signal` know
        it. Failure when the sandbox has ended; whether the program can be run at all, `wait` tells.

        stdin, stdout, stderr: descriptors of ours that it gets. environment: None for ours. directory: where
        it begins, None for ours. start_new_session: a terminal's Ctrl-C, which all programs get that were
        started from there, does not reach it."""
        try:
            directory = directory or os.getcwd()
        except FileNotFoundError as error:
            raise NotRun(error.errno or 0, in_directory=True) from error
        number = self._number()
        order = {
            "run": number,
            "arguments": list(command),
            "environment": dict(os.environ if environment is None else environment),
            "directory": directory,
            "session": start_new_session,
        }
        self._say(order, [stdin, stdout, stderr])
        return number

    def wait(self, number: int) -> int:
        """Exit code of a started program, 128 + N when a signal ended it. Failure when it could not be run
        (its `errno` is the attribute of that name), or when the tunnel ended first."""
        end, _ = self._end(number)
        if "refused" in end:
            raise NotRun(end["refused"], in_directory=end["directory"])
        code: int = end["code"]
        return code if code >= 0 else 128 - code

    def signal(self, number: int, which: int) -> None:
        """Send a signal to a started program; nothing happens when it has ended. Failure when there is no
        such signal."""
        if which not in signal.valid_signals():
            step = "Give a number of signal.Signals."
            raise Failure("the program gets no signal", f"there is no signal {which}", step)
        self._say({"signal": which, "to": number}, [])

    def run(
        self, command: Sequence[str], *, check: bool = False, capture_output: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """A program inside, to its end, as subprocess.run: CalledProcessError with `check` when its exit code
        is another than 0; with capture_output `stdout` and `stderr` are text."""
        with contextlib.ExitStack() as stack:
            files: list[IO[bytes]] = []
            out, err = 1, 2
            if capture_output:
                files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
                out, err = (file.fileno() for file in files)
            code = self.wait(self.start(command, stdout=out, stderr=err))
            texts: list[str | None] = [None, None]
            for at, file in enumerate(files):
                file.seek(0)
                texts[at] = file.read().decode(errors="replace")
        if check and code:
            raise subprocess.CalledProcessError(code, list(command), *texts)
        return subprocess.CompletedProcess(list(command), code, texts[0] or "", texts[1] or "")

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of the sandbox's network, used out here. Failure when the kernel refuses.

        Connect it to addresses: a name would be asked for out here, beside the tunnel."""
        number = self._number()
        try:
            self._say({"socket": [int(family), int(kind)], "number": number}, [])
            end, fds = self._end(number)
            if "refused" in end:
                why = os.strerror(end["refused"])
                raise Failure("the sandbox has no such socket", why, "Ask for AF_INET or AF_INET6.")
            made = socket.socket(fileno=fds[0])
            fds.clear()
            return made
        finally:
            with self._news:
                self._unwanted.add(number)
                self._drop(number)

    # -- the inside -----------------------------------------------------------------------------

    def _number(self) -> int:
        with self._news:
            self._next += 1
            return self._next

    def _end(self, number: int) -> tuple[dict[str, Any], list[int]]:
        """What came of an order. Failure when the sandbox ended first."""
        with self._news:
            self._news.wait_for(lambda: number in self._ends or self._failure)
            if number not in self._ends:
                assert self._failure is not None
                raise self._failure
            return self._ends[number]

    def _drop(self, number: int) -> None:
        """Forget what came of an order that nobody waits for, if it has come. With the lock."""
        if number in self._ends:
            self._unwanted.discard(number)
            for fd in self._ends.pop(number)[1]:
                os.close(fd)

    def _say(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            _send(self._control, message, fds)
        except OSError as error:
            with self._news:
                raise self._failure or _gone() from error

    def _listen(self) -> None:
        while True:
            message, fds = _receive(self._control)
            with self._news:
                if message is None:
                    at_once = {"failed": "system", "errno": 0, "words": "process 1 ended at once"}
                    self._failure = self._failure or (_gone() if self._is_ready else failure_of(at_once))
                elif "failed" in message:
                    self._failure = failure_of(message)
                elif "ready" in message:
                    self._is_ready = True
                elif "ended" in message:
                    self._ends[message["ended"]] = message, fds
                    if message["ended"] in self._unwanted:
                        self._drop(message["ended"])
                self._news.notify_all()
            if message is None:
                return

    def _close(self) -> None:
        """Process 1 ends with its socket, and everything with it."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if self._reader is not None:
            if self._process.exception() is None:
                self._process.result().wait()
            self._reader.join()
        self._control.close()

    def _orders(self) -> dict[str, Any]:
        interface = self._conf.interface
        operation = wgconf.to_set(self._conf, resolve)
        operation.listen_port = operation.fwmark = None
        name = self.name
        lines = ["link set lo up"]
        lines += [f"address add {address} dev {name}" for address in interface.addresses]
        lines.append(f"link set dev {name} mtu {interface.mtu or MTU} up")
        prefixes: set[str] = set()
        for ip in (ip for peer in self._conf.peers for ip in peer.allowed_ips):
            change = prefixes.discard if ip.removed else prefixes.add
            change(str(ip._replace(removed=False)))
        versions = {ipaddress.ip_interface(str(address)).version for address in interface.addresses}
        for prefix in sorted(prefixes):
            version = ipaddress.ip_network(prefix).version
            if version in versions:
                lines.append(f"route replace {prefix} dev {name}")
        resolv = [f"nameserver {server}" for server in interface.dns]
        if interface.dns_search:
            resolv.append(f"search {' '.join(interface.dns_search)}")
        return {
            "name": name,
            "set": "".join(uapi.format_set(operation)),
            "ip": lines,
            "resolv": "\n".join(resolv) + "\n" if interface.dns else None,
            "plaitd": plaitd("the sandbox"),
            "environment": {key: value for key, value in os.environ.items() if key not in _OF_OTHERS},
        }


def sandbox(config: str) -> Sandbox:
    """Namespaces whose only network is the tunnel of a wg-quick file: `with plait.sandbox(file) as box`.

    Needs no privilege: see `Sandbox`.
    """
    return Sandbox(config)


class NotRun(Failure):
    """The program cannot be run; errno says why, as execve(2) has it, or with in_directory as chdir(2)."""

    def __init__(self, code: int, *, in_directory: bool = False) -> None:
        self.errno, self.in_directory = code, in_directory
        why, step = os.strerror(code), "Give a program on PATH, or its path."
        if in_directory:
            why = f"the directory that it begins in is not there inside ({why})"
            step = "Change to another one; of /run there is only your own in /run/user."
        super().__init__("the program cannot be run in the sandbox", why, step)


_OF_OTHERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "WG_TUN_FD", "WG_UAPI_FD")


def probe(*, tun: bool) -> Failure | None:
    """Why this user can have no sandbox on this host, None when nothing speaks against it: the namespaces are
    made, with `tun` also a TUN in them, and go again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = _start(theirs)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # likewise
                _send(ours, {"probe": tun}, [])
            message, _ = _receive(ours)
        finally:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            process.wait()
    if message is None:
        return failure_of({"failed": "system", "errno": 0, "words": "process 1 ended at once"})
    return failure_of(message) if "failed" in message else None


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(INIT), str(theirs.fileno()), str(os.getpid())],
        stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
    )  # fmt: skip


def _opened(port: int) -> list[Pair]:
    try:
        return open_sockets(port, 1)
    except EngineFailure as failure:
        step = f"{failure.next_step[:1].upper()}{failure.next_step[1:]}."
        raise Failure(failure.what, failure.why, step) from failure


def _no_process(said: str) -> Failure:
    return failure_of(
        {"failed": "process", "errno": 0, "words": f"the kernel refuses another process ({said})"}
    )


def _send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int]) -> None:
    """A message with its descriptors; a long one, of many peers, goes as a file before them."""
    text = json.dumps(message).encode()
    with contextlib.ExitStack() as stack:
        if len(text) > LONG_BYTES:
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(text)
            file.seek(0)
            text, fds = b"{}", [file.fileno(), *fds]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([text], rights)


def _receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A message and its descriptors; None at the end."""
    while True:
        try:
            data, fds = received(sock)
            break
        except ConnectionResetError:  # it ended with something unread; what it said before comes next
            continue
        except OSError:
            return None, []
    return (json.loads(data) if data else None), fds


def _gone() -> Failure:
    return Failure("the sandbox has ended", "its process 1 was killed", "Make another one.")
