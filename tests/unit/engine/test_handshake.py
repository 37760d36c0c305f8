"""engine/handshake.c and blake2s.c against the Python model: the same bytes, the same refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import cookie, noise
from engine._engine import ffi, lib

VECTORS = Path(__file__).parent / "vectors"
KEYS = st.binary(min_size=32, max_size=32)
INDICES = st.integers(0, 2**32 - 1)
FINE, LOW_ORDER, STATIC_TAG, TIMESTAMP_TAG, RESPONSE_TAG, PASSED_OVER = range(6)
CRYPTO = ffi.gc(lib.handshake_crypto_new(), lib.handshake_crypto_free)
STAMP = bytes.fromhex("400000006553f10a01000000")


def identity_of(private_key: bytes) -> Any:
    identity = ffi.new("struct handshake_identity *")
    lib.handshake_identity(CRYPTO, private_key, identity)
    return identity


def handshakes(identity: Any, count: int = 1, **fields: bytes | int) -> Any:
    """So many alike; bytes fields are copied, `has_` flags set for what is given."""
    made = ffi.new("struct handshake[]", count)
    for i in range(count):
        made[i].identity = identity
        for name, value in fields.items():
            if isinstance(value, int):
                setattr(made[i], name, value)
                continue
            ffi.memmove(getattr(made[i], name), value, len(value))
            if name in ("static_static", "ephemeral", "cookie"):
                setattr(made[i], f"has_{name}", 1)
    return made


def field(handshake: Any, name: str) -> bytes:
    return bytes(ffi.buffer(getattr(handshake, name)))


def opened(identity: Any, message: bytes, **fields: bytes | int) -> Any:
    """A responder's handshake after both steps of an initiation."""
    made = handshakes(identity, initiation=message, **fields)
    lib.handshake_open_initiation(CRYPTO, made, 1)
    lib.handshake_open_timestamp(CRYPTO, made, 1)
    return made


@given(st.binary(max_size=300), st.binary(max_size=32), st.integers(1, 32))
def test_blake2s(data: bytes, key: bytes, size: int) -> None:
    out = ffi.new("uint8_t[]", size)
    lib.blake2s(out, size, key, len(key), data, len(data))
    assert bytes(out) == hashlib.blake2s(data, key=key, digest_size=size).digest()


@settings(max_examples=20, deadline=None)
@given(KEYS)
def test_identity(private: bytes) -> None:
    ours, model = identity_of(private), noise.Identity(private)
    for name in ("private_key", "public_key", "greeting", "mac1_key", "cookie_key"):
        assert field(ours, name) == getattr(model, name), name


@settings(max_examples=25, deadline=None)
@given(KEYS, KEYS, KEYS, KEYS, KEYS, INDICES, INDICES, st.binary(min_size=12, max_size=12),
       st.none() | st.binary(min_size=16, max_size=16))
def test_every_message_and_key_is_the_models(
    a: bytes, b: bytes, psk: bytes, e: bytes, f: bytes, i: int, j: int, stamp: bytes,
    given_cookie: bytes | None,
) -> None:
    """Both roles in C with given ephemeral keys; the model makes the same bytes of them."""
    alice, bob = noise.Identity(a), noise.Identity(b)
    ours, theirs = identity_of(a), identity_of(b)
    more = {"cookie": given_cookie} if given_cookie else {}
    first = handshakes(ours, remote_public=bob.public_key, local_index=i, timestamp=stamp,
                       ephemeral=e, preshared_key=psk, **more)
    lib.handshake_create_initiation(CRYPTO, first, 1)
    peer = noise.PeerKeys(alice, bob.public_key)
    body, state = noise.create_initiation(alice, peer, i, stamp, e)
    message = cookie.add_macs(body, peer.mac1_key, given_cookie)
    assert first[0].result == FINE
    assert field(first[0], "initiation") == message
    assert (field(first[0], "hash"), field(first[0], "chain")) == (state.hash, state.chain)

    second = opened(theirs, message, local_index=j, preshared_key=psk, ephemeral=f, **more)
    assert second[0].result == FINE
    assert field(second[0], "remote_public") == alice.public_key
    assert field(second[0], "timestamp") == stamp
    assert field(second[0], "static_static") == bob.static_static(alice.public_key)
    lib.handshake_create_response(CRYPTO, second, 1)
    _, seen = noise.open_timestamp(noise.open_initiation(bob, message), bob.static_static(alice.public_key))
    body, session = noise.create_response(seen, psk, j, f)
    response = cookie.add_macs(body, alice.mac1_key, given_cookie)
    assert field(second[0], "response") == response
    assert field(second[0], "send_key") == session.send_key
    assert field(second[0], "receive_key") == session.receive_key
    assert second[0].remote_index == i
    assert field(second[0], "hash") == session.hash
    assert field(second[0], "ephemeral") == bytes(32), "used once, then wiped"

    ffi.memmove(first[0].response, response, len(response))
    lib.handshake_consume_response(CRYPTO, first, 1)
    assert first[0].result == FINE and first[0].remote_index == j
    assert field(first[0], "send_key") == session.receive_key
    assert field(first[0], "receive_key") == session.send_key
    assert field(first[0], "hash") == session.hash


ALICE, BOB = identity_of(bytes(range(32))), identity_of(bytes(range(100, 132)))
PSK = bytes(range(200, 232))


def initiated() -> Any:
    made = handshakes(ALICE, remote_public=field(BOB, "public_key"), timestamp=STAMP, local_index=7,
                      preshared_key=PSK)
    lib.handshake_create_initiation(CRYPTO, made, 1)
    return made


def answered(first: Any) -> Any:
    second = opened(BOB, field(first[0], "initiation"), local_index=9, preshared_key=PSK)
    lib.handshake_create_response(CRYPTO, second, 1)
    return second


def flip(message: bytes, at: int, mask: int) -> bytes:
    return message[:at] + bytes([message[at] ^ mask]) + message[at + 1 :]


def test_each_altered_byte_of_an_initiation_is_refused() -> None:
    message = field(initiated()[0], "initiation")
    for at in range(8, 116):
        heard = opened(BOB, flip(message, at, 1 + at % 255))
        assert heard[0].result == (STATIC_TAG if at < 88 else TIMESTAMP_TAG), at


def test_top_bit_of_ephemeral_is_authentic() -> None:
    assert opened(BOB, flip(field(initiated()[0], "initiation"), 39, 0x80))[0].result == STATIC_TAG


def test_each_altered_byte_of_a_response_is_refused_and_changes_nothing() -> None:
    first = initiated()
    second = answered(first)
    response = field(second[0], "response")
    for at in range(8, 60):
        ffi.memmove(first[0].response, flip(response, at, 1 + at % 255), len(response))
        lib.handshake_consume_response(CRYPTO, first, 1)
        assert first[0].result == RESPONSE_TAG, at
        first[0].result = FINE
    ffi.memmove(first[0].response, response, len(response))
    lib.handshake_consume_response(CRYPTO, first, 1)
    assert first[0].result == FINE
    assert field(first[0], "receive_key") == field(second[0], "send_key")


def test_wrong_psk_is_refused() -> None:
    first = initiated()
    response = field(answered(first)[0], "response")
    ffi.memmove(first[0].response, response, len(response))
    ffi.memmove(first[0].preshared_key, bytes(32), 32)
    lib.handshake_consume_response(CRYPTO, first, 1)
    assert first[0].result == RESPONSE_TAG


# Public keys of low order, canonical and not (cr.yp.to/ecdh.html).
@pytest.mark.parametrize("low_order", [bytes.fromhex(key) for key in (
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
)])
def test_low_order_keys_are_refused(low_order: bytes) -> None:
    secret = ffi.new("uint8_t[32]", b"\1" * 32)
    assert lib.handshake_exchange(CRYPTO, ALICE.private_key, low_order, secret) == -1
    assert bytes(secret) == bytes(32)
    made = handshakes(ALICE, remote_public=low_order, timestamp=STAMP)
    lib.handshake_create_initiation(CRYPTO, made, 1)
    assert made[0].result == LOW_ORDER and made[0].has_static_static
    assert field(made[0], "static_static") == bytes(32)
    first = initiated()
    message = field(first[0], "initiation")
    assert opened(BOB, message[:8] + low_order + message[40:])[0].result == LOW_ORDER
    response = field(answered(first)[0], "response")
    ffi.memmove(first[0].response, response[:12] + low_order + response[44:], len(response))
    lib.handshake_consume_response(CRYPTO, first, 1)
    assert first[0].result == LOW_ORDER


def test_zero_static_static_is_refused() -> None:
    message = field(initiated()[0], "initiation")
    assert opened(BOB, message, static_static=bytes(32))[0].result == LOW_ORDER
    assert opened(BOB, message, static_static=b"\1" * 32)[0].result == TIMESTAMP_TAG


def test_an_array_of_different_ones_and_what_is_passed_over() -> None:
    """64 initiators with keys of their own, each answered; what failed or is set aside stays as it is."""
    count = 64
    identities = [identity_of(bytes([n]) * 32) for n in range(count)]
    first, second = ffi.new("struct handshake[]", count), ffi.new("struct handshake[]", count)
    for n in range(count):
        first[n].identity, first[n].local_index = identities[n], 1000 + n
        first[n].result = PASSED_OVER if n % 8 == 3 else FINE
        ffi.memmove(first[n].remote_public, BOB.public_key, 32)
        ffi.memmove(first[n].timestamp, STAMP, 12)
    lib.handshake_create_initiation(CRYPTO, first, count)
    for n in range(count):
        second[n].identity, second[n].local_index = BOB, 2000 + n
        ffi.memmove(second[n].initiation, first[n].initiation, 148)
        if n % 8 == 5:
            second[n].initiation[90] ^= 1
    lib.handshake_open_initiation(CRYPTO, second, count)
    lib.handshake_open_timestamp(CRYPTO, second, count)
    lib.handshake_create_response(CRYPTO, second, count)
    for n in range(count):
        ffi.memmove(first[n].response, second[n].response, 92)
    lib.handshake_consume_response(CRYPTO, first, count)
    for n in range(count):
        if n % 8 == 3:
            assert first[n].result == PASSED_OVER and field(first[n], "initiation") == bytes(148)
            assert second[n].result in (LOW_ORDER, STATIC_TAG)
        elif n % 8 == 5:
            assert second[n].result == TIMESTAMP_TAG and field(second[n], "response") == bytes(92)
            assert first[n].result == RESPONSE_TAG
        else:
            assert field(first[n], "send_key") == field(second[n], "receive_key") != bytes(32)
            assert (first[n].remote_index, second[n].remote_index) == (2000 + n, 1000 + n)
    lib.handshake_wipe(first, count)
    assert bytes(ffi.buffer(first)) == bytes(ffi.sizeof(first))


# --- recorded -----------------------------------------------------------------------------------


def record(scene: str) -> tuple[Any, Any, bytes, dict[str, bytes]]:
    read = json.loads((VECTORS / "wireguard_go.json").read_text())
    us, them = (identity_of(bytes.fromhex(read[f"{who}_private"])) for who in ("our", "their"))
    return us, them, bytes.fromhex(read["psk"]), {k: bytes.fromhex(v) for k, v in read[scene].items()}


def test_recorded_as_responder() -> None:
    us, them, psk, scene = record("they_initiate")
    message = scene["initiation"]
    assert lib.handshake_mac1_differs(us.mac1_key, message, len(message)) == 0
    heard = opened(us, message, preshared_key=psk, ephemeral=scene["response_ephemeral"],
                   local_index=int.from_bytes(scene["response"][4:8], "little"))
    assert field(heard[0], "remote_public") == field(them, "public_key")
    lib.handshake_create_response(CRYPTO, heard, 1)
    assert field(heard[0], "response") == scene["response"]


def test_recorded_as_initiator() -> None:
    us, them, psk, scene = record("we_initiate")
    made = handshakes(us, remote_public=field(them, "public_key"), timestamp=scene["timestamp"],
                      ephemeral=scene["initiation_ephemeral"], preshared_key=psk,
                      local_index=int.from_bytes(scene["initiation"][4:8], "little"))
    lib.handshake_create_initiation(CRYPTO, made, 1)
    assert field(made[0], "initiation") == scene["initiation"]
    ffi.memmove(made[0].response, scene["response"], 92)
    lib.handshake_consume_response(CRYPTO, made, 1)
    assert made[0].result == FINE


# --- macs and cookies ---------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=36, max_size=148), KEYS, st.binary(min_size=4, max_size=4) | st.binary(
    min_size=16, max_size=16), st.integers(0, 65535), st.binary(min_size=24, max_size=24))
def test_macs_and_cookie_replies(
    message: bytes, secret: bytes, address: bytes, port: int, nonce: bytes
) -> None:
    model = noise.Identity(field(BOB, "private_key"))
    given_cookie = cookie.make_cookie(secret, address, port)
    message = cookie.add_macs(message, model.mac1_key, given_cookie)
    where = (address, len(address), int.from_bytes(port.to_bytes(2, "big"), "little"))
    assert lib.handshake_mac1_differs(BOB.mac1_key, message, len(message)) == 0
    assert lib.handshake_mac2_differs(secret, message, len(message), *where) == 0
    for at in range(len(message)):
        other = flip(message, at, 1 + at % 255)
        mac1 = lib.handshake_mac1_differs(BOB.mac1_key, other, len(other))
        assert (mac1 != 0) == (at < len(message) - 16)
        assert lib.handshake_mac2_differs(secret, other, len(other), *where) != 0
    assert lib.handshake_mac2_differs(flip(secret, 3, 1), message, len(message), *where) != 0
    assert lib.handshake_mac2_differs(secret, message, len(message), *where[:2], where[2] ^ 1) != 0
    reply = ffi.new("uint8_t[64]")
    lib.handshake_cookie_reply(CRYPTO, BOB, secret, message, len(message), *where, nonce, reply)
    assert bytes(reply) == cookie.create_cookie_reply(
        model.cookie_key, secret, message, address, port, lambda count: nonce)
    lib.handshake_cookie_reply(CRYPTO, BOB, secret, message, len(message), *where, ffi.NULL, reply)
    holder = cookie.CookieHolder()
    holder.message_sent(message)
    holder.consume_reply(model.cookie_key, bytes(reply), 0)
    assert holder.cookie(0) == given_cookie and bytes(reply)[8:32] != nonce


def test_short_messages_have_no_macs() -> None:
    assert lib.handshake_mac1_differs(BOB.mac1_key, bytes(31), 31) == 1
    assert lib.handshake_mac2_differs(bytes(32), bytes(31), 31, bytes(4), 4, 1) == 1
