"""The vault: what must outlive control but nobody else may see.

A second shared-memory segment, made by the supervisor and worked in by control alone, so that a
restarted control finds the device key, preshared keys, static-static secrets, the greatest
timestamps seen and sent, and the cookie secret again. Names of peers stand behind the rows, 64 bytes each: no
secrets, but kept, and a row without a name takes no memory there. Between rows and names stand the parked
initiations (parking.py), as they came over the wire, in memory that an engine without a provider never takes.
Behind the names stands the redo record: the text of a validated `set` while it is applied, so that it is
applied whole, or again after a kill.

All stores are plain: a kill leaves what was stored, and each group of words is ordered so that a
cut between two stores is harmless (the word that makes the others valid comes last).
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from engine import constants, tai64n
from workers._workers import ffi, lib
from workers.attempts import Attempts, Step
from workers.promises import lock

if TYPE_CHECKING:
    import numpy.typing as npt

    from workers._workers import Ints, uint32_t, vault_row_p

WENT_DOWN, CAME_UP, KEY_CHANGED = 1, 2, 4  # bits of `passing`

VAULT_MAGIC = 0x746C756176  # "vault", little-endian
HEADER_BYTES = 4096

SECRET_VALID = 1  # static_static was computed with the present private key

HEADER = np.dtype(
    [
        ("magic", "u8"),
        ("max_peers", "u8"),
        ("rows_ready", "u8"),  # memory is there for so many rows, keypairs, trie nodes (control/memory.py)
        ("keypairs_ready", "u8"),
        ("trie_ready", "u8"),
        ("redo_bytes", "u8"),
        ("private_key", "u1", 32),
        ("public_key", "u1", 32),
        ("has_private_key", "u4"),
        ("has_cookie_secret", "u4"),
        ("cookie_secret", "u1", 32),
        ("cookie_birth", "u8"),
        ("attempt_step", "u4"),  # workers/attempts.py
        ("attempt_place", "u4"),
        ("suspect_step", "u4"),
        ("suspect_place", "u4"),
        ("suspect_deaths", "u4"),
        ("redo_peers", "u4"),  # of the set that is the redo record
        ("passing", "u4"),  # bits of what not every peer knows yet (workers/control/process.py)
        ("parked_ready", "u4"),  # memory is there for so many parked initiations
        ("has_provider", "u4"),  # somebody is asked about unknown peers
        ("messages_off", "u4"),  # by which messages taken and ended differ when none is in hand
        ("forgotten", "u8"),  # wall ns: when a peer was last taken away whose timestamp may be forgotten
    ]
)

# One peer: 96 bytes.
ROW = np.dtype(
    [
        ("preshared_key", "u1", 32),
        ("static_static", "u1", 32),
        ("seen_seconds", "u8"),  # latest TAI64N of an accepted initiation, and of ours (control/peer_table.c)
        ("seen_ns", "u4", 2),
        ("sent", "u8"),
        ("flags", "u4"),
        ("first_allowed", "u4"),  # head of the list of trie nodes that name this peer
    ]
)

# An initiation that waits for its peer (workers/control/parking.py): 320 bytes.
INITIATION = np.dtype(
    [
        ("arrived", "u8"),  # ns
        ("is_there", "u4"),  # stored last, taken away first
        ("is_later", "u4"),  # than every initiation of this key that was ever accepted
        ("key", "u1", 32),
        ("timestamp", "u1", constants.TIMESTAMP_BYTES),
        ("reserved", "u4"),
        ("cell", "u1", ffi.sizeof("struct mailbox_cell")),
    ]
)
PARKED_MOST = 4096
PARKED_A_STEP = 64

NAME_BYTES = lib.NAME_MOST  # of each row's name
ZERO_KEY = bytes(32)
REDO_SLICE = 1 << 20  # bytes of the redo record between two yields


def _parked_at(max_peers: int) -> int:
    return HEADER_BYTES + _pages(max_peers * ROW.itemsize)


def rows_bytes(max_peers: int) -> int:
    """Bytes of header, rows and parked initiations for this many peers. Names stand behind them."""
    return _parked_at(max_peers) + _pages(PARKED_MOST * INITIATION.itemsize)


def vault_bytes(max_peers: int) -> int:
    """Bytes of the vault for this many peers, redo record not counted (it grows and shrinks)."""
    return rows_bytes(max_peers) + _pages(max_peers * NAME_BYTES)


def _pages(count: int) -> int:
    return (count + 4095) // 4096 * 4096


class Vault:
    """Control's view of the vault behind `fd`."""

    def __init__(self, fd: int, max_peers: int) -> None:
        self.fd = fd
        self.bytes = vault_bytes(max_peers)
        if os.fstat(fd).st_size < self.bytes:
            os.ftruncate(fd, self.bytes)
        os.posix_fallocate(fd, 0, HEADER_BYTES)
        self.names_at = rows_bytes(max_peers)  # read and written by system calls: most rows have none
        self.memory = mmap.mmap(fd, self.names_at, mmap.MAP_SHARED)
        self.memory.madvise(mmap.MADV_DONTDUMP)
        self.why_unlocked = ""  # or why not all of what is in use is locked in memory
        self._lock(HEADER_BYTES)
        self.header = np.frombuffer(self.memory, HEADER, 1)
        self.rows = np.frombuffer(self.memory, ROW, max_peers, HEADER_BYTES)
        self.parked_at = _parked_at(max_peers)
        self.parked = np.frombuffer(self.memory, INITIATION, PARKED_MOST, self.parked_at)
        header = self.header[0]
        self.attempts = Attempts(header)
        if header["magic"] != 0:
            self._lock(HEADER_BYTES + self.ready("rows_ready") * ROW.itemsize)
        if header["magic"] == 0:
            header["max_peers"] = max_peers
            header["magic"] = VAULT_MAGIC
        elif header["magic"] != VAULT_MAGIC or header["max_peers"] != max_peers:
            raise ValueError(
                f"the vault belongs to another layout ({int(header['max_peers'])} peers, not {max_peers}). "
                "Stop the interface and start it anew."
            )

    def close(self) -> None:
        """Unmap; the memory lives on in the supervisor's hands."""
        del self.header, self.rows, self.parked, self.attempts
        self.memory.close()
        os.close(self.fd)

    # -- room ---------------------------------------------------------------------------------

    def ensure(self, rows: int) -> None:
        """Make sure of memory for rows 0..rows-1. OSError (ENOSPC) when there is none."""
        os.posix_fallocate(self.fd, HEADER_BYTES, rows * ROW.itemsize)
        self._lock(HEADER_BYTES + rows * ROW.itemsize)

    def ensure_parked(self, count: int) -> None:
        """Memory for `count` parked initiations at least. OSError (ENOSPC) when there is none."""
        ready = self.ready("parked_ready")
        if count <= ready:
            return
        last = min(-(-count // PARKED_A_STEP) * PARKED_A_STEP, PARKED_MOST)
        at = self.parked_at + ready * INITIATION.itemsize
        os.posix_fallocate(self.fd, at, (last - ready) * INITIATION.itemsize)
        self.set_ready("parked_ready", last)

    def _lock(self, bytes_: int) -> None:
        """Keep the first so many bytes from being swapped out. A low limit is enough for few peers."""
        start = ffi.from_buffer(self.memory)
        self.why_unlocked = self.why_unlocked or lock(start, min(bytes_, self.names_at))

    def ready(self, name: str) -> int:
        """How far a region of the data segment has memory: "rows_ready" and so on."""
        return int(self.header[0][name])

    def set_ready(self, name: str, count: int) -> None:
        self.header[0][name] = count

    # -- the device ---------------------------------------------------------------------------

    @property
    def private_key(self) -> bytes | None:
        """Our private key, or None."""
        header = self.header[0]
        return bytes(header["private_key"].tobytes()) if header["has_private_key"] else None

    @property
    def public_key(self) -> bytes | None:
        """Our public key, or None."""
        header = self.header[0]
        return bytes(header["public_key"].tobytes()) if header["has_private_key"] else None

    def store_private_key(self, private_key: bytes | None, public_key: bytes | None) -> None:
        """Change the device key. The caller marks the static-static secrets stale (`make_stale`)."""
        header = self.header[0]
        header["has_private_key"] = 0
        header["private_key"] = np.frombuffer(private_key or ZERO_KEY, np.uint8)
        header["public_key"] = np.frombuffer(public_key or ZERO_KEY, np.uint8)
        header["has_private_key"] = private_key is not None

    @property
    def cookie_secret(self) -> tuple[bytes, int] | None:
        """The cookie secret and its birth (CLOCK_BOOTTIME ns), or None before the first."""
        header = self.header[0]
        if not header["has_cookie_secret"]:
            return None
        return bytes(header["cookie_secret"].tobytes()), int(header["cookie_birth"])

    def store_cookie_secret(self, secret: bytes, birth: int) -> None:
        """Keep a fresh cookie secret."""
        header = self.header[0]
        header["has_cookie_secret"] = 0
        header["cookie_secret"] = np.frombuffer(secret, np.uint8)
        header["cookie_birth"] = birth
        header["has_cookie_secret"] = 1

    @property
    def passing(self) -> int:
        """WENT_DOWN, CAME_UP, KEY_CHANGED: passes over the peers that a killed control left for the next."""
        return int(self.header[0]["passing"])

    def note_passing(self, bits: int) -> None:
        """Before a pass begins, and when it has come to its end."""
        self.header[0]["passing"] = bits

    @property
    def messages_off(self) -> int:
        """What messages taken less those that ended or are parked come to when none is in hand: 0, but where
        a broken worker wrote over the words that count them."""
        return int(self.header[0]["messages_off"])

    def note_messages_off(self, difference: int) -> None:
        self.header[0]["messages_off"] = difference

    @property
    def has_provider(self) -> bool:
        """Whether somebody was asked about unknown peers, by this control or by one that was killed."""
        return bool(self.header[0]["has_provider"])

    def note_provider(self, is_there: bool) -> None:
        self.header[0]["has_provider"] = is_there

    @property
    def forgotten(self) -> int:
        """Wall ns: no timestamp that a control accepted, and that died with it, is later. 0: not known."""
        return int(self.header[0]["forgotten"])

    def note_forgotten(self, wall: int) -> None:
        self.header[0]["forgotten"] = wall

    # -- peers --------------------------------------------------------------------------------

    def preshared_key(self, row: int) -> bytes:
        """32 bytes; zeros when there is none."""
        return bytes(self.rows["preshared_key"][row].tobytes())

    def static_static(self, row: int) -> bytes | None:
        """The secret, zeros for a low-order key, or None when it must be computed."""
        if not self.rows["flags"][row] & SECRET_VALID:
            return None
        return bytes(self.rows["static_static"][row].tobytes())

    def store_static_static(self, row: int, secret: bytes) -> None:
        self.rows["static_static"][row] = np.frombuffer(secret, np.uint8)
        self.rows["flags"][row] = SECRET_VALID

    def make_stale(self, rows: int) -> None:
        """The private key changed: rows 0..rows-1 compute their static-static secret again."""
        self.rows["flags"][:rows] = 0

    def wipe_stale(self, first: int, last: int) -> None:
        """Secrets of the private key before, in rows first..last-1, where no other was computed since."""
        rows = self.rows[first:last]
        rows["static_static"][rows["flags"] & SECRET_VALID == 0] = 0

    def timestamps_seen(self, rows: npt.NDArray[np.uint32]) -> tai64n.Stamps:
        """Latest TAI64N of an accepted initiation of each row, zeros before the first."""
        stamps = np.zeros((len(rows), constants.TIMESTAMP_BYTES), np.uint8)
        numbers = np.ascontiguousarray(rows, np.uint32)
        passed = ffi.from_buffer("uint32_t[]", numbers), ffi.from_buffer("uint8_t[]", stamps)
        lib.table_load_seen(self._of(0), *passed, len(rows))
        return stamps

    def store_timestamps_seen(self, rows: npt.NDArray[np.uint32], stamps: tai64n.Stamps) -> None:
        """Before the responses are sent. rows are distinct."""
        numbers, values = np.ascontiguousarray(rows, np.uint32), np.ascontiguousarray(stamps, np.uint8)
        passed = ffi.from_buffer("uint32_t[]", numbers), ffi.from_buffer("uint8_t[]", values)
        lib.table_store_seen(self._of(0), *passed, len(rows))

    def _of(self, row: int) -> vault_row_p:
        """A `struct vault_row *`."""
        return ffi.cast("struct vault_row *", self.rows.ctypes.data) + row

    def timestamp_seen(self, row: int) -> bytes:
        """Latest TAI64N (12 bytes) of an accepted initiation; zeros before the first."""
        return self.timestamps_seen(np.array([row], np.uint32)).tobytes()

    def timestamp_sent(self, row: int) -> bytes:
        """Latest TAI64N that we sent to this peer; zeros before the first."""
        stamp = ffi.new("uint8_t[]", constants.TIMESTAMP_BYTES)
        lib.table_load_sent(self._of(row), stamp)
        return bytes(ffi.buffer(stamp))

    def store_timestamp_sent(self, row: int, timestamp: bytes) -> None:
        lib.table_store_sent(self._of(row), timestamp)

    # -- the redo record ----------------------------------------------------------------------

    def prepare_redo(self, *parts: bytes | bytearray) -> Iterator[None]:
        """Store what `commit_redo` will make valid, in slices. OSError (ENOSPC) when there is no room."""
        os.ftruncate(self.fd, self.bytes)
        at = self.bytes
        for part in parts:
            with memoryview(part) as view:
                for first in range(0, len(view), REDO_SLICE):
                    piece = view[first : first + REDO_SLICE]
                    os.posix_fallocate(self.fd, at, len(piece))
                    if os.pwrite(self.fd, piece, at) != len(piece):
                        raise OSError(errno.EIO, "the redo record was cut short")
                    at += len(piece)
                    if len(piece) == REDO_SLICE:
                        yield

    def commit_redo(self, peers: int) -> None:
        """From here to `clear_redo` a new control finishes what this one began: a set of so many peers."""
        self.header[0]["redo_peers"] = peers
        self.header[0]["redo_bytes"] = os.fstat(self.fd).st_size - self.bytes
        self.attempts.begin(Step.SET)

    @property
    def has_redo(self) -> bool:
        """Whether a set was committed and not cleared."""
        return int(self.header[0]["redo_bytes"]) != 0

    @property
    def redo_peers(self) -> int:
        """Of the set that is the redo record."""
        return int(self.header[0]["redo_peers"])

    def attempt_place(self) -> Ints[uint32_t]:
        """The word that `attempts.at` writes, as `uint32_t *`: for C that goes through many rows."""
        return ffi.cast("uint32_t *", self.header["attempt_place"].ctypes.data)

    def read_redo(self) -> bytes:
        """What was committed and not cleared: a set that a kill interrupted."""
        size = int(self.header[0]["redo_bytes"])
        text = bytearray()
        while len(text) < size:
            part = os.pread(self.fd, size - len(text), self.bytes + len(text))
            if not part:
                raise ValueError("the redo record of the vault is cut short. Start the interface anew.")
            text += part
        return bytes(text)

    def clear_redo(self) -> None:
        """The set is applied, or given up. Shrinking gives the pages, secrets in them, back to the kernel."""
        self.attempts.done(Step.SET)  # first: there is no attempt without its set
        self.header[0]["redo_bytes"] = 0
        os.ftruncate(self.fd, self.bytes)
