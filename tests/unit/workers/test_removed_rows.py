"""Rows of removed peers: who is told dead, who is looked for, and nobody twice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.control_harness import Interface, Parts
from workers._workers import lib
from workers.control.peers import RETIRING_A_LOOK

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
