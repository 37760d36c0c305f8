"""`plait bench one-peer`: what is counted, and both directions of a real peer."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.bench import one_peer
from plait.bench._bench import ffi, lib
from plait.bench.implementation import chosen
from plait.bench.simulated_peer import packet

BYTES = 100
SECOND = 10**9


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender of trains and a socket that counts, on loopback."""
    with socket.socket(type=socket.SOCK_DGRAM) as source, socket.socket(type=socket.SOCK_DGRAM) as sink:
        for name, value in ((one_peer.UDP_GRO, 1), (one_peer.UDP_SEGMENT, 0)):
            sink.setsockopt(socket.SOL_UDP, name, value)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sink.bind(("127.0.0.1", 0))
        source.connect(sink.getsockname())
        source.setsockopt(socket.SOL_UDP, one_peer.UDP_SEGMENT, BYTES)
        yield source, sink


def flow_of(count: int, *, train: int = 4, window: int = 16, **changes: int) -> tuple[Any, Any]:
    """A flow and the datagrams that it points to."""
    data = ffi.new("uint8_t[]", 2 * train * BYTES)
    values = {
        "datagrams": data, "stored": 2 * train, "count": count, "most_ns": 30 * SECOND, "bytes": BYTES,
        "arriving_bytes": BYTES, "train": train, "window": window, "tick_us": 100,
    }  # fmt: skip
    return ffi.new("struct flow *", values | changes), data


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3 * BYTES), max_size=20),
    st.sampled_from([1, 4, 32]),
    st.sampled_from([1, 3]),
    st.integers(0, 30),
)
def test_what_is_counted(strangers: list[int], train: int, trains: int, sends: int) -> None:
    """All that was sent, with what else has the right size; nothing of another size."""
    with pair() as (source, sink), socket.socket(type=socket.SOCK_DGRAM) as other:
        for size in strangers:
            other.sendto(bytes(size), sink.getsockname())
        flow, _data = flow_of(sends * train, train=train, window=trains * train)
        assert lib.flow_run(source.fileno(), sink.fileno(), flow) == 0
        assert (flow.sent, flow.error) == (sends * train, 0)
        assert flow.received == sends * train + strangers.count(BYTES)


def test_no_more_than_a_window_is_on_its_way() -> None:
    """Where nothing comes out, a window and no more is sent until that is given up as lost; then the next."""
    with pair() as (source, _), pair() as (_, nothing):
        flow, _data = flow_of(10_000, window=19, most_ns=1)
        assert lib.flow_run(source.fileno(), nothing.fileno(), flow) == 0
        assert (flow.sent, flow.received, flow.ns) == (0, 0, 0)
        flow, _data = flow_of(48, window=19)
        assert lib.flow_run(source.fileno(), nothing.fileno(), flow) == 0
        assert (flow.sent, flow.received) == (48, 0)
        flow, _data = flow_of(10_000, window=19, most_ns=5_000_000)
        assert lib.flow_run(source.fileno(), nothing.fileno(), flow) == 0
        assert flow.sent % 16 == 0 and flow.sent < 10_000


@pytest.mark.parametrize("wrong", [{"train": 0}, {"window": 3}, {"count": 7}, {"stored": 6}, {"bytes": 0},
                                   {"arriving_bytes": 0}, {"tick_us": 0}, {"stored": 0}])  # fmt: skip
def test_a_flow_that_cannot_be_is_an_error(wrong: dict[str, int]) -> None:
    flow, _data = flow_of(8)
    for name, value in wrong.items():
        setattr(flow, name, value)
    with pair() as (source, sink):
        assert (lib.flow_run(source.fileno(), sink.fileno(), flow), flow.error) == (-1, errno.EINVAL)
        flow, _data = flow_of(8)
        assert (lib.flow_run(-1, sink.fileno(), flow), flow.error, flow.sent) == (-1, errno.EBADF, 0)
        assert (lib.flow_run(source.fileno(), -1, flow), flow.error) == (-1, errno.EBADF)


def test_messages_are_a_sessions_in_order() -> None:
    """Each opens under the session's key with its own counter, from 0; more than are sealed at once."""
    key, inner, count = bytes(range(32)), bytes(range(50, 98)), 150
    messages = ffi.new("uint8_t[]", count * 80)
    assert lib.flow_seal(messages, count, key, 0x01020304, inner, len(inner)) == 0
    for counter in range(count):
        message = bytes(ffi.buffer(messages, count * 80))[counter * 80 :][:80]
        assert message[:16] == struct.pack("<IIQ", 4, 0x01020304, counter)
        assert ChaCha20Poly1305(key).decrypt(struct.pack("<4xQ", counter), message[16:], None) == inner


def ones_sum(data: bytes) -> int:
    """0xFFFF where a checksum in the data is right."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0")) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=60) | st.binary(min_size=1392, max_size=1392))
def test_the_packet_inside_is_whole(payload: bytes) -> None:
    """Lengths and both checksums; without them no engine may join what it opens."""
    made = packet("10.1.2.3", "10.4.5.6", payload)
    assert len(made) == 28 + len(payload) and made[28:] == payload
    assert int.from_bytes(made[2:4]) == len(made) and int.from_bytes(made[24:26]) == len(made) - 20
    assert ones_sum(made[:20]) == 0xFFFF and made[26:28] != b"\0\0"
    assert ones_sum(made[12:20] + struct.pack("!HH", 17, len(made) - 20) + made[20:]) == 0xFFFF


@pytest.mark.network
def test_both_directions_of_a_peer() -> None:
    """An engine on one core: whatever is sent comes out, but for a little where the machine is busy."""
    plait = chosen((), ())[0]
    with one_peer.Gateway(plait, sorted(os.sched_getaffinity(0)), 1) as gateway:
        for direction in one_peer.DIRECTIONS:
            sample = gateway.sample(direction, 0.2)
            assert sample.gbit > 0 and sample.cpu_s_per_gb > 0 and -0.01 < sample.lost < 0.9, direction
