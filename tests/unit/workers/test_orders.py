"""What a holder makes of control's orders: a turn over empty queues, against their meaning in Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shm.segment
from engine import constants
from workers._workers import ffi, lib
from workers.providers import PROVIDERS

GEOMETRY = {
    "max_peers": 64, "max_keypairs": 16, "max_receivers": 1, "max_consumers": 1, "nodes_a_pool": 100,
    "small_slots": 64, "train_slots": 4, "mailbox_cells": 8, "max_trie_nodes": 64, "public_key_buckets": 64,
}  # fmt: skip
ROW, GENERATION = 40, 9
NOW = 10_000 * constants.SECOND
REJECT = lib.REJECT_AFTER_SECONDS * constants.SECOND
LAST = GEOMETRY["max_keypairs"]  # no number of a keypair, though there is memory for one
ORDERS = (
    lib.ORDER_INSTALL, lib.ORDER_INSTALL_NEXT, lib.ORDER_ENDPOINT, lib.ORDER_EXPIRE, lib.ORDER_ZERO,
    lib.ORDER_AUTHENTICATED_RECEIVED, lib.ORDER_AUTHENTICATED_SENT, lib.ORDER_CLEAR_SOURCE,
    lib.ORDER_PURGE_STAGED, lib.ORDER_STOP_SENDING, lib.ORDER_LOOK, lib.ORDER_RETIRE,
)  # fmt: skip
STAMPS = (lib.UNANSWERED_SINCE, lib.OWED_SINCE, lib.LAST_RECEIVED, lib.LAST_AUTHENTICATED)
OLD = int(lib.timers_tick(NOW)) - 1000


@dataclass(frozen=True)
class Keypair:
    birth: int
    owner: tuple[int, int]  # row, its generation
    is_initiators: bool

    @property
    def is_ours(self) -> bool:
        return self.owner == (ROW, GENERATION)

    @property
    def is_old(self) -> bool:
        return self.birth == 0 or self.birth + REJECT <= NOW


keypairs = st.builds(
    Keypair, st.sampled_from([0, NOW - REJECT - 1, NOW - REJECT, NOW - REJECT + 1, NOW - 1]),
    st.sampled_from([(ROW, GENERATION)] * 4 + [(ROW, GENERATION - 1), (ROW + 1, GENERATION)]), st.booleans(),
)  # fmt: skip
numbers = st.integers(0, 5) | st.just(LAST)


@pytest.fixture(scope="module")
def holder() -> Iterator[Any]:
    data = shm.segment.create(GEOMETRY)
    for region in (lib.REGION_ROWS, lib.REGION_INDEX, lib.REGION_COLUMNS, lib.REGION_TOKENS):
        data.ensure(region, 64 if region != lib.REGION_INDEX else 16)
    data.ensure(lib.REGION_KEYPAIRS, 16)
    segment = ffi.cast("struct segment *", data.segment_address)
    segment.device.rows_used = 64
    aead = lib.aead_new(PROVIDERS["evp"])
    made = ffi.new("struct holder *")
    assert lib.holder_initialise(made, segment, aead, lib.WORKER_CONSUMER) == 0
    yield made
    lib.holder_release(made)
    lib.aead_free(aead)
    data.close()


class Model:
    """A row, as the comments of shm/orders.h have it."""

    def __init__(self, table: list[Keypair], named: list[int], installing: int, installing_next: int) -> None:
        self.table, self.named = table, named
        self.ordered = {lib.ORDER_INSTALL: installing, lib.ORDER_INSTALL_NEXT: installing_next}
        self.stopped: set[int] = set()
        self.told = 0

    def ours(self, number: int) -> Keypair | None:
        return self.table[number] if 0 < number < LAST and self.table[number].is_ours else None

    def become(self, named: list[int]) -> None:
        if named != self.named:
            self.named, self.told = named, lib.EVENT_KEYS

    def install(self, order: int) -> None:
        number, (current, _, following) = self.ordered[order], self.named
        keypair = self.ours(number)
        self.told = lib.EVENT_KEYS
        if keypair is not None and number not in self.named:
            answers = [current, 0, number]
            self.named = [number, following or current, 0] if keypair.is_initiators else answers

    def apply(self, orders: int) -> None:
        if orders & lib.ORDER_ZERO:
            self.become([0, 0, 0])
        if orders & lib.ORDER_STOP_SENDING:
            spared = {number for order, number in self.ordered.items() if orders & order}
            self.stopped = {n for n in (self.named[0], self.named[2]) if self.ours(n) and n not in spared}
        for order in (lib.ORDER_INSTALL_NEXT, lib.ORDER_INSTALL):
            if orders & order:
                self.install(order)
        if orders & lib.ORDER_EXPIRE:
            kept = [n if (found := self.ours(n)) and not found.is_old else 0 for n in self.named]
            self.become(kept)
        if orders & lib.ORDER_RETIRE:
            self.become([0, 0, 0])
            self.told |= lib.EVENT_RETIRED


def place(port: int) -> Any:
    endpoint: Any = ffi.new("struct endpoint *")
    endpoint.family, endpoint.port, endpoint.scope, endpoint.source_ifindex = 2, port, 3, 4
    endpoint.address, endpoint.source = [5] * 16, [6] * 16
    return endpoint


@settings(deadline=None)
@given(
    st.lists(keypairs, min_size=LAST + 1, max_size=LAST + 1),
    st.lists(numbers, min_size=3, max_size=3), numbers, numbers,
    st.sets(st.sampled_from(ORDERS), max_size=6),
)  # fmt: skip
def test_orders_mean_what_they_say(holder: Any, table: list[Keypair], named: list[int], installing: int,
                                   installing_next: int, given_: set[int]) -> None:
    segment, orders = holder.segment, sum(given_)
    row, slab = segment.rows[ROW], ffi.cast("struct keypair *", segment.keypairs)
    for number, keypair in enumerate(table):
        slab[number].birth, slab[number].send_counter = keypair.birth, 0
        slab[number].peer, slab[number].peer_generation = keypair.owner
        slab[number].flags = lib.KEYPAIR_INITIATOR if keypair.is_initiators else 0
    row.generation, row.key_word, row.orders, row.events = GENERATION, lib.key_word_of(*named), 0, 0
    queues = [2 * ROW + direction for direction in (lib.INBOUND, lib.OUTBOUND)]
    for queue in queues:
        lib.token_initialise(segment, queue)
        lib.queue_initialise(segment, queue)
    for column in STAMPS:
        segment.columns[column * 64 + ROW] = OLD
    segment.columns[lib.NEXT_DUE * 64 + ROW] = 0xFFFFFFFF
    lib.endpoint_store(segment, ROW, place(1))
    ffi.memmove(ffi.addressof(row, "ordered_endpoint"), place(2), ffi.sizeof("struct endpoint"))
    lib.orders_give(segment, ROW, orders & lib.ORDER_ZERO)
    row.installing, row.installing_next = installing, installing_next  # ordered since
    lib.orders_give(segment, ROW, orders & ~lib.ORDER_ZERO)
    assert lib.holder_take_idle(holder, queues[0])
    lib.holder_take_turn(holder, queues[0], NOW)  # outbound's turn follows

    model = Model(table, list(named), installing, installing_next)
    model.apply(orders)
    assert row.key_word == lib.key_word_of(*model.named)
    assert {number for number in range(LAST + 1) if slab[number].send_counter} == model.stopped
    assert (int(row.events) & 0xFFFFFFFF & ~lib.EVENT_TIMER) == model.told
    retires = bool(orders & lib.ORDER_RETIRE)
    expected_token = lib.TOKEN_DEAD if retires else lib.TOKEN_IDLE
    assert [lib.token_read(segment, queue) for queue in queues] == [expected_token] * 2
    assert int(row.orders) & 0xFFFFFFFF == (orders if retires else 0)

    tick, received = lib.timers_tick(NOW), bool(orders & lib.ORDER_AUTHENTICATED_RECEIVED)
    sent = bool(orders & lib.ORDER_AUTHENTICATED_SENT)
    given_up = bool(orders & lib.ORDER_PURGE_STAGED) and not retires
    expected = (0 if received else OLD, 0 if sent or given_up else OLD, tick if received else OLD,
                tick if received or sent else OLD)  # fmt: skip
    assert tuple(segment.columns[column * 64 + ROW] for column in STAMPS) == expected

    found: Any = ffi.new("struct endpoint *")
    lib.endpoint_load(segment, ROW, found)
    wanted = place(2 if orders & lib.ORDER_ENDPOINT else 1)
    if orders & lib.ORDER_CLEAR_SOURCE:
        wanted.source, wanted.source_ifindex = bytes(16), 0
    assert bytes(ffi.buffer(found)) == bytes(ffi.buffer(wanted))
