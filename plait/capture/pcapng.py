"""The blocks of a pcapng file that a capture needs, as bytes. docs/capture.md says why no library makes them.

Source: draft-ietf-opsawg-pcapng. Numbers are in this machine's byte order, which the first block tells. Times
are ns since 1970; packets begin with their IP header.
"""

from __future__ import annotations

import struct
from typing import Final

LINKTYPE_RAW: Final = 101  # IPv4 or IPv6, by its first half byte
SECRETS_WIREGUARD: Final = 0x57474B4C
NANOSECONDS: Final = 9
_SECTION, _INTERFACE, _STATISTICS, _PACKET, _SECRETS = 0x0A0D0D0A, 1, 5, 6, 10
_BYTE_ORDER: Final = 0x1A2B3C4D
_COMMENT, _NAME, _DESCRIPTION, _RESOLUTION, _PROGRAM = 1, 2, 3, 9, 4
_FLAGS, _RECEIVED, _DROPPED = 2, 4, 5
_IN, _OUT = 1, 2  # of _FLAGS
_OPTION = struct.Struct("=HH")
_HEAD = struct.Struct("=IIIIIII")  # type and size of a packet's block, and what stands before the packet


def section(program: str) -> bytes:
    """The first block, with the name and version of the program that writes."""
    return _block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1) + _options((_PROGRAM, program)))


def interface(name: str, description: str) -> bytes:
    """An interface; their numbers follow from their order, from 0 on."""
    named = ((_NAME, name), (_DESCRIPTION, description), (_RESOLUTION, bytes([NANOSECONDS])))
    return _block(_INTERFACE, struct.pack("=HHI", LINKTYPE_RAW, 0, 0) + _options(*named))


def packet(number: int, time: int, data: bytes, *, is_out: bool, comment: str) -> bytes:
    """A packet of the interface of that number; a comment that is empty is left out."""
    flags = struct.pack("=I", _OUT if is_out else _IN)
    options = _options((_COMMENT, comment), (_FLAGS, flags)) if comment else _options((_FLAGS, flags))
    rest = -len(data) % 4
    size = _HEAD.size + len(data) + rest + len(options) + 4
    head = _HEAD.pack(_PACKET, size, number, time >> 32, time & 0xFFFFFFFF, len(data), len(data))
    return b"".join((head, data, bytes(rest), options, struct.pack("=I", size)))


def secrets(log: bytes) -> bytes:
    """Keys for the packets that follow, as lines of a WireGuard key log."""
    return _block(_SECRETS, struct.pack("=II", SECRETS_WIREGUARD, len(log)) + log)


def statistics(number: int, time: int, *, received: int, dropped: int) -> bytes:
    """Of an interface at that time: packets that the capture was given, and those that the kernel dropped."""
    options = _options((_RECEIVED, struct.pack("=Q", received)), (_DROPPED, struct.pack("=Q", dropped)))
    return _block(_STATISTICS, struct.pack("=III", number, time >> 32, time & 0xFFFFFFFF) + options)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", 12 + len(body) + -len(body) % 4)
    return b"".join((struct.pack("=I", kind), size, body, bytes(-len(body) % 4), size))


def _options(*pairs: tuple[int, bytes | str]) -> bytes:
    made = []
    for code, value in pairs:
        data = value.encode() if isinstance(value, str) else value
        made += [_OPTION.pack(code, len(data)), data, bytes(-len(data) % 4)]
    return b"".join((*made, _OPTION.pack(0, 0)))
