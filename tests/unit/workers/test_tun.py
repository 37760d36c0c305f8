"""TUN queues, opened for real in a host of their own (a program runs there and asserts)."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab
from workers.failure import Exit, Failure
from workers.supervisor import tun

pytestmark = pytest.mark.network

PRELUDE = """
import fcntl, os, struct, subprocess
from workers.supervisor import tun
from workers.failure import Failure

def link():
    return subprocess.run(["ip", "-d", "link", "show", "t0"], capture_output=True, text=True).stdout
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("tun")


def run(host: Host, program: str, *refusals: str) -> str:
    """refusals: of system calls, as refusing.py has them."""
    launcher = [sys.executable, str(Path(__file__).with_name("refusing.py")), *refusals, "--"]
    return host.run([*launcher * bool(refusals), sys.executable, "-c", PRELUDE + program]).stdout


def test_queues_beyond_those_in_use_are_detached(host: Host) -> None:
    run(host, """
fds = tun.open_queues("t0", 4, 2)
assert len(fds) == 4 and "numqueues 2 numdisabled 2" in link(), link()
for said in ("mtu 1420", "qlen 1024", "vnet_hdr on", "pi off", "persist off"):
    assert said in link(), said
for fd in fds:
    assert not os.get_blocking(fd) and not os.get_inheritable(fd)
    assert struct.unpack("i", fcntl.ioctl(fd, 0x800454d7, bytes(4)))[0] == 10  # TUNGETVNETHDRSZ
tun.use_queue(fds[2], True)
assert "numqueues 3 numdisabled 1" in link()
tun.use_queue(fds[0], False)
assert "numqueues 2 numdisabled 2" in link()
for fd in fds:
    os.close(fd)
assert link() == ""
""")  # fmt: skip


def test_failure_leaves_nothing(host: Host) -> None:
    run(host, """
before = os.listdir("/proc/self/fd")
try:
    tun.open_queues("t0", 3, 1)
except Failure as failure:
    assert "Invalid argument" in str(failure), failure
    assert os.listdir("/proc/self/fd") == before and link() == ""
else:
    raise SystemExit("no error")
""", f"ioctl,1={tun.SIOCSIFMTU}:EINVAL")  # fmt: skip


def test_a_refused_queue_length_is_told_and_no_more(host: Host) -> None:
    run(host, """
import logging
told = []
logging.getLogger("workers.supervisor.tun").addFilter(lambda record: told.append(record.getMessage()))
fds = tun.open_queues("t0", 1, 1)
assert "qlen 500" in link(), link()
assert len(told) == 1 and told[0].startswith("t0 keeps its queue length: "), told
""", f"ioctl,1={tun.SIOCSIFTXQLEN}:EINVAL")  # fmt: skip


def test_second_engine_gets_no_queue(host: Host) -> None:
    """Without IFF_TUN_EXCL the kernel would add its queue to the first engine's interface."""
    run(host, """
first = tun.open_queues("t0", 1, 1)
try:
    tun.open_queues("t0", 1, 1)
except Failure as failure:
    assert failure.errno == 16 and "numqueues 1 " in link()
else:
    raise SystemExit("no error")
""")  # fmt: skip


def test_adopted_queue_must_fit(host: Host) -> None:
    run(host, """
fd = os.open(tun.DEVICE, os.O_RDWR)
fcntl.ioctl(fd, tun.TUNSETIFF, struct.pack("16sH22x", b"t0", tun.IFF_TUN | tun.IFF_NO_PI))
try:
    tun.adopt_queue(fd)
except Failure as failure:
    assert "IFF_VNET_HDR" in str(failure), failure
else:
    raise SystemExit("no error")
os.close(fd)
fd, = tun.open_queues("t0", 1, 1)
os.set_blocking(fd, True)
assert tun.adopt_queue(fd) == ("t0", [fd]) and not os.get_blocking(fd)
""")  # fmt: skip


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "wg%d", "a b", "a:b", "ä", "x" * 16, "t0\n"])
def test_impossible_names(name: str) -> None:
    with pytest.raises(Failure) as caught:
        tun.check_name(name)
    assert caught.value.code == Exit.USAGE
    tun.check_name("x" * 15)
    tun.check_name("wg-0.a_b=c+d")


def test_why_a_device_cannot_be_used_is_told_with_its_errno() -> None:
    told = tun._not_made("wg0", OSError(errno.EBUSY, "Device or resource busy"))
    assert (told.code, told.errno) == (Exit.INTERFACE, errno.EBUSY) and "busy" in told.why
    assert tun._not_made("wg0", OSError("no number")).errno == 0
