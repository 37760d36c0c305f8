"""Who asks for a change of a running engine, and what each is told, over real connections."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.waiting import PATIENCE
from workers.failure import Exit, Failure
from workers.supervisor.changes import MOST, Change, Changes


class Asker:
    """A client, and the end of its connection that a Changes copies."""

    def __init__(self, changes: Changes, kind: str, *arguments: str) -> None:
        self.client, ours = socket.socketpair()
        self.client.settimeout(PATIENCE)
        with ours:
            changes.want(kind, *arguments, asker=ours.fileno())

    def told(self) -> tuple[dict[str, Any], int]:
        """What it is told in the end, and errno; the connection is closed then."""
        with self.client, self.client.makefile("r") as lines:
            asked, change, errno, *rest = lines.read().splitlines()
        assert (asked, change[:7], errno[:6], rest) == ("asked=1", "change=", "errno=", [""])
        return json.loads(change[7:]), int(errno[6:])


class Deeds:
    """Changes that wait for `go`, and note that they were done."""

    def __init__(self) -> None:
        self.go = False
        self.done: list[str] = []

    def deed(self, *arguments: str) -> Change:
        while not self.go:
            yield
        self.done.append(",".join(arguments))
        if arguments == ("no",):
            raise Failure("not done", "it was asked for in vain", "ask for another", Exit.WORKER)
        if arguments == ("fault",):
            raise KeyError("fault")
        return {"arguments": list(arguments)}


@pytest.fixture
def deeds() -> Deeds:
    return Deeds()


@pytest.fixture
def changes(deeds: Deeds) -> Iterator[Changes]:
    kinds = ("scale", "upgrade", "trial", "renew")
    steps = {kind: lambda *times, kind=kind: deeds.deed(kind, *times) for kind in ("more", "fewer")}
    made = Changes(dict.fromkeys(kinds, deeds.deed) | steps)
    yield made
    made.close()


def test_each_is_told_of_its_own_change(changes: Changes, deeds: Deeds) -> None:
    askers = [Asker(changes, "scale", word) for word in ("one", "no", "fault", "four")]
    changes.go_on()
    assert changes.is_under_way and deeds.done == []
    askers.pop().client.close()  # who gives up changes nothing
    deeds.go = True
    changes.go_on()
    assert deeds.done == ["one", "no", "fault", "four"] and not changes.is_under_way
    told = [asker.told() for asker in askers]
    assert told[0] == ({"refused": None, "arguments": ["one"]}, 0)
    why = {"what": "not done", "why": "it was asked for in vain", "next": "ask for another"}
    assert told[1] == ({"refused": why}, 125)
    assert told[2][0]["refused"]["why"] == "KeyError: 'fault'" and told[2][1] == 125


def test_upgrades_that_wait_are_one(changes: Changes, deeds: Deeds) -> None:
    first = Asker(changes, "scale", "one")
    changes.go_on()
    askers = [Asker(changes, "upgrade") for _ in range(3)]
    changes.want("upgrade")  # a signal
    others = [Asker(changes, "scale", "two") for _ in range(2)]
    deeds.go = True
    changes.go_on()
    assert deeds.done == ["one", "", "two"]
    assert all(asker.told()[1] == 0 for asker in (first, *askers, *others))


def test_a_hundred_of_one_kind_are_one_under_way_and_one_that_waits(changes: Changes, deeds: Deeds) -> None:
    for ask, arguments in (("upgrade", ()), ("trial", ()), ("scale", ("4", "=2"))):
        deeds.go, deeds.done = False, []
        for number in range(100):
            changes.want(ask, *arguments)
            if not number:
                changes.go_on()
        assert len(changes.waiting) == 1
        deeds.go = True
        changes.go_on()
        assert deeds.done == [",".join(arguments)] * 2


def test_steps_that_wait_are_their_sum(changes: Changes, deeds: Deeds) -> None:
    def do(*kinds: str) -> list[str]:
        deeds.go, deeds.done = False, []
        changes.want("scale", "9", "9")
        changes.go_on()
        for kind in kinds:
            changes.want(kind, *{"scale": ("4", "4"), "+": ("+1", "+0")}.get(kind, ()))
        deeds.go = True
        changes.go_on()
        return deeds.done[1:]

    changes.begin["+"] = changes.begin["scale"]
    assert do("more") == ["more"]
    assert do(*["more"] * 100) == ["more,100"]
    assert do("more", "fewer", "fewer", "fewer") == ["fewer,2"]
    assert do("more", "fewer") == []
    assert do("more", "upgrade", "more") == ["more,2", ""]
    assert do("more", "scale", "more") == ["more", "4,4", "more"], "what is behind another is not before it"
    assert do("+", "+") == ["+1,+0", "+1,+0"], "clients wait for each of theirs"


def test_who_cannot_be_kept_is_told(changes: Changes) -> None:
    """There is no descriptor for one more connection."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client, ours = socket.socketpair()
    client.settimeout(PATIENCE)
    with client, ours:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            changes.want("scale", "1", "1", asker=ours.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        ours.shutdown(socket.SHUT_WR)
        told = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    assert told.startswith("asked=1\nchange=") and told.endswith("\nerrno=125\n\n")
    assert "too many open files" in told and not changes.waiting


def test_the_next_program_answers_whoever_asked_before_it(changes: Changes, deeds: Deeds) -> None:
    askers = [Asker(changes, "upgrade")]
    changes.go_on()  # it is under way
    askers += [Asker(changes, "upgrade"), Asker(changes, "scale", "two")]
    left = json.loads(json.dumps(changes.describe()))
    assert [one["kind"] for one in left] == ["renew", "scale"]
    assert changes.fds() == [*left[0]["askers"], *left[1]["askers"]] and len(left[0]["askers"]) == 2
    later = Changes(changes.begin)
    later.resume(left)
    changes.now = None  # that program is no more
    changes.waiting.clear()
    deeds.go = True
    later.go_on()
    assert deeds.done == ["", "two"]
    assert [asker.told() for asker in askers] == [
        ({"refused": None, "arguments": []}, 0),
        ({"refused": None, "arguments": []}, 0),
        ({"refused": None, "arguments": ["two"]}, 0),
    ]


def test_there_is_a_limit_and_an_end(changes: Changes) -> None:
    askers = [Asker(changes, "scale", f"+{number}") for number in range(MOST)]
    assert len(changes.waiting) == MOST // 2
    for asker in askers[MOST // 2 :]:
        assert asker.told()[0]["refused"]["why"] == f"{MOST} others wait for a change already"
    changes.go_on()
    changes.close()
    for asker in askers[: MOST // 2]:
        assert asker.told() == (
            {"refused": {"what": "the engine was not changed", "why": "it ends", "next": "start it again"}},
            125,
        )
