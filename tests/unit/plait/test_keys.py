"""Keys: the oracle is wg(8)."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import keys
from plait.failure import Failure

PLAIT = (sys.executable, "-m", "plait")
needs_wg = pytest.mark.skipif(
    subprocess.run("command -v wg", shell=True, capture_output=True).returncode != 0,
    reason="no wg on PATH: apt-get install wireguard-tools",
)


def wg_pubkey(text: bytes) -> tuple[int, str]:
    done = subprocess.run(["wg", "pubkey"], input=text, capture_output=True, check=False)
    return done.returncode, done.stdout.decode().strip()


def ours(text: bytes) -> tuple[int, str]:
    try:
        return 0, keys.public_key(text)
    except Failure:
        return 1, ""


@needs_wg
@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_public_keys_are_those_of_wg(private: bytes) -> None:
    text = base64.b64encode(private)
    assert ours(text) == wg_pubkey(text)


@needs_wg
@pytest.mark.parametrize("change", [
    b"", b"foo", b"A" * 43, b"A" * 44, b"A" * 43 + b"=", b" " + b"A" * 43 + b"=", b"A" * 43 + b"=\n",
    b"A" * 43 + b"= \t\r\n\n", b"A" * 43 + b"=\nx", b"A" * 43 + b"==", b"A" * 42 + b"B=", b"A" * 42 + b"==",
    b"A" * 42 + b"_=", b"A" * 20 + b"\n" + b"A" * 23 + b"=", b"\xff" * 44, b"A" * 42 + b"E=",
])  # fmt: skip
def test_what_wg_refuses_is_refused(change: bytes) -> None:
    assert ours(change) == wg_pubkey(change)


def test_private_keys_are_clamped_and_new_each_time() -> None:
    made = [keys.decode(keys.private_key()) for _ in range(100)]
    assert len(set(made)) == 100
    assert all(key[0] & 7 == 0 and key[31] & 0xC0 == 0x40 for key in made)


def test_preshared_keys_use_every_bit() -> None:
    made = [keys.decode(keys.preshared_key()) for _ in range(200)]
    assert len(set(made)) == 200
    ones = bytes.fromhex(f"{int.from_bytes(made[0]):064x}")
    for key in made:
        ones = bytes(a | b for a, b in zip(ones, key, strict=True))
    assert ones == b"\xff" * 32


@needs_wg
@pytest.mark.parametrize("verb", ["genkey", "genpsk"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o606])
def test_a_file_that_all_may_read_is_warned_about_as_wg_does(tmp_path: Path, verb: str, mode: int) -> None:
    said = []
    for program in (["wg"], PLAIT):
        path = tmp_path / "key"
        path.touch()
        path.chmod(mode)
        with path.open("w") as out:
            done = subprocess.run([*program, verb], stdout=out, stderr=subprocess.PIPE, check=True)
        said.append(done.stderr)
        assert len(keys.decode(path.read_text().strip())) == 32
    assert said[0] == said[1]
    assert bool(said[0]) == bool(mode & 0o007)


def test_the_command_line_answers_a_bad_key_with_one_sentence() -> None:
    done = subprocess.run([*PLAIT, "pubkey"], input=b"secret, no key", capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"plait: the private key is refused: ")
    assert b"secret" not in done.stderr


def test_an_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PLAIT, "genkey"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
