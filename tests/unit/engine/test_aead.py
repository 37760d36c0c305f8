"""engine/aead: both providers against `cryptography` and against the vectors of RFC 8439."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib
from engine.aead import PROVIDERS, Provider, _providers


@pytest.fixture(params=PROVIDERS, scope="module")
def aead(request: pytest.FixtureRequest) -> Any:
    """One provider; the fast one is left out where the build or the CPU lacks it."""
    made = lib.aead_new(PROVIDERS[request.param].number)
    if made == ffi.NULL:
        pytest.skip(f"{request.param}: not in this build, or not for this CPU")
    return ffi.gc(made, lib.aead_free)


def test_providers_go_by_the_word_in_the_setting() -> None:
    found = dict(_providers())
    assert found == PROVIDERS
    assert found["evp"] == Provider(0, "OpenSSL's libcrypto", "")


@dataclass
class Message:
    """One message; `at` shifts it in memory, since packets stand anywhere."""

    plaintext: bytes
    counter: int
    key: bytes
    at: int = 0

    def sealed(self) -> bytes:
        nonce = bytes(4) + self.counter.to_bytes(8, "little")
        return ChaCha20Poly1305(self.key).encrypt(nonce, self.plaintext, None)


class Batch:
    """aead_job structs over buffers that Python keeps alive."""

    def __init__(self, messages: list[Message], contents: list[bytes]) -> None:
        self.messages = messages
        self.jobs = ffi.new("struct aead_job[]", max(len(messages), 1))
        self.kept: list[Any] = []
        for job, message, content in zip(self.jobs, messages, contents, strict=False):
            buffer = ffi.new("uint8_t[]", message.at + len(content) + lib.AEAD_TAG_BYTES + 1)
            key = ffi.new("uint8_t[]", message.key)
            ffi.memmove(buffer + message.at, content, len(content))
            self.kept += [buffer, key]
            job.data, job.length = buffer + message.at, len(content)
            job.counter, job.key, job.refused = message.counter, key, 77

    def seal(self, aead: Any) -> list[bytes]:
        lib.aead_seal(aead, self.jobs, len(self.messages))
        return [
            bytes(ffi.buffer(job.data, job.length + lib.AEAD_TAG_BYTES))
            for job, _ in zip(self.jobs, self.messages, strict=False)
        ]

    def open(self, aead: Any) -> list[bytes | None]:
        lib.aead_open(aead, self.jobs, len(self.messages))
        assert {job.refused for job, _ in zip(self.jobs, self.messages, strict=False)} <= {0, -1}
        return [
            None if job.refused else bytes(ffi.buffer(job.data, job.length - lib.AEAD_TAG_BYTES))
            for job, _ in zip(self.jobs, self.messages, strict=False)
        ]


messages_of = st.builds(
    Message,
    plaintext=st.integers(0, 4096).flatmap(
        lambda length: st.binary(min_size=1, max_size=32).map(lambda b: (b * (length // len(b) + 1))[:length])
    ),
    counter=st.integers(0, 2**64 - 1),
    key=st.binary(min_size=32, max_size=32),
    at=st.integers(0, 17),
)


@settings(deadline=None, max_examples=60)
@given(messages=st.lists(messages_of, max_size=70))
def test_seals_and_opens_as_cryptography(aead: Any, messages: list[Message]) -> None:
    sealed = Batch(messages, [m.plaintext for m in messages]).seal(aead)
    assert sealed == [m.sealed() for m in messages]
    assert Batch(messages, sealed).open(aead) == [m.plaintext for m in messages]


@pytest.mark.parametrize(
    "length", [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 512, 513, 65_000, 65_519]
)
def test_lengths_around_blocks(aead: Any, length: int) -> None:
    message = Message(bytes(i * 7 & 255 for i in range(length)), 2**63 + 5, bytes(range(32)), 3)
    assert Batch([message], [message.plaintext]).seal(aead) == [message.sealed()]
    assert Batch([message], [message.sealed()]).open(aead) == [message.plaintext]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 130])
def test_forgery_is_refused_at_each_place_of_a_batch(aead: Any, count: int) -> None:
    """One bit of ciphertext or tag, another counter, another key: that message alone is refused."""
    messages = [Message(bytes([i]) * (i * 5 % 90), i, bytes([i, 1]) * 16) for i in range(count)]
    plaintexts: list[bytes | None] = [m.plaintext for m in messages]
    for place in range(count):
        sealed = [m.sealed() for m in messages]
        bit = place * 37 % (len(sealed[place]) * 8)
        body = bytearray(sealed[place])
        body[bit // 8] ^= 1 << bit % 8
        sealed[place] = bytes(body)
        expected = [*plaintexts[:place], None, *plaintexts[place + 1 :]]
        assert Batch(messages, sealed).open(aead) == expected

    for wrong in (Message(b"x" * 40, 8, b"k" * 32), Message(b"x" * 40, 7, b"K" * 32)):
        assert Batch([wrong], [Message(b"x" * 40, 7, b"k" * 32).sealed()]).open(aead) == [None]


@settings(deadline=None, max_examples=60)
@given(message=messages_of, bit=st.integers(0, 8 * 4112 - 1))
def test_any_bit_counts(aead: Any, message: Message, bit: int) -> None:
    body = bytearray(message.sealed())
    bit %= len(body) * 8
    body[bit // 8] ^= 1 << bit % 8
    good = Message(b"good", 1, bytes(32))
    assert Batch([message, good], [bytes(body), good.sealed()]).open(aead) == [None, b"good"]


@pytest.mark.parametrize("length", range(lib.AEAD_TAG_BYTES))
def test_too_short_for_a_tag_is_refused(aead: Any, length: int) -> None:
    message = Message(b"", 1, bytes(32))
    assert Batch([message, message], [b"\0" * length, message.sealed()]).open(aead) == [None, b""]


def test_rfc_8439_section_2_4_2(aead: Any) -> None:
    """The RFC's ChaCha20 example starts at block 1 and its nonce begins with four zero bytes, so
    without associated data its ciphertext is the AEAD's."""
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    ciphertext = bytes.fromhex(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )
    message = Message(text, 0x4A000000, bytes(range(32)))
    sealed = Batch([message], [text]).seal(aead)[0]
    assert sealed[:-16] == ciphertext
    assert Batch([message], [sealed]).open(aead) == [text]


def test_rfc_8439_appendix_a_1_second_vector(aead: Any) -> None:
    """Block 1 of the all-zero key and nonce is what 64 zero bytes are sealed to."""
    block = bytes.fromhex(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    sealed = Batch([Message(bytes(64), 0, bytes(32))], [bytes(64)]).seal(aead)[0]
    assert sealed[:64] == block


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
def test_the_fastest_provider_follows_from_the_cpu() -> None:
    """docs/adr/0005-boringssl-without-avx512.md"""
    wide = {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}
    best = "ipsec-mb" if wide <= set(Path("/proc/cpuinfo").read_text().split()) else "boringssl"
    assert lib.aead_best() == PROVIDERS[best].number


def test_choice_of_provider() -> None:
    assert {"evp", "ipsec-mb", "boringssl"} <= PROVIDERS.keys()
    for provider in PROVIDERS.values():
        made = lib.aead_new(provider.number)
        if made != ffi.NULL:
            assert lib.aead_which(made) == provider.number
            lib.aead_free(made)
    chosen, best = lib.aead_new(-1), lib.aead_new(lib.aead_best())
    assert best == ffi.NULL or lib.aead_which(chosen) == lib.aead_best()
    assert ffi.string(lib.aead_name(chosen)) in (b"OpenSSL EVP", b"libipsec-mb", b"BoringSSL")
    for made in (chosen, best):
        lib.aead_free(made)
    for number in (len(PROVIDERS), -2):
        assert lib.aead_new(number) == ffi.NULL
    lib.aead_free(ffi.NULL)
