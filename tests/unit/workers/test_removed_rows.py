"""Rows of removed peers: who is told dead, who is looked for, and nobody twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_network

import numpy as np
import pytest

from tests.support.control_harness import Interface, Parts
from workers._workers import lib
from workers.control.peers import LEFT_OUT, LIVE, RETIRING, RETIRING_A_LOOK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

ROWS = 3 * RETIRING_A_LOOK


@pytest.fixture
def parts() -> Iterator[Parts]:
    with Interface(f"plr{os.getpid()}", max_peers=ROWS) as interface:
        made = Parts(interface)
        made.memory.ensure_rows(ROWS)
        yield made
        made.close()


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def test_those_whose_holder_died_are_looked_for_some_at_a_time(parts: Parts) -> None:
    """Each within three looks, as they are three times as many, and again from the front."""
    peers = parts.peers
    peers.retiring = set(range(ROWS))
    hidden = [ROWS - 1, 2 * RETIRING_A_LOOK - 1, 5]
    for found in range(1, 4):
        for row in hidden:
            lib.token_give_dead(parts.segment, 2 * row + lib.OUTBOUND)
        peers.look_for_retired()
        assert peers.retired == set(sorted(hidden)[:found])
    lib.token_give_dead(parts.segment, 2 * 6 + lib.OUTBOUND)
    peers.look_for_retired()
    assert peers.retired == {5, 6, *hidden} and not peers.retired & peers.retiring


def test_only_a_dead_row_that_retires_comes_free_and_once(parts: Parts) -> None:
    peers, free = parts.peers, parts.peers.table.free_count
    live, gone = (peers.add(key(n)) for n in (1, 2))
    lib.token_give_dead(parts.segment, 2 * live + lib.OUTBOUND)  # as a bad worker may
    peers.holder_retired(live)
    peers.remove([gone])
    while gone not in peers.retiring:
        parts.grace_periods.poll()
    peers.holder_retired(gone)  # told, but a holder has it still
    assert peers.retiring == {gone} and not peers.retired
    lib.token_give_dead(parts.segment, 2 * gone + lib.OUTBOUND)
    for _ in range(2):
        peers.holder_retired(gone)
    for _ in range(10):
        parts.grace_periods.poll()
    assert (peers.free, peers.table.free_count) == ([gone], free + 1)
    assert peers.is_live(live) and not peers.retired


def test_who_is_live(parts: Parts) -> None:
    """Of rows in use, whatever stands in those above; of one that is used again only its present life."""
    peers = parts.peers
    for number in range(1, 7):
        peers.add(key(number))
    states = [LIVE, RETIRING, 0, LIVE, LEFT_OUT, LIVE]
    for row, state in enumerate([*states, LIVE]):
        peers.rows[row].state = state
    rows, live = np.arange(8, dtype=np.uint32)[::-1], [0, 3, 5]
    assert rows[peers.are_live(rows)].tolist() == live[::-1]
    assert [row for row in range(8) if peers.is_live(row)] == live
    assert (peers.live_rows(), peers.live_rows(1), peers.live_rows(1, 5)) == (live, live[1:], [3])
    assert peers.live_rows(3, 4) == [3] and peers.live_rows(0, 100) == live
    generation = int(peers.rows[3].generation)
    assert peers.is_generation(3, generation) and not peers.is_generation(3, generation + 1)
    assert not peers.is_generation(1, int(peers.rows[1].generation))


def test_allowed_ips_are_told_first_given_first(parts: Parts) -> None:
    given = [f"10.{n}.0.0/16" for n in range(5)] + ["2001::1/128"]
    lines = [f"public_key={key(1).hex()}", *(f"allowed_ip={each}" for each in given)]
    assert parts.set("set=1\n" + "\n".join(lines) + "\n") == 0
    row = parts.peers.find(key(1))
    assert row is not None
    wanted = [(each.network_address.packed, each.prefixlen) for each in map(ip_network, given)]
    assert parts.peers.allowed(row) == wanted
    for most in range(8):
        assert parts.peers.allowed(row, most) == wanted[:most]
        assert parts.peers.count_allowed(row, most) == min(most, len(wanted))
    assert parts.peers.disallow_some(row, 2) == 2
    assert len(parts.peers.allowed(row)) == len(wanted) - 2
    assert parts.peers.disallow_some(row, 100) == len(wanted) - 2 and not parts.peers.allowed(row)
