"""Providers at the configuration socket of one control process: as many as there may be, and bad ones."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_harness import ControlProcess, Interface
from tests.support.waiting import PATIENCE
from workers.control.lookups import PROVIDERS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sockets in /var/run/wireguard")
KEY = "07" * 32


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with Interface(f"plp{os.getpid()}") as interface, ControlProcess(interface):
        yield Path(f"/var/run/wireguard/{interface.name}.sock")


class Client:
    """A connection, by lines."""

    def __init__(self, path: Path, said: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")
        self.say(said)

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode("latin-1"))

    def hear(self) -> str:
        """The next line; empty at the end."""
        return self.lines.readline()

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def provider(path: Path, told: str = "serving=0\n", more: str = "") -> Client:
    """A client that is taken as a provider, or told otherwise."""
    client = Client(path, f"unknown_peers=1\nwindow=4\n\n{more}")
    assert client.hear() == told
    return client


def pair(path: Path) -> tuple[Client, Client]:
    """The one that serves, and one that stands by."""
    return provider(path, "serving=1\n"), provider(path)


def assert_sets_work(path: Path) -> None:
    client = Client(path, f"set=1\npublic_key={KEY}\non_demand=1\n\nget=1\npublic_key={KEY}\n\n")
    assert (client.hear(), client.hear(), client.hear()) == ("errno=0\n", "\n", f"public_key={KEY}\n")
    client.close()


def test_one_serves_the_others_stand_by_and_one_too_many_is_refused(path: Path) -> None:
    clients = [provider(path, "serving=1\n"), *(provider(path) for _ in range(PROVIDERS - 1))]
    refused = provider(path, "errno=16\n", "get=1\n\n")  # as a question is: it may ask something else
    assert refused.hear() == "\n" and refused.hear().startswith("listen_port=")
    assert_sets_work(path)
    clients.pop(3).close()
    clients[0].close()
    assert clients[1].hear() == "serving=1\n"
    for client in [*clients, refused, provider(path)]:
        client.close()


@pytest.mark.parametrize("said", [
    "hello\n", "done=\n", "\xff\xfe\n", "refuse=1\nttl=no\n", "set=1\n\n", "x" * 300,
])  # fmt: skip
def test_nonsense_is_told_once_and_ends_one_connection(path: Path, said: str) -> None:
    bad, good = pair(path)
    bad.say(said)
    error = json.loads(bad.hear().removeprefix("error="))
    assert error["what"] and error["why"] and error["next"]
    assert [bad.hear() for _ in range(3)] == ["errno=71\n", "\n", ""]
    assert good.hear() == "serving=1\n"
    assert_sets_work(path)
    bad.close()
    good.close()


@pytest.mark.parametrize("said", ["", "do", "refuse=1\nttl=", "refuse=1\n"])
def test_one_that_goes_in_the_middle_of_a_line_is_followed_by_the_next(path: Path, said: str) -> None:
    bad, good = pair(path)
    bad.say(said)
    bad.close()
    assert good.hear() == "serving=1\n"
    assert_sets_work(path)
    good.close()


def test_an_answer_that_nobody_asked_for_is_told_and_costs_no_connection(path: Path) -> None:
    client = provider(path, "serving=1\n", "done=1\ndone=1\nrefuse=7\nttl=1\n\n")
    for number in (1, 1, 7):
        assert f"no question {number} is open" in json.loads(client.hear().removeprefix("error="))["why"]
    assert_sets_work(path)
    client.close()
