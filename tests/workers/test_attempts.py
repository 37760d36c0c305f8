"""What control died of three times is not tried again: the set, the peer, the step, the piece of news."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from control_harness import ControlProcess, Interface, Parts, uapi
from waiting import PATIENCE

from engine.uapi import parse_set
from workers.attempts import DEATHS, Attempts, GivenUp, Step
from workers.events import Event
from workers.news import News

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

PEERS = "".join(f"public_key={n:064x}\nallowed_ip=10.0.0.{n}/32\n" for n in (1, 2, 3))


@pytest.fixture
def interface() -> Iterator[Interface]:
    with Interface(f"pla{os.getpid()}") as made:
        yield made


def events_of(interface: Interface) -> list[dict[str, Any]]:
    lines = uapi(interface, "events=0\n\n").splitlines()
    return [json.loads(line.removeprefix("event=")) for line in lines if line.startswith("event=")]


def prepare_redo(parts: Parts, text: str, cut: int = 0) -> None:
    """As a control leaves it that is killed when a set is committed; without its last bytes."""
    operation = parse_set("set=1\n" + text)
    records = operation.records[: len(operation.records) - cut]
    for _ in parts.vault.prepare_redo(operation.head(), records):
        pass
    parts.vault.commit_redo(operation.peer_count)


def test_a_set_that_control_dies_of_is_dropped_after_three_deaths(interface: Interface) -> None:
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    prepare_redo(parts, f"public_key={4:064x}\nallowed_ip=10.0.0.4/32\nallowed_ip=10.0.0.5/32\n", cut=1)
    parts.close()  # the first death
    for _ in range(DEATHS - 1):
        control = ControlProcess(interface)
        assert control.process.wait(PATIENCE) == 1
        control.kill()
    with ControlProcess(interface):
        shown = uapi(interface, "get=1\n\n")
        assert shown.count("public_key=") == 3
        (told,) = [each for each in events_of(interface) if each["event"] == Event.SET_GIVEN_UP]
        assert told["tries"] == DEATHS and "of its 1 peers" in told["reason"]
        assert interface.counter("GIVEN_UP") == 1
        assert "errno=0" in uapi(interface, f"set=1\npublic_key={5:064x}\n\n")
    with ControlProcess(interface):
        assert not [each for each in events_of(interface) if each["event"] == Event.SET_GIVEN_UP]
        assert uapi(interface, "get=1\n\n").count("public_key=") == 4
        assert interface.counter("GIVEN_UP") == 1


def test_an_endpoint_whose_zone_is_gone_when_the_set_is_applied_is_left_out(interface: Interface) -> None:
    parts = Parts(interface)
    zone = f"gone{os.getpid() % 100_000}"
    prepare_redo(parts, f"public_key={4:064x}\nendpoint=[fe80::1%{zone}]:7\nallowed_ip=10.0.0.4/32\n" + PEERS)
    parts.close()
    parts = Parts(interface)
    shown = parts.get()
    assert shown.count("public_key=") == 4 and shown.count("allowed_ip=") == 4 and "endpoint" not in shown
    assert not parts.vault.has_redo
    parts.close()


def test_a_peer_that_control_dies_of_is_left_out_and_can_be_added_again(interface: Interface) -> None:
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    row = parts.peers.find((2).to_bytes(32))
    assert row is not None
    for _ in range(DEATHS - 1):  # as controls leave it that die at that row
        parts.vault.attempts.begin(Step.PEERS)
        parts.vault.attempts.at(row + 1)
        assert parts.vault.attempts.judge() is None
    parts.vault.attempts.begin(Step.PEERS)
    parts.vault.attempts.at(row + 1)
    parts.close()
    others = ["public_key=" + f"{n:064x}" for n in (1, 3)]
    with ControlProcess(interface):
        (told,) = [each for each in events_of(interface) if each["event"] == Event.PEER_LEFT_OUT]
        assert told["tries"] == DEATHS and told["peer"].startswith("AAAA") and told["reason"]
        assert interface.counter("GIVEN_UP") == 1
    with ControlProcess(interface):  # it stays out
        shown = uapi(interface, "get=1\n\n")
        assert [line for line in shown.splitlines() if line.startswith("public_key=")] == others
        assert "allowed_ip=10.0.0.2/32" not in shown
        again = f"set=1\npublic_key={2:064x}\nallowed_ip=10.0.0.2/32\n\n"
        assert "errno=0" in uapi(interface, again)
        assert "allowed_ip=10.0.0.2/32" in uapi(interface, "get=1\n\n")
    parts = Parts(interface)
    assert parts.peers.find((2).to_bytes(32)) not in (None, row)
    parts.close()


def test_rows_that_do_not_exist_are_not_recovered(interface: Interface) -> None:
    """Any worker may write that word; a control that believed it would die of it, as would each after it."""
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    parts.close()
    interface.segment.device.rows_used = 0xFFFFFFFF
    with ControlProcess(interface):
        assert uapi(interface, "get=1\n\n").count("public_key=") == 3


@pytest.mark.parametrize("step", [each for each in Step if each not in (Step.SET, Step.PEERS)])
def test_a_step_without_a_place_is_left_out_once(interface: Interface, step: Step) -> None:
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    for _ in range(DEATHS - 1):
        parts.vault.attempts.begin(step)
        assert parts.vault.attempts.judge() is None
    parts.vault.attempts.begin(step)
    parts.close()
    with ControlProcess(interface):
        assert [each["event"] for each in events_of(interface)].count(Event.STEP_GIVEN_UP) == 1
        assert uapi(interface, "get=1\n\n").count("public_key=") == 3


def test_deaths_at_different_places_or_with_work_between_are_not_counted_together() -> None:
    header = dict.fromkeys(
        ("attempt_step", "attempt_place", "suspect_step", "suspect_place", "suspect_deaths"), 0
    )
    attempts = Attempts(header)
    for place in range(4 * DEATHS):
        attempts.begin(Step.SET)
        attempts.at(place)
        assert attempts.judge() is None
    for _ in range(4 * DEATHS):
        attempts.begin(Step.SET)
        assert attempts.judge() is None
        with attempts.trying(Step.SET):
            pass
        assert attempts.judge() is None, "the one before finished it"
    given = []
    for _ in range(DEATHS):
        with pytest.raises(RuntimeError):
            for _ in attempts.each(Step.ORDERS, [3, 4]):
                raise RuntimeError
        given.append(attempts.judge())
    assert given == [None, None, GivenUp(Step.ORDERS, 4)]
    assert attempts.judge() is None


def test_the_piece_of_news_that_control_dies_of_is_given_up_alone() -> None:
    told: list[str] = []
    counted: list[int] = []

    def hear(message: dict[str, Any]) -> None:
        sent.append([each["event"] for each in message["news"]])
        upto.append(message["upto"])

    sent: list[list[str]] = []
    upto: list[int] = []
    news = News(hear, lambda: counted.append(1))
    for event in ("first", "bad", "last"):
        news.tell(event)
    news.control_is_ready()
    for _ in range(20):
        if not sent:
            break
        (events, number), sent[:], upto[:] = (sent[-1], upto[-1]), [], []
        if "bad" in events:
            news.control_is_ready()  # the next one: this one died
        else:
            told += events
            news.heard(number)
    assert told == ["first", "last", "step_given_up"] and counted == [1]
