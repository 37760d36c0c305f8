"""A host without OpenSSL 3 gets a sentence, and every module finds libcrypto by itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
#include <openssl/rand.h>
int main(void)
{
    unsigned char bytes[4];
    return RAND_bytes(bytes, 4) == 1 ? 0 : 2;
}
"""


MISSING = """\
plait: cannot encrypt: this host has no {}, the library of OpenSSL 3, or one that lacks a function; \
install OpenSSL 3 (Debian: apt-get install libssl3).
"""


@pytest.mark.parametrize(("library", "code", "words"), [
    ("libcrypto.so.3", 0, ""),
    ("libcrypto.so.none", 1, MISSING.format("libcrypto.so.none")),
    ("libc.so.6", 1, MISSING.format("libc.so.6")),  # one that is there, and is not OpenSSL's
])  # fmt: skip
def test_the_library_is_opened_or_named(library: str, code: int, words: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install one to run the C programs")
    (tmp_path / "program.c").write_text(PROGRAM)
    command = [compiler, "-D_GNU_SOURCE", f'-DLIBCRYPTO="{library}"', str(tmp_path / "program.c"),
               str(ROOT / "engine/libcrypto.c"), "-o", str(tmp_path / "program")]  # fmt: skip
    subprocess.run(command, check=True, timeout=60)
    done = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, words)
