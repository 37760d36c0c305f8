"""Neighbours: gateways of the same key that died, and clients that knock.

A client does not know that its gateway died. It goes on sending data of its session there, which a router
brings to a gateway that is alive, and begins a new handshake only 15 s after nothing comes back. But whoever
gets that data can begin one at once, since it has the same private key, when it knows whose session the
receiver index in its header is: `plait sync --knock` tells (plait/sync/knock.py), while a gateway is dead.

    receiver    an unknown index with a dead gateway's number: the message's head to control, one a quarter
                of a second for each of 256 groups of indices (datapath/receive_udp.c)
    here        index -> public key -> peer; an initiation to where the message came from

Nothing is known of who sent it, so it moves no endpoint and no session: only an authentic response does, as
for any initiation. What somebody may cause who forges such messages is initiations that are not answered: one
in 5 s to a peer, 20 a second to a source (an IPv4 address, or a /64), none that repeats itself, and none for
an index that no session of the dead gateway had. They need a message of 32 bytes each and have 148. Where we
have begun with the peer ourselves and were not answered, every other initiation is ours, to where the peer is
known to be.

The engine is told of a death for a lease of some seconds, again and again, so that a `plait sync` that ended
leaves nothing behind; and for no longer than a session may be used, behind which nobody can knock. All of it
is in control's own memory, at most SESSIONS_MOST rows of 44 bytes. A control that is killed forgets, says so
when the lease is renewed, and is told again.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import constants, uapi
from workers._workers import ffi, lib
from workers.control.endpoints import Endpoint
from workers.control.events import Event
from workers.control.handshake_batch import HandshakeBatch, Outcomes
from workers.control.initiator import Initiator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workers._workers import counter

SECOND: Final = 1_000_000_000
SESSIONS_MOST: Final = 1 << 19  # of all dead gateways together: 22 MiB
DEAD_MOST: Final = constants.REJECT_AFTER_TIME + 20 * SECOND  # ns; no session from before is used any more
SOURCE_PERIOD: Final = SECOND // 20  # ns between two initiations to one source, at least
SOURCES_MOST: Final = 1 << 16
ROW: Final = np.dtype(list(uapi.SESSION_ROW))
_PLACE: Final = 0xFFFFFFFF


class Refusal(Exception):
    """What was told of a neighbour is not taken: what, why, next step; `errno` is positive."""

    def __init__(self, what: str, why: str, next_step: str, code: int = errno.EINVAL) -> None:
        super().__init__(f"{what}: {why}; {next_step}")
        self.what, self.why, self.next, self.errno = what, why, next_step, code


@dataclass(slots=True)
class Dead:
    """A gateway that died."""

    rows: NDArray[Any]  # ROW, as they were told
    order: NDArray[np.uint64]  # index << 32 | place in rows, sorted: half a million cost no long turn
    count: int  # distinct indices
    told: int  # ns, when we were told first
    until: int  # ns, the end of the lease

    def find(self, index: int) -> bytes | None:
        """Whose session it is; of two with one index the later one counts."""
        at = int(np.searchsorted(self.order, np.uint64(index << 32 | _PLACE), side="right")) - 1
        if at < 0 or int(self.order[at]) >> 32 != index:
            return None
        return self.rows["public_key"][int(self.order[at]) & _PLACE].tobytes()  # type: ignore[no-any-return]


class Sources:
    """20 initiations a second to one source. Where too many are remembered, a new one gets none."""

    def __init__(self) -> None:
        self._free_at: dict[bytes, int] = {}  # ns

    def is_free(self, source: bytes, now: int) -> bool:
        """Whether it may be sent one."""
        if len(self._free_at) >= SOURCES_MOST:
            self._free_at = {each: at for each, at in self._free_at.items() if at > now}
        if source not in self._free_at:
            return len(self._free_at) < SOURCES_MOST
        return self._free_at[source] <= now

    def sent(self, source: bytes, now: int) -> None:
        """It was."""
        self._free_at[source] = now + SOURCE_PERIOD


class Neighbours:
    """Of one interface. `now` is ns of Pace.now."""

    def __init__(self, batch: HandshakeBatch, initiator: Initiator) -> None:
        self.batch = batch
        self.initiator = initiator
        self.device = batch.segment.device
        self.dead: dict[int, Dead] = {}  # by gateway
        self.sources = Sources()
        self._note_dead()  # nobody: what a control before us knew went with it

    # -- what is told ---------------------------------------------------------------------------

    def apply(self, operation: uapi.Neighbour, now: int) -> int:
        """A gateway is dead, or not; returns how many of its sessions are known. Refusal: nothing changed."""
        number, key = operation.number, self.device.index_key
        what = f"what is told of gateway {number} is refused"
        if not int(key[2]):
            raise Refusal(what, "this engine has no number among gateways", "Set gateway in its settings.")
        if lib.index_gateway(key, number) != number:
            why = f"{int(key[2]) >> 8} bits of an index tell the gateway"
            raise Refusal(what, why, "Give all gateways the same gateway_bits.")
        if lib.index_gateway(key, int(key[2])) == number:
            raise Refusal(what, "that is this engine's own number", "Give each gateway another number.")
        if not operation.lease:
            self._forget(number)
            return 0
        known = self.dead.get(number)
        if not operation.has_sessions:
            if known is None:
                why = "its sessions are not known"
                raise Refusal(what, why, "Tell them: lines sessions=BASE64.", errno.ENOENT)
            known.until = now + operation.lease * SECOND
            return known.count
        told = np.frombuffer(operation.sessions, ROW)
        others = sum(len(each.rows) for other, each in self.dead.items() if other != number)
        if len(told) + others > SESSIONS_MOST:
            why = f"with {len(told)} of its sessions there would be more than {SESSIONS_MOST}"
            raise Refusal(what, why, "Leave out sessions, the oldest first.", errno.ENOSPC)
        order = told["index"].astype(np.uint64) << np.uint64(32) | np.arange(len(told), dtype=np.uint64)
        order.sort()
        indices = order >> np.uint64(32)
        count = min(len(told), 1) + int(np.count_nonzero(indices[1:] != indices[:-1]))
        until = now + operation.lease * SECOND
        since = known.told if known is not None else now
        self.dead[number] = Dead(told, order, count, since, until)
        self._note_dead()
        if known is None:
            self.batch.events.emit(Event.GATEWAY_DEAD, count=count, reason=str(number))
        return count

    def look(self, now: int) -> None:
        """Once a second: a lease that is over, or a death that is too long ago, is forgotten."""
        for number in [number for number, each in self.dead.items() if not self._is_dead(each, now)]:
            self._forget(number)

    def report(self, now: int) -> list[dict[str, Any]]:
        """For `get_engine`."""
        return [
            {"number": number, "sessions": each.count,
             "seconds": round((now - each.told) / SECOND, 1)}
            for number, each in sorted(self.dead.items())
        ]

    @staticmethod
    def _is_dead(each: Dead, now: int) -> bool:
        return now < each.until and now < each.told + DEAD_MOST

    def _forget(self, number: int) -> None:
        if self.dead.pop(number, None) is not None:
            self._note_dead()
            self.batch.events.emit(Event.GATEWAY_BACK, reason=str(number))

    def _note_dead(self) -> None:
        """For the receivers."""
        words = [0] * len(self.device.dead_gateways)
        for number in self.dead:
            words[number // 64] |= 1 << number % 64
        for at, word in enumerate(words):
            self.device.dead_gateways[at] = word

    # -- messages -------------------------------------------------------------------------------

    def take(self, cells: NDArray[np.intp], outcomes: Outcomes, now: int) -> None:
        """Heads of data messages with a dead gateway's number, in these cells; each gets its counter."""
        for cell in cells.tolist():
            outcomes[cell] = self._take(cell, now)

    def _take(self, cell: int, now: int) -> counter:
        index = int.from_bytes(ffi.buffer(self.batch.cells[cell].message, 8)[4:], "little")
        dead = self.dead.get(lib.index_gateway(self.device.index_key, index))
        if dead is None or not self._is_dead(dead, now):
            return lib.KNOCK_ALIVE
        key = dead.find(index)
        if key is None:
            return lib.KNOCK_UNKNOWN
        row = self.batch.peers.find(key)
        if row is None:
            return lib.KNOCK_NO_PEER
        if self.batch.keypairs.has_fresh(row, now, now - dead.told + 1):
            return lib.KNOCK_ANSWERED
        if not self.batch.timer_columns.may_send_handshake(row, now) or self.initiator.owes(row):
            return lib.KNOCK_PEER_LIMIT
        sender = self.batch.sender(cell)
        assert sender is not None  # batch_check saw to it
        source = _source_of(sender)
        if not self.sources.is_free(source, now):
            return lib.KNOCK_SOURCE_LIMIT
        if not self.initiator.initiate(row, now, to=sender):
            return lib.KNOCK_REFUSED
        self.sources.sent(source, now)
        return lib.KNOCK_INITIATED


def _source_of(sender: Endpoint) -> bytes:
    """What the limit counts by: an IPv4 address, or the /64 of an IPv6 one."""
    return sender.address if len(sender.address) == 4 else sender.address[:8]
