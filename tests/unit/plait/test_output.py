"""Output that cannot be written, closed streams, and tables on narrow consoles, without an engine."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from plait.watch.engine import table

FULL = (
    "plait: the output could not be written: No space left on device. "
    "Free some space there, or send the output to another place.\n"
)
CLOSED = (
    "plait: the output could not be written: standard output is not open for writing. "
    "Leave `>&-` out; `>/dev/null` drops the output.\n"
)
KEY = "QAYK6gNnGl1vRZRgzKkFTxI2Z+5qHTV9aB2rjQ5F2Fo="


def plait(arguments: str, redirection: str, text: str = "") -> subprocess.CompletedProcess[str]:
    script = f'"$0" -m plait {arguments} {redirection}; echo "exit ${{PIPESTATUS[0]}}" >&2'
    return subprocess.run(
        ["bash", "-c", script, sys.executable], input=text, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [
    "genkey", "pubkey", "--help", "show --help", "--version", "doctor --json", "load config --peers 3000",
])  # fmt: skip
def test_output_that_cannot_be_written_is_a_sentence(arguments: str) -> None:
    full, closed = (plait(arguments, where, KEY) for where in (">/dev/full", ">&-"))
    assert (full.stdout, full.stderr) == ("", FULL + "exit 1\n")
    assert (closed.stdout, closed.stderr) == ("", CLOSED + "exit 1\n")


def test_a_reader_who_has_seen_enough_ends_the_command_quietly() -> None:
    done = plait("load config --peers 3000", "| head -n 1")
    assert (done.stdout, done.stderr) == ("[Interface]\n", "exit 1\n")


def test_streams_that_are_closed_at_the_start() -> None:
    without_input = plait("pubkey", "<&-")
    assert without_input.stdout == "" and "the private key is refused: " in without_input.stderr
    without_messages = plait("genkey", "2>&-")
    assert len(without_messages.stdout) == 45
    failing = plait("show no-such-interface", "2>&-")
    assert (failing.stdout, failing.stderr) == ("", "exit 1\n"), "the sentence does not go to stdout"
    without_any = plait("genkey", "<&- >&- 2>&-")
    assert (without_any.stdout, without_any.stderr) == ("", "exit 1\n")


def test_characters_that_the_locale_lacks_do_not_end_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "plait", "doctor"], capture_output=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert b"Traceback" not in done.stderr


# --- tables on narrow consoles --------------------------------------------------------------------

WORDS = st.text("abc012.", min_size=1, max_size=9)


def printed(made: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(made)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=9), st.lists(WORDS, min_size=1, max_size=2),
       st.integers(40, 120), st.data())  # fmt: skip
def test_no_table_is_wider_than_its_console_or_loses_a_cell(
    right: list[str], left: list[str], width: int, data: st.DataObject
) -> None:
    title = "a title of more than forty letters, which goes on in another line"
    made = table(title, tuple(left), tuple(right))
    rows = [[data.draw(WORDS) for _ in (*left, *right)] for _ in range(3)]
    for row in rows:
        made.add_row(*row)
    made.caption = "tokens: 1 idle"
    lines = printed(made, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    assert text.count("tokens: 1 idle") == 1 and " ".join(text.split()).count(title) == 1
    cells = text.split()
    for row in rows:
        assert all(cell in cells for cell in row)
        first = [line.split() for line in lines if line.split()[: len(left)] == row[: len(left)]]
        assert {cell for line in first for cell in line} >= set(row), "each part repeats the row's name"


def test_a_table_that_fits_is_printed_whole() -> None:
    made = table("T", ("name",), ("one", "two"))
    made.add_row("a", "1", "2")
    assert [line.split() for line in printed(made, 80) if line.split()][1:] == [
        ["name", "one", "two"], ["─" * 16], ["a", "1", "2"],
    ]  # fmt: skip


def test_one_column_too_wide_is_folded() -> None:
    made = table("T", ("name",), ("figure",))
    made.add_row("x" * 70, "1")
    lines = printed(made, 40)
    assert max(map(len, lines)) <= 40 and "".join(lines).count("x") == 70
