"""What every store of peers can do: give all rows at a position, and what changed behind a position.

A position is a number that grows with every change, and each store says what it counts. Positions of one
store mean nothing in another one: `Feed.identity` tells stores apart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from plait.failure import Failure

BATCH: Final = 4096  # rows that are applied as one transaction of the engine
GATHER: Final = 0.05  # seconds in which changes that come one by one are gathered
POLL: Final = 1.0  # seconds between two looks at a store that does not ring
RETRY: Final = 1.0  # seconds between two tries while the store or the engine is away
PATIENCE: Final = 30.0  # seconds for one answer of a store
PACKED: Final = 8  # bytes of a gateway's session: receiver index, the first bytes of its peer's public key
KEPT: Final = 200.0  # seconds for which sessions are kept; none is of use for longer
PIECE: Final = 1 << 18  # bytes of sessions in one message, for which a beat may have to wait
FRESH: Final = "Read all of it: plait sync --fresh IFACE URL. Peers that it does not have are removed then."


class TooOld(Exception):
    """The store has forgotten deletions behind this position: all rows have to be read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as a store has it, not checked. Its values may be of any type: others wrote them."""

    public_key: str
    is_gone: bool = False
    allowed_ips: object = ()
    preshared_key: object = field(default=None, repr=False)
    endpoint: object = None
    keepalive: object = 0
    wrong: str = ""  # why it has no values


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes up to a position, each key at most once. is_last: behind these there was nothing."""

    rows: Sequence[Row]
    position: int
    is_last: bool


class Feed(Protocol):
    """An open connection. Every method raises Failure when the store cannot be asked."""

    identity: str

    async def position(self) -> int:
        """The greatest there is."""

    def snapshot(self) -> AsyncGenerator[Batch]:
        """All rows that are not gone, as they were at one moment; every batch has that moment's position."""

    def follow(self, position: int) -> AsyncGenerator[Batch]:
        """What changed behind a position, as it comes; an empty batch says that nothing did, at least every
        other second. TooOld, and Failure when the store never had this position."""

    async def rows(self, public_keys: Sequence[str]) -> list[Row]:
        """What there is of these keys now."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One that has ever beaten. silent: seconds since, by the store's clock."""

    number: int
    instance: str
    silent: float


class Gateways(Protocol):
    """An open connection for beats. Every method raises Failure when the store cannot be asked."""

    async def beat(self, number: int, instance: str, added: bytes) -> list[Gateway]:
        """This gateway is alive, with these new sessions; returns every one. Where this number is another
        instance's, nothing was noted."""

    def sessions(self, number: int) -> AsyncGenerator[bytes]:
        """Those of a gateway that were added in the latest KEPT seconds, the oldest first, in pieces of whole
        sessions. A beat may be sent between two pieces, and then waits for no more than one."""


class Store(Protocol):
    """A store by its address."""

    shown: str  # the address, without secrets
    is_exclusive: bool  # it refuses a prefix that is another row's by itself

    def open(self) -> AbstractAsyncContextManager[Feed]:
        """Connect. Failure when it cannot be reached, refuses the user, or is no store of peers."""

    def gateways(self) -> AbstractAsyncContextManager[Gateways]:
        """Connect for beats. Failure likewise, or when it has no place for them."""


def secret_in_url(name: str, mend: str) -> Failure:
    """A URL with a password, which is not repeated."""
    why = f"its address has a {name}, which everybody on this host can read in the list of processes"
    return Failure("the store is not asked", why, mend)


def from_the_future(shown: str, position: int, greatest: int) -> Failure:
    """The store is behind what was read from it: it was restored from a backup, perhaps."""
    why = f"position {position} was read from it, and its last one is {greatest} now: perhaps it was restored"
    return Failure(f"{shown} is not followed", why, FRESH)


def another(shown: str) -> Failure:
    """The store is not the one that the position was read from."""
    why = "it is another store than the one that was read before, or was made again"
    return Failure(f"{shown} is not followed", why, FRESH)
