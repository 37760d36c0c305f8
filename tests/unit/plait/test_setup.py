"""scripts/setup on systems that are too old: refused before anything is installed.

The real script runs with a PATH of a few programs. Those that tell of the system are stand-ins; apt-get
keeps what it was told and never installs.
"""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from plait import doctor

ROOT = Path(__file__).resolve().parents[3]
SETUP = ROOT / "scripts" / "setup"
PROGRAMS = ("bash", "cat", "dirname", "readlink", "sed", "sort", "head")
BULLSEYE = {"python3": "3.9.2-3", "libssl-dev": "1.1.1w-0+deb11u1", "gcc": "4:10.2.1-1"}
BOOKWORM = {"python3": "3.11.2-1+b1", "libssl-dev": "3.0.17-1~deb12u2", "gcc": "4:12.2.0-3"}


class System:
    """A machine with nothing of what Plait needs: versions are those that its apt would install."""

    def __init__(self, place: Path, versions: Mapping[str, str], kernel: str = "6.1.0-25-amd64") -> None:
        self.place = place
        self.told = place / "apt-get.told"
        self.told.touch()
        for program in PROGRAMS:
            (place / program).symlink_to(shutil.which(program) or program)
        cases = "".join(f"{name}) echo '  Candidate: {version}' ;; " for name, version in versions.items())
        self.add("apt-cache", f'case "$2" in {cases}*) echo "  Candidate: (none)" ;; esac')
        self.add("apt-get", f'echo "$*" >>{self.told}; case "$*" in *install*) exit 100 ;; esac')
        self.add("uname", f'case "$1" in -r) echo {kernel} ;; *) echo x86_64 ;; esac')
        self.add("id", "echo 0")

    def add(self, name: str, script: str) -> None:
        (self.place / name).write_text(f"#!{self.place}/bash\n{script}\n")
        (self.place / name).chmod(0o755)

    def setup(self) -> tuple[str, list[str]]:
        """Its stderr, and the packages that apt-get was told to install."""
        done = subprocess.run(
            [self.place / "bash", SETUP],
            env={"PATH": str(self.place)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done
        assert done.stdout == ""
        installs = [line for line in self.told.read_text().splitlines() if "install" in line]
        return done.stderr, installs[0].partition("--no-install-recommends ")[2].split() if installs else []


def least_python() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["requires-python"]).removeprefix(">=")


@pytest.mark.parametrize("old", [*([name] for name in BULLSEYE), list(BULLSEYE)], ids="-".join)
def test_what_apt_would_install_is_too_old(tmp_path: Path, old: list[str]) -> None:
    said, installed = System(tmp_path, BOOKWORM | {name: BULLSEYE[name] for name in old}).setup()
    assert installed == []
    for name, words in {
        "python3": f"Python is 3.9.2-3 and must be {least_python()} or later",
        "libssl-dev": "OpenSSL is 1.1.1w-0+deb11u1 and must be 3.0 or later",
        "gcc": "gcc is 10.2.1-1 and must be 11 or later",
    }.items():
        assert (words in said) == (name in old), said
    assert said.endswith(
        "Nothing was installed. "
        "Use Debian 12 or later, or put later programs first on PATH.\n"
    )


def test_a_python_that_is_here_counts_and_not_the_one_of_apt(tmp_path: Path) -> None:
    system = System(tmp_path, BOOKWORM)
    system.add("python3", 'case "$2" in *python_version*) echo 3.10.12 ;; esac')
    said, installed = system.setup()
    assert installed == []
    assert f"Python is 3.10.12 and must be {least_python()} or later. Nothing" in said


def test_the_kernel_is_too_old(tmp_path: Path) -> None:
    said, installed = System(tmp_path, BOOKWORM, kernel="5.4.0-200-generic").setup()
    assert installed == []
    least = ".".join(map(str, doctor.KERNEL_LEAST))
    assert f"Linux is 5.4.0-200-generic and must be {least} or later" in said


@pytest.mark.parametrize("optional", [{}, {"libipsec-mb-dev": "1.3-2"}], ids=["none", "libipsec-mb-dev"])
def test_what_is_recent_enough_is_installed(tmp_path: Path, optional: dict[str, str]) -> None:
    """Of the optional packages only what apt has."""
    said, installed = System(tmp_path, BOOKWORM | optional).setup()
    assert {"python3", "gcc", "libssl-dev", "wireguard-tools", *optional} <= set(installed)
    assert ("libipsec-mb-dev" in installed) == bool(optional)
    assert "apt-get failed, as said above" in said
