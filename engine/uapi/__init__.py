"""The cross-platform configuration protocol: text over a stream socket (wireguard.com/xplatform).

A client writes operations, each ended by an empty line: ``get=1``, or ``set=1`` and the changes, one
``key=value`` a line; ``get=1`` may be followed by the ``public_key`` of one peer, which is Plait's
own, as are ``get_engine=1``, ``get_busiest=N``, ``get_counters=1``, ``get_sessions=N``, ``events=1``,
``neighbour=N``, ``unknown_peers=1``, ``upgrade=1`` and ``scale=N,N``. Reader turns bytes into whole
operations. A `set` is either valid to its last line or refused as a whole, and then names the first
bad line; lines after that one are skipped up to the empty line, so that the client can still read its
answer.

| looking for | file |
|---|---|
| a key: its name and where it may stand; of those that carry a number, the table in sections.h | keys.py |
| a value: its text and what it means (keys, endpoints, prefixes, names) | values.py |
| a change: the field that a key sets, its line, its place in a record | changes.py |
| an operation, and how bytes become one | requests.py; whole peers at once: sections.c |
| an answer, above all that of a `get` | answers.py; peers: text.c |
| what is wrong with a line, and which of its text may be logged | refusals.py |
"""

from engine.uapi.answers import (
    ASKED,
    CHUNK_BYTES,
    COUNTERS_ROW,
    DeviceRecord,
    PeerRecord,
    answer_change,
    answer_events,
    answer_get,
    answer_get_busiest,
    answer_get_counters,
    answer_get_engine,
    answer_get_refused,
    answer_get_sessions,
    answer_neighbour,
    answer_refused,
    answer_set,
    format_peer,
)
from engine.uapi.changes import (
    PeerChange,
    Set,
    format_change,
    format_head,
    format_set,
    pack_allowed,
    unpack_head,
)
from engine.uapi.keys import DEVICE_KEYS, NUMBERS, PEER_KEYS, QUESTIONS, Number
from engine.uapi.refusals import UapiError, mask
from engine.uapi.requests import (
    ALLOWED_IPS,
    BUSIEST_PEERS,
    LEASE_MOST,
    LINE_BYTES,
    OPERATION_BYTES,
    SECTION_BYTES,
    SESSIONS_BYTES,
    TTL_MOST,
    WINDOW,
    WINDOW_MOST,
    Events,
    Get,
    GetBusiest,
    GetCounters,
    GetEngine,
    GetSessions,
    Neighbour,
    Operation,
    Reader,
    Refused,
    Scale,
    UnknownPeers,
    Upgrade,
    parse_set,
)
from engine.uapi.values import (
    NAME_MOST,
    SESSION_BYTES,
    SESSION_ROW,
    AllowedIP,
    Endpoint,
    encode_name,
    endpoint_of,
    masked,
)

__all__ = [
    "ALLOWED_IPS",
    "ASKED",
    "BUSIEST_PEERS",
    "CHUNK_BYTES",
    "COUNTERS_ROW",
    "DEVICE_KEYS",
    "LEASE_MOST",
    "LINE_BYTES",
    "NAME_MOST",
    "NUMBERS",
    "OPERATION_BYTES",
    "PEER_KEYS",
    "QUESTIONS",
    "SECTION_BYTES",
    "SESSIONS_BYTES",
    "SESSION_BYTES",
    "SESSION_ROW",
    "TTL_MOST",
    "WINDOW",
    "WINDOW_MOST",
    "AllowedIP",
    "DeviceRecord",
    "Endpoint",
    "Events",
    "Get",
    "GetBusiest",
    "GetCounters",
    "GetEngine",
    "GetSessions",
    "Neighbour",
    "Number",
    "Operation",
    "PeerChange",
    "PeerRecord",
    "Reader",
    "Refused",
    "Scale",
    "Set",
    "UapiError",
    "UnknownPeers",
    "Upgrade",
    "answer_change",
    "answer_events",
    "answer_get",
    "answer_get_busiest",
    "answer_get_counters",
    "answer_get_engine",
    "answer_get_refused",
    "answer_get_sessions",
    "answer_neighbour",
    "answer_refused",
    "answer_set",
    "encode_name",
    "endpoint_of",
    "format_change",
    "format_head",
    "format_peer",
    "format_set",
    "mask",
    "masked",
    "pack_allowed",
    "parse_set",
    "unpack_head",
]
