"""Section 1 of the checklist, limits: those of the kernel (messages.h), wherever they stand here."""

from __future__ import annotations

from engine import constants
from workers._workers import lib


def test_limits_are_the_kernels() -> None:
    assert constants.MAX_PEERS == 2**20
    assert constants.HANDSHAKE_QUEUE == 4096
    assert constants.UNDER_LOAD_QUEUE == 512
    assert constants.UNDER_LOAD_TIME == constants.SECOND
    assert (lib.STAGED_LIMIT, lib.QUEUE_LIMIT) == (128, 1024)
    assert (lib.WINDOW_BITS, lib.WINDOW_USABLE) == (8192, 8128)
    assert constants.REJECT_AFTER_MESSAGES == 2**64 - 1 - lib.WINDOW_USABLE - 1
    assert (constants.RATE_A_SECOND, constants.RATE_BURST, constants.RATE_MAX_ENTRIES) == (20, 5, 65_536)
    assert constants.COOKIE_SECRET_MAX_AGE == 120 * constants.SECOND
    assert constants.REKEY_TIMEOUT_JITTER_MAX == 333 * constants.MILLISECOND
    assert constants.INITIATION_FLOOD_TIME == 20 * constants.MILLISECOND

