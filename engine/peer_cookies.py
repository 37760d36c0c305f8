"""What control keeps of cookies: its own secret, and the cookies of its peers (kernel: cookie.c).

Macs and replies are made in C (cookie.h), and once more in Python for tests and flooders (cookie.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from engine import constants

MAC1: Final = slice(-32, -16)  # of a handshake message


class CookieRefused(Exception):
    """A cookie reply was not accepted; drop it and count it by the subclass."""


class CookieUnexpected(CookieRefused):
    """No message was sent since the last accepted reply: nothing asks for a cookie."""


class CookieTagWrong(CookieRefused):
    """The reply does not open with the mac1 that was sent last: forged, or late."""


class CookieSecret(NamedTuple):
    """What cookies are made with. Kept by the caller (in the vault), replaced by fresh_secret."""

    secret: bytes  # 32 random bytes
    birth: int  # boottime ns


def fresh_secret(
    secret: CookieSecret | None, now: int, random: Callable[[int], bytes] = os.urandom
) -> CookieSecret:
    """The secret to use at `now`: the given one while younger than 120 s, else a new one. No grace."""
    if secret is not None and now < secret.birth + constants.COOKIE_SECRET_MAX_AGE:
        return secret
    return CookieSecret(random(constants.KEY_BYTES), now)


class PeerCookies:
    """The cookies of many peers, and the mac1 that a reply to each must know, in columns by row.

    What is taken from here by row is an array's element or, for an array of rows, an array. Boottime ns.
    """

    def __init__(self, rows: int) -> None:
        self._held = np.zeros((rows, constants.MAC_BYTES), np.uint8)
        self._birth = np.zeros(rows, np.int64)  # 0: none is held
        self._mac1 = np.zeros((rows, constants.MAC_BYTES), np.uint8)
        self._sent = np.zeros(rows, np.int64)  # 0: no reply is awaited

    def message_sent(self, rows: Any, mac1: Any, now: int) -> None:
        """An initiation or response was sent: one reply to it, and to no earlier one, is accepted."""
        self._mac1[rows] = mac1
        self._sent[rows] = now

    def usable(self, rows: Any, now: int) -> tuple[Any, Any]:
        """(cookies of 16 bytes, whether each is held and younger than 115 s)."""
        birth = self._birth[rows]
        return self._held[rows], (birth != 0) & (birth + constants.COOKIE_USABLE_TIME > now)

    def consume_reply(self, row: int, opened: Callable[[bytes], bytes | None], now: int) -> None:
        """Keep the cookie of a reply. CookieUnexpected or CookieTagWrong.

        opened: the cookie of a reply to the message with this mac1, None when it does not open (handshake.h).
        """
        sent = int(self._sent[row])
        if not sent or sent + 2 * constants.COOKIE_SECRET_MAX_AGE <= now:
            raise CookieUnexpected("a cookie reply that no message asked for")
        held = opened(self._mac1[row].tobytes())
        if held is None:
            raise CookieTagWrong("a cookie reply does not open")
        self._held[row] = np.frombuffer(held, np.uint8)
        self._birth[row] = now
        self._sent[row] = 0

    def __contains__(self, row: int) -> bool:
        """Whether anything of this row is kept."""
        return bool(self._birth[row] or self._sent[row])

    def forget(self, rows: Any) -> None:
        """Of peers that are removed, or of all (a slice)."""
        self._birth[rows] = 0
        self._sent[rows] = 0
        self._held[rows] = 0
