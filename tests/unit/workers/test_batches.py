"""A batch ends where its count says: what stands behind it is not looked at, written or sent.

Behind each batch (workers/control/handshake_batch.h) stands one more, as good as the others.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from engine import constants, messages
from tests.support.small_segment import make
from workers._workers import ffi, lib

COUNT = 3  # of the batch; the arrays have one more
UNTOUCHED = 0xAA


@pytest.fixture
def cells() -> Any:
    """Initiations from the loopback."""
    found = ffi.new("struct mailbox_cell[]", COUNT + 1)
    for cell in found:
        cell.length = constants.INITIATION_BYTES
        cell.message = bytes([messages.INITIATION]) + bytes(191)
        sender = getattr(cell, "from")
        sender.family = socket.AF_INET
        sender.address[0:4] = socket.inet_aton("127.0.0.1")
    return found


def untouched(kind: str) -> Any:
    """An array of `kind`s for the batch and one more, all of them written before."""
    new: Any = ffi.new  # the stubs know literals alone
    array = new(f"{kind}[]", COUNT + 1)
    ffi.buffer(array)[:] = bytes([UNTOUCHED]) * ffi.sizeof(array)
    return array


def is_untouched(array: Any) -> bool:
    each = ffi.sizeof(array) // (COUNT + 1)
    return bytes(ffi.buffer(array))[COUNT * each :] == bytes([UNTOUCHED]) * each


def test_checks_and_beginnings(cells: Any) -> None:
    results, handshakes, where = untouched("uint8_t"), untouched("struct handshake"), untouched("uint32_t")
    lib.batch_check(ffi.NULL, ffi.NULL, cells, COUNT, results)
    assert list(results) == [lib.CHECK_INITIATION] * COUNT + [UNTOUCHED]
    results[COUNT] = lib.CHECK_INITIATION
    assert lib.batch_begin(ffi.NULL, cells, COUNT, results, handshakes, where) == COUNT
    assert list(where)[:COUNT] == list(range(COUNT)) and is_untouched(where) and is_untouched(handshakes)


def test_peers_and_responses(cells: Any) -> None:
    handshakes, rows = ffi.new("struct handshake[]", COUNT + 1), untouched("uint32_t")
    outgoing, where = untouched("struct outgoing"), ffi.new("uint32_t[]", list(range(COUNT + 1)))
    for handshake in handshakes:
        handshake.result = lib.HANDSHAKE_FINE
    assert lib.batch_write_responses(handshakes, cells, where, COUNT, outgoing) == COUNT
    assert [each.length for each in outgoing][:COUNT] == [constants.RESPONSE_BYTES] * COUNT
    assert is_untouched(outgoing)
    for handshake in handshakes:
        handshake.result = lib.HANDSHAKE_STATIC_TAG
    lib.batch_find_peers(ffi.NULL, handshakes, COUNT, rows)
    assert list(rows)[:COUNT] == [0xFFFFFFFF] * COUNT and is_untouched(rows)


def test_endpoints(cells: Any) -> None:
    data = make(COUNT + 1)
    segment = ffi.cast("struct segment *", data.segment_address)
    same, numbers = untouched("uint8_t"), ffi.new("uint32_t[]", list(range(COUNT + 1)))
    lib.batch_compare_endpoints(segment, numbers, cells, numbers, COUNT, same)
    assert list(same) == [0] * COUNT + [UNTOUCHED]
    data.close()


@pytest.mark.parametrize("families", ["4", "46"])
def test_messages(families: str) -> None:
    """Sockets of their own hear the batch and no more, whether it goes out in one call or in some."""
    kinds = {"4": (socket.AF_INET, "127.0.0.1"), "6": (socket.AF_INET6, "::1")}
    ears, ours = {}, {}
    for name, (family, address) in kinds.items():
        ears[name], ours[name] = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        ears[name].bind((address, 0))
        ears[name].setblocking(False)
    outgoing = ffi.new("struct outgoing[]", COUNT + 1)
    goes = [families[n % len(families)] for n in range(COUNT)]
    for one, name in zip(outgoing, [*goes, goes[-1]], strict=True):
        family, address = kinds[name]
        packed = socket.inet_pton(family, address)
        one.to.family, one.length = family, 1
        one.error = one.source_refused = UNTOUCHED
        one.to.port = socket.htons(ears[name].getsockname()[1])
        one.to.address[0 : len(packed)] = packed
    lib.handshakes_send(ours["4"].fileno(), ours["6"].fileno(), outgoing, COUNT)
    marks = [(one.error, one.source_refused) for one in outgoing]
    assert marks == [(0, 0)] * COUNT + [(UNTOUCHED, UNTOUCHED)]
    for name, ear in ears.items():
        for _ in range(goes.count(name)):
            assert len(ear.recv(2)) == 1
        with pytest.raises(BlockingIOError):
            ear.recv(2)
    for some in (*ears.values(), *ours.values()):
        some.close()


@pytest.mark.parametrize("source", ["", "127.0.0.1"])
def test_a_refusal_that_is_not_about_the_source_is_no_reason_to_forget_it(source: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        one = ffi.new("struct outgoing[]", 1)
        one[0].to.family, one[0].to.port, one[0].length = socket.AF_INET, socket.htons(9), 1
        one[0].to.address[0:4] = bytes([255] * 4)  # to all, for which this socket did not ask
        if source:
            one[0].to.source[0:4] = socket.inet_aton(source)
        lib.handshakes_send(ours.fileno(), -1, one, 1)
        assert (one[0].error, one[0].source_refused) == (errno.EACCES, 0)
