"""No turn of control does more than a slice, however large the table or one peer of it. Work is counted."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from engine import uapi
from engine.uapi import parse_set
from tests.support.control_harness import SMALL, Interface, Parts
from tests.unit.workers.test_control_loop import Loop
from workers._workers import ffi, lib
from workers.control import uapi_server
from workers.control.configuration import PortRequest
from workers.control.endpoints import Endpoint
from workers.control.grace_periods import ACTIONS_A_POLL, GracePeriods
from workers.control.interface import InterfaceState
from workers.control.pace import PACE, Pace
from workers.control.peers import NODES_A_RECLAIM, ROWS_AN_ACTION
from workers.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

MANY = 6000  # allowed IPs of one peer, or peers
KEY = f"{1:064x}"


def prefix(n: int) -> str:
    return f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32"


def ips(numbers: range, sign: str = "") -> str:
    return "".join(f"allowed_ip={sign}{prefix(n)}\n" for n in numbers)


@pytest.fixture
def interface() -> Iterator[Interface]:
    with Interface(
        f"plt{os.getpid()}", Settings(**SMALL | {"max_peers": 8192}), max_trie_nodes=1 << 16
    ) as made:
        yield made


@pytest.fixture
def parts(request: pytest.FixtureRequest, interface: Interface) -> Iterator[Parts]:
    """Parameter: their pace."""
    made = Parts(interface, getattr(request, "param", PACE))
    yield made
    made.close()


def most_in_a_step(parts: Parts, text: str, measure: Callable[[], int]) -> int:
    """Apply a set; the most that the measure changed by between two steps."""
    steps, before, most = parts.configuration.apply(parse_set("set=1\n" + text)), measure(), 0
    while next(steps, steps) is not steps:
        parts.grace_periods.poll()
        now = measure()
        most, before = max(most, abs(now - before)), now
    return max(most, abs(measure() - before))


def shown_ips(text: bytes | str) -> list[str]:
    lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return [line.removeprefix("allowed_ip=") for line in lines if line.startswith("allowed_ip=")]


def test_one_peer_with_many_allowed_ips_is_set_changed_and_removed_in_slices(parts: Parts) -> None:
    def live() -> int:
        return int(parts.peers.ips.live)

    bound = 1024  # 512 steps, and a prefix is two nodes at most
    head = f"public_key={KEY}\n"
    assert most_in_a_step(parts, head + ips(range(MANY)), live) <= bound
    assert shown_ips(parts.get()) == [prefix(n) for n in range(MANY)]
    assert most_in_a_step(parts, head + ips(range(0, MANY, 2), "-"), live) <= bound
    assert shown_ips(parts.get()) == [prefix(n) for n in range(1, MANY, 2)]
    text = head + "replace_allowed_ips=true\n" + ips(range(MANY, 2 * MANY))
    assert most_in_a_step(parts, text, live) <= bound
    assert shown_ips(parts.get()) == [prefix(n) for n in range(MANY, 2 * MANY)]
    assert most_in_a_step(parts, head + "remove=true\n", live) <= bound
    assert live() == 0 and KEY not in parts.get()
    assert parts.set("set=1\n" + head + ips(range(MANY))) == 0
    assert most_in_a_step(parts, f"replace_peers=true\npublic_key={2:064x}\n", live) <= bound
    assert live() == 0 and parts.get().count("public_key=") == 1


def test_nodes_of_a_removed_peer_come_back_in_slices(parts: Parts) -> None:
    assert parts.set(f"set=1\npublic_key={KEY}\n" + ips(range(MANY))) == 0
    used = int(parts.peers.ips.used)
    assert parts.set(f"set=1\npublic_key={KEY}\nremove=true\n") == 0
    steps, free = 0, int(parts.peers.ips.free)
    while parts.peers.is_reclaiming:
        parts.grace_periods.poll()
        now = int(parts.peers.ips.free)
        assert now - free <= 8192, "the rest of one removal, and a slice of the next"
        steps, free = steps + 1, now
    assert free == used and steps >= used / NODES_A_RECLAIM / 2
    assert parts.set(f"set=1\npublic_key={KEY}\n" + ips(range(MANY))) == 0
    assert int(parts.peers.ips.used) == used, "they are used again"


def test_a_get_of_one_peer_goes_on_in_pieces_while_a_set_changes_it(parts: Parts) -> None:
    assert parts.set(f"set=1\npublic_key={KEY}\n" + ips(range(MANY)) + f"public_key={2:064x}\n") == 0
    pieces = parts.configuration.show()
    first = b""
    while not shown_ips(first):
        first = next(pieces)
        assert len(first) <= uapi.CHUNK_BYTES
    had = len(shown_ips(first))
    assert had < MANY // 2, "it is in the midst of the peer"
    change = f"set=1\npublic_key={KEY}\n" + ips(range(had - 5, had + 5), "-") + ips(range(MANY, MANY + 9))
    assert parts.set(change) == 0
    while parts.peers.is_reclaiming:
        parts.grace_periods.poll()
    assert parts.set(f"set=1\npublic_key={3:064x}\n" + ips(range(MANY + 9, MANY + 30))) == 0  # reuses nodes
    rest = b"".join(pieces)
    wanted = [*range(had), *range(had + 5, MANY + 9)]
    keys = [line for line in (first + rest).decode().splitlines() if line.startswith("public_key=")]
    own = (first + rest).split(b"public_key=" + f"{2:064x}".encode())[0]
    assert shown_ips(own) == [prefix(n) for n in wanted]
    assert keys == [f"public_key={n:064x}" for n in (1, 2, 3)]


def test_a_get_ends_within_a_peer_that_is_removed_meanwhile(parts: Parts) -> None:
    assert parts.set(f"set=1\npublic_key={KEY}\n" + ips(range(MANY)) + f"public_key={2:064x}\n") == 0
    pieces = parts.configuration.show()
    text = next(pieces) + next(pieces)  # the interface, then the beginning of the peer
    left = parts.configuration.show()
    assert next(left) + next(left) == text
    left.close()  # a client that went away
    assert parts.set(f"set=1\npublic_key={KEY}\nremove=true\npublic_key={3:064x}\n" + ips(range(MANY))) == 0
    answer = (text + b"".join(pieces)).decode()
    assert answer.count("public_key=") == 3 and answer.endswith("errno=0\n\n")
    of_first, of_last = answer.split(f"public_key={2:064x}")
    assert shown_ips(of_first) == [prefix(n) for n in range(len(shown_ips(of_first)))]
    assert shown_ips(of_last) == [prefix(n) for n in range(MANY)]


@pytest.mark.parametrize("parts", [Pace(looked=100)], indirect=True)
@pytest.mark.parametrize("text", [f"private_key={'42' * 32}\n", "listen_port=0\n", "fwmark=7\n"])
def test_another_key_port_or_mark_reaches_the_peers_in_slices(parts: Parts, text: str) -> None:
    peers = "".join(f"public_key={n:064x}\nendpoint=127.0.0.1:{n}\n" for n in range(1, 1001))
    assert parts.set(f"set=1\nprivate_key={'41' * 32}\n{peers}") == 0
    rows = parts.memory.rows
    for row in range(1000):
        place = Endpoint(b"\x7f\0\0\1", row + 1, source=b"\x7f\0\0\1", ifindex=1)
        ffi.memmove(parts.endpoints.place, place.pack(), 48)
        lib.endpoint_store(parts.segment, row, parts.endpoints.place)
    rows["orders"][:1000] = 0
    rows["key_word"][:1000] = 1 << 21
    bits = lib.ORDER_STOP_SENDING if text.startswith("private_key") else lib.ORDER_CLEAR_SOURCE

    def reached() -> int:
        return int(np.count_nonzero(rows["orders"][:1000] & bits))

    steps, most, before = parts.configuration.apply(parse_set("set=1\n" + text)), 0, 0
    answer: int | None = None
    with contextlib.suppress(StopIteration):
        while True:
            answer = 0 if isinstance(steps.send(answer), PortRequest) else None
            now = reached()
            most, before = max(most, now - before), now
    assert most == 100 and reached() == 1000


def test_keypairs_and_peers_of_the_control_before_come_free_in_slices(interface: Interface) -> None:
    parts = Parts(interface)
    names = "".join(f"public_key={n:064x}\n" for n in range(1, 6))
    assert parts.set("set=1\n" + names) == 0
    for row in range(5):
        parts.keypairs.reserve(row)  # handshakes in progress, which nobody can finish
        parts.peers.rows[row].state = lib.PEER_RETIRING
    parts.close()
    after = Parts(interface, Pace(keypairs=2))
    assert [after.keypairs.out, len(after.peers.retiring)] == [5, 0]
    found = []
    while after.keypairs.out:
        after.grace_periods.poll()
        found.append((after.keypairs.out, len(after.peers.retiring)))
    assert [out for out, _ in found] == [3, 1, 0]
    assert len(after.peers.retiring) == 5 and not after.grace_periods.has_work
    after.close()


@pytest.mark.parametrize("parts", [Pace(pending_endpoints=2)], indirect=True)
def test_endpoints_that_wait_are_looked_at_in_slices(parts: Parts) -> None:
    for port in (1, 2):
        peers = "".join(f"public_key={n:064x}\nendpoint=127.0.0.1:{port}\n" for n in range(1, 6))
        assert parts.set("set=1\n" + peers) == 0
    assert list(parts.endpoints.waiting) == [0, 1, 2, 3, 4]
    parts.memory.rows["orders"][2:5] = 0  # those of 0 and 1 stand
    found = [(parts.endpoints.poll(), list(parts.endpoints.waiting)) for _ in range(3)]
    assert found == [(True, [2, 3, 4, 0, 1]), (True, [4, 0, 1]), (True, [1, 0])]
    assert all(int(lib.orders_read(parts.segment, row)) & lib.ORDER_ENDPOINT for row in range(5))


def test_what_a_grace_period_ends_is_done_in_slices(interface: Interface) -> None:
    grace_periods, done = GracePeriods(interface.segment), []
    for n in range(3 * ACTIONS_A_POLL):
        grace_periods.after(lambda n=n: done.append(n))  # type: ignore[misc]
    for polls in (1, 2, 3):
        grace_periods.poll()
        assert len(done) == polls * ACTIONS_A_POLL
        assert grace_periods.has_work is (polls < 3)
    assert done == list(range(3 * ACTIONS_A_POLL)) and not grace_periods.poll()


@pytest.mark.parametrize("is_killed", [False, True])
def test_peers_are_told_to_retire_in_slices(interface: Interface, is_killed: bool) -> None:
    parts = Parts(interface)
    assert parts.set("set=1\n" + "".join(f"public_key={n:064x}\n" for n in range(1, MANY + 1))) == 0
    assert parts.set("set=1\nreplace_peers=true\n") == 0
    if is_killed:
        parts.close()
        parts = Parts(interface)
    found = [len(parts.peers.retiring)]
    while found[-1] < MANY:
        parts.grace_periods.poll()
        found.append(len(parts.peers.retiring))
    most = ACTIONS_A_POLL * ROWS_AN_ACTION + PACE.peers
    assert max(now - before for before, now in pairwise(found)) <= most
    parts.close()


@contextlib.contextmanager
def clients(interface: Interface, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        for sock in made:
            sock.connect(str(interface.path))
            sock.setblocking(False)
        yield made


def test_many_clients_share_what_is_read_in_a_turn(interface: Interface) -> None:
    loop = Loop(interface)
    control, server = loop.control, loop.control.uapi
    text = (f"public_key={KEY}\n" + ips(range(4000))).encode()
    with clients(interface, 12) as made:
        for _ in made:
            control._sleep(0.0)
        assert len(server.connections) == 12
        for sock in made:
            sock.send(b"set=1\n")
        for _ in range(40):
            for sock in made:
                with contextlib.suppress(BlockingIOError):
                    sock.send(text)
            loop.turn()
            control._sleep(0.0)
            assert server.bytes_left > -uapi_server.RECEIVE_BYTES
        assert not [each for each in server.connections if each.is_between], "each had its turn"
    control._sleep(0.0)
    loop.close()


def test_reports_of_the_engine_are_made_one_a_turn(interface: Interface) -> None:
    loop = Loop(interface)
    with clients(interface, 2) as (one, other):
        for _ in (one, other):
            loop.control._sleep(0.0)
        for sock in (one, other):
            sock.send(b"get_engine=1\n\n" * 3)
        answers, turns = b"", 0
        while answers.count(b"errno=0\n\n") < 6:
            loop.turn()
            loop.control._sleep(0.0)
            turns += 1
            assert turns < 100
            for sock in (one, other):
                with contextlib.suppress(BlockingIOError):
                    answers += sock.recv(1 << 20)
        assert turns >= 6
    loop.close()


class Watched:
    """An interface that goes up and down as the test says."""

    def __init__(self) -> None:
        self.is_up = True

    def look(self) -> InterfaceState:
        return InterfaceState(1420, self.is_up)


def ordered(loop: Loop, bits: int) -> int:
    orders = loop.control.memory.rows["orders"][: loop.control.peers.used]
    return int(np.count_nonzero(orders & bits))


def test_down_and_up_reach_all_peers_in_slices_and_after_a_kill(interface: Interface) -> None:
    loop = Loop(interface)
    text = "".join(f"public_key={n:064x}\npersistent_keepalive_interval=25\n" for n in range(1, MANY + 1))
    assert loop.set(text) == 0
    control: Any = loop.control
    control.interface = watched = Watched()
    interface.segment.rows[MANY - 1].key_word = interface.segment.rows[0].key_word = 1 << 21
    control.memory.rows["orders"][:MANY] = 0

    def turn(bits: int) -> int:
        before = ordered(loop, bits)
        loop.turn(2 * 1_000_000_000)
        return ordered(loop, bits) - before

    watched.is_up = False
    assert turn(lib.ORDER_ZERO) == 1, "the last row is not looked at in the first turn"
    assert control.passes
    loop.close()
    loop = Loop(interface)  # it was killed there
    while loop.control.passes:
        loop.turn()
    assert ordered(loop, lib.ORDER_ZERO) == 2
    control = loop.control
    control.memory.rows["orders"][:MANY] = 0
    control.interface = watched
    found = [turn(lib.ORDER_KEEPALIVE) for watched.is_up in (False,)]
    while control.passes:
        loop.turn()
    control.memory.rows["orders"][:MANY] = 0
    watched.is_up = True
    found = [turn(lib.ORDER_KEEPALIVE)]
    while control.passes:
        found.append(turn(lib.ORDER_KEEPALIVE))
    assert sum(found) == MANY and max(found) <= 2 * PACE.ordered and len(found) > 1
    assert not control.vault.passing
    loop.close()
