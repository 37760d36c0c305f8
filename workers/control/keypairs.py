"""The slab of keypairs and the receiver indices that name them.

A keypair number is reserved when a handshake begins (its index goes into our message), filled when
the handshake is complete (batch_install in handshake_batch.c), and freed when no key word names it,
after a grace period, wiped. Who has which numbers is a linked list per row in two arrays of this process,
rebuilt at the start from the slab and the index table: no Python object per peer or session.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import constants
from engine.timers import Rows
from workers._workers import ffi, lib
from workers.control.grace_periods import GracePeriods
from workers.control.memory import MORE_MEMORY, Memory, columns_of
from workers.control.pace import PACE, Pace

if TYPE_CHECKING:
    import numpy.typing as npt

    from workers._workers import Pointer, TypeName


# Beside a gateway's number an index has few generations: a keypair number rests while so many others are
# freed, so that its indices come again late.
RESTING = 1024


class NoKeypair(RuntimeError):
    """Every keypair number is in use, or there is no memory for more: why, and what to do."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__(f"{why}; {mend}")
        self.why, self.mend = why, mend


class Keypairs:
    """Control's hold on the keypair slab and the index table."""

    def __init__(self, memory: Memory, grace_periods: GracePeriods, pace: Pace = PACE) -> None:
        self.pace = pace
        self.memory = memory
        self.segment = memory.segment
        self.grace_periods = grace_periods
        self.limit = int(self.segment.geometry.max_keypairs)
        self.slab = ffi.cast("struct keypair *", self.segment.keypairs)
        self.table = ffi.cast("struct index_entry *", self.segment.index)
        self.key = self.segment.device.index_key
        self.used = 1  # number 0 is none; no number at or above was ever used in this life
        self.free = array("I")
        self.resting: deque[int] = deque()
        self.first = np.zeros(int(self.segment.geometry.max_peers), np.uint32)
        self.follow = np.zeros(self.limit, np.uint32)
        self.lists = ffi.from_buffer("uint32_t[]", self.first), ffi.from_buffer("uint32_t[]", self.follow)
        self.leaving = ffi.new("uint32_t[]", 256)
        self.out = 0  # numbers reserved or filled

    # -- the start ----------------------------------------------------------------------------

    def recover(self, is_live: Callable[[int, int], bool], is_lost: bool = False) -> None:
        """Rebuild lists from the segment after a restart. is_lost: they cannot be; what was in use stays so.

        `is_live(row, generation)` tells whether that peer still exists. Numbers whose handshake was in
        progress, or that no key word names, are withdrawn and freed after a grace period.
        """
        ready = self.memory.vault.ready("keypairs_ready")
        if ready <= 1:
            return
        self.used = ready
        if is_lost:
            self.out = ready - 1
            return
        in_use = self._column(self.table, "struct index_entry", "in_use", "<u4", ready) != 0
        births = self._column(self.slab, "struct keypair", "birth", "<u8", ready)
        is_free = ~in_use & (births == 0)
        is_free[0] = False
        self.free = array("I", np.flatnonzero(is_free)[::-1].astype(np.uint32).tobytes())
        leaving = []
        for number in np.flatnonzero(~is_free)[:0:-1].tolist():
            keypair, row = self.slab[number], int(self.table[number].peer)
            is_whole = bool(in_use[number]) and births[number] and keypair.peer == row
            if is_whole and is_live(row, int(keypair.peer_generation)):
                self._list(row, number)
            else:
                leaving.append(number)
        self.out = ready - 1 - len(self.free)
        for number in leaving:
            lib.index_withdraw(self.table, number)
        if leaving:
            self.grace_periods.after(lambda: self._free(leaving))

    # -- one keypair's life -------------------------------------------------------------------

    def reserve(self, row: int) -> tuple[int, int]:
        """A free number and the fresh index that names it on the wire. NoKeypair when there is none."""
        number = self.free.pop() if self.free else self._another()
        self.out += 1
        self._list(row, number)
        return number, lib.index_publish(self.table, self.key, number, row)

    def _another(self) -> int:
        """One that was never used, else the one that has rested longest."""
        why = f"all {self.limit - 1} session keys are in use"
        mend = "raise sessions in the settings, as far as 2,097,152, and start the interface anew"
        if self.used < self.limit:
            try:
                self.memory.ensure_keypairs(self.used + 1)
            except OSError as error:
                why, mend = f"no memory for another session ({error.strerror})", MORE_MEMORY
            else:
                self.used += 1
                return self.used - 1
        if not self.resting:
            raise NoKeypair(why, mend)
        return self.resting.popleft()

    def release(self, row: int, number: int) -> None:
        """No key word names it (any more): withdrawn now, wiped and free after a grace period."""
        self._unlist(row, number)
        lib.index_withdraw(self.table, number)
        self.grace_periods.gather(self._free, [number])

    def numbers(self, row: int) -> list[int]:
        """Every number that the row has."""
        found = []
        number = int(self.first[row])
        while number:
            found.append(number)
            number = int(self.follow[number])
        return found

    def has_fresh(self, row: int, now: int, age: int) -> bool:
        """Whether the row has a session to send with that is younger than `age` ns, or is about to."""
        peer = self.segment.rows[row]
        current, installing = lib.key_word_current(int(peer.key_word)), int(peer.installing)
        # The word keeps its last number, which may be that of a session by now that we answered with.
        if installing < self.limit and not int(self.slab[installing].flags) & lib.KEYPAIR_INITIATOR:
            installing = 0
        return any(
            number < self.limit
            and int(self.slab[number].peer) == row
            and now < self.birth(number) + age
            and int(self.slab[number].send_counter) < lib.REJECT_AFTER_MESSAGES  # else: our key changed
            for number in (current, installing)
            if number
        )

    def stop_sending(self, row: int) -> None:
        """Before ORDER_STOP_SENDING: of a session whose installation is ordered and perhaps not applied."""
        peer, ordered = self.segment.rows[row], lib.orders_read(self.segment, row)
        for bit, number in (
            (lib.ORDER_INSTALL, int(peer.installing)),
            (lib.ORDER_INSTALL_NEXT, int(peer.installing_next)),
        ):
            if ordered & bit and 0 < number < self.limit and int(self.slab[number].peer) == row:
                lib.keypair_stop_sending(self.slab + number)

    def birth(self, number: int) -> int:
        """CLOCK_BOOTTIME ns; 0 while its handshake is in progress."""
        return int(self.slab[number].birth)

    def current(self, row: int) -> tuple[int, bool]:
        """The row's current session: its birth, 0 without one, and whether we began it."""
        number = lib.key_word_current(int(self.segment.rows[row].key_word))
        if not 0 < number < self.limit or int(self.slab[number].peer) != row:
            return 0, False
        return self.birth(number), bool(int(self.slab[number].flags) & lib.KEYPAIR_INITIATOR)

    def connected(self, rows: npt.NDArray[np.int64], now: int) -> int:
        """How many of these rows have a session that may be used: confirmed, and not 180 s old."""
        current = (1 << lib.KEYPAIR_NUMBER_BITS) - 1
        named = self.memory.rows["key_word"][rows] & np.uint64(current)
        numbers = np.where(named < self.used, named, 0).astype(np.int64)
        slab = np.frombuffer(ffi.buffer(self.slab, self.used * ffi.sizeof("struct keypair")), _SESSION)
        births = slab["birth"][numbers]
        is_usable = (numbers != 0) & (births != 0) & (slab["peer"][numbers] == rows)
        is_usable &= now < births + np.uint64(constants.REJECT_AFTER_TIME)
        return int(np.count_nonzero(is_usable & (slab["send_counter"][numbers] < lib.REJECT_AFTER_MESSAGES)))

    def collect(self, rows: Rows, reserved: Mapping[int, int]) -> None:
        """Release the filled numbers of these rows that no key word names; but reserved[row]."""
        keep = np.zeros(len(rows), np.uint32)
        if reserved:
            keep[:] = [reserved.get(row, 0) for row in rows.tolist()]
        passed = ffi.from_buffer("uint32_t[]", rows), ffi.from_buffer("uint32_t[]", keep)
        leaving = self.leaving
        while len(rows):
            count = lib.keypairs_collect(
                self.segment, *self.lists, *passed, len(rows), leaving, len(leaving)
            )
            if count:
                self.grace_periods.gather(self._free, list(leaving[0:count]))
            if count < len(leaving):
                break

    def release_all(self, row: int) -> None:
        """The peer is gone and its holder let go of everything."""
        for number in self.numbers(row):
            self.release(row, number)

    def withdraw_all(self, row: int) -> None:
        """The peer is being removed: nothing that arrives finds it by index any more."""
        for number in self.numbers(row):
            lib.index_withdraw(self.table, number)

    def _rest(self, number: int) -> None:
        """It may be given out again, beside a gateway's number not yet."""
        if not self.key[2]:
            self.free.append(number)
            return
        self.resting.append(number)
        if len(self.resting) > RESTING:
            self.free.append(self.resting.popleft())

    # -- lists --------------------------------------------------------------------------------

    def _list(self, row: int, number: int) -> None:
        self.follow[number] = self.first[row]
        self.first[row] = number

    def _unlist(self, row: int, number: int) -> None:
        if self.first[row] == number:
            self.first[row] = self.follow[number]
        else:
            before = int(self.first[row])
            while int(self.follow[before]) != number:
                before = int(self.follow[before])
                if not before:
                    raise LookupError(f"keypair {number} is not one of peer row {row}'s")
            self.follow[before] = self.follow[number]
        self.follow[number] = 0

    @staticmethod
    def _column(
        base: Pointer[Any], kind: TypeName, field: str, dtype: str, count: int
    ) -> np.ndarray[Any, Any]:
        """One field of an array of structs."""
        size = ffi.sizeof(kind)
        raw = np.frombuffer(ffi.buffer(base, count * size), np.uint8).reshape(count, size)
        offset = ffi.offsetof(kind, field)
        return raw[:, offset : offset + np.dtype(dtype).itemsize].copy().view(dtype)[:, 0]

    def _free(self, numbers: list[int]) -> None:
        """A slice of them, the rest in the next poll."""
        some = numbers[-self.pace.keypairs:]
        del numbers[-self.pace.keypairs:]
        for number in some:
            ffi.memmove(self.slab + number, _NO_KEYPAIR, len(_NO_KEYPAIR))
            self._rest(number)
        self.out -= len(some)
        if numbers:
            self.grace_periods.go_on(lambda: self._free(numbers))


_SESSION = columns_of("struct keypair", ("birth", "peer", "send_counter"))
_NO_KEYPAIR = bytes(ffi.sizeof("struct keypair"))
