"""The primitives that the handshake stands on, against the vectors of their RFCs."""

import hashlib
import hmac

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from engine import cookie, noise

ADVICE = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
KEY = bytes(range(0x80, 0xA0))
ASSOCIATED = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")


def x25519(scalar: str | bytes, u: str | bytes) -> bytes:
    private = bytes.fromhex(scalar) if isinstance(scalar, str) else scalar
    public = bytes.fromhex(u) if isinstance(u, str) else u
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def test_rfc8439_seal() -> None:
    """RFC 8439 section 2.8.2."""
    sealed = ChaCha20Poly1305(KEY).encrypt(bytes.fromhex("070000004041424344454647"), ADVICE, ASSOCIATED)
    assert sealed.hex() == (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691"
    )


@pytest.mark.parametrize(
    ("scalar", "u", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_rfc7748_single(scalar: str, u: str, result: str) -> None:
    """RFC 7748 section 5.2, the two single multiplications."""
    assert x25519(scalar, u).hex() == result


def test_rfc7748_iterated() -> None:
    """RFC 7748 section 5.2, 1 and 1,000 iterations."""
    k = u = bytes([9]) + bytes(31)
    results = {}
    for count in range(1, 1001):
        k, u = x25519(k, u), k
        results[count] = k.hex()
    assert results[1] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert results[1000] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_blake2s() -> None:
    """RFC 7693 appendix B, and the keyed vector of no bytes of the reference implementation."""
    abc = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    empty = "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"
    assert hashlib.blake2s(b"abc").hexdigest() == abc
    assert hashlib.blake2s(b"", key=bytes(range(32))).hexdigest() == empty


def test_hchacha20() -> None:
    """draft-irtf-cfrg-xchacha-03 section 2.2.1."""
    subkey = cookie.hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_xchacha20poly1305() -> None:
    """draft-irtf-cfrg-xchacha-03 appendix A.3.1."""
    nonce = bytes(range(0x40, 0x58))
    sealed = cookie.xchacha20poly1305_seal(KEY, nonce, ADVICE, ASSOCIATED)
    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    assert cookie.xchacha20poly1305_open(KEY, nonce, sealed, ASSOCIATED) == ADVICE
    with pytest.raises(InvalidTag):
        cookie.xchacha20poly1305_open(KEY, nonce, sealed, b"")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_kdf_is_hkdf(key: bytes, data: bytes) -> None:
    """Against the standard library's HMAC, written as Noise section 4.3 has it."""

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.blake2s).digest()

    secret = mac(key, data)
    first = mac(secret, b"\x01")
    second = mac(secret, first + b"\x02")
    third = mac(secret, second + b"\x03")
    assert noise.kdf1(key, data) == first
    assert noise.kdf2(key, data) == (first, second)
    assert noise.kdf3(key, data) == (first, second, third)
