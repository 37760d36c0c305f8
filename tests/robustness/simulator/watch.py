"""What must hold of an engine whatever the reference says: read off the wire and the segment alone."""

from __future__ import annotations

from collections import defaultdict

from engine.timers import Action

from .engine import NEVER_HERE, Engine, Outcome
from .reference import DATA, INITIATION, REJECT, REKEY_TIMEOUT, RESPONSE, TICK, Datagram

INITIATIONS = 20
# The newest key may be kept for as long after it became useless: its birth is cut to a tick, then rounded up.
SLACK = 3 * TICK


class Broken(AssertionError):
    """An invariant does not hold, or engine and reference differ."""


class Wire:
    """Across all lives of both engines."""

    def __init__(self) -> None:
        self.nonces: set[tuple[bytes, int]] = set()
        self.delivered: dict[str, set[int]] = defaultdict(set)

    def sealed(self, key: bytes, counter: int) -> None:
        if (key, counter) in self.nonces:
            raise Broken(f"nonce {counter} was used twice under one key")
        self.nonces.add((key, counter))

    def accepted(self, name: str, number: int) -> None:
        if number in self.delivered[name]:
            raise Broken(f"packet {number} was delivered twice at {name}")
        self.delivered[name].add(number)


class Watch:
    """One life of one engine."""

    def __init__(self, name: str, engine: Engine, wire: Wire) -> None:
        self.name, self.engine, self.wire = name, engine, wire
        self.births: dict[int, int] = {}  # of sessions, by local index
        self.handshake_sent: int | None = None
        self.initiations = 0  # since there was cause to begin anew
        self.stamp = b""

    def given(self) -> None:
        """A packet from the host or a datagram arrives: an attempt may begin."""
        self.initiations = 0

    def after(self, now: int, outcome: Outcome, sent: list[Datagram], received: list[Datagram]) -> None:
        """The engine did this, being given data messages `received`."""
        if outcome.counted:
            for name in NEVER_HERE.intersection(outcome.counted):
                raise Broken(f"{outcome.counted[name]} {name} at {self.name}")
        for action in outcome.actions:
            if action & (Action.START_HANDSHAKE | Action.SEND_KEEPALIVE):
                self.initiations = 0
        for datagram in sent:
            if datagram.kind == INITIATION:
                self._initiated(now)
            elif datagram.kind == RESPONSE:
                self.handshake_sent = now
            elif datagram.kind == DATA:
                self.wire.sealed(self.engine.send_key(datagram.receiver_index), datagram.counter)
        self._received(now, outcome, received)
        self._keys(now)

    def _initiated(self, now: int) -> None:
        # A tick less: both ends of the wait are cut to ticks.
        if self.handshake_sent is not None and now - self.handshake_sent < REKEY_TIMEOUT - TICK:
            raise Broken(f"initiation {(now - self.handshake_sent) / 1e9} s after a handshake message")
        self.handshake_sent = now
        self.initiations += 1
        if self.initiations > INITIATIONS:
            raise Broken(f"{self.initiations} initiations in one attempt")
        stamp = self.engine.timestamp_sent()
        if stamp <= self.stamp:
            raise Broken("the timestamp did not grow")
        self.stamp = stamp

    def _received(self, now: int, outcome: Outcome, received: list[Datagram]) -> None:
        for number in outcome.delivered:
            self.wire.accepted(self.name, number)
            age = min(
                (now - self.births.get(d.receiver_index, -(1 << 62)) for d in received if d.number == number),
                default=1 << 62,
            )
            if age >= REJECT:
                raise Broken(f"packet {number} was accepted {age / 1e9} s after its session's birth")

    def _keys(self, now: int) -> None:
        kept = self.engine.kept()
        newest = max((key.birth for key in kept), default=0)
        for key in kept:
            if key.birth:
                self.births[key.local_index] = key.birth
        if kept and newest + REJECT + SLACK <= now:
            raise Broken(f"keys are kept {(now - newest) / 1e9} s after the last session began")
        if any(key.birth + 2 * REJECT + SLACK <= now for key in kept):
            raise Broken("an old session's keys are kept")
        if len(kept) > 3:
            raise Broken(f"{len(kept)} keypairs are kept")
