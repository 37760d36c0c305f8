"""What a program says of itself: the commit is that of its sources, or it says that it does not know."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version as metadata_version
from pathlib import Path

import pytest

from shm.layout import layout_hash
from workers import version

WORDS = re.compile(r"(plaitd?) (\d+\.\d+\.\d+) \(memory layout ([0-9a-f]{16}), commit (.+)\)\n")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "source.py").write_text("one = 1\n")
    git(tmp_path, "add", "source.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


@needs_git
def test_commit_of_a_checkout(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(repository, "rev-parse", "--short=12", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/none")  # as in a hook: another repository is meant
    version.commit.cache_clear()
    assert version.commit(repository) == head
    monkeypatch.delenv("GIT_DIR")
    (repository / "source.py").write_text("one = 2\n")
    version.commit.cache_clear()
    assert version.commit(repository) == f"{head}-dirty"


@needs_git
def test_unknown_is_said_rather_than_a_lie(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # a repository that git does not trust for this user
        os.chown(repository, 65534, 65534)
        os.chown(repository / ".git", 65534, 65534)
        version.commit.cache_clear()
        assert version.commit(repository) == "unknown"
    else:
        monkeypatch.setenv("PATH", "/none")
        assert version.commit(repository) == "unknown"
    # Neither a repository nor an installation of this place: what was built elsewhere is not asked.
    (repository / "elsewhere/workers").mkdir(parents=True)
    assert version.commit(repository / "elsewhere") == "unknown"


def test_version_is_that_of_the_package() -> None:
    assert metadata_version("plait") == version.VERSION
    with (version.ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == version.VERSION
    assert f"version: '{version.VERSION}'" in (version.ROOT / "meson.build").read_text().splitlines()[0]


def test_both_programs_say_the_same() -> None:
    said = []
    for program in ("plait", "plaitd"):
        path = Path(sys.executable).parent / program
        found = WORDS.fullmatch(subprocess.run([path, "--version"], capture_output=True, text=True).stdout)
        assert found is not None and found[1] == program
        said.append(found.groups()[1:])
    assert said[0] == said[1]
    assert said[0][:2] == (version.VERSION, f"{layout_hash():016x}")
    if (version.ROOT / ".git").exists() and shutil.which("git"):
        assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", said[0][2])
