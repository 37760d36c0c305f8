"""What `plait soak --operations` does to an engine, each with its bound on the silence of the tunnel.

A deed is done by a thread of its own, while packets flow. Its numbers come from the Random that it is given,
so that a seed repeats them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Final

from plait.lab.cgroups import Cgroup, cgroup
from plait.lab.namespaces import keypair, no_descriptors, preshared_key
from plait.lab.soak_scene import BACK_SECONDS, INTERFACE, PORT, WORKERS, Side, hexadecimal, until

Deed = Callable[[Side, Random], "int | None"]  # how many workers it killed, None for none

UNDISTURBED: Final = 1.0  # seconds of silence without a kill or a stop
DISTURBED: Final = 3.0
HANDED_OVER: Final = 64  # packets: a receive call of the dead, which nobody can count
SIOCSIFNAME: Final = 0x8923  # linux/sockios.h
RECEIVERS: Final = WORKERS[1:3]
DATA: Final = WORKERS[1:]


class Unavailable(Exception):
    """This host cannot do an operation, and why."""


@dataclass(frozen=True)
class Operation:
    name: str
    deed: Deed
    bound: float = UNDISTURBED
    takes_away: bool = False  # the deed itself stops the tunnel: silence counts from its end


# -- kills and stops -------------------------------------------------------------------------------


def kill(side: Side, title: str) -> int:
    """And wait for its successor."""
    pid = side.pids()[title]
    os.kill(pid, signal.SIGKILL)
    side.await_complete(but=[pid])
    return 1


def kill_receiver(side: Side, random: Random) -> int:
    return kill(side, random.choice(RECEIVERS))


def kill_consumer(side: Side, random: Random) -> int:
    return kill(side, random.choice(WORKERS[3:]))


def kill_control(side: Side, _random: Random) -> int:
    return kill(side, "control")


def kill_control_in_a_set(side: Side, random: Random) -> int:
    """What it had accepted is finished by the next one; then all of it is taken back."""
    keys = [keypair()[1] for _ in range(300)]
    pid = side.pids()["control"]
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(side.guests, keys)
        time.sleep(random.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError, RuntimeError):
            asked.result(BACK_SECONDS)
    side.await_complete(but=[pid])
    side.guests(keys, remove=True)
    return 1


def kill_all(side: Side, _random: Random) -> int:
    pids = [pid for title, pid in side.pids().items() if title in WORKERS]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    side.await_complete(but=pids)
    return len(pids)


def stop_for_good(side: Side, random: Random) -> int:
    """The watchdog finds it."""
    pid = side.pids()[random.choice(WORKERS)]
    os.kill(pid, signal.SIGSTOP)
    side.await_complete(but=[pid])
    return 1


def stop_one(side: Side, random: Random) -> None:
    pid = side.pids()[random.choice(("supervisor", *WORKERS))]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(random.uniform(0.1, 1.0))
    side.go_on(pid)


def stop_all(side: Side, random: Random) -> None:
    """The supervisor first and last, so that it takes nobody for stuck."""
    pids = side.pids()
    order = [pids["supervisor"], *(pids[title] for title in WORKERS)]
    for pid in order:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(random.uniform(0.3, 1.5))
    side.go_on(*reversed(order))


# -- scarce resources ------------------------------------------------------------------------------


def _fill_log(side: Side) -> None:
    """The log's reader stands still, and the pipe is full."""
    side.log.goes_on.clear()
    pid = side.pids()["supervisor"]
    for _ in range(80):
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.01)


def log_stands_still(side: Side, _random: Random) -> None:
    try:
        _fill_log(side)
        until(side.answers, "an answer while the log stands still")
    finally:
        side.log.goes_on.set()


def log_stands_still_and_kill(side: Side, random: Random) -> int:
    try:
        _fill_log(side)
        return kill(side, random.choice(WORKERS))
    finally:
        side.log.goes_on.set()


def supervisor_without_descriptors(side: Side, random: Random) -> None:
    pid = side.pids()["supervisor"]
    with no_descriptors(pid):
        os.kill(pid, signal.SIGHUP)
        time.sleep(random.uniform(0.5, 1.5))
        until(side.answers, "an answer without descriptors")


def supervisor_without_descriptors_and_kill(side: Side, random: Random) -> int:
    """Its successor waits for the limit, or SIGCHLD alone tells of its end; the one after that is whole."""
    pids, title = side.pids(), random.choice(DATA)
    with no_descriptors(pids["supervisor"]):
        os.kill(pids[title], signal.SIGKILL)
        time.sleep(0.5)
    side.await_complete(but=[pids[title]])
    return 1 + kill(side, title)


def control_without_descriptors(side: Side, random: Random) -> None:
    with no_descriptors(side.pids()["control"]):
        time.sleep(random.uniform(0.5, 1.5))
    until(side.answers, "an answer with descriptors")


@contextlib.contextmanager
def confined(side: Side, controller: str, *settings: tuple[str, str]) -> Iterator[Cgroup]:
    """All processes of the engine in a cgroup with these settings."""
    with cgroup(controller, side.name) as group:
        if group is None:
            raise Unavailable(f"no {controller} cgroup can be made here")
        try:
            for file, value in settings:
                group.set(file, value)
            group.take(side.pids().values())
            yield group
        finally:
            if controller == "pids":
                group.limit("max")
            group.release()


def no_processes(side: Side, _random: Random) -> None:
    """Meanwhile control has new keys to make, for which it would have threads."""
    with confined(side, "pids") as group:
        group.limit("1")
        side.step(121)
        time.sleep(1)


def no_processes_and_kill(side: Side, random: Random) -> int:
    """The others read for a receiver that cannot come back."""
    with confined(side, "pids") as group:
        group.limit("1")
        pid = side.pids()[random.choice(RECEIVERS)]
        os.kill(pid, signal.SIGKILL)
        time.sleep(1.5)
        group.limit("max")
        side.await_complete(but=[pid])
    return 1


def another_core(side: Side, random: Random) -> None:
    """A receiver on a core that its settings do not name, and back."""
    cores = os.sched_getaffinity(0)
    pid = side.pids()[random.choice(RECEIVERS)]
    before = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, {random.choice(sorted(cores))})
    time.sleep(random.uniform(0.2, 1.0))
    os.sched_setaffinity(pid, before)


def core_taken_away_and_kill(side: Side, random: Random) -> int:
    """A cpuset without the core of receiver 1, which dies."""
    first = str(min(os.sched_getaffinity(0)))
    with confined(side, "cpuset", ("cpuset.mems", "0"), ("cpuset.cpus", first)):
        time.sleep(random.uniform(0.1, 0.5))
        return kill(side, "receiver 1")


# -- the interface ---------------------------------------------------------------------------------


def renames(side: Side, random: Random) -> None:
    """A burst, there and back."""
    names = (INTERFACE, "wg1")
    with side.host.socket() as sock:
        for number in range(2 * random.randint(1, 30)):
            text = struct.pack("16s16s8x", names[number % 2].encode(), names[1 - number % 2].encode())
            try:
                fcntl.ioctl(sock, SIOCSIFNAME, text)
            except OSError as error:
                if error.errno == errno.EBUSY and not number:
                    raise Unavailable("this kernel renames no interface that is up") from None
                raise
    until(lambda: side.engine.socket_path.exists() and side.answers(), "the socket file of the old name")
    side.await_complete()


def mtu(side: Side, random: Random) -> None:
    sizes = [random.randint(600, 9000) for _ in range(random.randint(1, 8))]
    side.host.ip(*(f"link set {INTERFACE} mtu {size}" for size in (*sizes, 1420)))


def down_and_up(side: Side, random: Random) -> None:
    side.host.ip(f"link set {INTERFACE} down")
    time.sleep(random.uniform(0, 0.5))
    side.host.ip(f"link set {INTERFACE} up")


def address_flushed(side: Side, random: Random) -> None:
    side.host.ip(f"address flush dev {INTERFACE}")
    time.sleep(random.uniform(0, 0.5))
    side.host.ip(f"address add {side.inner}/24 dev {INTERFACE}")


def socket_directory(side: Side, random: Random) -> None:
    """Of another owner and mode for a while."""
    path = side.host.root / "run/wireguard"
    try:
        if random.random() < 0.5:
            os.chown(path, 1000, 1000)
        path.chmod(random.choice((0o750, 0o700, 0)))
        time.sleep(1.2)  # control looks once a second
        until(side.answers, "an answer through a directory of another's")
    finally:
        os.chown(path, 0, 0)
        path.chmod(0o755)


# -- signals ---------------------------------------------------------------------------------------


def _shower(side: Side, numbers: list[signal.Signals]) -> None:
    pid = side.pids()["supervisor"]  # it has another title for a moment within an upgrade
    for number in numbers:
        os.kill(pid, number)


def harmless_signals(side: Side, random: Random) -> None:
    _shower(side, random.choices((signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH), k=50))


def upgrade_signals(side: Side, _random: Random) -> None:
    """Those that come while one is under way are one."""
    _shower(side, [signal.SIGUSR2] * 20)
    upgrade(side, _random)


def upgrade(side: Side, _random: Random) -> None:
    side.host.run(["plait", "upgrade", INTERFACE], timeout=BACK_SECONDS)
    side.await_complete()


def scale_signals(side: Side, random: Random) -> None:
    _shower(side, random.choices((signal.SIGTTIN, signal.SIGTTOU), k=random.randint(2, 12)))
    time.sleep(random.uniform(0, 0.5))
    side.host.run(["plait", "scale", INTERFACE, "2"], timeout=BACK_SECONDS)
    side.await_complete()


def clock_leap(side: Side, random: Random) -> None:
    """As behind a suspend: new keys, or a session that is long over."""
    side.step(random.choice((121, 185, 600, 3600)))


# -- configuration ---------------------------------------------------------------------------------


def ports(side: Side, random: Random) -> None:
    for port in [random.randint(20000, 60000) for _ in range(random.randint(1, 4))] + [PORT]:
        side.set(f"listen_port={port}\n")


def marks(side: Side, random: Random) -> None:
    for mark in (random.randint(1, 1 << 31), 0):
        side.set(f"fwmark={mark}\n")


def another_private_key(side: Side, _random: Random) -> None:
    before, other = side.public_key, side.other
    side.private_key, side.public_key = keypair()
    side.set(f"private_key={hexadecimal(side.private_key)}\n")
    other.set(f"public_key={hexadecimal(before)}\nremove=true\n{other.peer}")


def another_preshared_key(side: Side, _random: Random) -> None:
    key = preshared_key()
    for end in (side, side.other):
        end.preshared_key = key
        end.set(end.peer)


def peers_added(side: Side, random: Random) -> None:
    keys = [keypair()[1] for _ in range(random.randint(50, 300))]
    side.guests(keys)
    side.guests(keys, remove=True)


def peer_removed(side: Side, random: Random) -> None:
    """And added again."""
    side.set(f"public_key={hexadecimal(side.other.public_key)}\nremove=true\n")
    time.sleep(random.uniform(0, 0.3))
    side.set(side.peer)


def allowed_ip_moved(side: Side, random: Random) -> None:
    """To a guest, and back."""
    guest = hexadecimal(keypair()[1])
    side.set(f"public_key={guest}\nallowed_ip={side.other.inner}/32\n")
    time.sleep(random.uniform(0, 0.3))
    side.set(side.peer)
    side.set(f"public_key={guest}\nremove=true\n")


def endpoint_wrong(side: Side, _random: Random) -> None:
    """A port that nobody listens at; the peer's packets mend it, or we do."""
    key = hexadecimal(side.other.public_key)
    side.set(f"public_key={key}\nendpoint={side.other.address}:9\n")
    side.set(side.peer)


def clients_stand_still(side: Side, random: Random) -> None:
    """Halves of operations, in more connections than there are places."""
    path = str(side.engine.socket_path)
    with contextlib.ExitStack() as stack:
        for _ in range(140):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(0.2)
            with contextlib.suppress(OSError):
                client.connect(path)
                client.sendall(random.choice((b"get=1\n", b"set=1\nfwmark=", b"s")))
        until(side.answers, "an answer beside clients that stand still")


KILLS: Final = (
    Operation("kill -9 of a receiver", kill_receiver, DISTURBED),
    Operation("kill -9 of a consumer", kill_consumer, DISTURBED),
    Operation("kill -9 of control", kill_control, DISTURBED),
    Operation("kill -9 of control within a set", kill_control_in_a_set, DISTURBED),
    Operation("kill -9 of all workers", kill_all, DISTURBED),
    Operation("stop of a worker", stop_for_good, DISTURBED),
    Operation("stop and go on of one process", stop_one, DISTURBED),
    Operation("stop and go on of all", stop_all, DISTURBED),
    Operation("log not read, a worker killed", log_stands_still_and_kill, DISTURBED),
    Operation("no descriptors, a worker killed", supervisor_without_descriptors_and_kill, DISTURBED),
    Operation("no processes, a receiver killed", no_processes_and_kill, DISTURBED),
    Operation("core taken away, its receiver killed", core_taken_away_and_kill, DISTURBED),
)
OPERATIONS: Final = (
    *KILLS,
    Operation("log not read", log_stands_still),
    Operation("supervisor without descriptors", supervisor_without_descriptors),
    Operation("control without descriptors", control_without_descriptors),
    Operation("no processes, new keys", no_processes),
    Operation("receiver on another core", another_core),
    Operation("renames", renames),
    Operation("MTU", mtu),
    Operation("down and up", down_and_up, takes_away=True),
    Operation("address flushed", address_flushed, takes_away=True),
    Operation("owner and mode of the directory", socket_directory),
    Operation("SIGHUP, SIGCHLD, SIGWINCH", harmless_signals),
    Operation("20 times SIGUSR2", upgrade_signals),
    Operation("plait upgrade", upgrade),
    Operation("SIGTTIN, SIGTTOU", scale_signals),
    Operation("clock leaps", clock_leap),
    Operation("listen ports", ports),
    Operation("marks", marks),
    Operation("another private key", another_private_key, takes_away=True),
    Operation("another preshared key", another_preshared_key),
    Operation("peers added and removed", peers_added),
    Operation("the peer removed and added", peer_removed, takes_away=True),
    Operation("allowed IP moved and back", allowed_ip_moved, takes_away=True),
    Operation("endpoint wrong and right", endpoint_wrong),
    Operation("clients that stand still", clients_stand_still),
)
