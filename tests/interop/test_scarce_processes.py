"""An engine whose kernel has no process and no thread for it: a pids cgroup at its limit.

    initiator (plaitd)  10.200.1.1 ──── 10.200.1.2  responder (plaitd, in the cgroup)
      wg0 10.0.0.1                         wg0 10.0.0.2
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest

from plait.lab.namespaces import PLAIT, Lab, state
from tests.support.scarce import pids_cgroup
from tests.support.tunnel import Side, Tunnel, two_hosts
from tests.support.waiting import until

pytestmark = pytest.mark.network

SETTINGS = 'receivers = 2\nconsumers = 2\nhandoff = "{}"\n'
OWN = 3  # the supervisor, the thread of its log, and who guards the socket file until control is there
LIMIT = "the limit on processes is reached; raise it (ulimit -u; TasksMax=; docker run --pids-limit)"
FLOWS = 12  # all of them hash to one of two with 1 in 2,048
PORT = 4000  # inside the tunnel


@pytest.mark.parametrize("handoff", ["inline", "pipeline"])
def test_no_flow_is_silent_while_a_receiver_lives(handoff: str) -> None:
    """Each receiver in turn dies, and its next start is refused."""
    with pids_cgroup() as group, Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS.format(handoff))
        side = tunnel.responder
        assert tunnel.initiator.echo(side.address4, 2) == 2
        group.take(side.host.titles().values())
        for number in (1, 0):
            title = f"receiver {number}"
            group.limit("1")
            os.kill(side.host.titles()[title], signal.SIGKILL)
            words = f"{title} did not start again"
            until(lambda words=words: words in side.engine.process.output(), words)
            everything_flows(tunnel)
            assert title not in side.host.titles()
            group.limit("max")
            until(lambda title=title: title in side.host.titles(), f"{title} is back")
            everything_flows(tunnel)
            before = received(side, number)
            until(lambda number=number, before=before: inwards(tunnel) and received(side, number) > before,
                  f"{title} is sent something")  # fmt: skip
        tunnel.check()


def test_no_peer_is_silent_while_a_consumer_lives() -> None:
    """The consumer of the only peer's inbound queue dies, and its next start is refused."""
    with pids_cgroup() as group, Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS.format("pipeline"))
        side = tunnel.responder
        assert tunnel.initiator.echo(side.address4, 2) == 2
        title, counted = "consumer 0", "tun_sent"
        group.take(side.host.titles().values())
        group.limit("1")
        os.kill(side.host.titles()[title], signal.SIGKILL)
        words = f"{title} did not start again"
        until(lambda: words in side.engine.process.output(), words)
        everything_flows(tunnel)
        assert title not in side.host.titles()
        before = count(side, "consumer", 1, counted)
        everything_flows(tunnel)
        assert count(side, "consumer", 1, counted) > before
        group.limit("max")
        until(lambda: title in side.host.titles(), f"{title} is back")
        everything_flows(tunnel)
        before = count(side, "consumer", 0, counted)
        until(lambda: inwards(tunnel) and count(side, "consumer", 0, counted) > before, f"{title} opens")
        assert side.counters()["lost_wakes"] == 0
        tunnel.check()


@pytest.mark.parametrize("workers, refused", [(0, "control"), (1, "receiver 0"), (4, "consumer 1")])
def test_a_start_with_room_for_some_workers_says_one_sentence_and_leaves_nothing(
    workers: int, refused: str
) -> None:
    """All workers are forked before any is told what to do: those that have begun end as well."""
    with pids_cgroup() as group, Lab() as lab:
        host = lab.host("a")
        waits = ("sh", "-c", 'kill -STOP $$; exec "$@"', "sh")
        engine = host.engine("wg0", [*waits, *PLAIT], settings=SETTINGS.format("inline"), wait=False)
        process = engine.process
        both = process.pid, process.session  # nsenter stops and goes on with its program
        until(lambda: [state(pid) for pid in both] == ["T", "T"], "a program that waits")
        group.take([process.pid])
        group.limit(str(OWN + workers))
        os.kill(process.session, signal.SIGCONT)
        assert process.wait() == 9, process.output()
        *before, last = process.output().splitlines()
        assert last == f"plaitd: the {refused} process cannot start: {LIMIT}"
        assert [line for line in before if "Traceback" in line or "error plait:" in line] == []
        assert host.titles() == {} and not engine.socket_path.exists()
        assert os.listdir(host.root / "dev/shm") == []
        assert " wg0: " not in host.run(["ip", "-o", "link"]).stdout


def everything_flows(tunnel: Tunnel) -> None:
    """From many source ports outside, and of many flows inside."""
    for _ in range(FLOWS):
        inwards(tunnel)
    one, two = tunnel.sides
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(bound(one, PORT))
        for _ in range(FLOWS):
            arrives(stack.enter_context(bound(two)), target)


def inwards(tunnel: Tunnel) -> bool:
    """One flow to the responder, from another source port each time."""
    one, two = tunnel.sides
    one.engine.wg("set", one.interface, "listen-port", "0")
    with bound(one) as source, bound(two, PORT) as target:
        arrives(source, target)
    return True


def bound(side: Side, port: int = 0) -> socket.socket:
    sock = side.host.socket()
    sock.settimeout(0.2)
    sock.bind((side.address4, port))
    return sock


def arrives(source: socket.socket, target: socket.socket) -> None:
    """What is sent arrives, if not at once then again: what was on its way at a death may be lost."""
    name = source.getsockname()

    def came() -> bool:
        source.sendto(b"here", target.getsockname())
        with contextlib.suppress(TimeoutError):
            while target.recvfrom(64)[1] != name:
                pass
            return True
        return False

    until(came, f"{name} is heard", 20)


def received(side: Side, number: int) -> int:
    """Datagrams that this receiver has had."""
    return count(side, "receiver", number, "udp_received")


def count(side: Side, role: str, number: int, what: str) -> int:
    """A counter of one process."""
    rows = side.report()["processes"]
    row = next(row for row in rows if (row["role"], row["number"]) == (role, number))
    return int(row["packets"][what])
