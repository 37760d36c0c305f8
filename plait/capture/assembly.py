"""Packets on their way into the file, in order, each held until it is known whose it is.

An initiation of a peer that has moved is nobody's until the engine has answered it, and has the peer's
endpoint there. It is held until then for another reason, too: Wireshark opens a handshake only with keys that
stand before its first message, and the engine logs the keys of an answer when it answers. What stays unknown
is held for a second, and then written without a peer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from plait.capture.owners import Owners
from plait.capture.packets import COOKIE, INITIATION, RESPONSE, Packet

HOLD: Final = 1.0  # seconds
MOST: Final = 1 << 12  # packets that are held


@dataclass(slots=True)
class Held:
    """A packet with whose it is, and until when that may still be found out (time.monotonic)."""

    packet: Packet
    is_outer: bool
    owner: str | None
    until: float
    unanswered: bytes = b""
    """The sender's index of an initiation from outside that the engine has not answered."""


class Assembly:
    """The packets that are held."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._held: deque[Held] = deque()
        self._unanswered: dict[bytes, Held] = {}

    def take(self, packet: Packet, is_outer: bool, now: float) -> None:
        """The next packet."""
        held = Held(packet, is_outer, None, now + HOLD)
        self._find(held)
        if is_outer:
            kind, message = packet.message[:4], packet.message
            if kind == INITIATION and not packet.is_out:
                held.unanswered = message[4:8]
                self._unanswered[held.unanswered] = held
            elif packet.is_out and kind in (RESPONSE, COOKIE):
                index = message[8:12] if kind == RESPONSE else message[4:8]
                if (asked := self._unanswered.pop(index, None)) is not None:
                    asked.unanswered = b""
                    asked.owner = asked.owner or held.owner
        self._held.append(held)

    def look_again(self) -> None:
        """The engine told of its peers anew."""
        for held in self._held:
            if held.owner is None:
                self._find(held)

    def _find(self, held: Held) -> None:
        held.owner = self._owners.outer(held.packet) if held.is_outer else self._owners.inner(held.packet)

    @property
    def wants(self) -> bool:
        """Whether the engine may know more of a packet than is known here."""
        return any(held.owner is None for held in self._held)

    def until(self) -> float | None:
        """When the first packet is to be given at the latest; None without one."""
        return self._held[0].until if self._held else None

    def ready(self, now: float) -> Iterator[Held]:
        """Packets that need not be held any more, in order. now: infinity for all."""
        while self._held:
            first = self._held[0]
            is_known = first.owner is not None and not first.unanswered
            if not is_known and now < first.until and len(self._held) <= MOST:
                return
            self._unanswered.pop(first.unanswered, None)
            yield self._held.popleft()
