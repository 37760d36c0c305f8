"""How many handshake messages one source may cost us while under load (kernel: ratelimiter.c).

A source is an IPv4 address or an IPv6 /64. Each source has a token bucket: 20 tokens a second, bursts of 5.
The limiter remembers at most 65,536 sources and refuses new ones above that, so that a flood from many
addresses cannot exhaust memory. It forgets a source that was idle for more than a second, since the bucket
of that source is full again. Control asks the limiter only under load, and only after a valid cookie, so
that a spoofed address cannot spend its owner's tokens.
"""

from __future__ import annotations

from engine import constants

_COST = constants.SECOND // constants.RATE_A_SECOND
_FULL = _COST * constants.RATE_BURST


class RateLimiter:
    """The limiter of one interface, for one thread. `now`: ns of CLOCK_BOOTTIME."""

    __slots__ = ("_collected", "buckets")

    def __init__(self) -> None:
        self.buckets: dict[bytes, tuple[int, int]] = {}  # source -> (tokens in ns, ns of the latest message)
        self._collected = 0

    def allow(self, address: bytes, now: int, wanted: int = 1) -> int:
        """Take up to `wanted` tokens of the source with this address (4 or 16 bytes); how many were taken.

        0 for a new source when too many sources are remembered.
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
        """Forget sources idle for more than a second. `allow` calls this at most once a second."""
        self._collected = now
        limit = now - constants.RATE_IDLE_TIME
        self.buckets = {source: bucket for source, bucket in self.buckets.items() if bucket[1] >= limit}
