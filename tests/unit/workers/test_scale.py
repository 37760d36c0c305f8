"""Sets and gets of many peers, timers of many rows: whole, in slices, and no more than what differs."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine import timers
from tests.support.control_harness import SMALL, ControlProcess, Holder, Interface, uapi
from workers._workers import ffi, lib
from workers.control.timer_columns import DUE_A_TURN, TimerColumns
from workers.settings import Settings

PEERS = 20_000
MANY = 8_000  # for tests that start control again and again
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sockets in /var/run/wireguard")


@pytest.fixture
def interface() -> Iterator[Interface]:
    with Interface(f"plc{os.getpid()}", Settings(**{**SMALL, "max_peers": 1 << 16})) as interface:
        yield interface


def peers(first: int, last: int) -> str:
    return "".join(
        f"public_key={n:064x}\npreshared_key={n:064x}\nreplace_allowed_ips=true\n"
        f"allowed_ip=100.64.{n >> 8}.{n & 255}/32\n"
        for n in range(first, last)
    )


def set_(interface: Interface, text: str) -> str:
    return uapi(interface, f"set=1\nreplace_peers=true\n{text}\n")


def shown(interface: Interface) -> list[tuple[str, str]]:
    """(public key, allowed IP), sorted."""
    text = uapi(interface, "get=1\n\n")
    return sorted(re.findall(r"public_key=(\w+)\n(?:[^p].*\n|p[^u].*\n)*?allowed_ip=(.*)\n", text))


def expected(first: int, last: int) -> list[tuple[str, str]]:
    return sorted((f"{n:064x}", f"100.64.{n >> 8}.{n & 255}/32") for n in range(first, last))


def generations(interface: Interface) -> dict[bytes, tuple[int, int]]:
    """public key -> (row, generation) of live peers."""
    rows = interface.segment.rows
    return {
        bytes(ffi.buffer(rows[n].public_key)): (n, int(rows[n].generation))
        for n in range(int(interface.segment.device.rows_used))
        if rows[n].state == lib.PEER_LIVE
    }


@needs_root
def test_a_large_set_is_whole_or_nothing_and_touches_what_differs(interface: Interface) -> None:
    with ControlProcess(interface), Holder(interface) as holder:
        assert set_(interface, peers(1, PEERS)) == "errno=0\n\n"
        assert shown(interface) == expected(1, PEERS)
        before, had = uapi(interface, "get=1\n\n"), generations(interface)
        assert set_(interface, peers(5, PEERS + 50) + "nonsense=1\n") == "errno=-22\n\n"
        assert uapi(interface, "get=1\n\n") == before
        assert set_(interface, peers(1, PEERS)) == "errno=0\n\n"
        assert generations(interface) == had and uapi(interface, "get=1\n\n") == before
        # One peer has been heard: it is new afterwards. Some go, some come, the others stay where they are.
        heard = (100).to_bytes(32)
        interface.segment.rows[had[heard][0]].rx_bytes = 32
        assert set_(interface, peers(50, PEERS + 50)) == "errno=0\n\n"
        assert shown(interface) == expected(50, PEERS + 50)
        has = generations(interface)
        assert has[heard] != had[heard]
        assert all(has[key] == had[key] for key in has.keys() & had.keys() - {heard})
        holder.take_turns()


@needs_root
def test_a_kill_in_a_large_set_leaves_it_whole_or_not_begun(interface: Interface) -> None:
    with ControlProcess(interface):
        assert set_(interface, peers(1, 100)) == "errno=0\n\n"
    text = f"set=1\nreplace_peers=true\n{peers(50, MANY)}\n".encode()
    for delay in (0.1, 0.2):
        with ControlProcess(interface) as control, socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(interface.path))
            sock.sendall(text)
            time.sleep(delay)
            control.kill()
        with ControlProcess(interface):
            found = shown(interface)
            assert found in (expected(1, 100), expected(50, MANY))
            assert set_(interface, peers(1, 100)) == "errno=0\n\n"


class Used:
    """In place of the device; counts who asks how many rows are in use, as each scan does once."""

    def __init__(self, rows: int) -> None:
        self.rows, self.scans = rows, 0

    @property
    def rows_used(self) -> int:
        self.scans += 1
        return self.rows


def table(rows: int) -> Any:
    columns = np.zeros((timers.COLUMNS, rows), np.uint32)
    columns[lib.NEXT_DUE] = timers.NEVER
    return SimpleNamespace(columns=columns, rows={"keepalive": np.zeros(rows, np.uint16)}, device=Used(rows))


def test_many_timers_of_one_moment_are_worked_out_in_slices() -> None:
    count, second = 5 * DUE_A_TURN // 2, 1_000_000_000
    stamps = TimerColumns(table(count))
    for row in range(count):
        stamps.session_derived(row, 1000 * second)
    assert not [0 for _ in stamps.due(1001 * second)]  # it only looks at what lay armed
    while stamps.has_due:
        assert not [0 for _ in stamps.due(1001 * second)]
    fired: list[int] = []
    for turn in range(10):
        found = [
            row for row, action in stamps.due(1182 * second + turn) if action & timers.Action.EXPIRE_KEYS
        ]
        assert len(found) <= DUE_A_TURN
        fired += found
    assert sorted(fired) == list(range(count)) and stamps.memory.device.scans == 3
    assert stamps.next_due() == timers.tick(1000 * second) + timers.ZERO
    stamps.session_derived(3, 1200 * second)
    assert stamps.next_due() == 0, "a change: it has to be looked at again"


@needs_root
def test_without_a_setting_there_is_room_for_more_peers_than_16_bits_count() -> None:
    many = (1 << 16) + 100
    text = "".join(
        f"public_key={n:064x}\nallowed_ip=100.{64 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32\n"
        for n in range(1, many + 1)
    )
    with Interface(f"pld{os.getpid()}", Settings(receivers=1, consumers=1, cores=(0,))) as interface:
        before = os.fstat(interface.data_fd).st_blocks
        with ControlProcess(interface):
            assert os.fstat(interface.data_fd).st_blocks - before < 1024  # 512 KiB until there is a peer
            assert uapi(interface, f"set=1\n{text}\n") == "errno=0\n\n"
            assert len(generations(interface)) == many
            assert uapi(interface, "get=1\n\n").count("public_key=") == many
        with ControlProcess(interface):  # another control finds each by its key: the set changes nothing
            had = generations(interface)
            assert uapi(interface, f"set=1\n{text}\n") == "errno=0\n\n"
            assert generations(interface) == had


@needs_root
def test_a_limit_that_is_reached_names_the_setting_to_raise() -> None:
    with Interface(f"ple{os.getpid()}", Settings(**SMALL)) as interface, ControlProcess(interface):
        assert set_(interface, peers(1, 66)) == f"errno=-{errno.ENOSPC}\n\n"
        (told,) = re.findall(r"event=(.*\"no_room\".*)", uapi(interface, "events=0\n\n"))
        event = json.loads(told)
        assert event["reason"] == "65 peers: this interface has room for 64"
        assert event["mend"].startswith("raise max_peers in the settings")
        many = "".join(f"allowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in range(300))
        assert set_(interface, f"public_key={1:064x}\n{many}") == f"errno=-{errno.ENOSPC}\n\n"
        last = json.loads(re.findall(r"event=(.*\"no_room\".*)", uapi(interface, "events=0\n\n"))[-1])
        assert last["reason"] == "more allowed IPs: this interface has room for 256"
