"""Changes: what a `set` says, of the interface and of each peer; its lines, and its records.

A key of the interface or of a peer stands here whole: the field that it sets, how it is read from a
line, how it stands in a record and how it is written.

A validated `set` is kept as compact records, about 50 bytes a peer and 18 an allowed IP, because one
operation may carry a million peers; PeerChange objects are made one at a time while iterating. The same
records, `Set.to_bytes`, serve as a redo record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from engine._engine import lib
from engine.uapi.keys import NUMBERS
from engine.uapi.refusals import Bad
from engine.uapi.values import (
    NAME_MOST,
    ZERO_KEY,
    AllowedIP,
    Endpoint,
    encode_name,
    parse_endpoint,
    parse_key,
    parse_name,
    parse_number,
    parse_timestamp,
    parse_true,
)  # fmt: skip

_SET: Final = struct.Struct("<B32sHIQ")
_PEER: Final = struct.Struct("<32sHI")  # public key, flags, number of allowed IPs
ALLOWED: Final = struct.Struct("<16sBB")  # address, cidr, flags
_ENDPOINT: Final = struct.Struct("<16sHBB")  # address, port, address bytes, zone bytes
PEER_MOST: Final = (  # bytes of a peer's record without its allowed IPs
    _PEER.size + 32 + _ENDPOINT.size + 15 + 12 + 1 + NAME_MOST + sum(n.bytes for n in NUMBERS.values())
)

_REMOVE, _UPDATE_ONLY, _REPLACE, _PSK = (
    lib.RECORD_REMOVE, lib.RECORD_UPDATE_ONLY, lib.RECORD_REPLACE, lib.RECORD_PSK,
)  # fmt: skip
_HAS_ENDPOINT = lib.RECORD_ENDPOINT
_IS_IPV6, _IS_REMOVED = lib.ALLOWED_IPV6, lib.ALLOWED_REMOVED


@dataclass(slots=True)
class PeerChange:
    """What a set says about one peer. None: not mentioned."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = None  # zeros take it away
    endpoint: Endpoint | None = None
    keepalive: int | None = None  # seconds, 0 = off
    replace_allowed_ips: bool = False  # before allowed_ips are applied
    allowed_ips: list[AllowedIP] = field(default_factory=list)  # in the order given
    on_demand: int | None = None  # 1: it may be evicted when it is idle
    idle_after: int | None = None  # seconds, 0 = as of the interface
    expires: int | None = None  # seconds since 1970, 0 = never
    quota: int | None = None  # bytes of both directions together, 0 = none
    name: str | None = None  # at most NAME_MOST bytes of UTF-8, "" = none
    timestamp: bytes | None = None  # TAI64N of its greatest initiation, 12 bytes, from before it was evicted


@dataclass(slots=True)
class Set:
    """A valid `set`. Apply replace_peers first, then the peers in order. None: not mentioned."""

    private_key: bytes | None = None  # zeros remove it
    listen_port: int | None = None
    fwmark: int | None = None  # 0 removes it
    replace_peers: bool = False
    peer_count: int = 0
    records: bytearray = field(default_factory=bytearray, repr=False)  # the peers, packed

    @property
    def peers(self) -> Iterator[PeerChange]:
        """The peers in order, made while iterating."""
        return _unpack_peers(self.records)

    def add_peer(self, peer: PeerChange, packed: bytes | bytearray = b"") -> None:
        """Append one peer's changes. packed: its allowed IPs, when they are no objects (`pack_allowed`)."""
        self.records += _pack_head(peer, len(peer.allowed_ips) or len(packed) // ALLOWED.size)
        for ip in peer.allowed_ips:
            self.records += pack_allowed(ip)
        self.records += packed
        self.peer_count += 1

    def to_bytes(self) -> bytes:
        """The whole operation as bytes that from_bytes understands: a redo record. Holds secrets."""
        return self.head() + self.records

    def head(self) -> bytes:
        """What to_bytes puts before the records."""
        flags = (
            (self.private_key is not None)
            | (self.listen_port is not None) << 1
            | (self.fwmark is not None) << 2
            | self.replace_peers << 3
        )
        return _SET.pack(
            flags, self.private_key or ZERO_KEY, self.listen_port or 0, self.fwmark or 0, self.peer_count
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Set:
        """The counterpart of to_bytes."""
        flags, private_key, listen_port, fwmark, count = _SET.unpack_from(data)
        return cls(
            private_key if flags & 1 else None,
            listen_port if flags & 2 else None,
            fwmark if flags & 4 else None,
            bool(flags & 8),
            count,
            bytearray(data[_SET.size :]),
        )


def change_device(operation: Set, key: str, value: str) -> None:
    """Take a line of the interface. Bad when its value is refused."""
    if key == "private_key":
        operation.private_key = parse_key(value)
    elif key == "listen_port":
        operation.listen_port = parse_number(value, 0xFFFF)
    elif key == "fwmark":
        operation.fwmark = parse_number(value, 0xFFFFFFFF)
    else:
        operation.replace_peers = parse_true(value)


def change_peer(peer: PeerChange, key: str, value: str) -> None:
    """Take a line of a peer, but not of its allowed IPs. Bad when its value is refused."""
    if key == "endpoint":
        peer.endpoint = parse_endpoint(value)
    elif key == "preshared_key":
        peer.preshared_key = parse_key(value)
    elif key in NUMBERS:
        setattr(peer, NUMBERS[key].field, parse_number(value, NUMBERS[key].most))
    elif key == "plait_timestamp":
        peer.timestamp = parse_timestamp(value)
    elif key == "plait_name":
        peer.name = parse_name(value)
    elif key == "remove":
        peer.remove = parse_true(value)
    elif key == "update_only":
        peer.update_only = parse_true(value)
    elif value != "1":
        raise Bad("an unknown protocol version", "only 1 exists", "write 1, or leave the line out")


# --- records ------------------------------------------------------------------------------------


def pack_allowed(ip: AllowedIP) -> bytes:
    """As it stands in a record."""
    return ALLOWED.pack(ip.address, ip.cidr, (ip.bits == 128) * _IS_IPV6 | ip.removed * _IS_REMOVED)


def _pack_head(peer: PeerChange, allowed_ips: int) -> bytes:
    flags = peer.remove * _REMOVE | peer.update_only * _UPDATE_ONLY | peer.replace_allowed_ips * _REPLACE
    tail = b""
    if peer.preshared_key is not None:
        flags |= _PSK
        tail += peer.preshared_key
    if peer.endpoint is not None:
        flags |= _HAS_ENDPOINT
        address, port, zone = peer.endpoint
        tail += _ENDPOINT.pack(address, port, len(address), len(zone)) + zone.encode("ascii")
    for number in NUMBERS.values():
        value = getattr(peer, number.field)
        if value is not None:
            flags |= number.flag
            tail += value.to_bytes(number.bytes, "little")
    if peer.timestamp is not None:
        flags |= lib.RECORD_TIMESTAMP
        tail += peer.timestamp
    if peer.name is not None:
        flags |= lib.RECORD_NAME
        name = peer.name.encode()
        tail += bytes((len(name),)) + name
    return _PEER.pack(peer.public_key, flags, allowed_ips) + tail


def unpack_head(records: bytes | bytearray, at: int) -> tuple[PeerChange, int, int]:
    """The peer whose record begins at a place, without allowed IPs; their place, and how many there are."""
    public_key, flags, count = _PEER.unpack_from(records, at)
    at += _PEER.size
    peer = PeerChange(public_key, bool(flags & _REMOVE), bool(flags & _UPDATE_ONLY))
    peer.replace_allowed_ips = bool(flags & _REPLACE)
    if flags & _PSK:
        peer.preshared_key = bytes(records[at : at + 32])
        at += 32
    if flags & _HAS_ENDPOINT:
        address, port, length, zone = _ENDPOINT.unpack_from(records, at)
        at += _ENDPOINT.size
        peer.endpoint = Endpoint(address[:length], port, records[at : at + zone].decode("ascii"))
        at += zone
    for number in NUMBERS.values():
        if flags & number.flag:
            setattr(peer, number.field, int.from_bytes(records[at : at + number.bytes], "little"))
            at += number.bytes
    if flags & lib.RECORD_TIMESTAMP:
        peer.timestamp = bytes(records[at : at + 12])
        at += 12
    if flags & lib.RECORD_NAME:
        end = at + 1 + records[at]
        peer.name = bytes(records[at + 1 : end]).decode()
        at = end
    return peer, at, count


def _unpack_peer(records: bytes | bytearray, at: int) -> tuple[PeerChange, int]:
    """The whole peer, and the place of the next one."""
    peer, at, count = unpack_head(records, at)
    for _ in range(count):
        address, cidr, kind = ALLOWED.unpack_from(records, at)
        at += ALLOWED.size
        bits = 128 if kind & _IS_IPV6 else 32
        peer.allowed_ips.append(AllowedIP(address[: bits // 8], bits, cidr, bool(kind & _IS_REMOVED)))
    return peer, at


def _unpack_peers(records: bytes | bytearray) -> Iterator[PeerChange]:
    at = 0
    while at < len(records):
        peer, at = _unpack_peer(records, at)
        yield peer


# --- lines --------------------------------------------------------------------------------------

_BOOLEANS = ("remove", "update_only", "replace_allowed_ips")


def format_set(operation: Set) -> Iterator[str]:
    """The text of a set, its empty line included, peer by peer: what a client sends."""
    yield format_head(operation)
    for peer in operation.peers:
        yield format_change(peer)
    yield "\n"


def format_head(operation: Set) -> str:
    """The lines of a set before its peers."""
    lines = ["set=1"]
    if operation.private_key is not None:
        lines.append(f"private_key={operation.private_key.hex()}")
    if operation.listen_port is not None:
        lines.append(f"listen_port={operation.listen_port}")
    if operation.fwmark is not None:
        lines.append(f"fwmark={operation.fwmark}")
    if operation.replace_peers:
        lines.append("replace_peers=true")
    return "\n".join(lines) + "\n"


def format_change(peer: PeerChange) -> str:
    """The lines of a set that change one peer."""
    lines = [f"public_key={peer.public_key.hex()}"]
    lines += [f"{name}=true" for name in _BOOLEANS if getattr(peer, name)]
    if peer.preshared_key is not None:
        lines.append(f"preshared_key={peer.preshared_key.hex()}")
    if peer.endpoint is not None:
        lines.append(f"endpoint={peer.endpoint}")
    numbers = ((key, getattr(peer, number.field)) for key, number in NUMBERS.items())
    lines += [f"{key}={value}" for key, value in numbers if value is not None]
    if peer.timestamp is not None:
        lines.append(f"plait_timestamp={peer.timestamp.hex()}")
    if peer.name is not None:
        lines.append(f"plait_name={encode_name(peer.name)}")
    lines += [f"allowed_ip={ip}" for ip in peer.allowed_ips]
    return "\n".join(lines) + "\n"
