"""The keys of the configuration socket: which there are, and where each may stand.

What a line of a key does stands in changes.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from engine._engine import ffi, lib


class Number(NamedTuple):
    """A key of a peer that carries a number, of UAPI_NUMBERS in engine/uapi/sections.h."""

    field: str  # of PeerChange
    most: int
    flag: int  # in a record
    bytes: int  # there


def _numbers() -> Iterator[tuple[str, Number]]:
    place = 0
    while (row := lib.uapi_number(place)) != ffi.NULL:
        key, name = (ffi.string(text).decode() for text in (row.key, row.field))
        yield key, Number(name, row.most, lib.RECORD_NUMBER << place, row.bytes)
        place += 1


NUMBERS: Final = dict(_numbers())
QUESTIONS: Final = (  # operations that change nothing by more lines
    "get", "get_engine", "get_busiest", "get_counters", "get_sessions", "events", "neighbour",
    "unknown_peers", "upgrade", "scale",
)  # fmt: skip
DEVICE_KEYS: Final = ("private_key", "listen_port", "fwmark", "replace_peers")
PEER_KEYS: Final = (
    "remove", "update_only", "preshared_key", "endpoint", "replace_allowed_ips", "allowed_ip",
    "protocol_version", "plait_timestamp", "plait_name", *NUMBERS,
)  # fmt: skip
