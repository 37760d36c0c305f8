"""How many handshake messages one source may cost us while under load (kernel: ratelimiter.c).

A token bucket for each IPv4 address or IPv6 /64: 20 a second, bursts of 5. At most 65,536
sources are remembered; when they are that many, a new one is refused, so that a flood from many
addresses cannot take memory. A source idle for more than a second is forgotten: its bucket is full by then.
Used only under load, and only after a valid cookie, so that nobody can spend another's tokens.
"""

from __future__ import annotations

from engine import constants

_COST = constants.SECOND // constants.RATE_A_SECOND
_FULL = _COST * constants.RATE_BURST


class RateLimiter:
    """One for the whole device; not for two threads. `now` is boottime ns throughout."""

    __slots__ = ("_collected", "buckets")

    def __init__(self) -> None:
        self.buckets: dict[bytes, tuple[int, int]] = {}  # source -> (ns of tokens, when)
        self._collected = 0

    def allow(self, address: bytes, now: int, wanted: int = 1) -> int:
        """Take up to `wanted` tokens of this source (4 or 16 bytes); returns how many it had.

        0 when there are too many sources.
        """
        if now >= self._collected + constants.RATE_IDLE_TIME:
            self.collect(now)
        source = address if len(address) == 4 else address[:8]
        bucket = self.buckets.get(source)
        if bucket is None:
            if len(self.buckets) >= constants.RATE_MAX_ENTRIES:
                return 0
            bucket = (_FULL, now)
        tokens = min(_FULL, bucket[0] + now - bucket[1])
        allowed = min(wanted, tokens // _COST)
        self.buckets[source] = (tokens - allowed * _COST, now)
        return allowed

    def collect(self, now: int) -> None:
        """Forget sources idle for more than a second; called by allow at most once a second."""
        self._collected = now
        limit = now - constants.RATE_IDLE_TIME
        self.buckets = {source: bucket for source, bucket in self.buckets.items() if bucket[1] >= limit}
