"""Another receiver and consumer, and one fewer, with actors for workers (fake_workers_program.py)."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest

from tests.support.waiting import until
from tests.unit.workers.fake_workers import Stage
from workers.supervisor.numbers import asked

pytestmark = pytest.mark.network

FLOOD = """
import socket, sys
for _ in range(64):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", int(sys.argv[1])))
"""


def change(stage: Stage, number: int, words: str) -> None:
    """Send the signal and wait until these words are said once more."""
    before = stage.words().count(words)
    stage.signal(number)
    until(lambda: stage.words().count(words) > before, words)


def workers(stage: Stage) -> dict[str, int]:
    return {title: pid for title, pid in stage.pids().items() if title != "supervisor"}


def held(stage: Stage, title: str) -> set[str]:
    """Queues and sockets of a worker when it heard something last."""
    return {name for name in stage.heard(title)[-1]["held"] if name.startswith(("tun", "udp"))}


def lane(*numbers: int) -> set[str]:
    return {f"{what}:{number}" for number in numbers for what in ("tun", "udp4", "udp6")}


def expect(stage: Stage, wanted: dict[str, set[str]]) -> None:
    """Each of these workers has said that it holds this: they write it down after the supervisor knows."""
    for title, lanes in wanted.items():
        until(lambda title=title, lanes=lanes: held(stage, title) == lanes, f"{title} holds {lanes}")


def sockets(stage: Stage) -> int:
    return len(stage.host.run(["ss", "-Hlun"]).stdout.splitlines())


def test_one_more_and_one_fewer(stage: Stage) -> None:
    stage.play(2)
    first = workers(stage)
    change(stage, signal.SIGTTIN, "3 receivers and 3 consumers run")
    more = workers(stage)
    assert set(more) - set(first) == {"receiver 2", "consumer 2"} and more.items() > first.items()
    for kind in ("receiver", "consumer"):
        expect(stage, {f"{kind} {number}": lane(number) for number in (0, 2)})
    assert [message["kind"] for message in stage.heard("receiver 2")] == ["start", "sockets"]
    assert lane(2).isdisjoint(stage.heard("receiver 2")[0]["held"])  # before it is ready nothing waits for it
    until(lambda: held(stage, "control") >= {"udp4:2", "udp6:2"}, "control has its sockets")
    assert sockets(stage) == 6
    port = stage.change_port(0)["port"]
    new = {"udp4:2": port, "udp6:2": port}
    assert stage.next_heard("receiver 2", "sockets", 2)["ports"].items() >= new.items()

    change(stage, signal.SIGTTIN, "there is no room for more: the memory was laid out for 3 receivers and 3")
    assert workers(stage) == more

    change(stage, signal.SIGTTOU, "2 receivers and 2 consumers run")
    assert workers(stage) == first and sockets(stage) == 4
    assert stage.heard("receiver 2")[-1]["kind"] == stage.heard("consumer 2")[-1]["kind"] == "stop"
    # What stands in its queue is not lost.
    expect(stage, {"receiver 0": {*lane(0), "tun:2"}, "receiver 1": lane(1), "consumer 1": lane(1)})

    change(stage, signal.SIGTTIN, "3 receivers and 3 consumers run")
    expect(stage, {"receiver 0": lane(0), "receiver 2": lane(2)})
    news = [news for message in stage.heard("control") for news in message.get("news", [])]
    assert {news["event"] for news in news} == {"numbers_changed"}
    assert [(news["receivers"], news["consumers"]) for news in news][:2] == [(3, 3), (2, 2)]
    for words in ("receiver 2 was", "consumer 2 was", "Traceback"):
        assert words not in stage.words()
    assert [line for line in stage.words().splitlines() if " error " in line and "no room" not in line] == []


def test_a_peer_that_is_queued_again_and_again_holds_nobody_up(stage: Stage) -> None:
    """A broken worker writes that a peer belongs to the consumer that leaves."""
    stage.play(2)
    stage.cue("receiver 0", claim=1)
    until(lambda: stage.heard("receiver 0")[-1]["kind"] == "claimed", "a claim")
    change(stage, signal.SIGTTOU, "1 receivers and 1 consumers run")


def test_there_is_always_one(stage: Stage) -> None:
    stage.play(1)
    first = workers(stage)
    change(stage, signal.SIGTTOU, "there are no fewer than one receiver and one consumer")
    assert workers(stage) == first


def test_one_more_that_cannot_start_is_given_up(stage: Stage) -> None:
    stage.play(1)
    first = workers(stage)
    (stage.directory / "receiver 1.start").write_text("fail")
    (stage.directory / "consumer 1.start").write_text("exit")
    change(stage, signal.SIGTTIN, "consumer 1 does not start: it ended with code")
    assert stage.words().count("receiver 1 does not start: it ended with code") == 1
    assert workers(stage) == first and sockets(stage) == 2
    for title in ("receiver 1", "consumer 1"):
        (stage.directory / f"{title}.start").unlink()
    change(stage, signal.SIGTTIN, "2 receivers and 2 consumers run")


@pytest.mark.parametrize("now, text, wanted", [(2, "+1", 3), (2, "-1", 1), (2, "4", 4), (3, "3", 3)])
def test_what_is_asked_for_is_more_fewer_or_so_many(now: int, text: str, wanted: int) -> None:
    assert asked(now, text) == wanted


def begin_to_leave(stage: Stage, drain: float) -> None:
    """Two receivers with datagrams in their sockets, of which one leaves; no look of the watchdog helps."""
    stage.play(2, drain=drain, look=600.0)
    stage.host.run([sys.executable, "-c", FLOOD, str(stage.port())])
    stage.signal(signal.SIGTTOU)


def test_killed_while_it_leaves(stage: Stage) -> None:
    """It comes back with its own sockets, to read what they hold."""
    begin_to_leave(stage, 600)
    until(lambda: held(stage, "control") == lane(0), "others let go")
    before = len(stage.heard("receiver 1"))
    os.kill(stage.pids()["receiver 1"], signal.SIGKILL)
    stage.next_heard("receiver 1", "start", before)
    expect(stage, {"receiver 1": lane(1)})
    stage.cue("receiver 1", drink=True)
    until(lambda: "1 receivers and 1 consumers run" in stage.words(), "the end")
    assert "packets are lost" not in stage.words()
    assert workers(stage).keys() == {"control", "receiver 0", "consumer 0"}


def test_what_nobody_reads_of_one_that_leaves_is_counted(stage: Stage) -> None:
    begin_to_leave(stage, 0)
    until(lambda: "1 receivers and 1 consumers run" in stage.words(), "the end")
    [lost] = re.findall(r"(\d+) packets are lost with the sockets of receiver 1", stage.words())
    assert stage.counts("UDP_RECEIVED", "DROP_KILLED") == [int(lost)] * 2 and int(lost) > 0
