"""The numbers that the protocol fixes, as its documents have them; C and Python share one definition."""

from engine import constants, timers


def test_specification() -> None:
    assert (len(constants.CONSTRUCTION), len(constants.IDENTIFIER)) == (37, 34)
    seconds = [
        constants.REKEY_AFTER_TIME,
        constants.REJECT_AFTER_TIME,
        constants.REKEY_TIMEOUT,
        constants.KEEPALIVE_TIMEOUT,
        constants.NEW_HANDSHAKE_TIME,
        constants.ZERO_KEYS_TIME,
        constants.COOKIE_USABLE_TIME,
    ]
    assert [ns / constants.SECOND for ns in seconds] == [120, 180, 5, 10, 15, 540, 115]
    assert constants.MAX_INITIATIONS == 20
    assert constants.REKEY_AFTER_MESSAGES == 2**60
    assert constants.REJECT_AFTER_MESSAGES == 2**64 - 8130
    assert (constants.DATA_HEADER_BYTES, constants.DATA_MINIMUM_BYTES) == (16, 32)


def test_ticks_are_never_early() -> None:
    from engine._engine import lib

    tick = 1 << constants.TIMER_TICK_SHIFT
    assert timers.NEW_HANDSHAKE == lib.TIMER_NEW_HANDSHAKE_TICKS
    assert timers.KEEPALIVE == lib.TIMER_KEEPALIVE_TICKS
    assert (timers.ZERO - 1) * tick < constants.ZERO_KEYS_TIME <= timers.ZERO * tick
    assert timers.JITTER * tick <= constants.REKEY_TIMEOUT_JITTER_MAX < (timers.JITTER + 1) * tick
