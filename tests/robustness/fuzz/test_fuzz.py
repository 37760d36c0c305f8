"""Every fuzzing target replays what is kept of it, and looks for news where there is a fuzzer."""

from __future__ import annotations

import subprocess
import sys

from tests.robustness.fuzz.targets import HERE, NAMES, ROOT, clang

SECONDS = 4


def test_no_kept_input_breaks_a_target() -> None:
    assert {path.stem for path in (HERE / "corpus").glob("*.zip")} == set(NAMES)
    command = [sys.executable, "-m", "tests.robustness.fuzz", "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
    assert f"{len(NAMES)} targets, 0 broken" in done.stdout
    assert ("no clang" in done.stderr) == (clang() is None)
