"""The words of hand-offs: those of earlier versions are taken everywhere, and told in one line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from plait import bench, command
from plait.bench.floods import floods_command
from shm.layout import layout_hash
from tests.support import asked
from workers import settings, trial
from workers.failure import Exit, Failure
from workers.supervisor import handover

EARLIER = {
    "lend": ("inline", '"lend" is called "inline" now: write that'),
    "split": ("pipeline", '"split" is called "pipeline" now: write that'),
    "auto": ("inline", '"auto" is gone, "inline" takes its place: write that'),
}
SETTINGS = settings.Settings(receivers=1, consumers=1, cores=(0,))
COMMANDS = {
    "soak": command.soak,
    "bench tunnel": bench.tunnel_command,
    "bench floods": floods_command,
}


@pytest.mark.parametrize("word", [*EARLIER, "inline", "pipeline"])
def test_settings_file(word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    today, note = EARLIER.get(word, (word, ""))
    path = tmp_path / "wg0.toml"
    path.write_text(f'pin = true\nhandoff = "{word}"\n')
    with caplog.at_level(logging.INFO, "plait"):
        assert settings.load("wg0", {"PLAIT_CONFIG": str(path)}).handoff == today
    assert caplog.messages == ([f"{path}, line 2: handoff = {note}"] if note else [])


def described(**given: Any) -> dict[str, Any]:
    """What an engine of an earlier version describes."""
    told = {**msgspec.to_builtins(SETTINGS), **given}
    fd = os.memfd_create("description")
    os.write(fd, json.dumps({"format": 3, "layout_hash": layout_hash(), "settings": told}).encode())
    return handover.read(fd)


@pytest.mark.parametrize("word", EARLIER)
def test_upgrade_of_an_engine_that_runs_with_it(word: str) -> None:
    given = described(handoff=word, pin=True)
    assert settings.described(given["settings"]) == msgspec.structs.replace(
        SETTINGS, handoff=EARLIER[word][0], pin=True
    )


@pytest.mark.parametrize("given", [{"handoff": "weave"}, {"handoff": 1}, {"aead": "rot13"}, {"spin": True}])
def test_settings_of_another_version_are_refused_by_the_trial(given: dict[str, Any]) -> None:
    """After it nothing could be refused any more: the engine would end."""
    with pytest.raises(Failure) as caught:
        trial.look(described(**given))
    assert caught.value.code == Exit.SETTINGS
    assert caught.value.what == "cannot take over the engine's settings"


@pytest.mark.parametrize("word", EARLIER)
@pytest.mark.parametrize("name", COMMANDS)
def test_option(name: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    today, note = EARLIER[word]
    given = COMMANDS[name].make_context(name, ["--handoff", word]).params
    assert {given.get("handoff"), *given.get("handoffs", ())} - {None} == {today}
    assert capsys.readouterr() == ("", f"plait: --handoff {note}\n")
    assert COMMANDS[name].make_context(name, []) and capsys.readouterr() == ("", "")


def test_an_option_names_the_words_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.UsageError, match="'weave' is not one of 'inline', 'pipeline'"):
        command.soak.make_context("soak", ["--handoff", "weave"])


@pytest.mark.parametrize("word", EARLIER)
def test_engines_of_tests(word: str) -> None:
    today, note = EARLIER[word]
    found = subprocess.run(
        [sys.executable, "-c", f"import {asked.__name__} as asked; print(asked.HANDOFF)"],
        env={**os.environ, "PLAIT_TEST_HANDOFF": word, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == (f"{today}\n", f"PLAIT_TEST_HANDOFF: {note}\n")
