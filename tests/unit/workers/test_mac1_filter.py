"""Receivers turn away handshake messages whose mac1 is wrong; control is told of some all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import cookie
from engine.noise import Identity
from tests.support.control_harness import Interface
from workers._workers import ffi, lib

KEYS = [Identity(bytes([n]) * 32).mac1_key for n in (1, 2, 3)]
BODIES = {148: 116, 92: 60}


@pytest.fixture(scope="module")
def interface() -> Iterator[Interface]:
    with Interface(f"pld{os.getpid()}") as made:
        yield made


def test_who_has_no_key_refuses_nothing(interface: Interface) -> None:
    lib.mac1_filter_learn(interface.segment, ffi.NULL)
    assert not lib.mac1_filter_refuses(interface.segment, bytes(148), 148)


@given(
    st.lists(st.sampled_from([*KEYS, None]), min_size=1, max_size=6),
    st.sampled_from(sorted(BODIES)),
    st.sampled_from(KEYS),
    st.binary(min_size=116, max_size=116),
    st.integers(-1, 115),
)
def test_as_mac1_says_under_the_latest_key(
    interface: Interface, learnt: list[bytes | None], length: int, key: bytes, body: bytes, flipped: int
) -> None:
    """However often and to whatever the key changed before; one bit of the body or mac1 is enough."""
    for each in learnt:
        lib.mac1_filter_learn(interface.segment, ffi.NULL if each is None else each)
    message = bytearray(cookie.add_macs(body[: BODIES[length]], key, None))
    if flipped >= 0:
        message[flipped % (length - 16)] ^= 1
    is_wrong = learnt[-1] is not None and not cookie.mac1_is_right(learnt[-1], bytes(message))
    assert bool(lib.mac1_filter_refuses(interface.segment, bytes(message), length)) == is_wrong


def test_the_same_key_again_changes_nothing(interface: Interface) -> None:
    lib.mac1_filter_learn(interface.segment, KEYS[0])
    before = bytes(ffi.buffer(interface.segment.device))
    lib.mac1_filter_learn(interface.segment, KEYS[0])
    assert bytes(ffi.buffer(interface.segment.device)) == before
