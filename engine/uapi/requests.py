"""Requests: which operations there are, and Reader, which turns a client's bytes into whole ones.

Peers whose lines are plainly right are taken by engine/uapi/sections.c, whole ones at a time; all that
is out of the ordinary comes here.

Two lines about the same thing: the later one counts, as in wireguard-go. Lines of one peer mean the
same in any order, except that replace_allowed_ips forgets the allowed_ip lines before it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from engine._engine import ffi, lib
from engine.uapi.changes import ALLOWED, PEER_MOST, PeerChange, Set, change_device, change_peer, pack_allowed
from engine.uapi.keys import DEVICE_KEYS, PEER_KEYS, QUESTIONS
from engine.uapi.refusals import Bad, UapiError, mask
from engine.uapi.values import (
    SESSION_BYTES,
    parse_allowed_ip,
    parse_key,
    parse_number,
    parse_sessions,
    parse_true,
)

LINE_BYTES: Final = 4096  # the longest line that is looked at; a real one has under 150
OPERATION_BYTES: Final = 1 << 28  # of records: 2^20 peers with ten allowed IPs each
ALLOWED_IPS: Final = 1 << 20  # after one public_key line
SECTION_BYTES: Final = 1 << 16  # of text that is kept until the peer it belongs to is whole
BUSIEST_PEERS: Final = 1000  # the most that a `get_busiest` may ask for
WINDOW: Final = 64  # open questions of an `unknown_peers` that names no window
WINDOW_MOST: Final = 4096
TTL_MOST: Final = 3600  # seconds for which a provider may refuse a key
LEASE_MOST: Final = 10  # seconds, of a `neighbour`
SESSIONS_BYTES: Final = SESSION_BYTES << 19  # that one `neighbour` may bring: 18 MiB

_COUNT = re.compile(r"[+-]?[0-9]{1,4}\Z", re.ASCII)
_PEER_KEY = b"public_key="
_RECORDS = ffi.new("uint8_t[]", 2 * SECTION_BYTES + lib.UAPI_RECORDS_MORE)
_TAKEN = ffi.new("struct uapi_taken *")


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


class GetSessions(NamedTuple):
    """A `get_sessions` operation: Plait's own, answered by lines `sessions=BASE64` of rows SESSION_ROW, and
    one `cursor=N` for the next question (control/new_sessions.py).

    cursor: what the last answer told; 0: all sessions.
    """

    cursor: int


class Neighbour(NamedTuple):
    """A `neighbour` operation: Plait's own, what `plait sync --knock` knows of another gateway of the same
    key (control/neighbours.py). Answered by a line `neighbour=JSON`.

    number: the gateway's. lease: it is dead for so many seconds, 0: it is not. sessions: rows SESSION_ROW,
    all that it had, in place of what was told before; without a line of them (has_sessions) those stand.
    """

    number: int
    lease: int
    sessions: bytes
    has_sessions: bool


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
    Get | GetEngine | GetBusiest | GetCounters | GetSessions | Events | Neighbour | UnknownPeers | Upgrade
    | Scale | Set | Refused
)


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
        self._lease = 0  # of a neighbour
        self._sessions = bytearray()
        self._has_sessions = False
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
            lib.uapi_take_sections(text, len(text), _RECORDS, PEER_MOST, self._limit - self._spent, _TAKEN)
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
            except Bad as bad:
                self._error = UapiError(self._number, mask(raw), bad.code, bad.what, bad.why, bad.next)
                self._set, self._peer = Set(), None  # nothing of it is needed any more
        return None

    def _take(self, raw: bytes) -> None:
        if len(raw) > LINE_BYTES:
            why = f"it has more than {LINE_BYTES} bytes"
            raise Bad("a line too long", why, "write one key=value a line", errno.E2BIG)
        try:
            key, equals, value = raw.decode("ascii").partition("=")
        except UnicodeDecodeError:
            raise Bad("not ASCII text", "the protocol is plain ASCII", "remove the other bytes") from None
        if not equals:
            raise Bad("no key=value", "there is no = in it", "write key=value, or an empty line to end")
        if not self._verb:
            self._start(key, value)
        elif self._verb == "get" and key == "public_key" and self._key is None:
            self._key = parse_key(value)
        elif self._verb == "unknown_peers" and key == "window" and not self._count:
            self._count = parse_number(value, WINDOW_MOST)
            if not self._count:
                raise Bad("not a window", "nothing could be asked", f"write 1 to {WINDOW_MOST}")
        elif self._verb == "events" and self._value == "1" and key == "sessions" and not self._count:
            self._count = int(parse_true(value))
        elif self._verb == "neighbour" and key == "lease":
            self._lease = parse_number(value, LEASE_MOST)
        elif self._verb == "neighbour" and key == "sessions":
            self._has_sessions = True
            self._sessions += parse_sessions(value)
            if len(self._sessions) > SESSIONS_BYTES:
                why = f"there are more than {SESSIONS_BYTES // SESSION_BYTES}"
                raise Bad("too many sessions", why, "leave out the oldest", errno.E2BIG)
        elif self._verb != "set":
            why = f"{self._verb} takes no more"
            raise Bad("a line after the first", why, "end it with an empty line", errno.EPROTO)
        else:
            self._change(key, value)

    def _start(self, key: str, value: str) -> None:
        if key not in ("set", *QUESTIONS):
            why = "the first line is neither get=1 nor set=1"
            raise Bad("no operation", why, "begin with one of them", errno.EPROTO)
        self._verb = key
        self._value = value
        if key == "get_busiest":
            self._count = parse_number(value, BUSIEST_PEERS)
            return
        if key == "get_sessions":
            self._count = parse_number(value, (1 << 63) - 1)
            return
        if key == "neighbour":
            self._count = parse_number(value, 255)
            return
        if key == "scale":
            receivers, comma, consumers = value.partition(",")
            if not comma or not _COUNT.match(receivers) or not _COUNT.match(consumers):
                why = "two numbers are expected, each with or without a sign"
                raise Bad("bad numbers of workers", why, "write scale=RECEIVERS,CONSUMERS")
            return
        if value != "1" and not (key in ("events", "upgrade") and value == "0"):
            raise Bad("an unknown version", f"only {key}=1 exists", f"write {key}=1", errno.EPROTO)

    def _change(self, key: str, value: str) -> None:
        if key == "public_key":
            self._flush_peer()
            self._peer = PeerChange(parse_key(value))
        elif self._peer is None:
            if key not in DEVICE_KEYS:
                if key in PEER_KEYS:
                    why = f"no public_key line stands before {key}"
                    raise Bad("a peer's key without a peer", why, "add that line")
                raise Bad("an unknown key", "the interface has no such key", "see wireguard.com/xplatform")
            change_device(self._set, key, value)
        else:
            if key not in PEER_KEYS:
                if key in DEVICE_KEYS:
                    why = f"after the first public_key line, {key} belongs to no peer"
                    raise Bad("an interface's key among peers", why, "move it before the first public_key")
                raise Bad("an unknown key", "a peer has no such key", "see wireguard.com/xplatform")
            if key == "replace_allowed_ips":
                self._peer.replace_allowed_ips = parse_true(value)
                self._ips.clear()
            elif key != "allowed_ip":
                change_peer(self._peer, key, value)
            else:
                self._ips += pack_allowed(parse_allowed_ip(value))
                if len(self._ips) > ALLOWED_IPS * ALLOWED.size:
                    why = f"one public_key line has more than {ALLOWED_IPS}"
                    raise Bad(
                        "too many allowed IPs", why, "repeat the public_key line before more", errno.E2BIG
                    )
                self._spend(ALLOWED.size)

    def _flush_peer(self) -> None:
        self._add_peer()
        self._spend(PEER_MOST)

    def _add_peer(self) -> None:
        if self._peer is not None:
            self._set.add_peer(self._peer, self._ips)
            self._peer, self._ips = None, bytearray()

    def _spend(self, count: int) -> None:
        """Count memory as it is taken."""
        self._spent += count
        if self._spent > self._limit:
            why = f"its records need more than {self._limit} bytes"
            raise Bad("a set too large", why, "send the peers in several operations", errno.E2BIG)

    def _end(self) -> Operation:
        error, verb, value, count = self._error, self._verb, self._value, self._count
        wanted = self._key
        if error is None:
            self._add_peer()
        done, lease = self._set, self._lease
        sessions, has_sessions = self._sessions, self._has_sessions
        self._begin()
        if error is not None:
            return Refused(error, verb not in QUESTIONS)
        if verb == "get_engine":
            return GetEngine()
        if verb == "get_busiest":
            return GetBusiest(count)
        if verb == "get_counters":
            return GetCounters()
        if verb == "get_sessions":
            return GetSessions(count)
        if verb == "neighbour":
            return Neighbour(count, lease, bytes(sessions), has_sessions)
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
