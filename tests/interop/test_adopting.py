"""An interface that was there before plaitd (`ip tuntap add dev wg0 mode tun`): adopted, left as it was."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Engine, Host, Lab, Link, Peer, keypair
from tests.support.tunnel import check_words, eventually

pytestmark = pytest.mark.network

SETTINGS = (
    "receivers = 2\nconsumers = 1\nmax_receivers = 2\nmax_consumers = 2\nmax_peers = 64\nsmall_slots = 128\n"
    "train_slots = 4\n"
)
USER = """
import fcntl, os, struct, sys, time
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"wg0", int(sys.argv[1], 16)))
print("attached", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host, Link]]:
    with Lab() as lab:
        one, two = lab.add_hosts(["one", "two"])
        yield one, two, lab.link(one, two)


@pytest.fixture(autouse=True)
def nothing_left(hosts: tuple[Host, Host, Link]) -> Iterator[None]:
    """A test that failed shall not fail those behind it."""
    yield
    for host in hosts[:2]:
        for row in host.usage():
            with contextlib.suppress(ProcessLookupError):
                os.kill(row.pid, signal.SIGKILL)
        eventually(lambda host=host: not host.usage())
        for name in ("wg0", "vpn7"):
            host.run(["ip", "link", "delete", name], check=False)


def shown(host: Host, name: str = "wg0") -> dict[str, object]:
    """What the kernel says of the interface, without what comes and goes with traffic and with being up."""
    (link,) = json.loads(host.run(["ip", "-d", "-j", "link", "show", name]).stdout)
    return {"mtu": link["mtu"], "queue": link["txqlen"], **link["linkinfo"]["info_data"]}


def started(host: Host) -> Engine:
    engine = host.engine("wg0", settings=SETTINGS, environment={"LOG_LEVEL": "info"})
    eventually(lambda: "wg0 is ready" in engine.process.output())
    return engine


def pings(hosts: tuple[Host, Host, Link], engine: Engine, mtu: int) -> None:
    """It carries packets, small and as large as they may be."""
    one, two, link = hosts
    (private, public), (private2, public2) = keypair(), keypair()
    other = two.engine("wg0", settings=SETTINGS)
    other.configure(private2, [Peer(public, ["10.0.0.1/32"])], ["10.0.0.2/24"], 51820)
    peer = Peer(public2, ["10.0.0.2/32"], link.endpoint(two, 51820))
    engine.configure(private, [peer], ["10.0.0.1/24"], 0, mtu)
    assert one.ping("10.0.0.2", 3, wait=10).received == 3
    assert one.ping("10.0.0.2", 3, wait=10, size=min(mtu, 1420) - 28).received == 3
    assert other.stop() == 0


@pytest.mark.parametrize(
    ("made", "queues", "before", "mtu"),
    [
        ("", 1, {}, 1420),
        ("pi vnet_hdr", 1, {}, 1420),
        ("multi_queue", 2, {}, 1420),
        ("multi_queue", 2, {"mtu": 1380, "txqueuelen": 333}, 1380),
    ],
)
def test_adopted_and_left_as_it_was(
    hosts: tuple[Host, Host, Link], made: str, queues: int, before: dict[str, int], mtu: int
) -> None:
    host = hosts[0]
    host.ip(f"tuntap add dev wg0 mode tun {made}")
    host.ip(*(f"link set wg0 {name} {value}" for name, value in before.items()))
    found = shown(host)
    engine = started(host)
    words = f"wg0 was there already and is adopted: {'one queue' if queues == 1 else '2 queues'}"
    assert words in engine.process.output()
    now = shown(host)
    assert (now["mtu"], now["queue"]) == (mtu, before.get("txqueuelen", 1024))
    assert now["vnet_hdr"] and not now["pi"] and now["persist"]
    roles = [row["role"] for row in engine.report()["processes"]]
    assert roles.count("receiver") == queues
    pings(hosts, engine, mtu)
    if queues == 1:
        done = host.run(["plait", "scale", "wg0", "+1"], check=False)
        assert done.returncode == 1
        assert "wg0 was made without multi_queue, so that one receiver reads it" in done.stderr
        assert host.run(["plait", "scale", "--consumers", "wg0", "2"]).returncode == 0
        assert host.run(["plait", "upgrade", "wg0"], timeout=150).returncode == 0
    if before:  # what somebody changed since stays changed
        host.ip("link set wg0 mtu 1300")
        found["mtu"] = 1300
    assert engine.stop() == 0
    check_words(engine.process)
    assert shown(host) == found


def test_deleted_or_renamed_meanwhile(hosts: tuple[Host, Host, Link]) -> None:
    host = hosts[0]
    host.ip("tuntap add dev wg0 mode tun multi_queue")
    found = shown(host)
    engine = started(host)
    host.ip("link set wg0 name vpn7")
    eventually(lambda: "is called vpn7" in engine.process.output())
    assert engine.stop() == 0
    assert shown(host, "vpn7") == found
    host.ip("link set vpn7 name wg0")
    engine = started(host)
    host.ip("link delete wg0")
    assert engine.process.wait() == 0
    check_words(engine.process)
    assert not re.search(" (wg0|vpn7): ", host.run(["ip", "-o", "link"]).stdout)


def test_killed_and_adopted_again(hosts: tuple[Host, Host, Link]) -> None:
    """Nobody can put anything back then; the interface stays, and is of use."""
    host = hosts[0]
    host.ip("tuntap add dev wg0 mode tun")
    engine = started(host)
    engine.process.signal(signal.SIGKILL)
    engine.process.wait()
    eventually(lambda: not host.usage())
    again = started(host)
    assert again.stop() == 0
    assert shown(host)["persist"]


@pytest.mark.parametrize(("made", "flags"), [("", "0x1001"), ("multi_queue", "0x1101")])
def test_one_in_use_is_refused_and_unharmed(hosts: tuple[Host, Host, Link], made: str, flags: str) -> None:
    host = hosts[0]
    host.ip(f"tuntap add dev wg0 mode tun {made}")
    user = host.popen([sys.executable, "-c", USER, flags])
    eventually(lambda: "attached" in user.output())
    before = shown(host)
    done = host.run(["plaitd", "wg0"], check=False)
    assert done.returncode == 5 and done.stderr == (
        "plaitd: cannot create the interface wg0: an interface of that name exists already, and a running "
        "program uses it; choose another name, or `ip link delete wg0` if nobody needs that interface\n"
    )
    assert shown(host) == before
    user.close()


def test_a_failed_start_leaves_it_as_it_was(hosts: tuple[Host, Host, Link]) -> None:
    host = hosts[0]
    host.ip("tuntap add dev wg0 mode tun pi")
    before = shown(host)
    done = host.run(["plaitd", "wg0"], environment={"PLAIT_CLOCK": "/none"}, check=False)
    assert done.returncode == 9
    eventually(lambda: shown(host) == before)
