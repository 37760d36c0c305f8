"""The watch over routes: whom it asks about, when, and how much of control's time it takes.

The questions go to this host's own routing table: 127.0.0.1 is reached by lo, which is interface 1.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import pytest

from workers._workers import lib
from workers.control.endpoints import Endpoint
from workers.control.routes import RTA_DST, RTA_OIF, SECOND, SLICE, Routes, _oif

LOOPBACK = bytes([127, 0, 0, 1])
FITS = Endpoint(LOOPBACK, 9, source=LOOPBACK, ifindex=1)
ELSEWHERE = FITS._replace(ifindex=99)
COST = 4_000_000  # ns that a slice takes


class Rows:
    """As Peers and EndpointOrders, over a list."""

    def __init__(self, endpoints: list[Endpoint | None]) -> None:
        self.endpoints = endpoints
        self.used = len(endpoints)
        self.orders: list[int] = []
        self.memory = self
        self.device = self
        self.fwmark = 0

    def live_rows(self, first: int, last: int) -> range:
        return range(first, last)

    def read(self, row: int) -> Endpoint | None:
        return self.endpoints[row]

    def order(self, row: int, bits: int) -> None:
        assert bits == lib.ORDER_CLEAR_SOURCE
        self.orders.append(row)


def watch(endpoints: list[Endpoint | None]) -> Iterator[tuple[Routes, Rows]]:
    rows = Rows(endpoints)
    made = Routes(rows, rows, itertools.count(0, COST).__next__)  # type: ignore[arg-type]
    yield made, rows
    made.close()


def test_sources_that_do_not_fit_are_cleared_at_once_and_twice_more() -> None:
    six = Endpoint(bytes(15) + b"\1", 9, source=bytes(15) + b"\1", ifindex=99)
    for made, rows in watch([FITS, ELSEWHERE, None, FITS.without_source(), six]):
        now = 10 * SECOND
        made.step(now)
        assert rows.orders == [] and made.due_in(now) is None
        made.drain()
        assert made.due_in(now) == 0
        made.step(now)
        assert rows.orders == [1]
        for look in (1, 2):
            assert made.due_in(now) == 1
            made.step(now + SECOND - 1)
            assert rows.orders == [1] * look
            now += SECOND
            made.step(now)
            assert rows.orders == [1] * (look + 1)
        assert made.due_in(now) is None


def test_a_tenth_of_the_time_at_most() -> None:
    """Routes change without end, and there are many peers."""
    count = 2 * SLICE + 1
    for made, rows in watch([ELSEWHERE] * count):
        now, steps = 10 * SECOND, 0
        while now < 11 * SECOND:
            made.drain()
            due = made.due_in(now)
            assert due is not None
            if due == 0:
                made.step(now)
                steps += 1
            now += 1_000_000
        assert steps * COST <= SECOND // 10 + COST
        assert rows.orders[: count + 1] == [*range(count), 0]


def test_a_look_that_was_begun_is_finished() -> None:
    """Also the last, and a second is no reason to wait in the middle of one."""
    count = 2 * SLICE + 1
    for made, rows in watch([ELSEWHERE] * count):
        now, ends = 10 * SECOND, []
        made.drain()
        while (due := made.due_in(now)) is not None:
            if due == 0:
                made.step(now)
            if len(rows.orders) == count * (len(ends) + 1):
                ends.append(now // SECOND)
            now += 1_000_000
        assert rows.orders == [*range(count)] * 3 and ends == [10, 11, 12]


def test_where_the_kernel_cannot_be_asked_every_source_stays() -> None:
    """In another network namespace, and where the kernel refuses netlink or does not answer."""
    rows = Rows([ELSEWHERE])
    away = Routes(rows, rows, is_at_home=False)  # type: ignore[arg-type]
    assert (away.news, away.questions) == (None, None)
    for deaf in watch([ELSEWHERE]):
        silent, _ = deaf
        assert silent.questions is not None and not silent.agrees(ELSEWHERE)
        silent.questions.close()
        for routes in (away, silent):
            assert routes.interface(ELSEWHERE, 0) is None
            assert routes.agrees(ELSEWHERE)
            assert routes.describe(ELSEWHERE) == "unknown"
    away.drain()
    assert away.due_in(0) == 0 and away.step(0)
    assert rows.orders == []
    away.close()


def attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust(4 + -(-len(value) // 4) * 4, b"\0")


@pytest.mark.parametrize(("attributes", "interface"), [
    ([], 0),
    ([(RTA_OIF, struct.pack("=I", 258))], 258),
    ([(RTA_DST, LOOPBACK), (RTA_OIF, struct.pack("=I", 7))], 7),
    ([(RTA_DST, b"xyz"), (RTA_OIF, struct.pack("=I", 7))], 7),  # padded to whole words
    ([(RTA_DST, b""), (RTA_OIF, struct.pack("=I", 7))], 7),
    ([(RTA_DST, LOOPBACK)], 0),
])  # fmt: skip
def test_the_interface_stands_in_one_attribute_of_the_answer(
    attributes: list[tuple[int, bytes]], interface: int
) -> None:
    answer = bytes(16 + 12) + b"".join(attribute(*each) for each in attributes)
    assert _oif(answer) == interface
    if interface:
        assert _oif(answer[:-4] + bytes(4)) == 0 and _oif(answer[:-8] + struct.pack("=HH", 0, 99)) == 0
