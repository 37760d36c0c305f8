"""Commands that are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from plait.bench import bench
from plait.command import plait

SHOW = """
import sys
from plait.command import plait
try:
    plait(["show", "interfaces"], standalone_mode=False)
finally:
    print(sorted(name for name in sys.modules if name.startswith(("plait.bench", "plait.load"))))
"""


def names(group: click.Group) -> list[str]:
    return group.list_commands(click.Context(group))


@pytest.mark.parametrize(("group", "name"), [(each, name) for each in (plait, bench) for name in names(each)])
def test_each_command_can_be_had_by_its_name(group: click.Group, name: str) -> None:
    for _ in range(2):
        command = group.get_command(click.Context(group), name)
        assert command is not None and command.get_short_help_str()
    assert names(group) == sorted(set(names(group))) and name in names(group)


def test_show_imports_no_bench() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr  # whether there are interfaces or not
