"""The C programs of this directory: under sanitizers, in threads, and stepped instruction by instruction.

Each is compiled once for each state of the sources and kept in pytest's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine._engine import ffi, lib
from engine.aead import PROVIDERS
from tests.support.sources import sources

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CHECK = ROOT / "tests/support/check.h"
SOURCES = sources("engine/**/*.c", at_least=18)
FLAGS = ["-std=gnu11", "-g", "-O1", "-fno-strict-aliasing", "-D_GNU_SOURCE", f"-I{ROOT}"]
SANITIZERS = {
    "plain": ["-O2"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    # gcc says that it does not model fences; what they order here is atomic all the same
    "thread": ["-fsanitize=thread", "-Wno-tsan"],
}
# Calls between object files that a program looks at in passing.
WRAPPED = {"engine_secrets": ["-Wl,--wrap=EVP_PKEY_derive,--wrap=blake2s_hkdf", "-Wl,-z,now"]}
NOT_ALLOWED = 77


def built(directory: Path, name: str, sanitizer: str) -> Path:
    """The program's path; compiled unless the same sources were compiled before."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install one to run the C programs")
    flags, libraries = FLAGS + SANITIZERS[sanitizer], ["-lpthread", *WRAPPED.get(name, [])]
    if lib.aead_new(PROVIDERS["ipsec-mb"].number) != ffi.NULL:
        flags = [*flags, "-DHAVE_IPSEC_MB"]
    read = [*SOURCES, *sources("engine/**/*.h", at_least=18), CHECK, HERE / f"{name}.c"]
    digest = hashlib.sha256(
        " ".join(flags).encode() + b"".join(path.read_bytes() for path in read)
    ).hexdigest()
    program = directory / f"{name}-{sanitizer}-{digest[:16]}"
    if not program.exists():
        for old in directory.glob(f"{name}-{sanitizer}-*"):
            old.unlink()
        partial = program.with_suffix(f".{os.getpid()}")
        compiled = [str(path) for path in (*SOURCES, HERE / f"{name}.c")]
        subprocess.run([compiler, *flags, *compiled, "-o", str(partial), *libraries], check=True, timeout=120)
        partial.rename(program)
    return program


@pytest.mark.parametrize(
    ("name", "sanitizer", "rounds"),
    [
        ("engine_inputs", "address", 3000),
        ("engine_trains", "address", 20_000),
        ("engine_threads", "thread", 1000),
        ("engine_threads", "plain", 20_000),
        ("engine_kills", "plain", 0),
        ("engine_secrets", "plain", 0),
    ],
)
def test_program(name: str, sanitizer: str, rounds: int, request: pytest.FixtureRequest) -> None:
    assert request.config.cache is not None
    program = built(request.config.cache.mkdir("engine"), name, sanitizer)
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(
        [program, str(rounds)], env=environment, timeout=120, capture_output=True, text=True, check=False
    )
    if done.returncode == NOT_ALLOWED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
