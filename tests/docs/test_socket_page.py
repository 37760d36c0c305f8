"""docs/socket.md has each operation and key that the parser knows, and its examples are read as it says."""

from __future__ import annotations

import errno
import re

import pytest

from engine import uapi
from tests.docs import tables

TEXT = (tables.DOCS / "socket.md").read_text()
ROWS = tables.rows("socket.md")
FIRST = [name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])]
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
REFUSED = [row for row in ROWS if re.match(r"E\w+ \(\d+\)", row[0])]


def read(text: str) -> uapi.Operation:
    (operation,) = uapi.Reader().feed(text.encode())
    return operation


def column(head: str) -> set[str]:
    """The names in the first column of the table with this head."""
    start = next(i for i, row in enumerate(ROWS) if row[0] == head)
    found: set[str] = set()
    for row in ROWS[start + 1:]:
        names = re.findall(r"`([^`]+)`", row[0])
        if not names:
            break
        found |= set(names)
    return found


def test_every_operation_has_a_row() -> None:
    assert {line.partition("=")[0] for line in column("first line")} == {"set", *uapi.QUESTIONS}
    for line in column("first line"):
        text = line.replace("R,C", "4,-1").replace("N", "7")
        assert not isinstance(read(f"{text}\n\n"), uapi.Refused), line


def test_every_key_of_a_set_has_a_row() -> None:
    assert column("key of the interface") == set(uapi.DEVICE_KEYS)
    assert column("key of a peer") == {"public_key", *uapi.PEER_KEYS}


def test_every_key_of_an_answer_has_a_row() -> None:
    peer = uapi.PeerRecord(b"k" * 32, b"p" * 32, uapi.Endpoint(bytes(4), 1), 1, 1, 1, 1,
                           [1] * len(uapi.NUMBERS), [uapi.AllowedIP(bytes(4), 32, 32)], "quota", "name")
    text = uapi.format_peer(peer) + "errno=0\n"
    assert column("key of an answer") == {line.partition("=")[0] for line in text.splitlines()}


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_is_read(name: str, text: str) -> None:
    operation = read(text)
    assert type(operation).__name__.lower() == name.replace("_", "")
    if isinstance(operation, uapi.Set):
        assert [len(peer.allowed_ips) for peer in operation.peers] == [2, 0]


def test_errors_are_those_of_linux() -> None:
    named = re.findall(r"(E\w+) \((\d+)\)", TEXT)
    assert len(named) > 9 and all(getattr(errno, name) == int(number) for name, number in named)


@pytest.mark.parametrize("row", [row for row in REFUSED if len(row) > 2], ids=lambda row: row[2])
def test_an_example_of_an_error_is_refused_so(row: list[str]) -> None:
    line = row[2].strip("`")
    operation = read(f"{line}\n\n" if line.startswith("get") else f"set=1\n{line}\n\n")
    assert isinstance(operation, uapi.Refused)
    assert f"({operation.error.errno})" in row[0]


def test_numbers_are_those_of_the_code() -> None:
    for number in (uapi.LINE_BYTES, uapi.BUSIEST_PEERS, uapi.ALLOWED_IPS):
        assert f"{number:,}" in TEXT
    assert f"{uapi.OPERATION_BYTES >> 20} MiB of records" in TEXT
