"""The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, both roles (kernel: noise.c; noiseprotocol.org).

    initiator                                        responder
    e, es, s, ss, {timestamp}   -- initiation -->    open_initiation, then open_timestamp
    consume_response            <--  response --     e, ee, se, psk, {}

`hash` (h in Noise) is the hash of the handshake so far, `chain` (ck) the chaining key. The tokens above are
mixed in from left to right. Every AEAD call of the handshake uses nonce 0 and the hash as associated data.
The responder opens an initiation in two steps, because only the first step shows which peer sent it: between
the two, the caller looks up that peer's static-static secret, which need not be computed again.

Each reason to refuse a message has its own exception, since each has its own counter. A refused message
changes nothing: state objects are replaced, never altered. Messages here end before mac1; cookie.py adds and
checks the two macs.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import constants, messages

NO_PSK: Final = bytes(constants.KEY_BYTES)

_NONCE = bytes(12)
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_INNER_PAD = b"\x36" * 32
_OUTER_PAD = b"\x5c" * 32
_CHAIN = blake2s(constants.CONSTRUCTION).digest()
_WORDS = struct.Struct("<II")
_THREE_WORDS = struct.Struct("<III")

INITIATION_BODY: Final = constants.INITIATION_BYTES - 2 * constants.MAC_BYTES  # 116, before mac1
RESPONSE_BODY: Final = constants.RESPONSE_BYTES - 2 * constants.MAC_BYTES  # 60


class HandshakeRefused(Exception):
    """A handshake message is refused: the caller drops it, and counts it by the subclass."""


class LowOrder(HandshakeRefused):
    """An X25519 result is zero: the public key is of low order, and everybody knows the result."""


class StaticTagWrong(HandshakeRefused):
    """The sender's static key does not open: the message is meant for another public key, or was altered."""


class TimestampTagWrong(HandshakeRefused):
    """The timestamp does not open: the sender does not have the private key of its static key."""


class ResponseTagWrong(HandshakeRefused):
    """The response does not open: it answers another handshake, was altered, or the preshared keys differ."""


class Identity:
    """Our own static key, and everything that is derived from it alone.

    private_key: 32 bytes, clamped here as in the kernel. public_key: 32 bytes.
    mac1_key: key of mac1 in messages to us. cookie_key: key that seals the cookies in our replies.
    """

    __slots__ = ("cookie_key", "greeting", "mac1_key", "private", "private_key", "prologue", "public_key")

    def __init__(self, private_key: bytes, prologue: bytes = constants.IDENTIFIER) -> None:
        self.private_key = clamp(private_key)
        self.private = X25519PrivateKey.from_private_bytes(self.private_key)
        self.public_key = self.private.public_key().public_bytes_raw()
        self.prologue = prologue
        self.greeting = _greeting(prologue, self.public_key)
        self.mac1_key = mac1_key(self.public_key)
        self.cookie_key = cookie_key(self.public_key)

    def static_static(self, public_key: bytes) -> bytes:
        """X25519 of our and this static key, 32 bytes; slow, so keep the result. LowOrder when it is zero."""
        return _exchange(self.private, X25519PublicKey.from_public_bytes(public_key))


class PeerKeys:
    """The keys that an initiator needs of one peer, made for one handshake and then dropped.

    static_static: an earlier result of Identity.static_static, None to compute it. LowOrder when it is zero.
    """

    __slots__ = ("cookie_key", "greeting", "mac1_key", "public", "public_key", "static_static")

    def __init__(self, identity: Identity, public_key: bytes, static_static: bytes | None = None) -> None:
        self.public_key = public_key
        self.public = X25519PublicKey.from_public_bytes(public_key)
        self.static_static = identity.static_static(public_key) if static_static is None else static_static
        if not any(self.static_static):
            raise LowOrder("the static-static secret is zero")
        self.greeting = _greeting(identity.prologue, public_key)
        self.mac1_key = mac1_key(public_key)
        self.cookie_key = cookie_key(public_key)


class InitiationSent(NamedTuple):
    """The initiator's state while it waits for the response. Secret: it stays in this process's memory."""

    ephemeral: X25519PrivateKey
    hash: bytes
    chain: bytes
    sender_index: int


class InitiationOpened(NamedTuple):
    """The responder's state after open_initiation. Only open_timestamp shows that the sender is authentic."""

    peer_public_key: bytes
    peer_ephemeral: bytes
    hash: bytes
    chain: bytes
    sender_index: int  # the initiator's
    sealed_timestamp: bytes


class Session(NamedTuple):
    """The two transport keys of a finished handshake, 32 bytes each, and both receiver indices."""

    send_key: bytes
    receive_key: bytes
    local_index: int  # what the peer writes into its data messages
    remote_index: int  # what we write into ours
    initiator: bool
    hash: bytes  # the final handshake hash, which identifies the session


# --- initiator, first message -------------------------------------------------------------------


def create_initiation(
    identity: Identity, peer: PeerKeys, sender_index: int, timestamp: bytes, ephemeral: bytes | None = None
) -> tuple[bytes, InitiationSent]:
    """An initiation without its macs (116 bytes), and the state that opens the response to it.

    timestamp: 12 bytes of TAI64N. ephemeral: a private key, given for a key log or a test with recorded
    messages; None draws a random one. LowOrder when the peer's public key is of low order.
    """
    body, state = write_first(identity, peer, sender_index, timestamp, ephemeral)
    return _WORDS.pack(messages.INITIATION, sender_index) + body, state


def write_first(
    identity: Identity, peer: PeerKeys, sender_index: int, payload: bytes, ephemeral: bytes | None = None
) -> tuple[bytes, InitiationSent]:
    """Noise message one, ``e, es, s, ss, {payload}``: an initiation without type, index and macs."""
    secret = _ephemeral(ephemeral)
    public = secret.public_key().public_bytes_raw()
    chain = kdf1(_CHAIN, public)
    hashed = _mix(peer.greeting, public)
    chain, key = kdf2(chain, _exchange(secret, peer.public))
    static = ChaCha20Poly1305(key).encrypt(_NONCE, identity.public_key, hashed)
    hashed = _mix(hashed, static)
    chain, key = kdf2(chain, peer.static_static)
    sealed = ChaCha20Poly1305(key).encrypt(_NONCE, payload, hashed)
    return public + static + sealed, InitiationSent(secret, _mix(hashed, sealed), chain, sender_index)


# --- responder ----------------------------------------------------------------------------------


def open_initiation(identity: Identity, message: bytes) -> InitiationOpened:
    """First step: find out who sent this initiation. message: 148 bytes, or 116 without its macs.

    Raises LowOrder or StaticTagWrong. The caller looks the peer up by `peer_public_key`, and refuses the
    message when there is no such peer.
    """
    return read_first(identity, message[8:INITIATION_BODY], _WORDS.unpack_from(message)[1])


def read_first(identity: Identity, body: bytes, sender_index: int) -> InitiationOpened:
    """Read Noise message one up to and with its static key; the counterpart of write_first."""
    ephemeral, static, sealed = body[:32], body[32:80], body[80:]
    chain = kdf1(_CHAIN, ephemeral)
    hashed = _mix(identity.greeting, ephemeral)
    chain, key = kdf2(chain, _exchange(identity.private, X25519PublicKey.from_public_bytes(ephemeral)))
    try:
        public_key = ChaCha20Poly1305(key).decrypt(_NONCE, static, hashed)
    except InvalidTag:
        raise StaticTagWrong("the static key of an initiation does not open") from None
    return InitiationOpened(public_key, ephemeral, _mix(hashed, static), chain, sender_index, sealed)


def open_timestamp(opened: InitiationOpened, static_static: bytes) -> tuple[bytes, InitiationOpened]:
    """Second step: open the timestamp (12 bytes); returns it and the state for create_response.

    static_static: Identity.static_static of this peer's public key. Raises LowOrder when it is all zeros, and
    TimestampTagWrong when the timestamp does not open. On success the sender is authentic, but the message
    may be a replay: the caller compares the timestamp with the latest one from this peer.
    """
    if not any(static_static):
        raise LowOrder("the static-static secret is zero")
    chain, key = kdf2(opened.chain, static_static)
    try:
        timestamp = ChaCha20Poly1305(key).decrypt(_NONCE, opened.sealed_timestamp, opened.hash)
    except InvalidTag:
        raise TimestampTagWrong("the timestamp of an initiation does not open") from None
    return timestamp, opened._replace(chain=chain, hash=_mix(opened.hash, opened.sealed_timestamp))


def create_response(
    opened: InitiationOpened, psk: bytes, sender_index: int, ephemeral: bytes | None = None
) -> tuple[bytes, Session]:
    """A response without its macs (60 bytes), and the session that begins with it.

    opened: from open_timestamp. psk: 32 bytes, NO_PSK for none. LowOrder: a key of the peer is of low order.
    """
    body, session = write_second(opened, psk, sender_index, b"", ephemeral)
    return _THREE_WORDS.pack(messages.RESPONSE, sender_index, opened.sender_index) + body, session


def write_second(
    opened: InitiationOpened, psk: bytes, sender_index: int, payload: bytes, ephemeral: bytes | None = None
) -> tuple[bytes, Session]:
    """Noise message two, ``e, ee, se, psk, {payload}``, and the session with its two keys."""
    secret = _ephemeral(ephemeral)
    public = secret.public_key().public_bytes_raw()
    chain = kdf1(opened.chain, public)
    hashed = _mix(opened.hash, public)
    chain = kdf1(chain, _exchange(secret, X25519PublicKey.from_public_bytes(opened.peer_ephemeral)))
    chain = kdf1(chain, _exchange(secret, X25519PublicKey.from_public_bytes(opened.peer_public_key)))
    chain, tau, key = kdf3(chain, psk)
    hashed = _mix(hashed, tau)
    sealed = ChaCha20Poly1305(key).encrypt(_NONCE, payload, hashed)
    theirs, ours = kdf2(chain, b"")
    session = Session(ours, theirs, sender_index, opened.sender_index, False, _mix(hashed, sealed))
    return public + sealed, session


# --- initiator, second message ------------------------------------------------------------------


def consume_response(identity: Identity, state: InitiationSent, message: bytes, psk: bytes) -> Session:
    """The session that this response (92 bytes, or 60 without its macs) to our initiation begins.

    Raises LowOrder or ResponseTagWrong; the state can then still open another response.
    """
    _, sender_index, receiver_index = _THREE_WORDS.unpack_from(message)
    if receiver_index != state.sender_index:
        raise ResponseTagWrong(f"a response to index {receiver_index:#010x}, not to ours")
    return read_second(identity, state, message[12:RESPONSE_BODY], psk, sender_index)[1]


def read_second(
    identity: Identity, state: InitiationSent, body: bytes, psk: bytes, remote_index: int
) -> tuple[bytes, Session]:
    """Read Noise message two: its payload, and the session; the counterpart of write_second."""
    ephemeral, sealed = body[:32], body[32:]
    chain = kdf1(state.chain, ephemeral)
    hashed = _mix(state.hash, ephemeral)
    public = X25519PublicKey.from_public_bytes(ephemeral)
    chain = kdf1(chain, _exchange(state.ephemeral, public))
    chain = kdf1(chain, _exchange(identity.private, public))
    chain, tau, key = kdf3(chain, psk)
    hashed = _mix(hashed, tau)
    try:
        payload = ChaCha20Poly1305(key).decrypt(_NONCE, sealed, hashed)
    except InvalidTag:
        raise ResponseTagWrong("a response does not open") from None
    ours, theirs = kdf2(chain, b"")
    session = Session(ours, theirs, state.sender_index, remote_index, True, _mix(hashed, sealed))
    return payload, session


# --- keys and hashes ----------------------------------------------------------------------------


def clamp(private_key: bytes) -> bytes:
    """Clamp a private key of 32 bytes (RFC 7748 section 5); the UAPI's `get` shows the clamped key."""
    if len(private_key) != constants.KEY_BYTES:
        raise ValueError(f"a private key has 32 bytes, not {len(private_key)}; make one with `wg genkey`")
    return bytes((private_key[0] & 248, *private_key[1:31], private_key[31] & 127 | 64))


def mac1_key(public_key: bytes) -> bytes:
    """Key of mac1 in messages to the owner of public_key."""
    return blake2s(constants.LABEL_MAC1 + public_key).digest()


def cookie_key(public_key: bytes) -> bytes:
    """Key that seals cookies in replies from the owner of public_key."""
    return blake2s(constants.LABEL_COOKIE + public_key).digest()


def kdf1(key: bytes, data: bytes) -> bytes:
    """HKDF with HMAC-BLAKE2s, one output of 32 bytes (Noise section 4.3)."""
    return _hmac(_hmac(key, data), b"\x01")


def kdf2(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """kdf1 with two outputs."""
    secret = _hmac(key, data)
    first = _hmac(secret, b"\x01")
    return first, _hmac(secret, first + b"\x02")


def kdf3(key: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """kdf1 with three outputs."""
    secret = _hmac(key, data)
    first = _hmac(secret, b"\x01")
    second = _hmac(secret, first + b"\x02")
    return first, second, _hmac(secret, second + b"\x03")


def _hmac(key: bytes, data: bytes) -> bytes:
    """HMAC (RFC 2104) with BLAKE2s, for keys of 32 bytes; four times as fast as the module hmac."""
    inner = blake2s(key.translate(_INNER) + _INNER_PAD + data).digest()
    return blake2s(key.translate(_OUTER) + _OUTER_PAD + inner).digest()


def _mix(hashed: bytes, data: bytes) -> bytes:
    return blake2s(hashed + data).digest()


def _greeting(prologue: bytes, responder: bytes) -> bytes:
    """The hash at the beginning of a handshake with this responder."""
    return _mix(_mix(_CHAIN, prologue), responder)


def _ephemeral(private_key: bytes | None) -> X25519PrivateKey:
    if private_key is None:
        return X25519PrivateKey.generate()
    return X25519PrivateKey.from_private_bytes(private_key)


def _exchange(private: X25519PrivateKey, public: X25519PublicKey) -> bytes:
    try:
        return private.exchange(public)
    except ValueError:  # raised by `cryptography` when the result is zero
        raise LowOrder("an X25519 result is zero: the public key is of low order") from None
