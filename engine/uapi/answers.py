"""Answers: the text of a `get`, and of every other operation."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from engine.uapi.keys import NUMBERS
from engine.uapi.requests import Refused
from engine.uapi.values import AllowedIP, Endpoint, encode_name

CHUNK_BYTES: Final = 1 << 16  # of a `get` answer, a piece
COUNTERS_ROW: Final = (  # columns of a packed row of `get_counters`, as numpy writes them; little-endian
    ("public_key", "V32"),
    ("rx_bytes", "<u8"),  # from the peer and to the peer, with WireGuard's own headers
    ("tx_bytes", "<u8"),
    ("handshake", "<i8"),  # ns since 1970; 0: never
)
ASKED: Final = b"asked=1\n"  # the supervisor has the request, and will answer in time


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


def answer_get_sessions(pieces: Iterable[bytes], cursor: int) -> Iterator[bytes]:
    """The answer to a get_sessions; pieces: of packed rows, asked for one at a time. One without rows is
    a line too: between two lines control does other things."""
    for piece in pieces:
        yield b"sessions=%s\n" % b64encode(piece)
    yield b"cursor=%d\nerrno=0\n\n" % cursor


def answer_neighbour(report: str, code: int) -> bytes:
    """The answer to a neighbour; report: JSON of one line. code: positive when it was refused."""
    return b"neighbour=%s\nerrno=%d\n\n" % (report.encode("ascii"), code)


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
