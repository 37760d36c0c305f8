"""Parking: where initiations wait that are parked (lookups.py), in memory that outlives control.

Places in the vault, each for one initiation as it came over the wire, with its sender, when it came, its
sender's public key and its timestamp. The lowest that are free are used first, and memory is made sure of a
few places at a time, so that an engine whose provider is quick takes little and one without a provider takes
none. A place is wiped when its initiation is taken, ends or grows too old.

`is_there` makes a place valid: it is stored last and cleared first. So a control that is killed leaves each
initiation either parked, or in its hand (handshakes.py counts what was in hand); never both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workers._workers import ffi
from workers.control.vault import INITIATION, PARKED_MOST, Vault

if TYPE_CHECKING:
    from workers._workers import mailbox_cell_p

_CELL_BYTES = ffi.sizeof("struct mailbox_cell")
_CELL_AT = INITIATION.fields["cell"][1]  # type: ignore[index]


@dataclass(slots=True)
class Parked:
    """One initiation."""

    place: int
    arrived: int  # ns
    timestamp: bytes


class Parking:
    """The places of one vault."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.free: list[int] | None = None  # the last is used next; None: nobody asked yet

    def places(self) -> list[int]:
        """Of those that are parked, the oldest first."""
        records = self.vault.parked[: self.vault.ready("parked_ready")]
        there = np.flatnonzero(records["is_there"])
        return [int(place) for place in there[np.argsort(records["arrived"][there], kind="stable")]]

    def put(self, key: bytes, timestamp: bytes, cell: Any, arrived: int, *, is_later: bool) -> Parked | None:
        """Park it. None when there is no room, or no memory. cell: a `struct mailbox_cell *`."""
        if self.free is None:
            taken = set(self.places())
            self.free = [place for place in reversed(range(PARKED_MOST)) if place not in taken]
        if not self.free:
            return None
        place = self.free[-1]
        try:
            self.vault.ensure_parked(place + 1)
        except OSError:
            return None
        self.free.pop()
        record = self.vault.parked[place]
        record["arrived"], record["is_later"] = arrived, is_later
        record["key"] = np.frombuffer(key, np.uint8)
        record["timestamp"] = np.frombuffer(timestamp, np.uint8)
        ffi.memmove(self.cell(place), cell, _CELL_BYTES)
        record["is_there"] = 1
        return Parked(place, arrived, timestamp)

    def leave(self, place: int) -> None:
        """It is parked no more."""
        self.vault.parked[place]["is_there"] = 0
        self.vault.parked[place] = np.zeros((), INITIATION)
        if self.free is not None:
            self.free.append(place)

    def cell(self, place: int) -> mailbox_cell_p:
        """The `struct mailbox_cell *` of a place: the message and its sender."""
        start = self.vault.parked.ctypes.data + place * INITIATION.itemsize + _CELL_AT
        return ffi.cast("struct mailbox_cell *", start)

    def read(self, place: int) -> tuple[bytes, Parked]:
        """The key, and what is parked."""
        record = self.vault.parked[place]
        stamp = record["timestamp"].tobytes()
        return record["key"].tobytes(), Parked(place, int(record["arrived"]), stamp)

    def is_later(self, place: int) -> bool:
        """Whether its timestamp is later than those of all initiations of its key that were accepted, as the
        control knew that parked it; a control after that one knows less of these."""
        return bool(self.vault.parked[place]["is_later"])

    def note_later(self, place: int, *, is_later: bool) -> None:
        self.vault.parked[place]["is_later"] = is_later
