"""The rate limiter against a plain model: one float-free bucket for each source, never collected."""

from hypothesis import given
from hypothesis import strategies as st

from engine import constants
from engine.ratelimiter import RateLimiter

SECOND = constants.SECOND
SOURCES = [bytes((1, 2, 3, 4)), bytes((1, 2, 3, 5)), bytes(16), bytes(8) + b"\1" * 8, b"\2" * 16]


class Model:
    """Tokens in 1/20 s of time, whole history kept."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, int] = {}
        self.seen: dict[bytes, int] = {}

    def allow(self, address: bytes, now: int) -> bool:
        source = address if len(address) == 4 else address[:8]
        full = 5 * SECOND // 20
        tokens = min(full, self.tokens.get(source, full) + now - self.seen.get(source, now))
        self.seen[source] = now
        self.tokens[source] = tokens - SECOND // 20 if tokens >= SECOND // 20 else tokens
        return tokens >= SECOND // 20


@given(st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, 3 * SECOND // 2)), max_size=200))
def test_as_the_model(steps: list[tuple[bytes, int]]) -> None:
    """Collecting what is idle for a second changes no answer: a bucket is full after a quarter of one."""
    limiter, model, now = RateLimiter(), Model(), 12345
    for address, pause in steps:
        now += pause
        assert limiter.allow(address, now) == model.allow(address, now)


@given(st.lists(st.integers(0, SECOND // 25), min_size=20, max_size=200))
def test_as_the_model_when_busy(pauses: list[int]) -> None:
    limiter, model, now = RateLimiter(), Model(), 0
    for pause in pauses:
        now += pause
        assert limiter.allow(SOURCES[0], now) == model.allow(SOURCES[0], now)


@given(st.lists(st.tuples(st.integers(0, SECOND // 4), st.integers(1, 9)), max_size=50))
def test_many_at_once_are_as_many_one_by_one(steps: list[tuple[int, int]]) -> None:
    limiter, model, now = RateLimiter(), Model(), 0
    for pause, wanted in steps:
        now += pause
        assert limiter.allow(SOURCES[0], now, wanted) == sum(
            model.allow(SOURCES[0], now) for _ in range(wanted)
        )


def test_burst_then_twenty_a_second() -> None:
    limiter = RateLimiter()
    assert [limiter.allow(SOURCES[0], 0) for _ in range(6)] == [True] * 5 + [False]
    assert limiter.allow(SOURCES[1], 0)
    assert not limiter.allow(SOURCES[0], SECOND // 20 - 1)
    assert limiter.allow(SOURCES[0], SECOND // 20)


def test_a_pause_saves_no_more_than_a_burst() -> None:
    limiter = RateLimiter()
    assert limiter.allow(SOURCES[0], 0)
    assert [limiter.allow(SOURCES[0], SECOND * 9 // 10) for _ in range(6)] == [True] * 5 + [False]


def test_ipv6_counts_by_64_bits() -> None:
    limiter = RateLimiter()
    assert [limiter.allow(bytes(8) + bytes([i]) * 8, 0) for i in range(6)] == [True] * 5 + [False]
    assert limiter.allow(bytes(7) + b"\1" + bytes(8), 0)


def test_bounded_and_collected() -> None:
    limiter = RateLimiter()
    for i in range(constants.RATE_MAX_ENTRIES):
        assert limiter.allow(i.to_bytes(4, "big"), SECOND)
    assert not limiter.allow(b"\xff" * 4, SECOND)
    assert limiter.allow(bytes(4), SECOND)  # a known source still has tokens
    assert not limiter.allow(b"\xff" * 4, 2 * SECOND)
    assert limiter.allow(b"\xff" * 4, 2 * SECOND + 1 + SECOND)
    assert len(limiter.buckets) == 1
