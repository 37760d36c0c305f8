"""mac1, mac2 and cookie replies: what keeps a flood from costing handshakes (kernel: cookie.c).

mac1 proves that the sender knows our public key: it costs a microsecond to check, always.
Under load a message must also carry mac2, made with a cookie that we sent to its source
address: it proves that the sender can be reached there. A cookie is a mac of address and port
under a secret that changes after 120 s, so the responder remembers nobody.

A responder's secret is a CookieSecret that the caller keeps (peer_cookies.py). An initiator keeps one
CookieHolder for each peer it has a handshake with; control has the columns of PeerCookies instead.

Control makes and opens cookie replies in C (cookie.h): this is the second implementation, which tests compare
with the first, and with which flooders and the soak's peers speak.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable
from enum import Enum
from hashlib import blake2s
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from engine import constants, messages
from engine.peer_cookies import MAC1, CookieTagWrong, CookieUnexpected

MAC2: Final = slice(-16, None)
NO_MAC: Final = bytes(constants.MAC_BYTES)

_BLOCK = struct.Struct("<16I")
_HALF = struct.Struct("<4I")
_KEY = struct.Struct("<8I")
_SIGMA = _HALF.unpack(b"expand 32-byte k")
_PORT = struct.Struct(">H")


class MacCheck(Enum):
    """What the two macs of a message say."""

    INVALID = "mac1 is wrong"
    NO_COOKIE = "mac1 is right, mac2 is not made with a cookie of ours"
    COOKIE = "both are right"


# --- both sides ---------------------------------------------------------------------------------


def add_macs(body: bytes, mac1_key: bytes, cookie: bytes | None) -> bytes:
    """The whole message: body, mac1 and mac2. mac1_key: of the receiver (noise.mac1_key).

    cookie: 16 bytes from CookieHolder.cookie, or None; mac2 is zeros then.
    """
    message = body + _mac(mac1_key, body)
    return message + (_mac(cookie, message) if cookie is not None else NO_MAC)


# --- whoever receives an initiation or response --------------------------------------------------


def mac1_is_right(mac1_key: bytes, message: bytes) -> bool:
    """mac1_key: our own, Identity.mac1_key. Constant time."""
    return hmac.compare_digest(_mac(mac1_key, message[:-32]), message[MAC1])


def mac2_is_right(secret: bytes, message: bytes, address: bytes, port: int) -> bool:
    """Whether mac2 was made with the cookie of this source. secret: of a CookieSecret still in use."""
    return hmac.compare_digest(_mac(make_cookie(secret, address, port), message[:-16]), message[MAC2])


def check_macs(mac1_key: bytes, secret: bytes | None, message: bytes, address: bytes, port: int) -> MacCheck:
    """Both checks in order; mac2 is looked at only when a secret is given (under load)."""
    if not mac1_is_right(mac1_key, message):
        return MacCheck.INVALID
    if secret is None or not mac2_is_right(secret, message, address, port):
        return MacCheck.NO_COOKIE
    return MacCheck.COOKIE


def make_cookie(secret: bytes, address: bytes, port: int) -> bytes:
    """The cookie of one source: address 4 or 16 bytes, port a number (2 bytes big-endian inside)."""
    if len(address) not in (4, 16):
        raise ValueError(f"an address has 4 or 16 bytes, not {len(address)}")
    return _mac(secret, address + _PORT.pack(port))


def create_cookie_reply(
    cookie_key: bytes,
    secret: bytes,
    message: bytes,
    address: bytes,
    port: int,
    random: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """The reply (64 bytes) to an initiation or response whose mac1 is right.

    cookie_key: our own, Identity.cookie_key. The reply goes back to address and port.
    """
    nonce = random(constants.COOKIE_NONCE_BYTES)
    sealed = xchacha20poly1305_seal(cookie_key, nonce, make_cookie(secret, address, port), message[MAC1])
    sender_index = int.from_bytes(message[4:8], "little")
    return messages.CookieReply(sender_index, nonce, sealed).pack()


# --- whoever sent one ---------------------------------------------------------------------------


class CookieHolder:
    """One peer's cookie, and the mac1 that a reply must know. All times boottime ns."""

    __slots__ = ("birth", "held", "waiting_mac1")

    def __init__(self) -> None:
        self.held: bytes | None = None
        self.birth = 0
        self.waiting_mac1: bytes | None = None

    def message_sent(self, message: bytes) -> None:
        """An initiation or response was sent: one reply to it, and to no earlier one, is accepted."""
        self.waiting_mac1 = message[MAC1]

    def consume_reply(self, cookie_key: bytes, message: bytes, now: int) -> None:
        """Keep the cookie of a reply. cookie_key: of the peer. CookieUnexpected or CookieTagWrong."""
        if self.waiting_mac1 is None:
            raise CookieUnexpected("a cookie reply that no message asked for")
        reply = messages.CookieReply.unpack(message)
        try:
            self.held = xchacha20poly1305_open(cookie_key, reply.nonce, reply.cookie, self.waiting_mac1)
        except InvalidTag:
            raise CookieTagWrong("a cookie reply does not open") from None
        self.birth = now
        self.waiting_mac1 = None

    def cookie(self, now: int) -> bytes | None:
        """The cookie for add_macs, while it is younger than 115 s."""
        if self.held is not None and self.birth + constants.COOKIE_USABLE_TIME <= now:
            self.held = None
        return self.held


# --- XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) -------------------------------------------------


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Subkey of 32 bytes from key (32) and nonce (16).

    A keystream block of ChaCha20 is the permuted state plus the initial state; HChaCha20 is the first
    and last four words of the permuted state alone, so the initial words are taken away again.
    """
    block = _BLOCK.unpack(Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64)))
    initial = _SIGMA + _HALF.unpack(nonce)
    words = [(a - b) & 0xFFFFFFFF for a, b in zip(block[:4] + block[12:], initial, strict=True)]
    return _KEY.pack(*words)


def xchacha20poly1305_seal(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag; nonce of 24 bytes."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], data, associated)


def xchacha20poly1305_open(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
    """The plaintext; cryptography's InvalidTag when the tag is wrong."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], data, associated)


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, digest_size=constants.MAC_BYTES, key=key).digest()
