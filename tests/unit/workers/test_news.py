"""News of the supervisor: nothing is told twice, and nothing is lost with a control."""

from __future__ import annotations

import json
from typing import Any

from workers.channel import MESSAGE_BYTES
from workers.supervisor.news import KEPT, News


class Control:
    """What is sent to it, in order."""

    def __init__(self) -> None:
        self.news = News(lambda message: self.messages.append(message))
        self.messages: list[dict[str, Any]] = []

    def numbers(self) -> list[list[int]]:
        return [[news["n"] for news in message["news"]] for message in self.messages]


def test_one_message_at_a_time_and_the_next_when_it_is_confirmed() -> None:
    control = Control()
    control.news.emit("worker_died", n=1, empty="", none=None)
    assert control.messages == [], "no control works yet"
    control.news.control_is_ready()
    (message,) = control.messages
    assert message["kind"] == "news" and message["upto"] == 1
    assert set(message["news"][0]) == {"event", "at", "n"}
    control.news.emit("worker_died", n=2)
    control.news.emit("worker_died", n=3)
    assert control.numbers() == [[1]]
    control.news.heard(1)
    assert control.numbers() == [[1], [2, 3]]
    control.news.heard(3)
    control.news.emit("worker_died", n=4)
    assert control.numbers() == [[1], [2, 3], [4]]


def test_the_next_control_is_told_what_the_one_before_did_not_confirm() -> None:
    control = Control()
    control.news.control_is_ready()
    for n in (1, 2, 3):
        control.news.emit("worker_died", n=n)
    control.news.heard(1)
    control.news.control_is_ready()
    assert control.numbers() == [[1], [2, 3], [2]], "one by one: it may have died of one of them"
    control.news.heard(2)
    assert control.numbers() == [[1], [2, 3], [2], [3]]
    control.news.heard(3)
    control.news.control_is_ready()
    assert control.numbers() == [[1], [2, 3], [2], [3]]


def test_what_nobody_hears_is_bounded_and_fits_a_message() -> None:
    control = Control()
    for n in range(10 * KEPT):
        control.news.emit("worker_died", n=n, reason="\u2026" * 10_000, repaired="\u2026" * 10_000)
    control.news.control_is_ready()
    told = []
    while len(control.messages) > len(told):
        told.append(control.messages[-1])
        control.news.heard(told[-1]["upto"])
    assert [n for numbers in control.numbers() for n in numbers] == list(range(9 * KEPT, 10 * KEPT))
    assert max(len(json.dumps(message)) for message in told) < MESSAGE_BYTES
