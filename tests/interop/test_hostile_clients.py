"""Clients of the configuration socket that behave badly do not reach the data path, nor memory without end.

Only root may connect (the socket is 0700); what these clients do is what a broken script does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import PLAIT, Lab
from plait.watch.processes import pss_bytes
from tests.support.tunnel import Side, Transfer, check_words, eventually, two_hosts

pytestmark = pytest.mark.network

CLIENTS = 1000
SERVED = 128  # workers/control/uapi_server.py: MAX_CONNECTIONS
FOLLOWERS = 64  # MAX_FOLLOWERS there
SMALL = "receivers = 1\nconsumers = 1\nmax_peers = 2048\nsmall_slots = 64\ntrain_slots = 1\n"
PINGS = 150
BYTES = 20_000_000
MORE_BYTES = 64 << 20  # of control: what 128 clients may have read and not answered, taken apart into lines


@contextlib.contextmanager
def clients(path: Path, count: int) -> Iterator[list[socket.socket]]:
    """Non-blocking connections; those for which the kernel has no room in the queue are refused by it."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
                made.append(client)
        yield made


def control_bytes(side: Side) -> int:
    """Memory of the control process, which is not asked: it may be busy."""
    return pss_bytes(side.host.titles(side.interface)["control"])


def write(client: socket.socket, data: bytes) -> int:
    """As much as the socket takes."""
    sent = 0
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        while sent < len(data):
            sent += client.send(data[sent:])
    return sent


def test_bad_clients_do_not_reach_the_data_path() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT)
        one, two = tunnel.sides
        path = two.engine.socket_path
        assert one.echo(two.address4, 3) == 3
        handshake = two.handshake()
        before = control_bytes(two)

        with clients(path, CLIENTS) as many:
            assert len(many) > SERVED
            for client in many[:40]:
                write(client, b"set=1\nprivate_k")  # half a line
            for client in many[40:80]:
                write(client, b"get=1\n\n" * 20_000)  # and never a look at the answers
            for client in many[80:SERVED]:
                write(client, b"set=1\n" + b"x" * (1 << 20))  # a line without end
            answered = sum(one.host.ping(two.address4, 1).received for _ in range(PINGS))
            Transfer(one.host, two.host, two.address4, BYTES).finish()
            grown = control_bytes(two) - before
        assert answered == PINGS
        assert before and grown < MORE_BYTES

        # They are gone: the next client is served, and nothing of theirs was applied.
        eventually(lambda: two.report()["counters"])
        assert two.get()["private_key"] and two.handshake() == handshake
        assert control_bytes(two) - before < MORE_BYTES
        tunnel.check()


@pytest.mark.parametrize("leave", [SERVED // 2, 0])
def test_the_socket_serves_again_when_half_of_the_idle_clients_leave_or_none(leave: int) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT)
        path = tunnel.responder.engine.socket_path
        with clients(path, SERVED) as idle:
            for client in idle:
                write(client, b"get=1\n")
            for client in idle[:leave]:
                client.close()
            assert "public_key" in tunnel.responder.engine.uapi("get=1\n\n")
            assert sum(client.fileno() >= 0 for client in idle) == SERVED - leave
        tunnel.check()


def test_clients_that_stand_still_hold_up_no_repair() -> None:
    """Every place is taken by one that asked and does not read, and one of them waits for the supervisor."""
    with Lab() as lab:
        host = lab.host("besieged")
        engine = host.engine("wg0", settings=SMALL)
        eventually(lambda: "wg0 is ready" in engine.process.output())
        peers = "".join(f"public_key={number:064x}\n" for number in range(1, 1001))
        assert engine.uapi(f"set=1\n{peers}\n") == "errno=0\n\n"
        path = engine.socket_path
        with clients(path, SERVED) as still, clients(path, FOLLOWERS) as followers:
            for client in followers:
                write(client, b"events=1\n\n")
            for client in still[1:]:
                write(client, b"get=1\n\n" * 100)
            write(still[0], b"upgrade=0\n\n" * 100)
            for title in ("receiver 0", "consumer 0", "control"):
                pid = host.titles("wg0")[title]
                os.kill(pid, signal.SIGKILL)
                eventually(lambda title=title, pid=pid: host.titles("wg0").get(title, pid) != pid)
        assert engine.uapi("get=1\n\n").endswith("errno=0\n\n")
        assert engine.stop() == 0
        check_words(engine.process)
