"""Workflows of the common hosts: each step is a script that is there, and all hosts have the same ones."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = (".github/workflows/ci.yml", ".gitlab-ci.yml")
COMMAND = re.compile(r"^\s*- (?:run: )?((?:\.ci|scripts)/\S+(?: [^#\n]*)?)", re.M)
RELEASES = ["bookworm", "trixie", "forky"]


def commands(file: str) -> list[list[str]]:
    return [shlex.split(words) for words in COMMAND.findall((ROOT / file).read_text())]


@pytest.mark.parametrize("file", FILES)
def test_what_a_step_runs_is_there_and_knows_its_options(file: str) -> None:
    steps = commands(file)
    assert len(steps) >= 5
    for script, *arguments in steps:
        assert os.access(ROOT / script, os.X_OK), script
        head = (ROOT / script).read_text().split("\nset -")[0]
        for option in (word for word in arguments if word.startswith("-")):
            assert f"#   {script} {option} " in head, f"{script} says nothing of {option}"


def test_every_host_runs_the_same() -> None:
    first, *others = (sorted(commands(file)) for file in FILES)
    assert all(other == first for other in others)
    assert {step[0] for step in first} == {
        ".ci/run", "scripts/aarch64", "scripts/fresh", "scripts/release", "scripts/setup", "scripts/site"
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_every_release_of_debian_is_tested_and_packaged(file: str) -> None:
    text = (ROOT / file).read_text()
    assert f"elease: [{', '.join(RELEASES)}]" in text.replace("RELEASE", "elease")
    assert ["scripts/fresh", "--packages", *RELEASES] in commands(file)
