"""An engine whose kernel or container refuses a system call: it works without, or says one true sentence.

Each call that a start makes and that old kernels, emulated ones or containers are known to lack is refused
alone (refusing.py, a filter set before exec), at the start; then several at once while the engine runs, when
a worker dies, the listen port changes and receivers come and go.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import PLAIT, Engine, Host, Lab
from tests.support.waiting import until

pytestmark = pytest.mark.network

LAUNCHER = str(Path(__file__).with_name("refusing.py"))
SETTINGS = "receivers = 2\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
ONE = SETTINGS.replace("receivers = 2", "receivers = 1")
ALLOW = "allow it in the container's seccomp profile"

# What is refused, and what the log or the last line says; None: nothing, since nothing is lost.
WORKS: dict[str, str | None] = {
    "mlock2:EPERM": "keys in shared memory are never swapped out",
    "sched_setaffinity:EPERM": "run on the cores of the settings",
    "sched_getaffinity:ENOSYS": None,
    "sched_setscheduler:EPERM": "run before ordinary processes when they wake",
    "pidfd_open:ENOSYS": None,
    "pidfd_open:EPERM": None,
    "pidfd_send_signal:EPERM": None,
    "setpgid:EPERM": None,
    "capset:EPERM": "give up their capabilities",
    "landlock_create_ruleset:ENOSYS": "can open no files (Landlock)",
    "prctl,0=22:EINVAL": "make no system calls but those of their loops",
    "prctl,0=38:EPERM": "make no system calls but those of their loops",
    "prctl,0=1:EPERM": "ends every worker when the supervisor dies",
    "prctl,0=4:EPERM": "can be traced by its own user",
    "prctl,0=41:EINVAL": None,
    "prlimit64:EPERM": None,
    "statfs:EPERM": None,
    "clone3:ENOSYS": None,
    "socket,0=16:EPERM": "are followed at once (netlink)",
    "socket,0=16:EAFNOSUPPORT": "are followed at once (netlink)",
    "socket,0=10:EPERM": None,
    "socket,0=10:EAFNOSUPPORT": None,
    "setsockopt,1=1,2=33:EPERM": None,
    "setsockopt,1=0,2=10:ENOPROTOOPT": "large packets get lost",
    "setsockopt,1=0,2=8:ENOPROTOOPT": "answers may leave from another address",
    "setsockopt,1=41,2=66:ENOPROTOOPT": "(ECN) is not told",
    "setsockopt,1=17,2=104:ENOPROTOOPT": "the kernel has no UDP_GRO",
    "ioctl,1=0x8943:EPERM": "keeps its queue length",
    "ioctl,1=0x54e3:EPERM": None,
}
FAILS: dict[str, tuple[int, str]] = {
    "setsockopt,1=1,2=15:ENOPROTOOPT": (7, "refuses SO_REUSEPORT, by which receivers share a port"),
    "eventfd2:EPERM": (4, f"the kernel refuses eventfd (Operation not permitted); {ALLOW}"),
    "epoll_create1:ENOSYS": (9, f"the kernel refuses epoll_create1 (Function not implemented); {ALLOW}"),
    "socketpair:EPERM": (4, f"the kernel refuses socketpair (Operation not permitted); {ALLOW}"),
    "clone:EPERM": (9, f"the kernel refuses fork (Operation not permitted); {ALLOW}"),
    "clone:EAGAIN": (9, "the limit on processes is reached; raise it (ulimit -u"),
    "clone3:EPERM": (4, "allow clone3 in the container's seccomp profile"),
    "sendmsg:EPERM": (4, f"the kernel refuses sendmsg (Operation not permitted); {ALLOW}"),
    "listen:EPERM": (4, f"the kernel refuses listen (Operation not permitted); {ALLOW}"),
    "fallocate:ENOSYS": (8, "allow fallocate and ftruncate in the container's seccomp profile"),
    "socket,0=2:EPERM": (5, f"the kernel refuses socket (Operation not permitted); {ALLOW}"),
    "ioctl,1=0x400454ca:EINVAL": (5, "this kernel's TUN has no queues for several readers"),
    "ioctl,1=0x400454d9:EINVAL": (5, f"the kernel refuses ioctl (Invalid argument); {ALLOW}"),
    "ioctl,1=0x800454d2:EPERM": (9, f"the kernel refuses ioctl (Operation not permitted); {ALLOW}"),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("a")


def start(host: Host, *refusals: str, settings: str = SETTINGS, wait: bool = True) -> Engine:
    command = (sys.executable, LAUNCHER, *refusals, "--", *PLAIT)
    return host.engine("wg0", command, settings=settings, wait=wait)


def says(engine: Engine, words: str) -> None:
    until(lambda: words in engine.process.output(), f"the log says {words!r}")


@pytest.mark.parametrize("refusal", WORKS)
def test_works_without(host: Host, refusal: str) -> None:
    engine = start(host, refusal)
    says(engine, "is ready")
    if (words := WORKS[refusal]) is not None:
        says(engine, words)
    assert engine.stop() == 0
    assert "Traceback" not in engine.process.output()


@pytest.mark.parametrize("refusal", FAILS)
def test_says_what_is_refused_and_what_to_do(host: Host, refusal: str) -> None:
    engine = start(host, refusal, wait=False)
    code, words = FAILS[refusal]
    assert engine.process.wait() == code, engine.process.output()
    output = engine.process.output()
    assert words in output.splitlines()[-1], output
    assert "Traceback" not in output


def test_one_receiver_needs_no_group_of_sockets(host: Host) -> None:
    engine = start(host, "setsockopt,1=1,2=15:ENOPROTOOPT", settings=ONE)
    says(engine, "is ready")
    port = engine.wg("show", "wg0", "listen-port")
    engine.wg("set", "wg0", "listen-port", "4711")
    assert engine.wg("show", "wg0", "listen-port").strip() == "4711" != port.strip()
    # Another receiver would: it is refused in words, and everything goes on.
    os.kill(pid(host, "supervisor"), signal.SIGTTIN)
    says(engine, "receiver 1 is not used: the kernel refuses SO_REUSEPORT")
    says(engine, "1 receivers and 2 consumers run")
    assert engine.stop() == 0


def test_show_works_where_no_thread_can_be_had(host: Host) -> None:
    engine = start(host, "mlock2:EPERM")
    says(engine, "is ready")
    refused = [sys.executable, LAUNCHER, "clone3:ENOSYS", "clone:EAGAIN", "--"]
    assert "interface: wg0" in host.run([*refused, "plait", "show"]).stdout
    assert engine.stop() == 0


def pid(host: Host, title: str) -> int:
    """As this process sees it, which is in no other namespace of processes."""
    titles = until(lambda: {k: v for k, v in host.titles().items() if k == title}, f"a process {title}")
    return titles[title]


def kill(host: Host, title: str) -> None:
    """Kill a worker, and wait for the next in its place."""
    before = pid(host, title)
    os.kill(before, signal.SIGKILL)
    until(lambda: host.titles().get(title, before) != before, f"another {title}")


def test_refused_while_it_runs(host: Host) -> None:
    """Workers die and come back, the port changes, receivers come and go; nobody has a pidfd, netlink, …"""
    refusals = (
        "pidfd_open:ENOSYS", "sched_setaffinity:EPERM", "mlock2:EPERM", "socket,0=16:EPERM", "setpgid:EPERM",
        "landlock_create_ruleset:ENOSYS", "prctl,0=1:EPERM", "setsockopt,1=0,2=8:ENOPROTOOPT",
    )  # fmt: skip
    engine = start(host, *refusals)
    says(engine, "is ready")
    for title in ("control", "receiver 1", "consumer 0"):
        kill(host, title)
    until(lambda: all(p["state"] == "running" for p in engine.report()["processes"]), "all run")
    engine.wg("set", "wg0", "listen-port", "4712")
    assert engine.wg("show", "wg0", "listen-port").strip() == "4712"
    supervisor = pid(host, "supervisor")
    os.kill(supervisor, signal.SIGTTIN)
    says(engine, "3 receivers and 2 consumers run")
    os.kill(supervisor, signal.SIGTTOU)
    says(engine, "2 receivers and 1 consumers run")
    # Without netlink the interface is looked at once a second.
    host.ip("link set wg0 up mtu 1300")
    until(lambda: "interface_up" in engine.uapi("events=0\n\n"), "control sees that it is up")
    broken = {each["name"]: each for each in engine.report()["broken_promises"]}
    assert set(broken) >= {"cores", "locked", "watch", "files", "die_together"}
    assert all(each["promise"] and each["why"] and each["mend"] for each in broken.values())
    assert engine.process.output().count("never swapped out") == 1  # said once
    assert "Traceback" not in engine.process.output()
    host.ip("link delete wg0")
    assert engine.process.wait() == 0
