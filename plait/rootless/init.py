"""Process 1 of a sandbox: a program of its own, of the standard library alone, run by its path.

argv: fd of a socket (SOCK_SEQPACKET) to box.py, pid of that program. It unshares user, network, mount and
pid namespaces, forks, and the child is process 1 of them: it mounts what is the sandbox's own, starts plaitd
with the UDP sockets that came with its orders, gives the interface its addresses and routes, and then serves
box.py until that ends. Whoever of the chain dies takes those below along: the kernel kills a child whose
parent has died (PR_SET_PDEATHSIG), and with process 1 everything in its pid namespace. So nothing is left,
whatever is killed.

Messages are JSON, with descriptors beside them. From here: {"failed": step, "errno", "words"}, {"ready": 1},
{"ended": number of an order} with "code" of a run, "socket" and a descriptor, or "refused": errno, of a run
with "directory": whether that was refused. To here: the orders (box.py), then {"run": number, "arguments",
"environment", "directory", "session"} with three descriptors, {"signal": number, "to": a run},
{"socket": [family, kind], "number"}.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
PASSED_ON = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
READY_SECONDS = 60
FDS = 8
BYTES = 1 << 20
LOG_BYTES = 4096  # of the engine's log that are kept
RESOLV, OWN_RESOLV = "/etc/resolv.conf", "/run/plait.resolv.conf"
IN_MOVED_TO, IN_CREATE = 0x80, 0x100  # inotify(7)
RESOLVED = "/run/systemd/resolve/resolv.conf"  # systemd-resolved(8): the servers that it asks itself


class Failed(Exception):
    """A step of the way: its name (words.py has what it means), the errno, and words of a program."""

    def __init__(self, step: str, code: int = 0, words: str = "") -> None:
        super().__init__(step, code, words)
        self.message = {"failed": step, "errno": code, "words": words}


def call(step: str, function: str, *arguments: object) -> None:
    """A function of the C library that returns 0. Failed with its errno."""
    if getattr(LIBC, function)(*arguments):
        raise Failed(step, ctypes.get_errno())


def write(step: str, path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise Failed(step, error.errno or 0, path) from error


def mount(step: str, what: str, where: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    call(step, "mount", what.encode(), where.encode(), kind.encode() or None, flags, options.encode() or None)


def become(step: str, user: int, group: int, inner_user: int, inner_group: int, spaces: int) -> None:
    """Other namespaces, in which this user is inner_user."""
    call(step, "unshare", CLONE_NEWUSER | spaces)
    write(step, "/proc/self/setgroups", "deny")
    write(step, "/proc/self/uid_map", f"{inner_user} {user} 1")
    write(step, "/proc/self/gid_map", f"{inner_group} {group} 1")


def die_with_parent(parent: int) -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    die_with_parent(int(sys.argv[2]))
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN)  # box.py passes on what is meant for the program
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    user, group = os.getuid(), os.getgid()
    try:
        become("user", user, group, 0, 0, CLONE_NEWNS | CLONE_NEWPID)
        call("network", "unshare", CLONE_NEWNET)
        alive, held = os.pipe()
        child = os.fork()
    except Failed as failed:
        send(control, failed.message)
        return 1
    except OSError as error:
        send(control, {"failed": "fork", "errno": error.errno, "words": ""})
        return 1
    if child:
        control.close()
        os.close(alive)
        _, status = os.waitpid(child, 0)
        return min(abs(os.waitstatus_to_exitcode(status)), 255)
    os.close(held)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if select.select([alive], [], [], 0)[0]:  # our parent died before that
        os._exit(1)
    try:
        First(control, user, group).work()
    except Failed as failed:
        send(control, failed.message)
    except OSError as error:
        send(control, {"failed": "system", "errno": error.errno or 0, "words": str(error)})
    return 1


def received(control: socket.socket) -> tuple[bytes, list[int]]:
    """A message and its descriptors, which no program inherits (socket.recv_fds passes no flags on)."""
    room = socket.CMSG_SPACE(FDS * array.array("i").itemsize)
    data, ancillary, _, _ = control.recvmsg(BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, numbers in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(numbers)
    return data, list(fds)


def send(control: socket.socket, message: dict[str, object], fds: list[int] | None = None) -> None:
    try:
        socket.send_fds(control, [json.dumps(message).encode()], fds or [])
    except OSError:
        os._exit(1)  # nobody is there


def first_text(*paths: str) -> str | None:
    """Of the first of these files that can be read."""
    for path in paths:
        with contextlib.suppress(OSError), open(path, errors="surrogateescape") as file:
            return file.read()
    return None


class First:
    """Process 1."""

    def __init__(self, control: socket.socket, user: int, group: int) -> None:
        self.control = control
        self.user, self.group = user, group
        self.engine: subprocess.Popen[bytes] | None = None
        self.runs: dict[int, int] = {}  # pid -> number of a run
        self.said = b""  # the end of the engine's log
        self.wake, self.woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.changes = -1  # fd that is readable when the host may have put another resolv.conf in place

    def work(self) -> None:
        orders, fds = self.receive()
        self.mount(orders)
        if orders.get("probe", True):
            self.make_tun()  # the engine would say less of what is missing
        if "probe" in orders:
            send(self.control, {"ready": 1})
            return
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.start_engine(orders, fds)
        self.set_up(orders)
        send(self.control, {"ready": 1})
        self.serve()

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        data, fds = received(self.control)
        if not data:
            os._exit(0)  # box.py has ended
        message = json.loads(data)
        if not message:
            with open(fds.pop(0), "rb") as file:
                message = json.load(file)
        return message, fds

    # -- what is the sandbox's own --------------------------------------------------------------

    def mount(self, orders: dict[str, Any]) -> None:
        """Its own /proc, /run (sockets there lead out: of name services, of the system's bus) and DNS."""
        mount("mount", "none", "/", flags=MS_REC | MS_PRIVATE)
        mount("proc", "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        homes = [home for home in (f"/run/user/{self.user}",) if os.path.isdir(home)]
        kept = [(home, os.open(home, os.O_PATH | os.O_DIRECTORY)) for home in homes]
        resolved = os.path.realpath(RESOLV)
        is_in_run = resolved.startswith(("/run/", "/var/run/"))
        words = orders.get("resolv")
        if words is None and is_in_run:
            words = first_text(RESOLVED, resolved)
        for run in {os.path.realpath(path) for path in ("/run", "/var/run") if os.path.isdir(path)}:
            mount("run", "plait", run, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        for home, fd in kept:
            os.makedirs(home, 0o700)
            mount("run", f"/proc/self/fd/{fd}", home, flags=MS_BIND | MS_REC)
            os.close(fd)
        os.makedirs("/var/run/wireguard", 0o755, exist_ok=True)
        if words is not None:
            with open(OWN_RESOLV, "w", errors="surrogateescape") as file:
                file.write(words)
            places = (RESOLV,) if is_in_run else (RESOLV, resolved)
            self.watch({os.path.dirname(place) for place in places})
            self.take_resolv()
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("0 0")

    def watch(self, directories: set[str]) -> None:
        """A file that the host puts in the place of another takes the mounts on that one away, here too."""
        self.changes = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.changes < 0:
            raise Failed("watch", ctypes.get_errno())
        for each in filter(os.path.isdir, directories):
            if LIBC.inotify_add_watch(self.changes, os.fsencode(each), IN_MOVED_TO | IN_CREATE) < 0:
                raise Failed("watch", ctypes.get_errno())

    def take_resolv(self) -> None:
        """/etc/resolv.conf is the sandbox's own, whatever stands there. Failed when it cannot be."""
        place = os.path.realpath(RESOLV)
        if place == OWN_RESOLV:
            return
        if place.startswith(("/run/", "/var/run/")):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(OWN_RESOLV, place)
        elif not os.path.exists(place) or not os.path.samefile(place, OWN_RESOLV):
            mount("resolv", OWN_RESOLV, place, flags=MS_BIND)

    def make_tun(self) -> None:
        """Whether there can be one."""
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(fd, 0x400454CA, b"plait-probe".ljust(16, b"\0") + b"\x01\x10" + bytes(22))
            os.close(fd)
        except OSError as error:
            raise Failed("tun", error.errno or 0) from error

    # -- the engine -----------------------------------------------------------------------------

    def start_engine(self, orders: dict[str, Any], fds: list[int]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind("")
            given = dict(zip(orders["sockets"], map(str, fds), strict=True))
            place = "@" + told.getsockname()[1:].decode()
            environment = {**orders["environment"], **given, "NOTIFY_SOCKET": place}
            log, errors = os.pipe()
            self.engine = subprocess.Popen(
                [orders["plaitd"], "--foreground", orders["name"]], stdin=subprocess.DEVNULL, stdout=errors,
                stderr=errors, pass_fds=fds, env=environment, start_new_session=True, cwd="/",
            )
            for fd in (errors, *fds):
                os.close(fd)
            self.log = log
            poll = select.poll()
            for fd in (told.fileno(), log):
                poll.register(fd, select.POLLIN)
            poll.register(self.control.fileno(), 0)  # POLLHUP comes unasked
            while True:
                ready = dict(poll.poll(READY_SECONDS * 1000))
                if self.control.fileno() in ready:
                    os._exit(0)  # box.py has ended
                if not ready:
                    raise Failed("engine", 0, f"it is not ready after {READY_SECONDS} s")
                if told.fileno() in ready and b"READY=1" in told.recv(4096).split(b"\n"):
                    return
                if log in ready and not self.read_log():
                    raise Failed("engine", 0, self.last_line() or "it ended at once")

    def read_log(self) -> bool:
        """False at the end of the engine's log."""
        part = os.read(self.log, 1 << 16)
        self.said = (self.said + part)[-LOG_BYTES:]
        return bool(part)

    def last_line(self) -> str:
        """Of the engine's log; empty when it has said nothing."""
        lines = self.said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def set_up(self, orders: dict[str, Any]) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.settimeout(READY_SECONDS)
            engine.connect(f"/var/run/wireguard/{orders['name']}.sock")
            engine.sendall(orders["set"].encode())
            answer = b""
            while not answer.endswith(b"\n\n") and (part := engine.recv(4096)):
                answer += part
        if answer != b"errno=0\n\n":
            raise Failed("set", 0, answer.decode(errors="replace").strip())
        ip = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(orders["ip"]).encode() + b"\n", capture_output=True,
            env=orders["environment"],
        )
        if ip.returncode:
            raise Failed("ip", 0, ip.stderr.decode(errors="replace").partition("\n")[0])

    # -- serving --------------------------------------------------------------------------------

    def serve(self) -> None:
        poll = select.poll()
        for fd in (self.control.fileno(), self.wake, self.log, self.changes):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.wake:
                    os.read(self.wake, 4096)
                    self.reap()
                elif fd == self.log:
                    if not self.read_log():
                        poll.unregister(self.log)
                elif fd == self.changes:
                    os.read(self.changes, 1 << 16)
                    try:
                        self.take_resolv()
                    except (Failed, FileNotFoundError):
                        if os.path.exists(RESOLV):  # else it comes back with another change
                            raise
                else:
                    self.obey(*self.receive())

    def obey(self, order: dict[str, Any], fds: list[int]) -> None:
        if "run" in order:
            self.run(order, fds)
        elif "signal" in order:
            for pid, number in self.runs.items():
                if number == order["to"]:
                    with contextlib.suppress(OSError, OverflowError):  # there is no such signal
                        os.kill(pid, order["signal"])
        elif "socket" in order:
            try:
                with socket.socket(*order["socket"]) as made:
                    send(self.control, {"ended": order["number"], "socket": 1}, [made.fileno()])
            except OSError as error:
                send(self.control, {"ended": order["number"], "refused": error.errno})
            except OverflowError:  # a number that no int of C holds
                send(self.control, {"ended": order["number"], "refused": errno.EINVAL})
        for fd in fds:
            os.close(fd)

    def run(self, order: dict[str, Any], fds: list[int]) -> None:
        """Fork and become the program, as the user outside: not root, and with no power over the network."""
        told, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            is_there = True  # the directory
            try:
                signal.set_wakeup_fd(-1)
                if order["session"]:  # before a signal of the terminal can end it
                    os.setsid()
                for which in (*PASSED_ON, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(which, signal.SIG_DFL)
                for place, fd in enumerate(fds):
                    os.dup2(fd, place)
                become("user", 0, 0, self.user, self.group, 0)
                is_there = False
                os.chdir(order["directory"])
                is_there = True
                os.execvpe(order["arguments"][0], order["arguments"], order["environment"])
            except OSError as error:
                os.write(tell, f"{error.errno} {'' if is_there else 'directory'}".encode())
            except Failed as failed:
                os.write(tell, str(failed.message["errno"]).encode())
            except Exception:  # words of which no program can be made: none, an empty one, one with a zero
                os.write(tell, str(errno.EINVAL).encode())
            finally:
                os._exit(127)
        os.close(tell)
        with open(told, "rb") as words:
            refused = words.read().split()
        if refused:
            os.waitpid(pid, 0)
            answer = {"ended": order["run"], "refused": int(refused[0]), "directory": len(refused) > 1}
            send(self.control, answer)
        else:
            self.runs[pid] = order["run"]

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.runs:
                code = os.waitstatus_to_exitcode(status)
                send(self.control, {"ended": self.runs.pop(pid), "code": code})
            elif self.engine is not None and pid == self.engine.pid:
                code = os.waitstatus_to_exitcode(status)
                words = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                while select.select([self.log], [], [], 0)[0] and self.read_log():
                    pass
                line = self.last_line()
                raise Failed("died", 0, f"{words}; it said last: {line}" if line else words)


if __name__ == "__main__":
    sys.exit(main())
