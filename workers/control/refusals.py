"""Negative cache: public keys that a provider does not know, each refused for the time that it gave.

Anybody can make key pairs and cause entries, so their number is bounded: ENTRIES places, in sets of WAYS. A
new entry replaces an expired one of its set, else one at random. Set and tag come from a keyed hash, so that
nobody can choose keys that fall into one set, or that replace a certain key.
"""

from __future__ import annotations

import os
from array import array
from typing import Final

import numpy as np

ENTRIES: Final = 1 << 16
WAYS: Final = 8
SECOND: Final = 1_000_000_000
_LOW: Final = (1 << 64) - 1


class Refusals:
    """Keys and until when they are refused. `now` is ns; TTLs are seconds, at most 2^31."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        # Made with the first entry: 12 bytes each.
        self._tags: array[int] = array("Q")
        self._until: array[int] = array("I")  # seconds, 0 = free

    @property
    def is_used(self) -> bool:
        """Whether a key was ever refused."""
        return bool(self._tags)

    def add(self, key: bytes, ttl: int, now: int) -> None:
        """The key is refused for so long."""
        if not self._tags:
            self._tags, self._until = array("Q", bytes(8 * ENTRIES)), array("I", bytes(4 * ENTRIES))
        seconds, first, tag = now // SECOND, *self._place(key)
        ways = range(first, first + WAYS)
        place = next((at for at in ways if self._tags[at] == tag), None)
        if place is None:
            place = next((at for at in ways if self._until[at] <= seconds), first + os.urandom(1)[0] % WAYS)
        self._tags[place], self._until[place] = tag, seconds + ttl

    def has(self, key: bytes, now: int) -> bool:
        """Whether it is refused now."""
        if not self._tags:
            return False
        first, tag = self._place(key)
        return any(
            self._tags[at] == tag and self._until[at] > now // SECOND for at in range(first, first + WAYS)
        )

    def remove(self, key: bytes) -> None:
        """The key was configured or taken away: the provider is asked about it again."""
        if not self._tags:
            return
        first, tag = self._place(key)
        for at in range(first, first + WAYS):
            if self._tags[at] == tag:
                self._until[at] = 0

    def count(self, now: int) -> int:
        """How many keys are refused now."""
        until = np.frombuffer(self._until, np.uint32) if self._tags else np.zeros(0, np.uint32)
        return int(np.count_nonzero(until > now // SECOND))

    def _place(self, key: bytes) -> tuple[int, int]:
        # SipHash (PEP 456), keyed by the interpreter, over a text that begins with our secret.
        tag = hash(self._secret + key) & _LOW
        return tag % (ENTRIES // WAYS) * WAYS, tag
