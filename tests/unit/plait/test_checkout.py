"""What a checkout loads is what its sources say, and no start of a program compiles anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from plait.checkout import MODULE, PACKAGES, ROOT, why_stale
from tests.support.sources import sources

LATER_NS = 10**9


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with Plait's command line, and one source and one header a package, compiled afterwards."""
    shutil.copytree(f"{ROOT}/plait", tmp_path / "plait", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for package in PACKAGES:
        (tmp_path / package).mkdir(parents=True, exist_ok=True)
        (tmp_path / package / "source.c").touch()
        (tmp_path / package / "header.h").touch()
    (tmp_path / "build").mkdir()
    (tmp_path / "build/module.so").touch()
    (tmp_path / MODULE).symlink_to(tmp_path / "build/module.so")
    (tmp_path / "build/compiled").touch()
    return tmp_path


def change(path: Path) -> None:
    """A second after whatever happened before."""
    later = path.stat().st_mtime_ns + LATER_NS
    os.utime(path, ns=(later, later))


def test_what_is_compiled_is_loaded(checkout: Path) -> None:
    change(checkout / "build/compiled")
    change(checkout / "plait/command.py")
    assert why_stale(str(checkout)) == ""


def test_every_folder_with_c_is_looked_at() -> None:
    patterns = [f"{package}/**/*.[ch]" for package in ("engine", "shm", "workers", "plait")]
    found = sources(*patterns, at_least=100)
    assert {str(path.parent.relative_to(ROOT)) for path in found} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["source.c", "header.h"])
def test_a_changed_source_is_not_compiled_yet(checkout: Path, package: str, name: str) -> None:
    change(checkout / package / name)
    assert why_stale(str(checkout)) == f"{package}/{name} has changed since it was compiled"


def test_an_installed_package_has_nothing_to_compare(checkout: Path) -> None:
    (checkout / MODULE).unlink()
    (checkout / "build/compiled").unlink()
    assert why_stale(str(checkout)) == ""


def test_who_may_not_look_is_not_told_of_it(checkout: Path) -> None:
    code = """
import os, sys
from plait import checkout
if os.getuid() == 0:
    os.setuid(65534)
print([checkout.why_stale(sys.argv[1])])
"""
    (checkout / "build/compiled").unlink()
    checkout.chmod(0)
    done = subprocess.run([sys.executable, "-c", code, str(checkout)], capture_output=True, text=True)
    checkout.chmod(0o700)
    assert (done.returncode, done.stdout) == (0, "['']\n"), done.stderr


@pytest.mark.parametrize(("program", "module"), [("plait", "command"), ("plaitd", "plaitd")])
def test_no_program_runs_before_it_is_compiled(checkout: Path, program: str, module: str) -> None:
    (checkout / "build/compiled").unlink()
    code = f"import sys; from plait.{module} import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "show"], cwd=checkout, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{program}: the program is not complete: the C sources are not compiled")
    assert "run scripts/setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_start_of_python_imports_a_hook() -> None:
    """meson-python's would ask ninja at each start, and two starts at once damage the log of the build."""
    place = Path(sysconfig.get_path("purelib")) / "plait-editable.pth"
    if not place.exists():
        pytest.skip("this Plait is installed, not a checkout")
    assert place.read_text() == f"{ROOT}\n"
