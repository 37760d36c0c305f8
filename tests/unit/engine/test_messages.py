"""Packing and strict unpacking of the four messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import constants, messages
from engine._engine import ffi, lib

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def exactly(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


ANY = st.one_of(
    st.builds(messages.Initiation, U32, exactly(32), exactly(48), exactly(28), exactly(16), exactly(16)),
    st.builds(messages.Response, U32, U32, exactly(32), exactly(16), exactly(16), exactly(16)),
    st.builds(messages.CookieReply, U32, exactly(24), exactly(32)),
    st.builds(messages.Data, U32, U64, st.binary(min_size=16, max_size=200)),
)
TYPES = {1: messages.Initiation, 2: messages.Response, 3: messages.CookieReply, 4: messages.Data}


@given(ANY)
def test_round_trip(message: messages.Initiation) -> None:
    packed = message.pack()
    kind = messages.message_type(packed)
    assert type(message) is TYPES[kind]
    assert TYPES[kind].unpack(packed) == message
    assert packed[:4] == bytes((kind, 0, 0, 0))


def test_sizes_and_places() -> None:
    initiation = messages.Initiation(0x04030201, b"e" * 32, b"s" * 48, b"t" * 28, b"1" * 16, b"2" * 16)
    packed = initiation.pack()
    assert packed == b"\1\0\0\0\1\2\3\4" + b"e" * 32 + b"s" * 48 + b"t" * 28 + b"1" * 16 + b"2" * 16
    assert len(packed) == constants.INITIATION_BYTES == 148
    assert len(messages.Response(0, 0, bytes(32), bytes(16), bytes(16), bytes(16)).pack()) == 92
    assert len(messages.CookieReply(0, bytes(24), bytes(32)).pack()) == 64
    assert messages.Data(1, 2, bytes(16)).pack() == b"\4\0\0\0\1\0\0\0\2" + bytes(23)


@given(
    st.one_of(st.binary(max_size=200), ANY.map(lambda m: m.pack()[:-1]), ANY.map(lambda m: m.pack() + b"x"))
)
def test_strict_and_as_the_c_says(data: bytes) -> None:
    why = ffi.new("int *")
    kind = lib.message_type(ffi.from_buffer(data), len(data), why)
    if kind:
        assert messages.message_type(data) == kind
        TYPES[kind].unpack(data)
        for other in set(TYPES) - {kind}:
            with pytest.raises(messages.MessageError):
                TYPES[other].unpack(data)
    else:
        with pytest.raises(messages.MessageError):
            messages.message_type(data)


@pytest.mark.parametrize("length", range(4, 32))
def test_short_data(length: int) -> None:
    with pytest.raises(messages.MessageError) as caught:
        messages.Data.unpack(b"\4\0\0\0" + bytes(length - 4))
    assert caught.value.reason == "length"


def test_greatest_numbers() -> None:
    data = messages.Data(2**32 - 1, 2**64 - 1, bytes(16))
    assert messages.Data.unpack(data.pack()) == data
    assert data.pack()[:16] == b"\4\0\0\0" + b"\xff" * 12


@pytest.mark.parametrize("word", [b"\1\1\0\0", b"\1\0\1\0", b"\1\0\0\1", b"\0\0\0\0", b"\5\0\0\0"])
def test_reserved_bytes_are_zero(word: bytes) -> None:
    with pytest.raises(messages.MessageError) as caught:
        messages.message_type(word + bytes(144))
    assert caught.value.reason == "type"
