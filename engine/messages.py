"""The four messages: exact sizes, little-endian integers, a type word of four bytes (kernel: messages.h).

Unpacking is strict: a length or type that the message cannot have is refused with MessageError,
nothing else is looked at. What the fields mean is for noise.py and cookie.py to say.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from engine import constants
from engine._engine import lib

INITIATION: Final[int] = lib.MESSAGE_INITIATION
RESPONSE: Final[int] = lib.MESSAGE_RESPONSE
COOKIE: Final[int] = lib.MESSAGE_COOKIE
DATA: Final[int] = lib.MESSAGE_DATA

_INITIATION = struct.Struct("<II32s48s28s16s16s")
_RESPONSE = struct.Struct("<III32s16s16s16s")
_COOKIE = struct.Struct("<II24s32s")
_DATA = struct.Struct("<IIQ")
_WORD = struct.Struct("<I")
_LENGTHS = {
    INITIATION: constants.INITIATION_BYTES,
    RESPONSE: constants.RESPONSE_BYTES,
    COOKIE: constants.COOKIE_BYTES,
}


class MessageError(ValueError):
    """These bytes are not that message; `reason` is "length" or "type"."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(f"{why}; drop the datagram and count its {reason}")
        self.reason = reason


class Initiation(NamedTuple):
    """Handshake initiation, 148 bytes."""

    sender_index: int
    ephemeral: bytes  # 32
    static: bytes  # 32 sealed, 48
    timestamp: bytes  # 12 sealed, 28
    mac1: bytes  # 16
    mac2: bytes  # 16

    def pack(self) -> bytes:
        return _INITIATION.pack(INITIATION, *self)

    @classmethod
    def unpack(cls, message: bytes) -> Initiation:
        _check(message, INITIATION)
        return cls(*_INITIATION.unpack(message)[1:])


class Response(NamedTuple):
    """Handshake response, 92 bytes."""

    sender_index: int
    receiver_index: int
    ephemeral: bytes  # 32
    empty: bytes  # 0 sealed, 16
    mac1: bytes  # 16
    mac2: bytes  # 16

    def pack(self) -> bytes:
        return _RESPONSE.pack(RESPONSE, *self)

    @classmethod
    def unpack(cls, message: bytes) -> Response:
        _check(message, RESPONSE)
        return cls(*_RESPONSE.unpack(message)[1:])


class CookieReply(NamedTuple):
    """Cookie reply, 64 bytes. receiver_index is the sender index of the message it answers."""

    receiver_index: int
    nonce: bytes  # 24
    cookie: bytes  # 16 sealed, 32

    def pack(self) -> bytes:
        return _COOKIE.pack(COOKIE, *self)

    @classmethod
    def unpack(cls, message: bytes) -> CookieReply:
        _check(message, COOKIE)
        return cls(*_COOKIE.unpack(message)[1:])


class Data(NamedTuple):
    """Transport data: 16 bytes of header, then the sealed inner packet and its tag."""

    receiver_index: int
    counter: int
    sealed: bytes  # at least 16

    def pack(self) -> bytes:
        return _DATA.pack(DATA, self.receiver_index, self.counter) + self.sealed

    @classmethod
    def unpack(cls, message: bytes) -> Data:
        _check(message, DATA)
        _, receiver_index, counter = _DATA.unpack_from(message)
        return cls(receiver_index, counter, bytes(message[constants.DATA_HEADER_BYTES :]))


def message_type(message: bytes) -> int:
    """The type, 1 to 4, of a whole message. MessageError when its type or length is no message's."""
    if len(message) < _WORD.size:
        raise MessageError("length", f"a datagram of {len(message)} bytes has no type word")
    kind: int = _WORD.unpack_from(message)[0]
    if kind == DATA:
        if len(message) < constants.DATA_MINIMUM_BYTES:
            raise MessageError("length", f"a data message of {len(message)} bytes, the least is 32")
    elif kind not in _LENGTHS:
        raise MessageError("type", f"no message has the type word {kind:#010x}")
    elif len(message) != _LENGTHS[kind]:
        raise MessageError(
            "length", f"a message of type {kind} has {_LENGTHS[kind]} bytes, not {len(message)}"
        )
    return kind


def _check(message: bytes, kind: int) -> None:
    if message_type(message) != kind:
        raise MessageError("type", f"a message of type {message[0]} where one of type {kind} was expected")
