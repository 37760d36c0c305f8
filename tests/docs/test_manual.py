"""Help, manual pages and completions know the same; share/ is what scripts/manual.py writes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import msgspec
import pytest
from click.shell_completion import ShellComplete

from plait import completion, plaitd_help
from plait.command import plait
from tests.support import own_path
from workers.settings import Settings

ROOT = Path(__file__).parents[2]
SHARE = ROOT / "share"
NAMES = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")


def commands(
    command: click.Command, name: str, parent: click.Context | None = None
) -> dict[str, click.Context]:
    """Every command that `--help` shows, by its words: `plait bench aead`."""
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    found = {context.command_path: context}
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            found |= commands(below, each, context)
    return found


COMMANDS = commands(plait, "plait")
HELPS = """
import json
from tests.docs.test_manual import COMMANDS
print(json.dumps({words: context.get_help() for words, context in COMMANDS.items()}))
"""


@cache
def helps() -> dict[str, str]:
    """What `--help` shows, by the command's words; of a process of its own, since click keeps the help option
    of a command's first use, which in this one may have been another test's."""
    command = [sys.executable, "-c", HELPS]
    told = subprocess.run(command, env=own_path.environment(), check=True, capture_output=True)
    found: dict[str, str] = json.loads(told.stdout)
    return found


def section(page: str, title: str) -> str:
    """What stands below a heading of a manual page, as roff."""
    found = re.search(rf"^\.SH {title}\n(.*?)(?=^\.SH |\Z)", page, re.M | re.S)
    return found[1].replace("\\-", "-") if found else ""


def terms(text: str) -> list[str]:
    """The terms that a section explains."""
    return re.findall(r"^\.(?:TP|PP)\n\\fB(.*)\\fR(?:\(\d\))?$", text, re.M)


def options(text: str) -> set[str]:
    return {name for term in terms(text) for name in NAMES.findall(term)}


def offered(words: str, incomplete: str) -> set[str]:
    """What a shell offers behind these words."""
    shell = ShellComplete(plait, {}, "plait", "_PLAIT_COMPLETE")
    return {item.value for item in shell.get_completions(words.split()[1:], incomplete)}


def test_there_is_a_page_for_each_command_and_no_other() -> None:
    pages = {path.name for path in (SHARE / "man/man1").iterdir()}
    assert len(COMMANDS) > 30 and pages == {f"{words.replace(' ', '-')}.1" for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS)
def test_help_page_and_completion_agree(words: str) -> None:
    page = (SHARE / f"man/man1/{words.replace(' ', '-')}.1").read_text()
    shown = helps()[words]
    # The first column of the list of options, in which an option's text never begins.
    listed = re.split(r"^Options:\n", shown, flags=re.M)[1].split("\n\n")[0]
    rows = [line.strip() for line in listed.splitlines() if line.startswith("  -")]
    first = [re.split(r" {2,}", row)[0] for row in rows]
    named = {name for each in first for name in NAMES.findall(each)}
    assert named == options(section(page, "OPTIONS"))
    long = {name for name in named if name.startswith("--")}
    assert {name for name in offered(words, "--") if name.startswith("--")} == long
    if isinstance(COMMANDS[words].command, click.Group):
        below = {other.split()[-1] for other in COMMANDS if other.rpartition(" ")[0] == words}
        assert offered(words, "") == below
        prefix = words.replace(" ", "-")
        assert set(terms(section(page, "COMMANDS"))) == {f"{prefix}-{name}" for name in below}
        listed = shown.split("Commands:\n")[1].split("\n\n")[0]
        assert set(re.findall(r"^  (\S+)", listed, re.M)) == below


def test_plaitd_agrees_in_help_page_and_three_shells() -> None:
    shown = plaitd_help.parser().format_help().split("options:\n")[1].split("\n\n")[0]
    named = {name for line in shown.splitlines() if line.startswith("  -")
             for name in NAMES.findall(re.split(r" {2,}", line.strip())[0])}  # fmt: skip
    page = (SHARE / "man/man8/plaitd.8").read_text()
    assert named == {"-h", "--help", "-f", "--foreground", "--version"} == options(section(page, "OPTIONS"))
    bash = (SHARE / "bash-completion/completions/plaitd").read_text()
    zsh = (SHARE / "zsh/site-functions/_plaitd").read_text()
    fish = (SHARE / "fish/vendor_completions.d/plaitd.fish").read_text()
    assert set(re.search(r'-W "([^$]*) \$names"', bash)[1].split()) == named  # type: ignore[index]
    assert set(NAMES.findall(zsh.split("_arguments")[1])) == named
    assert {f"-{each}" for each in re.findall(r"-s (\w)", fish)} | {
        f"--{each}" for each in re.findall(r"-l ([\w-]+)", fish)
    } == named


def test_exit_codes_of_the_page_are_plaitds() -> None:
    from workers.failure import Exit

    page = (SHARE / "man/man8/plaitd.8").read_text()
    codes = terms(section(page, "EXIT STATUS"))
    assert codes == [*(str(code.value) for code in Exit), "128 + N"]


def test_the_page_of_settings_has_every_setting() -> None:
    page = (SHARE / "man/man5/plait.toml.5").read_text()
    fields = sorted(field.name for field in msgspec.structs.fields(Settings))
    assert sorted(terms(section(page, "SETTINGS"))) == fields


def test_share_is_what_the_script_writes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("manual", ROOT / "scripts/manual.py")
    assert spec and spec.loader
    manual = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manual)
    manual.main([str(tmp_path)])

    def tree(place: Path) -> dict[str, str]:
        found = [path for path in place.rglob("*") if path.is_file()]
        files = {str(path.relative_to(place)): path.read_text() for path in found}
        # What click makes is click's: another version may write it in another way.
        for name in ("bash-completion/completions/plait", "zsh/site-functions/_plait",
                     "fish/vendor_completions.d/plait.fish"):  # fmt: skip
            assert "_PLAIT_COMPLETE" in files.pop(name)
        return files

    assert tree(SHARE) == tree(tmp_path), "run: scripts/pages"


@pytest.mark.parametrize("page", sorted(SHARE.glob("man/*/*")), ids=lambda page: page.name)
def test_a_page_is_well_formed(page: Path) -> None:
    """groff, which man(1) shows pages with, warns of nothing and leaves no escape of ours behind."""
    command = ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\" not in done.stdout and "`" not in done.stdout
    assert "NAME\n" in done.stdout and "SEE ALSO\n" in done.stdout


def test_bash_asks_plait(tmp_path: Path) -> None:
    """A real bash with the installed script, at `plait ev` and at `plait events --js`."""
    script = f"""
source {SHARE}/bash-completion/completions/plait
for words in "plait ev" "plait events --js"; do
    COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
    _plait_completion {Path(sys.executable).parent}/plait
    echo "${{COMPREPLY[*]}}"
done
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("events\n--json\n", "")


def test_names_of_interfaces_are_offered(tmp_path: Path) -> None:
    for name in ("wg0.sock", "wg1.sock", "vpn.sock", "wg2.conf", "wg3.other"):
        (tmp_path / name).touch()
    context = COMMANDS["plait show"]
    parameter = context.command.params[0]

    def values(found: list[click.shell_completion.CompletionItem]) -> list[tuple[str, str]]:
        return [(item.type, item.value) for item in found]

    directory = os.fspath(tmp_path)
    running = completion.engines(context, parameter, "wg", directory)
    assert values(running) == [("plain", "wg0"), ("plain", "wg1")]
    assert values(completion.files(context, parameter, "", directory)) == [("plain", "wg2")]
    assert values(completion.files(context, parameter, "./x", directory)) == [("file", "./x")]
    assert completion.engines(context, parameter, "", f"{directory}/missing") == []


def test_every_interface_and_file_is_completed() -> None:
    wanted = {"interface": completion.engines, "config": completion.files}
    seen = 0
    for context in COMMANDS.values():
        for parameter in context.command.params:
            if isinstance(parameter, click.Argument) and parameter.name in wanted:
                seen += 1
                assert parameter._custom_shell_complete is wanted[parameter.name], context.command_path
    assert seen > 10
