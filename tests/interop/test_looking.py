"""An error in looking is no news: an engine ends when something proves its end, never for want of an answer.

host (own network, processes, /run)
  plaitd wg0     nothing else: no cable, no peer
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Engine, Host, Lab, no_descriptors, read_proc
from tests.support.tunnel import check_words
from tests.support.waiting import until

pytestmark = pytest.mark.network

SETTINGS = (
    "receivers = 1\nconsumers = 1\nmax_receivers = 2\nmax_consumers = 2\nmax_peers = 64\nsmall_slots = 64\n"
    "train_slots = 1\n"
)
UPGRADED = "upgraded: every process runs"
TURNS = 5  # control sleeps a second at the longest, and looks each second


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("looked")


@pytest.fixture(scope="module")
def engine(host: Host) -> Iterator[Engine]:
    """One for all that an engine outlives."""
    made = host.engine("wg0", settings=SETTINGS)
    expect(made, "is ready")
    yield made
    check_words(made.process)


@pytest.fixture
def lives(engine: Engine) -> Iterator[Engine]:
    """The same, whose processes are the same when the test is over, but for those that it replaced."""
    before = pids(engine)
    yield engine
    assert engine.process.poll() is None, engine.process.output()
    assert pids(engine).keys() == before.keys()
    assert pids(engine)["supervisor"] == before["supervisor"]


def expect(engine: Engine, words: str) -> None:
    until(lambda: words in engine.process.output(), words)


def pids(engine: Engine) -> dict[str, int]:
    """By title, numbered as outside the host."""
    return engine.host.titles(engine.interface)


def turns(pid: int) -> int:
    """How often a process went to sleep."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", read_proc(pid, "status") or "", re.M)
    return int(found[1]) if found else 0


def looks_around(engine: Engine) -> None:
    """Wait until control has looked at everything again, or has ended."""
    pid = pids(engine)["control"]
    before = turns(pid)
    until(lambda: not before <= turns(pid) < before + TURNS, "turns of control")


def kill(engine: Engine, title: str) -> None:
    """And wait for the process that takes its place."""
    pid = pids(engine)[title]
    os.kill(pid, signal.SIGKILL)
    until(lambda: pids(engine).get(title, pid) != pid, f"the next {title}")


def answers(engine: Engine) -> bool:
    return engine.host.run(["wg", "show", engine.interface, "listen-port"], check=False).returncode == 0


def incarnations(engine: Engine) -> dict[str, int]:
    """Of each worker that runs."""
    rows = [row for row in engine.report()["processes"] if row["state"] == "running"]
    return {f"{row['role']} {row['number']}": row["incarnation"] for row in rows}


# -- out of descriptors ------------------------------------------------------------------------------


def test_a_supervisor_without_descriptors_goes_on(lives: Engine) -> None:
    """It takes no request, says why, replaces the dead, and does everything when it can again."""
    host, before = lives.host, pids(lives)
    with no_descriptors(before["supervisor"]):
        done = host.run(["plait", "scale", "wg0", "+1"], check=False, timeout=150)
        assert done.returncode == 1 and "wg0 cannot be changed" in done.stderr, done.stderr
        expect(lives, "a request of control is lost: the supervisor has no descriptor left")
        host.run(["kill", "-USR2", str(host_pid(lives, "supervisor"))])
        expect(lives, "not upgraded, everything goes on as it was: no file for the description")
        host.ip("link set wg0 up", "link set wg0 down")
        for _ in range(2):  # the next one has the dead one's descriptors, but for that which tells of its end
            kill(lives, "receiver 0")
        assert pids(lives)["control"] == before["control"] and answers(lives)
    kill(lives, "receiver 0")
    assert host.run(["plait", "scale", "wg0", "+1"], timeout=150).stdout
    assert host.run(["plait", "scale", "wg0", "-1"], timeout=150).stdout


def host_pid(engine: Engine, title: str) -> int:
    """A process as the host numbers it."""
    found = re.search(r"^NSpid:.*\s(\d+)$", read_proc(pids(engine)[title], "status") or "", re.M)
    assert found
    return int(found[1])


def test_a_control_without_descriptors_goes_on(lives: Engine) -> None:
    """Clients wait; what happened to the interface meanwhile is seen later."""
    host, control = lives.host, pids(lives)["control"]
    with no_descriptors(control):
        client = host.popen(["wg", "show", "wg0", "listen-port"])
        expect(lives, "clients of the configuration socket wait: too many open files; raise the limit on")
        host.ip("link set wg0 up", "link set wg0 down")
        looks_around(lives)  # and sleeps: it does not ask for the client again and again
    assert client.wait() == 0, "it was its turn when there was a descriptor"
    assert pids(lives)["control"] == control


# -- out of memory -----------------------------------------------------------------------------------


def test_a_worker_without_memory_says_so_and_comes_later(lives: Engine) -> None:
    """The limit is the supervisor's, which needs nothing new itself; a child has it from its start on."""
    title, before, first = "consumer 0", pids(lives), incarnations(lives)
    most = resource.prlimit(before["supervisor"], resource.RLIMIT_DATA)
    said = f"the {title} process cannot start: no memory is left for it; free memory, or raise the limits"

    def runs_again() -> bool:
        return incarnations(lives).get(title, 0) > first[title]

    resource.prlimit(before["supervisor"], resource.RLIMIT_DATA, (1 << 20, most[1]))
    try:
        os.kill(before[title], signal.SIGKILL)
        # What the allocator still has may be enough for it.
        until(lambda: said in lives.process.output() or runs_again(), "a word, or the next one")
    finally:
        resource.prlimit(before["supervisor"], resource.RLIMIT_DATA, most)
    until(runs_again, f"the next {title}")
    assert "Traceback" not in lives.process.output()


# -- what is mounted over ----------------------------------------------------------------------------


@contextlib.contextmanager
def covered(host: Host, directory: str) -> Iterator[None]:
    """An empty file system is mounted over a directory of the host."""
    host.run(["mount", "-t", "tmpfs", "tmpfs", directory])
    try:
        yield
    finally:
        host.run(["umount", directory])


@pytest.mark.parametrize("directory", ["/proc", "/dev"])
def test_workers_start_without(lives: Engine, directory: str) -> None:
    before = incarnations(lives)
    workers = {"receiver 0", "consumer 0", "control 0"}
    with covered(lives.host, directory):
        for title in ("receiver 0", "consumer 0", "control"):
            kill(lives, title)
        until(lambda: answers(lives), "an answer of the next control")
        until(lambda: all(incarnations(lives).get(one, 0) > before[one] for one in workers), "all are ready")
    if directory == "/proc":
        expect(lives, "there is no /proc to look at")


def test_an_interface_that_moves_is_followed_without_proc(lives: Engine) -> None:
    host = lives.host
    host.ip("netns add elsewhere")
    with covered(host, "/proc"):
        kill(lives, "control")
        until(lambda: answers(lives), "an answer of the next control")
        host.ip("link set wg0 netns elsewhere")
        looks_around(lives)
        events = host.popen(["plait", "events", "wg0"])

        def is_told() -> bool:
            for way in ("down", "up"):  # again, until the events are followed
                host.run(["ip", "-n", "elsewhere", "link", "set", "wg0", way])
            return "interface_up" in events.output()

        until(is_told, "what happens to it there")
        events.stop()
    host.run(["ip", "-n", "elsewhere", "link", "set", "wg0", "netns", "1"])
    host.ip("netns delete elsewhere")


@pytest.mark.parametrize("directory", ["/run/wireguard", "/run"])
def test_a_mount_over_the_socket_file_removes_it_not(lives: Engine, directory: str) -> None:
    host, said = lives.host, "`wg` finds no socket at /var/run/wireguard/wg0.sock"
    before = lives.process.output().count(said)
    with covered(host, directory):
        until(lambda: lives.process.output().count(said) > before, said)
        looks_around(lives)
        kill(lives, "control")
        until(lambda: lives.process.output().count(said) > before + 1, "the next one sees it as well")
        upgrades = lives.process.output().count(UPGRADED)
        lives.process.signal(signal.SIGUSR2)
        until(lambda: lives.process.output().count(UPGRADED) > upgrades, "an upgrade")
        until(lambda: lives.process.output().count(said) > before + 2, "and the next program's")
        looks_around(lives)
        assert lives.process.output().count(said) == before + 3, "each said it once"
    until(lambda: answers(lives), "an answer")
    looks_around(lives)  # it sees that the file is found again


# -- the socket file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["chown 1000:1000 {0}; chmod 750 {0}", "chmod 0 {0}"])
def test_a_directory_that_control_may_not_read(lives: Engine, change: str) -> None:
    host, control = lives.host, pids(lives)["control"]
    try:
        host.run(["sh", "-ec", change.format("/run/wireguard")])
        looks_around(lives)
        assert pids(lives)["control"] == control and answers(lives)
        kill(lives, "control")
        until(lambda: answers(lives), "an answer of the next one")
        looks_around(lives)
    finally:
        host.run(["sh", "-ec", "chown 0:0 /run/wireguard; chmod 755 /run/wireguard"])


# -- the interface -----------------------------------------------------------------------------------

RENAMES = """
import fcntl, socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names = sys.argv[1].encode(), sys.argv[2].encode()
for i in range(int(sys.argv[3])):
    fcntl.ioctl(sock, 0x8923, struct.pack("16s16s8x", names[i % 2], names[1 - i % 2]))  # SIOCSIFNAME
"""
BURSTS, LONG = 6, 500


def test_bursts_of_renames(lives: Engine) -> None:
    host = lives.host
    host.ip("link set wg0 down")
    for _ in range(BURSTS):
        host.run([sys.executable, "-c", RENAMES, "wg0", "wg1", str(LONG)], timeout=120)
    until(lambda: os.listdir(host.root / "run/wireguard") == ["wg0.sock"] and answers(lives), "its file")
    until(lambda: "supervisor" in pids(lives), "its title")


LOOK = """
import fcntl, subprocess, sys
from workers.supervisor import tun
from workers.control.interface import Interface, Removed
fd, = tun.open_queues("t0", 1, 1)
interface = Interface(fd)
renaming = subprocess.Popen([sys.executable, "-c", sys.argv[1], "t0", "t1", "1000000"])
unknown = 0
while unknown < 20:
    unknown += interface.look() is None
renaming.kill()
renaming.wait()
interface.drain()
assert interface.look().name == tun.name_of(fd)
subprocess.run(["ip", "link", "delete", tun.name_of(fd)], check=True)
try:
    interface.look()
except Removed:
    print("removed")
"""


def test_a_name_that_does_not_hold_still_is_no_end(host: Host) -> None:
    assert host.run([sys.executable, "-c", LOOK, RENAMES], timeout=120).stdout == "removed\n"


# -- what does prove the end -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("rm /run/wireguard/wg2.sock", "ending: the socket file /var/run/wireguard/wg2.sock was deleted"),
        ("rm -r /run/wireguard", "ending: the socket file /var/run/wireguard/wg2.sock was deleted"),
        ("ip link delete wg2", "ending: the interface wg2 was removed"),
    ],
)
def test_what_proves_the_end(host: Host, deed: str, words: str) -> None:
    engine = host.engine("wg2", settings=SETTINGS)
    expect(engine, "is ready")
    host.run(["sh", "-ec", deed])
    assert engine.process.wait() == 0
    assert words in engine.process.output()
