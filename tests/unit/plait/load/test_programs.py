"""The generator's C under sanitizers, against a gateway that answers with anything.

Compiled once for each state of the sources and kept in pytest's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.sources import sources

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
SOURCES = [
    *sources("plait/load/**/*.c", at_least=8),
    *sources("engine/**/*.c", at_least=18),
    ROOT / "workers/clock.c",
    HERE / "load_hostile.c",
]
FLAGS = [
    "-std=gnu11",
    "-g",
    "-O1",
    "-fno-strict-aliasing",
    "-D_GNU_SOURCE",
    f"-I{ROOT}",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
MILLISECONDS = 300  # of each of its phases


@pytest.mark.parametrize("version", ["4", "6"])
def test_hostile_gateway(request: pytest.FixtureRequest, version: str) -> None:
    """Inside the tunnel IPv4, or IPv6."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install one to run the C programs")
    assert request.config.cache is not None
    headers = sources("engine/**/*.h", "workers/**/*.h", "plait/load/**/*.h", at_least=28)
    read = b"".join(path.read_bytes() for path in sorted([*SOURCES, *headers]))
    program = request.config.cache.mkdir("load") / f"load_hostile-{hashlib.sha256(read).hexdigest()[:16]}"
    if not program.exists():
        command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(program), "-lpthread", "-lm"]
        subprocess.run(command, check=True, timeout=240)
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1"}
    words = [str(MILLISECONDS), *(["6"] if version == "6" else [])]
    done = subprocess.run(
        [program, *words], env=environment, timeout=240, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("handshakes") == 4
