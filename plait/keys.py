"""Keys as wg(8) writes them: 32 bytes in base64, a private key clamped for X25519 (RFC 7748, section 5)."""

from __future__ import annotations

import base64
import os
import stat
from typing import TextIO

from plait.failure import Failure

KEY_BYTES = 32


def encode(key: bytes) -> str:
    """32 bytes as the 44 characters that wg(8) prints."""
    return base64.b64encode(key).decode()


def decode(text: str) -> bytes:
    """The 32 bytes of 44 base64 characters. ValueError when they are not exactly that."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    # Only the canonical text of a key is a key: base64 leaves two bits of the last character unused.
    if len(key) != KEY_BYTES or encode(key) != text:
        raise ValueError("a key is 44 characters of base64, the last one =")
    return key


def is_key(text: str) -> bool:
    """Whether it is the text of a key."""
    try:
        decode(text)
    except ValueError:
        return False
    return True


def clamp(key: bytes) -> bytes:
    """The key with the bits set and cleared that X25519 sets and clears anyway."""
    return bytes([key[0] & 248]) + key[1:31] + bytes([key[31] & 127 | 64])


def private_key() -> str:
    """A new private key."""
    return encode(clamp(os.urandom(KEY_BYTES)))


def preshared_key() -> str:
    """A new preshared key: 32 random bytes."""
    return encode(os.urandom(KEY_BYTES))


def public_key(private: bytes) -> str:
    """The public key of a private key as text, which may be followed by white space and nothing else.

    Failure when it is not a key, as `wg pubkey` refuses it.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        # wg reads 44 characters and lets only white space follow; none may stand before.
        key = decode(private[:44].decode("ascii"))
        if private[44:].strip():
            raise ValueError("something follows the key")
    except ValueError as error:
        raise Failure(
            "the private key is refused",
            str(error),
            "Give the output of `plait genkey` or `wg genkey` on standard input.",
        ) from error
    return encode(X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw())


def warn_about_public_output(fd: int, talk: TextIO) -> None:
    """Warn when a secret is about to go to a regular file that others may read, as wg(8) warns."""
    try:
        status = os.fstat(fd)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IRWXO:
        talk.write(
            "Warning: writing to world accessible file.\n"
            "Consider setting the umask to 077 and trying again.\n"
        )
