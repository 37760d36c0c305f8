"""The cross-platform configuration protocol: text over a stream socket (wireguard.com/xplatform).

A client writes operations, each ended by an empty line: ``get=1``, or ``set=1`` and the
changes, one ``key=value`` a line; ``get=1`` may be followed by the ``public_key`` of one peer, which is
Plait's own, as are ``get_engine=1``, ``get_busiest=N``, ``get_counters=1``, ``events=1``,
``unknown_peers=1``, ``upgrade=1`` and ``scale=N,N``. Reader turns bytes into whole operations. A `set` is
either valid to its last line or refused as a whole, and then names the first bad line; lines after that one
are skipped up to the empty line, so that the client can still read its answer.

A validated `set` is kept as compact records, about 50 bytes a peer and 18 an allowed IP,
because one operation may carry a million peers; PeerChange objects are made one at a
time while iterating. The same records, `Set.to_bytes`, serve as a redo record. Peers whose lines are plainly
right are taken by engine/uapi_sections.c, whole ones at a time; all that is out of the ordinary comes here.

Two lines about the same thing: the later one counts, as in wireguard-go. Lines of one
peer mean the same in any order, except that replace_allowed_ips forgets the allowed_ip
lines before it.
"""

from __future__ import annotations

import errno
import re
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # conversions of text, no sockets
from typing import Final, NamedTuple

from engine._engine import ffi, lib

LINE_BYTES: Final = 4096  # the longest line that is looked at; a real one has under 150
OPERATION_BYTES: Final = 1 << 28  # of records: 2^20 peers with ten allowed IPs each
ALLOWED_IPS: Final = 1 << 20  # after one public_key line
CHUNK_BYTES: Final = 1 << 16  # of a `get` answer, a piece
SECTION_BYTES: Final = 1 << 16  # of text that is kept until the peer it belongs to is whole
BUSIEST_PEERS: Final = 1000  # the most that a `get_busiest` may ask for
COUNTERS_ROW: Final = (  # columns of a packed row of `get_counters`, as numpy writes them; little-endian
    ("public_key", "V32"),
    ("rx_bytes", "<u8"),  # from the peer and to the peer, with WireGuard's own headers
    ("tx_bytes", "<u8"),
    ("handshake", "<i8"),  # ns since 1970; 0: never
)
NAME_MOST: Final = int(lib.NAME_MOST)  # bytes of UTF-8
WINDOW: Final = 64  # open questions of an `unknown_peers` that names no window
WINDOW_MOST: Final = 4096

_ZERO_KEY = bytes(32)
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}\Z", re.ASCII)
_HEX_TIMESTAMP = re.compile(r"[0-9a-fA-F]{24}\Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,20}\Z", re.ASCII)
_COUNT = re.compile(r"[+-]?[0-9]{1,4}\Z", re.ASCII)
_ZONE = re.compile(r"[0-9A-Za-z_.:-]{1,15}\Z", re.ASCII)
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})", re.ASCII)
_ESCAPED = re.compile(rb"[^ -$&-~]")  # what no line may have, and %
_SECRETISH = re.compile(r"[0-9a-fA-F]{32,}|[0-9A-Za-z+/]{40,}=*")

ASKED: Final = b"asked=1\n"  # the supervisor has the request, and will answer in time

class Number(NamedTuple):
    """A key of a peer that carries a number, of UAPI_NUMBERS in engine/uapi_sections.h."""

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
_QUESTIONS = (  # operations that change nothing by more lines
    "get", "get_engine", "get_busiest", "get_counters", "events", "unknown_peers", "upgrade", "scale",
)  # fmt: skip
_DEVICE_KEYS = ("private_key", "listen_port", "fwmark", "replace_peers")
_PEER_KEYS = (
    "remove", "update_only", "preshared_key", "endpoint", "replace_allowed_ips", "allowed_ip",
    "protocol_version", "plait_timestamp", "plait_name", *NUMBERS,
)  # fmt: skip


class UapiError(ValueError):
    """A line that is refused: where, what, why, and what to do; `errno` is positive.

    `line` is safe to log: secrets in it are replaced.
    """

    def __init__(self, line_number: int, line: str, code: int, what: str, why: str, next_step: str) -> None:
        super().__init__(f"line {line_number} ({line}): {what}: {why}; {next_step}")
        self.line_number = line_number
        self.line = line
        self.errno = code
        self.what = what
        self.why = why
        self.next = next_step


class Endpoint(NamedTuple):
    """Where a peer is reached: 4 or 16 bytes, port 1 to 65535, zone name or number ("" for none)."""

    address: bytes
    port: int
    zone: str = ""

    def __str__(self) -> str:
        if len(self.address) == 4:
            return f"{inet_ntop(AF_INET, self.address)}:{self.port}"
        zone = f"%{self.zone}" if self.zone else ""
        return f"[{inet_ntop(AF_INET6, self.address)}{zone}]:{self.port}"


_MAPPED = bytes(10) + b"\xff\xff"


def endpoint_of(address: bytes, port: int, zone: str = "") -> Endpoint:
    """The endpoint that an address as written means.

    An IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2) is an IPv4 address in the clothes of programs that
    have sockets for both. No packet carries it; the kernel module takes it and reaches nothing.
    """
    if len(address) == 16 and address.startswith(_MAPPED):
        return Endpoint(address[12:], port)
    return Endpoint(address, port, zone)


class AllowedIP(NamedTuple):
    """A prefix: address of bits/8 bytes, masked to cidr. removed: a `-` stood before it."""

    address: bytes
    bits: int  # 32 or 128
    cidr: int
    removed: bool = False

    def __str__(self) -> str:
        text = inet_ntop(AF_INET if self.bits == 32 else AF_INET6, self.address)
        return f"{'-' if self.removed else ''}{text}/{self.cidr}"


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
        self.records += _pack_head(peer, len(peer.allowed_ips) or len(packed) // _ALLOWED.size)
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
            flags, self.private_key or _ZERO_KEY, self.listen_port or 0, self.fwmark or 0, self.peer_count
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


class Get(NamedTuple):
    """A `get` operation. public_key: Plait's own, the answer is that peer alone; None: everything."""

    public_key: bytes | None = None


class GetEngine(NamedTuple):
    """A `get_engine` operation: Plait's own, answered by one line `engine=JSON`."""


class GetBusiest(NamedTuple):
    """A `get_busiest` operation: Plait's own, answered by one line `busiest=JSON` (control/busiest.py).

    peers: how many, 0..BUSIEST_PEERS.
    """

    peers: int


class GetCounters(NamedTuple):
    """A `get_counters` operation: Plait's own, answered by lines `counters=BASE64`
    (control/peer_counters.py)."""


class Events(NamedTuple):
    """An `events` operation: Plait's own, answered by lines `event=JSON` (workers/control/events.py).

    follow: ``events=1``, whose answer goes on until the client closes; ``events=0`` is answered with
    what is remembered, and errno. sessions: a line ``sessions=true`` behind it: the begin and end of each
    session is told, however many there are.
    """

    follow: bool
    sessions: bool = False


class UnknownPeers(NamedTuple):
    """An `unknown_peers` operation: Plait's own. From now on the client is asked about keys that are no
    peer's, and sends answers, no operations (workers/control/provider.py).

    window: how many questions may be open at once, 1..WINDOW_MOST.
    """

    window: int


class Upgrade(NamedTuple):
    """An `upgrade` operation: Plait's own (supervisor/upgrade.py). Answered by a line ``asked=1`` at once,
    then by ``change=JSON`` and errno when it is done or refused.

    for_good: ``upgrade=1``; ``upgrade=0`` only tries whether the program could take over.
    """

    for_good: bool


class Scale(NamedTuple):
    """A `scale` operation: Plait's own (workers/supervisor/scaling.py), answered as an `upgrade`.

    How many receivers and consumers there are to be, each a number, or a difference with its sign before it.
    """

    receivers: str
    consumers: str


class Refused(NamedTuple):
    """An operation that must not be applied; answer `set` (was_set) or `get` with error.errno."""

    error: UapiError
    was_set: bool


Operation = (
    Get | GetEngine | GetBusiest | GetCounters | Events | UnknownPeers | Upgrade | Scale | Set | Refused
)


# --- reading operations -------------------------------------------------------------------------


class Reader:
    """The operations of one connection. Feed what the socket gave, in pieces of any size.

    limit_bytes bounds what one operation may take in memory; beyond it the operation is
    refused with E2BIG. An operation without its empty line is never returned: a client that dies
    changes nothing.
    """

    def __init__(self, limit_bytes: int = OPERATION_BYTES) -> None:
        self._limit = limit_bytes
        self._rest = b""
        self._waits = False  # the rest is the beginning of a peer
        self._begin()

    def feed(self, data: bytes) -> Iterator[Operation]:
        """Operations that are whole now; consume the iterator before feeding more."""
        known = len(self._rest)
        data = self._rest + data
        at, waits = 0, self._waits and len(data) < SECTION_BYTES
        waits = waits and not _ends_section(data, max(known - len(_PEER_KEY), 0))
        while not waits:
            if self._verb == "set" and self._error is None and data.startswith(_PEER_KEY, at):
                at, waits = self._sections(data, at)
                if waits:
                    break
            end = data.find(b"\n", at)
            if end < 0:
                break
            operation = self._line(data[at:end])
            at = end + 1
            if isinstance(operation, UnknownPeers):
                self._rest, self._waits = data[at:], False
                yield operation
                return
            if operation is not None:
                yield operation
        self._waits = waits
        # Of a line that is cut, enough to know that it is too long.
        self._rest = data[at:] if waits else data[at : at + LINE_BYTES + 1]

    def take_rest(self) -> bytes:
        """What came behind an `unknown_peers` operation, which are no operations."""
        rest, self._rest = self._rest, b""
        return rest

    def _begin(self) -> None:
        self._number = 0
        self._verb = ""
        self._value = ""
        self._key: bytes | None = None  # of the peer that a `get` asks for
        self._count = 0
        self._set = Set()
        self._peer: PeerChange | None = None
        self._ips = bytearray()  # its allowed IPs, packed: a peer may have a million
        self._spent = 0
        self._error: UapiError | None = None

    def _sections(self, data: bytes, at: int) -> tuple[int, bool]:
        """Take whole peers that are plainly right, from a public_key line on.

        Returns where they end, and whether what follows is kept until there is more of it.
        """
        self._add_peer()
        while True:
            end = min(at + SECTION_BYTES, len(data))
            text = ffi.from_buffer("uint8_t[]", data)[at:end]
            lib.uapi_take_sections(text, len(text), _RECORDS, _PEER_MOST, self._limit - self._spent, _TAKEN)
            at += _TAKEN.text_bytes
            self._set.records += ffi.buffer(_RECORDS, _TAKEN.record_bytes)
            self._set.peer_count += _TAKEN.peers
            self._number += _TAKEN.lines
            self._spent += _TAKEN.spent
            if not _TAKEN.is_cut:
                return at, False
            if end == len(data) and end - at < SECTION_BYTES:
                return at, True
            if not _TAKEN.peers:
                return at, False  # a peer larger than what is kept: line by line

    def _line(self, raw: bytes) -> Operation | None:
        if not raw:
            return self._end() if self._number else None
        self._number += 1
        if self._error is None:
            try:
                self._take(raw)
            except _Bad as bad:
                self._error = UapiError(self._number, mask(raw), bad.code, bad.what, bad.why, bad.next)
                self._set, self._peer = Set(), None  # nothing of it is needed any more
        return None

    def _take(self, raw: bytes) -> None:
        if len(raw) > LINE_BYTES:
            why = f"it has more than {LINE_BYTES} bytes"
            raise _Bad("a line too long", why, "write one key=value a line", errno.E2BIG)
        try:
            key, equals, value = raw.decode("ascii").partition("=")
        except UnicodeDecodeError:
            raise _Bad("not ASCII text", "the protocol is plain ASCII", "remove the other bytes") from None
        if not equals:
            raise _Bad("no key=value", "there is no = in it", "write key=value, or an empty line to end")
        if not self._verb:
            self._start(key, value)
        elif self._verb == "get" and key == "public_key" and self._key is None:
            self._key = _key(value)
        elif self._verb == "unknown_peers" and key == "window" and not self._count:
            self._count = _number(value, WINDOW_MOST)
            if not self._count:
                raise _Bad("not a window", "nothing could be asked", f"write 1 to {WINDOW_MOST}")
        elif self._verb == "events" and self._value == "1" and key == "sessions" and not self._count:
            self._count = int(_true(value))
        elif self._verb != "set":
            why = f"{self._verb} takes no more"
            raise _Bad("a line after the first", why, "end it with an empty line", errno.EPROTO)
        else:
            self._change(key, value)

    def _start(self, key: str, value: str) -> None:
        if key not in ("set", *_QUESTIONS):
            why = "the first line is neither get=1 nor set=1"
            raise _Bad("no operation", why, "begin with one of them", errno.EPROTO)
        self._verb = key
        self._value = value
        if key == "get_busiest":
            self._count = _number(value, BUSIEST_PEERS)
            return
        if key == "scale":
            receivers, comma, consumers = value.partition(",")
            if not comma or not _COUNT.match(receivers) or not _COUNT.match(consumers):
                why = "two numbers are expected, each with or without a sign"
                raise _Bad("bad numbers of workers", why, "write scale=RECEIVERS,CONSUMERS")
            return
        if value != "1" and not (key in ("events", "upgrade") and value == "0"):
            raise _Bad("an unknown version", f"only {key}=1 exists", f"write {key}=1", errno.EPROTO)

    def _change(self, key: str, value: str) -> None:
        if key == "public_key":
            self._flush_peer()
            self._peer = PeerChange(_key(value))
        elif self._peer is None:
            if key not in _DEVICE_KEYS:
                if key in _PEER_KEYS:
                    why = f"no public_key line stands before {key}"
                    raise _Bad("a peer's key without a peer", why, "add that line")
                raise _Bad("an unknown key", "the interface has no such key", "see wireguard.com/xplatform")
            self._change_device(key, value)
        else:
            if key not in _PEER_KEYS:
                if key in _DEVICE_KEYS:
                    why = f"after the first public_key line, {key} belongs to no peer"
                    raise _Bad("an interface's key among peers", why, "move it before the first public_key")
                raise _Bad("an unknown key", "a peer has no such key", "see wireguard.com/xplatform")
            if key == "replace_allowed_ips":
                self._peer.replace_allowed_ips = _true(value)
                self._ips.clear()
            elif key != "allowed_ip":
                _change_peer(self._peer, key, value)
            else:
                self._ips += pack_allowed(_allowed_ip(value))
                if len(self._ips) > ALLOWED_IPS * _ALLOWED.size:
                    why = f"one public_key line has more than {ALLOWED_IPS}"
                    raise _Bad(
                        "too many allowed IPs", why, "repeat the public_key line before more", errno.E2BIG
                    )
                self._spend(_ALLOWED.size)

    def _change_device(self, key: str, value: str) -> None:
        if key == "private_key":
            self._set.private_key = _key(value)
        elif key == "listen_port":
            self._set.listen_port = _number(value, 0xFFFF)
        elif key == "fwmark":
            self._set.fwmark = _number(value, 0xFFFFFFFF)
        else:
            self._set.replace_peers = _true(value)

    def _flush_peer(self) -> None:
        self._add_peer()
        self._spend(_PEER_MOST)

    def _add_peer(self) -> None:
        if self._peer is not None:
            self._set.add_peer(self._peer, self._ips)
            self._peer, self._ips = None, bytearray()

    def _spend(self, count: int) -> None:
        """Count memory as it is taken."""
        self._spent += count
        if self._spent > self._limit:
            why = f"its records need more than {self._limit} bytes"
            raise _Bad("a set too large", why, "send the peers in several operations", errno.E2BIG)

    def _end(self) -> Operation:
        error, verb, value, count = self._error, self._verb, self._value, self._count
        wanted = self._key
        if error is None:
            self._add_peer()
        done = self._set
        self._begin()
        if error is not None:
            return Refused(error, verb not in _QUESTIONS)
        if verb == "get_engine":
            return GetEngine()
        if verb == "get_busiest":
            return GetBusiest(count)
        if verb == "get_counters":
            return GetCounters()
        if verb == "events":
            return Events(value == "1", bool(count))
        if verb == "unknown_peers":
            return UnknownPeers(count or WINDOW)
        if verb == "upgrade":
            return Upgrade(value == "1")
        if verb == "scale":
            return Scale(*value.split(","))
        return Get(wanted) if verb == "get" else done


def _ends_section(data: bytes, first: int) -> bool:
    """Whether an empty line or another peer begins at or behind a place: what waited may be whole now."""
    return data.find(b"\n\n", first) >= 0 or data.find(b"\n" + _PEER_KEY, first) >= 0


def parse_set(text: str | bytes) -> Set:
    """One whole ``set=1`` operation, its empty line optional. UapiError when it is refused."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    reader = Reader()
    for operation in reader.feed(data.rstrip(b"\n") + b"\n\n"):
        if isinstance(operation, Refused):
            raise operation.error
        if isinstance(operation, Set):
            return operation
        break
    raise UapiError(1, "", errno.EPROTO, "no set operation", "the text holds none", "begin with set=1")


def mask(raw: bytes) -> str:
    """A line as it may be logged: what could be a secret is hidden, what is long is cut."""
    text = raw[:256].decode("ascii", "backslashreplace")
    key, equals, value = text.partition("=")
    if key != "public_key" and (key not in _DEVICE_KEYS + _PEER_KEYS or key.endswith("key")):
        key, value = _SECRETISH.sub("(hidden)", key), "(hidden)" if value else ""
    elif key != "public_key":
        value = _SECRETISH.sub("(hidden)", value)
    shown = "".join(c if c.isprintable() else "?" for c in key + equals + value)
    return shown if len(shown) <= 100 else shown[:97] + "..."


class _Bad(Exception):
    def __init__(self, what: str, why: str, next_step: str, code: int = errno.EINVAL) -> None:
        super().__init__(what)
        self.what, self.why, self.next, self.code = what, why, next_step, code


def _change_peer(peer: PeerChange, key: str, value: str) -> None:
    if key == "endpoint":
        peer.endpoint = _endpoint(value)
    elif key == "preshared_key":
        peer.preshared_key = _key(value)
    elif key in NUMBERS:
        setattr(peer, NUMBERS[key].field, _number(value, NUMBERS[key].most))
    elif key == "plait_timestamp":
        peer.timestamp = _timestamp(value)
    elif key == "plait_name":
        peer.name = _name(value)
    elif key == "remove":
        peer.remove = _true(value)
    elif key == "update_only":
        peer.update_only = _true(value)
    elif value != "1":
        raise _Bad("an unknown protocol version", "only 1 exists", "write 1, or leave the line out")


def _key(value: str) -> bytes:
    if not _HEX_KEY.match(value):
        raise _Bad("not a key", "a key is 64 hexadecimal digits here", "convert base64 keys to hexadecimal")
    return bytes.fromhex(value)


def _timestamp(value: str) -> bytes:
    if not _HEX_TIMESTAMP.match(value):
        why = "it is 24 hexadecimal digits, as `evicted` told them"
        raise _Bad("not a timestamp", why, "write those, or leave the line out")
    return bytes.fromhex(value)


def _name(value: str) -> str:
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value).encode("latin-1")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise _Bad("not a name", "it is no UTF-8", "write each byte of it that is no ASCII as %XX") from None
    if len(raw) > NAME_MOST or not name.isprintable():
        why = f"it has more than {NAME_MOST} bytes, or control characters"
        raise _Bad("not a name", why, "write a shorter or plainer one")
    return name


def encode_name(name: str) -> str:
    """The name as a line has it: % and what is no printable ASCII as %XX, byte by byte of UTF-8."""
    return _ESCAPED.sub(lambda found: b"%%%02X" % ord(found[0]), name.encode()).decode("ascii")


def _number(value: str, most: int) -> int:
    if not _DECIMAL.match(value) or int(value) > most:
        raise _Bad("not a number in range", f"it must be decimal, 0 to {most}", "write such a number")
    return int(value)


def _true(value: str) -> bool:
    if value != "true":
        raise _Bad("not true", "the only value is true", "write true, or leave the line out")
    return True


def _endpoint(value: str) -> Endpoint:
    host, colon, port_text = value.rpartition(":")
    if not colon:
        raise _Bad("not an endpoint", "there is no port", "write 192.0.2.1:51820 or [2001:db8::1]:51820")
    port = _number(port_text, 0xFFFF)
    if port == 0:
        raise _Bad("not an endpoint", "nothing can be sent to port 0", "write the port of the peer")
    if host.startswith("[") and host.endswith("]"):
        text, percent, zone = host[1:-1].partition("%")
        address = _address(AF_INET6, text)
        if address is not None and (not percent or _ZONE.match(zone)):
            return endpoint_of(address, port, zone)
    else:
        address = _address(AF_INET, host)
        if address is not None:
            return Endpoint(address, port)
    why = "it is not an IPv4 address, nor an IPv6 address in brackets"
    raise _Bad("not an endpoint", why, "write 192.0.2.1:51820 or [2001:db8::1]:51820, never a name")


def _allowed_ip(value: str) -> AllowedIP:
    removed = value.startswith("-")
    text, slash, cidr_text = value[removed:].partition("/")
    for family, bits in ((AF_INET, 32), (AF_INET6, 128)):
        address = _address(family, text)
        if address is None:
            continue
        if not slash:
            raise _Bad("not a prefix", "there is no /length", f"write {text}/{bits} for one address")
        cidr = _number(cidr_text, bits)
        return AllowedIP(masked(address, cidr), bits, cidr, removed)
    why = "the address is neither IPv4 nor IPv6"
    raise _Bad("not a prefix", why, "write 192.0.2.0/24 or 2001:db8::/32")


def masked(address: bytes, cidr: int) -> bytes:
    """The address with all bits after the first cidr cleared."""
    rest = len(address) * 8 - cidr
    return (int.from_bytes(address, "big") >> rest << rest).to_bytes(len(address), "big")


def _address(family: int, text: str) -> bytes | None:
    try:
        return inet_pton(family, text)
    except (OSError, ValueError):  # not an address; or a NUL in it
        return None


# --- records ------------------------------------------------------------------------------------

_SET = struct.Struct("<B32sHIQ")
_PEER = struct.Struct("<32sHI")  # public key, flags, number of allowed IPs
_ALLOWED = struct.Struct("<16sBB")  # address, cidr, flags
_ENDPOINT = struct.Struct("<16sHBB")  # address, port, address bytes, zone bytes
_PEER_MOST = _PEER.size + 32 + sum(number.bytes for number in NUMBERS.values()) + _ENDPOINT.size + 15 + 12
_PEER_MOST += 1 + NAME_MOST

_REMOVE, _UPDATE_ONLY, _REPLACE, _PSK = (
    lib.RECORD_REMOVE, lib.RECORD_UPDATE_ONLY, lib.RECORD_REPLACE, lib.RECORD_PSK,
)  # fmt: skip
_HAS_ENDPOINT = lib.RECORD_ENDPOINT
_IS_IPV6, _IS_REMOVED = lib.ALLOWED_IPV6, lib.ALLOWED_REMOVED

_PEER_KEY = b"public_key="
_RECORDS = ffi.new("uint8_t[]", 2 * SECTION_BYTES + lib.UAPI_RECORDS_MORE)
_TAKEN = ffi.new("struct uapi_taken *")


def pack_allowed(ip: AllowedIP) -> bytes:
    """As it stands in a record."""
    return _ALLOWED.pack(ip.address, ip.cidr, (ip.bits == 128) * _IS_IPV6 | ip.removed * _IS_REMOVED)


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
        address, cidr, kind = _ALLOWED.unpack_from(records, at)
        at += _ALLOWED.size
        bits = 128 if kind & _IS_IPV6 else 32
        peer.allowed_ips.append(AllowedIP(address[: bits // 8], bits, cidr, bool(kind & _IS_REMOVED)))
    return peer, at


def _unpack_peers(records: bytes | bytearray) -> Iterator[PeerChange]:
    at = 0
    while at < len(records):
        peer, at = _unpack_peer(records, at)
        yield peer


# --- answers ------------------------------------------------------------------------------------


class DeviceRecord(NamedTuple):
    """The interface as `get` shows it; None, 0 and a key of zeros are left out."""

    private_key: bytes | None
    listen_port: int
    fwmark: int


class PeerRecord(NamedTuple):
    """One peer as `get` shows it."""

    public_key: bytes
    preshared_key: bytes  # zeros when there is none
    endpoint: Endpoint | None
    handshake_sec: int  # wall clock of the last handshake, 0 and 0 for never
    handshake_nsec: int
    tx_bytes: int
    rx_bytes: int
    numbers: Sequence[int]  # of NUMBERS, in that order
    allowed_ips: Iterable[AllowedIP]
    ran_out: str = ""  # quota or expired
    name: str = ""


def answer_get(device: DeviceRecord, peers: Iterable[bytes]) -> Iterator[bytes]:
    """The whole answer to a get. peers: the text of all of them, in pieces, asked for one at a time."""
    head = []
    if device.private_key is not None and any(device.private_key):
        head.append(f"private_key={device.private_key.hex()}\n")
    if device.listen_port:
        head.append(f"listen_port={device.listen_port}\n")
    if device.fwmark:
        head.append(f"fwmark={device.fwmark}\n")
    if head:
        yield "".join(head).encode("ascii")
    for piece in peers:
        if piece:
            yield piece
    yield b"errno=0\n\n"


def answer_get_engine(report: str) -> bytes:
    """The answer to a get_engine; report: JSON of one line."""
    return b"engine=%s\nerrno=0\n\n" % report.encode("ascii")


def answer_get_busiest(report: str) -> bytes:
    """The answer to a get_busiest; report: JSON of one line."""
    return b"busiest=%s\nerrno=0\n\n" % report.encode("ascii")


def answer_get_counters(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The answer to a get_counters; pieces: of packed rows, asked for one at a time."""
    for piece in pieces:
        yield b"counters=%s\n" % b64encode(piece)
    yield b"errno=0\n\n"


def answer_events(lines: Iterable[bytes]) -> bytes:
    """The answer to ``events=0``; lines: each whole, its key before it."""
    return b"".join(lines) + b"errno=0\n\n"


def answer_change(report: str, code: int) -> bytes:
    """The answer to an `upgrade` or `scale`; report: JSON of one line. code: positive when it was refused."""
    return b"change=%s\nerrno=%d\n\n" % (report.encode("ascii"), code)


def answer_get_refused(code: int) -> bytes:
    """A get that fails: wg(8) takes a non-negative errno here. code: positive."""
    return b"errno=%d\n\n" % code


def answer_set(code: int) -> bytes:
    """The answer to a set. wg(8) takes a negative errno here and would show "Unknown error" for a
    positive one; code is 0 or positive, the sign is turned here."""
    return b"errno=%d\n\n" % -code


def answer_refused(refused: Refused) -> bytes:
    """The answer to an operation that the Reader refused, with the sign that its client expects."""
    answer: Callable[[int], bytes] = answer_set if refused.was_set else answer_get_refused
    return answer(refused.error.errno)


def format_peer(peer: PeerRecord) -> str:
    """One peer's lines of a `get` answer."""
    endpoint = f"endpoint={peer.endpoint}\n" if peer.endpoint else ""
    pairs = enumerate(zip(NUMBERS, peer.numbers, strict=True))  # Plait's own only where they are set
    numbers = "".join(f"{key}={value}\n" for at, (key, value) in pairs if value or not at)
    numbers += f"plait_name={encode_name(peer.name)}\n" if peer.name else ""
    numbers += f"plait_ran_out={peer.ran_out}\n" if peer.ran_out else ""
    ips = "".join(f"allowed_ip={ip}\n" for ip in peer.allowed_ips)
    return (
        f"public_key={peer.public_key.hex()}\n"
        f"preshared_key={peer.preshared_key.hex()}\n"
        f"protocol_version=1\n{endpoint}"
        f"last_handshake_time_sec={peer.handshake_sec}\n"
        f"last_handshake_time_nsec={peer.handshake_nsec}\n"
        f"tx_bytes={peer.tx_bytes}\nrx_bytes={peer.rx_bytes}\n{numbers}{ips}"
    )


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
