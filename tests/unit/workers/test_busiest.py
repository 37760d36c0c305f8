"""The samples behind `get_busiest`, against a plain model: a dictionary of bytes.

Control's parts without a process; the test is the holder that counts bytes and stores stamps.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine import timers
from tests.support.control_harness import Interface, Parts
from workers._workers import lib
from workers.control.busiest import FORGET, SAMPLE_INTERVAL, SECOND, Busiest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

PEERS = 12
KEYS = [bytes([1, n] * 16) for n in range(PEERS)]
START = 1000 * SECOND
TICKS_WRAP = 1 << 56  # ns


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    """An interface with PEERS peers; the row of the one with KEYS[n] is found with peers.find."""
    with Interface("busiest") as interface:
        made = Parts(interface)
        text = "".join(f"public_key={key.hex()}\nallowed_ip=10.0.{n}.0/24\n" for n, key in enumerate(KEYS))
        assert made.set(f"set=1\n{text}\n") == 0
        yield made
        made.close()


def carry(parts: Parts, row: int, received: int, sent: int, now: int) -> None:
    """What a holder does for authenticated packets."""
    peer = parts.segment.rows[row]
    peer.rx_bytes += received
    peer.tx_bytes += sent
    parts.memory.columns[lib.LAST_AUTHENTICATED, row] = timers.narrow(timers.tick(now))


def quiet(parts: Parts) -> list[int]:
    """Rows by key, as new peers have them."""
    rows = [parts.peers.find(key) for key in KEYS]
    assert None not in rows
    for row in rows:
        parts.segment.rows[row].rx_bytes = parts.segment.rows[row].tx_bytes = 0
        parts.memory.columns[lib.LAST_AUTHENTICATED, row] = 0
    return rows  # type: ignore[return-value]


CARRY = st.tuples(st.integers(0, PEERS - 1), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
STEPS = st.lists(st.one_of(CARRY, st.sampled_from((5, SECOND // 3, SECOND // 2, 3 * SECOND))), max_size=40)


@example(steps=[(2, 7, 0), SECOND, (5, 1, 9), (2, 0, 1), SECOND // 2, 5], count=PEERS, start=START)
@example(steps=[(2, 7, 0), 3 * SECOND, (2, 1, 9), SECOND], count=PEERS, start=TICKS_WRAP - SECOND)
@given(
    steps=STEPS, count=st.integers(0, PEERS + 3), start=st.sampled_from([START, TICKS_WRAP - 2 * SECOND])
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rates_are_those_of_a_dictionary(
    parts: Parts, steps: list[int | tuple[int, int, int]], count: int, start: int
) -> None:
    """A number in steps: so much time passes, then somebody asks. A tuple: traffic of one peer."""
    rows = quiet(parts)
    busiest = Busiest(parts.memory, parts.peers.count_allowed)
    total = dict.fromkeys(rows, (0, 0))
    now = sampled = start
    busiest.sample(now)
    known, rates = dict(total), {}
    for step in steps:
        if isinstance(step, tuple):
            number, received, sent = step
            carry(parts, rows[number], received, sent, now)
            total[rows[number]] = (total[rows[number]][0] + received, total[rows[number]][1] + sent)
            continue
        now += step
        busiest.sample(now)
        if now - sampled >= SAMPLE_INTERVAL:
            moved = {row: (total[row][0] - known[row][0], total[row][1] - known[row][1]) for row in rows}
            seconds = (now - sampled) / SECOND
            rates = {row: (a / seconds, b / seconds) for row, (a, b) in moved.items() if a or b}
            known, sampled = dict(total), now
    shown = busiest.rows(count)
    assert len(shown) == len(set(shown)) == min(count, PEERS)
    sums = sorted((sum(pair) for pair in rates.values()), reverse=True)[:count]
    assert [sum(rates.get(row, (0, 0))) for row in shown][: len(sums)] == pytest.approx(sums)
    records = [(row, parts.configuration._record(row)) for row in shown]
    told = json.loads(json.dumps(busiest.report(records)))
    assert told["active"] == len(rates)
    assert told["rx_rate"] == pytest.approx(sum(pair[0] for pair in rates.values()), abs=0.1)
    for row, peer in zip(shown, told["peers"], strict=True):
        assert peer["public_key"] == b64encode(parts.peers.public_key(row)).decode()
        assert (peer["rx_bytes"], peer["tx_bytes"]) == total[row]
        assert (peer["rx_rate"], peer["tx_rate"]) == pytest.approx(rates.get(row, (0.0, 0.0)), abs=0.1)


def test_idle_peers_come_by_who_was_heard_last(parts: Parts) -> None:
    rows = quiet(parts)
    for number, seconds in ((3, 5), (9, 50), (1, 20)):
        carry(parts, rows[number], 1, 1, START + seconds * SECOND)
    busiest = Busiest(parts.memory, parts.peers.count_allowed)
    busiest.sample(START + 100 * SECOND)
    busiest.sample(START + 101 * SECOND)
    assert busiest.rows(3) == [rows[9], rows[1], rows[3]]


def test_bytes_counted_after_the_stamp_of_their_packet_are_not_missed(parts: Parts) -> None:
    """A sample between a holder's stamp and its count: the next sample has the bytes."""
    rows = quiet(parts)
    busiest = Busiest(parts.memory, parts.peers.count_allowed)
    busiest.sample(START)
    parts.memory.columns[lib.LAST_AUTHENTICATED, rows[4]] = timers.tick(START + SECOND // 2)
    busiest.sample(START + SECOND)
    parts.segment.rows[rows[4]].rx_bytes = 500
    busiest.sample(START + 2 * SECOND)
    assert busiest.rows(1) == [rows[4]]
    assert busiest.report([])["rx_rate"] == 500


def test_a_row_with_another_peer_starts_from_nothing(parts: Parts) -> None:
    rows = quiet(parts)
    carry(parts, rows[0], 1000, 0, START)
    busiest = Busiest(parts.memory, parts.peers.count_allowed)
    busiest.sample(START)
    parts.segment.rows[rows[0]].rx_bytes = 0
    carry(parts, rows[0], 70, 0, START + SECOND)
    busiest.sample(START + SECOND)
    assert busiest.report([])["rx_rate"] == 70


def test_nobody_asks_any_more(parts: Parts) -> None:
    quiet(parts)
    busiest = Busiest(parts.memory, parts.peers.count_allowed)
    busiest.sample(START)
    busiest.sample(START + SECOND)
    assert busiest.report([])["interval_ms"] == 1000
    busiest.rest(START + SECOND + FORGET)
    assert busiest.report([])["interval_ms"] == 1000
    busiest.rest(START + SECOND + FORGET + 1)
    assert busiest.report([])["interval_ms"] is None
