"""Which peers have a session now: what is known of each handshake, and for how long it is worth something.

The engine tells when a peer's latest handshake was confirmed, by the wall clock. A session lasts 180 s from
then, by a clock that nobody sets. Events say that one ended sooner; they bear a time as well, so that a late
one takes nothing from a newer session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from engine import constants
from plait.fleet.kernel_routes import Prefix

LIFE: Final = constants.REJECT_AFTER_TIME / constants.SECOND  # seconds
AGED: Final = int(LIFE) - 10  # a session that expired is at least so old, a few seconds of waiting included


@dataclass(slots=True)
class Session:
    """Of one peer."""

    handshake: int  # ns since 1970, as the engine told it
    until: float  # time.monotonic()
    prefixes: tuple[Prefix, ...] | None = None  # None: not asked yet


class Sessions:
    """Those of one engine. `now` is time.monotonic(); all other times are ns since 1970."""

    def __init__(self) -> None:
        self.live: dict[bytes, Session] = {}
        self.wanted: dict[Prefix, bytes] = {}  # a route for each, and whose it is
        self.touched: set[Prefix] = set()  # what may have changed since they were settled
        self._over = 0  # every session of a handshake before this ended
        self._over_of: dict[bytes, int] = {}
        self._looked = float("-inf")  # when every peer was looked at
        self._due = float("inf")  # before this no session ends by itself

    def see(self, key: bytes, handshake: int, now: float, wall: int) -> bool:
        """A peer's latest handshake, 0 for never. True: it is connected, and its prefixes are not known."""
        if handshake <= max(self._over, self._over_of.get(key, 0)):
            self.end(key)
            return False
        session = self.live.get(key)
        if session is None or session.handshake != handshake:
            # No older than the last look, however the wall clock was set meanwhile.
            age = min(max(wall - handshake, 0) / 1e9, now - self._looked)
            if age >= LIFE:
                self.end(key)
                return False
            prefixes = None if session is None else session.prefixes
            session = self.live[key] = Session(handshake, now + LIFE - age, prefixes)
            self.touched.update(prefixes or ())
            self._due = min(self._due, session.until)
        return session.prefixes is None

    def see_all(self, handshakes: Iterable[tuple[bytes, int]], now: float, wall: int) -> list[bytes]:
        """Of every peer that there is; those that are connected, and whose prefixes are not known."""
        gone, over_of = set(self.live), {}
        unknown = []
        for key, handshake in handshakes:
            if not handshake:
                continue
            gone.discard(key)
            if handshake <= self._over_of.get(key, 0):
                over_of[key] = self._over_of[key]
            if self.see(key, handshake, now, wall):
                unknown.append(key)
        for key in gone:
            self.end(key)
        self._over_of = over_of
        self._looked = now
        return unknown

    def set_prefixes(self, key: bytes, prefixes: Iterable[Prefix]) -> None:
        """What a connected peer may be reached by."""
        session = self.live.get(key)
        if session is None:
            return
        new = tuple(prefixes)
        if session.prefixes != new:
            self._give_up(key, set(session.prefixes or ()) - set(new))
            for prefix in new:
                self.wanted[prefix] = key
            self.touched.update(new)
            session.prefixes = new

    def end(self, key: bytes) -> None:
        """Its session is over, if it had one."""
        session = self.live.pop(key, None)
        if session is not None:
            self._give_up(key, session.prefixes or ())

    def end_before(self, time: int, key: bytes | None = None) -> None:
        """Sessions of handshakes up to this time are over: of one peer, or of all."""
        if key is None:
            self._over = max(self._over, time)
        else:
            self._over_of[key] = max(self._over_of.get(key, 0), time)
        for each in list(self.live) if key is None else [key]:
            session = self.live.get(each)
            if session is not None and session.handshake <= time:
                self.end(each)

    def expire(self, now: float) -> None:
        """End those that are too old."""
        if now < self._due:
            return
        for key in [key for key, session in self.live.items() if session.until <= now]:
            self.end(key)
        self._due = min((session.until for session in self.live.values()), default=float("inf"))

    def _give_up(self, key: bytes, prefixes: Iterable[Prefix]) -> None:
        """Unless another peer has it by now."""
        for prefix in prefixes:
            if self.wanted.get(prefix) == key:
                del self.wanted[prefix]
                self.touched.add(prefix)
