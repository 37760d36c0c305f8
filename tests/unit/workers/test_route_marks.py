"""The question to the routing table names the firewall mark: rules for marks decide which way packets take.

                 ┌─ one    10.1.0.1/24   the main table's way to 10.9.0.0/16
    here ────────┤
                 └─ other  10.2.0.1/24   the way of what carries the mark 7
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable

import pytest

from plait.lab.namespaces import CLONE_NEWNET
from workers.control.endpoints import Endpoint
from workers.control.routes import Routes

pytestmark = pytest.mark.network

THERE = socket.inet_aton("10.9.0.1")
SETUP = """
link add one type veth peer name one-end
link add other type veth peer name other-end
link set one up
link set one-end up
link set other up
link set other-end up
address add 10.1.0.1/24 dev one
address add 10.2.0.1/24 dev other
route add 10.9.0.0/16 via 10.1.0.2 dev one
route add 10.9.0.0/16 via 10.2.0.2 dev other table 100
rule add fwmark 7 table 100
"""


class Rows:
    """As Peers, of an interface with this mark and no peer."""

    def __init__(self, fwmark: int) -> None:
        self.memory = self.device = self
        self.fwmark = fwmark


def elsewhere(deed: Callable[[], None]) -> None:
    """Do it in a network namespace of its own, which goes with the thread that has it."""
    errors: list[BaseException] = []

    def alone() -> None:
        try:
            done = ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET)
            assert done == 0, os.strerror(ctypes.get_errno())
            deed()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_whether_a_source_fits_is_asked_for_the_mark() -> None:
    def ask() -> None:
        subprocess.run(["ip", "-batch", "-"], input=SETUP, text=True, check=True)
        for mark, way in ((0, "one"), (7, "other"), (8, "one")):
            routes = Routes(Rows(mark), None)  # type: ignore[arg-type]
            for name, source in (("one", "10.1.0.1"), ("other", "10.2.0.1")):
                index = socket.if_nametoindex(name)
                endpoint = Endpoint(THERE, 9, source=socket.inet_aton(source), ifindex=index)
                assert routes.agrees(endpoint) == (name == way), f"mark {mark}, {name}"
            routes.close()

    elsewhere(ask)


def test_an_overflow_of_news_is_news() -> None:
    """More changes than the socket holds: the kernel says so once (ENOBUFS), and every route is looked at."""

    def overflow() -> None:
        subprocess.run(["ip", "-batch", "-"], input=SETUP, text=True, check=True)
        routes = Routes(Rows(0), None)  # type: ignore[arg-type]
        routes.news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        many = "".join(f"route add 10.8.{n}.0/24 dev one\n" for n in range(200))
        subprocess.run(["ip", "-batch", "-"], input=many, text=True, check=True)
        assert routes.due_in(0) is None
        routes.drain()
        assert routes.due_in(0) == 0
        routes.close()

    elsewhere(overflow)


def test_news_that_were_read_wake_nobody_again() -> None:
    def change() -> None:
        subprocess.run(["ip", "-batch", "-"], input=SETUP, text=True, check=True)
        routes = Routes(Rows(0), None)  # type: ignore[arg-type]
        assert routes.news is not None
        for n in range(3):
            subprocess.run(["ip", "route", "add", f"10.8.{n}.0/24", "dev", "one"], check=True)
        routes.drain()
        with pytest.raises(BlockingIOError):
            routes.news.recv(1)
        routes.close()

    elsewhere(change)


@pytest.mark.parametrize(("mark", "to", "words"), [
    (0, "10.9.0.1", "dev one"), (7, "10.9.0.1", "dev other"), (0, "10.99.0.1", "none"),
])  # fmt: skip
def test_a_way_in_words(mark: int, to: str, words: str) -> None:
    def ask() -> None:
        subprocess.run(["ip", "-batch", "-"], input=SETUP, text=True, check=True)
        routes = Routes(Rows(mark), None)  # type: ignore[arg-type]
        assert routes.describe(Endpoint(socket.inet_aton(to), 9)) == words
        routes.close()

    elsewhere(ask)
