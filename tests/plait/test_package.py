"""The package as pip installs it, not editable: it is complete without the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

IMPORTS = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
import engine._engine, shm._shm, workers._workers, workers.control, plait.command, plait.daemon, plait.show
for module in (engine, shm, workers, plait):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
assert workers._workers.lib.aead_new(-1)
"""


def test_an_ordinary_install_has_every_part(tmp_path: Path) -> None:
    if subprocess.run([sys.executable, "-c", "import mesonpy, pip"], capture_output=True).returncode:
        pytest.skip("pip or meson-python is not in this environment: scripts/setup --dev installs them")
    target = tmp_path / "site"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(ROOT)],
        env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    environment["PYTHONPATH"] = str(target)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(target)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    installed = {path.name for path in target.rglob("*") if path.is_file()}
    assert {"plait", "plaitd"} <= installed
