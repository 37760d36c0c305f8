"""TAI64N timestamps as initiations carry them: 12 bytes, big-endian, so that they compare as bytes.

The label is 2^62 + 10 + seconds since 1970, then ns. The low 24 bits of the ns are cleared
("whitened", kernel: noise.c): a stamp tells no more than 16.8 ms of the sender's clock.
A responder refuses a stamp that is not later than the latest it accepted from that peer.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from engine import constants

if TYPE_CHECKING:
    import numpy.typing as npt

Stamps: TypeAlias = "npt.NDArray[np.uint8]"  # shape (n, 12)
_STAMPS = np.dtype([("label", ">u8"), ("ns", ">u4")])
_STAMP = struct.Struct(">QI")
_BASE = 0x400000000000000A
_TICK = constants.TIMESTAMP_WHITENING + 1
ZERO: Final = bytes(constants.TIMESTAMP_BYTES)  # earlier than every stamp: none accepted yet


def stamp(wall: int) -> bytes:
    """The whitened stamp of `wall`, ns since 1970 (0 to the year 292 billion)."""
    seconds, ns = divmod(wall, constants.SECOND)
    return _STAMP.pack(_BASE + seconds, ns & ~constants.TIMESTAMP_WHITENING)


def later(a: Stamps, b: Stamps) -> npt.NDArray[np.bool_]:
    """Whether each stamp of a is strictly later than its neighbour in b."""
    mine, seen = (np.ascontiguousarray(stamps).view(_STAMPS)[:, 0] for stamps in (a, b))
    is_later = mine["label"] > seen["label"]
    return np.asarray(is_later | ((mine["label"] == seen["label"]) & (mine["ns"] > seen["ns"])))


def next_stamp(wall: int, last: bytes) -> bytes:
    """A stamp for `wall` that is later than `last`, the latest one sent (ZERO: none yet).

    A wall clock that stands still or was set back gives the tick after `last`, so that the
    responder does not take a fresh initiation for a replay.
    """
    fresh = stamp(wall)
    if fresh > last:
        return fresh
    label, ns = _STAMP.unpack(last)
    ns = (ns & ~constants.TIMESTAMP_WHITENING) + _TICK
    if ns >= constants.SECOND:
        label, ns = label + 1, 0
    return _STAMP.pack(label, ns)
