"""Another receiver and consumer, and one fewer, with fake workers (fake_workers_program.py)."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest

from shm._shm import lib
from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers.supervisor.scaling import asked

pytestmark = pytest.mark.network

FLOOD = """
import socket, sys
for _ in range(64):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", int(sys.argv[1])))
"""


def change(fakes: FakeWorkers, number: int, words: str) -> None:
    """Send the signal and wait until these words are said once more."""
    before = fakes.words().count(words)
    fakes.signal(number)
    until(lambda: fakes.words().count(words) > before, words)


def workers(fakes: FakeWorkers) -> dict[str, int]:
    return {title: pid for title, pid in fakes.pids().items() if title != "supervisor"}


def held(fakes: FakeWorkers, title: str) -> set[str]:
    """Queues and sockets of a worker when it heard something last."""
    return {name for name in fakes.heard(title)[-1]["held"] if name.startswith(("tun", "udp"))}


def lane(*numbers: int) -> set[str]:
    return {f"{what}:{number}" for number in numbers for what in ("tun", "udp4", "udp6")}


def expect(fakes: FakeWorkers, wanted: dict[str, set[str]]) -> None:
    """Each of these workers has said that it holds this: they write it down after the supervisor knows."""
    for title, lanes in wanted.items():
        until(lambda title=title, lanes=lanes: held(fakes, title) == lanes, f"{title} holds {lanes}")


def sockets(fakes: FakeWorkers) -> int:
    return len(fakes.host.run(["ss", "-Hlun"]).stdout.splitlines())


def test_one_more_and_one_fewer(fakes: FakeWorkers) -> None:
    fakes.start(2)
    first = workers(fakes)
    change(fakes, signal.SIGTTIN, "3 receivers and 3 consumers run")
    more = workers(fakes)
    assert set(more) - set(first) == {"receiver 2", "consumer 2"} and more.items() > first.items()
    for kind in ("receiver", "consumer"):
        expect(fakes, {f"{kind} {number}": lane(number) for number in (0, 2)})
    assert [message["kind"] for message in fakes.heard("receiver 2")] == ["start", "sockets"]
    assert lane(2).isdisjoint(fakes.heard("receiver 2")[0]["held"])  # before it is ready nothing waits for it
    until(lambda: held(fakes, "control") >= {"udp4:2", "udp6:2"}, "control has its sockets")
    assert sockets(fakes) == 6
    port = fakes.change_port(0)["port"]
    new = {"udp4:2": port, "udp6:2": port}
    assert fakes.next_heard("receiver 2", "sockets", 2)["ports"].items() >= new.items()

    change(fakes, signal.SIGTTIN, "there is no room for more: the memory was laid out for 3 receivers and 3")
    assert workers(fakes) == more

    change(fakes, signal.SIGTTOU, "2 receivers and 2 consumers run")
    assert workers(fakes) == first and sockets(fakes) == 4
    assert fakes.heard("receiver 2")[-1]["kind"] == fakes.heard("consumer 2")[-1]["kind"] == "stop"
    # What stands in its queue is not lost.
    expect(fakes, {"receiver 0": {*lane(0), "tun:2"}, "receiver 1": lane(1), "consumer 1": lane(1)})

    change(fakes, signal.SIGTTIN, "3 receivers and 3 consumers run")
    expect(fakes, {"receiver 0": lane(0), "receiver 2": lane(2)})
    news = [news for message in fakes.heard("control") for news in message.get("news", [])]
    assert {news["event"] for news in news} == {"numbers_changed"}
    assert [(news["receivers"], news["consumers"]) for news in news][:2] == [(3, 3), (2, 2)]
    for words in ("receiver 2 was", "consumer 2 was", "Traceback"):
        assert words not in fakes.words()
    assert [line for line in fakes.words().splitlines() if " error " in line and "no room" not in line] == []


def test_a_peer_that_is_queued_again_and_again_holds_nobody_up(fakes: FakeWorkers) -> None:
    """A broken worker writes that a peer belongs to the consumer that leaves."""
    fakes.start(2)
    fakes.order("receiver 0", claim=1)
    until(lambda: fakes.heard("receiver 0")[-1]["kind"] == "claimed", "a claim")
    change(fakes, signal.SIGTTOU, "1 receivers and 1 consumers run")


def test_what_was_ready_at_a_consumer_that_left_is_passed_on(fakes: FakeWorkers) -> None:
    fakes.start(2)
    fakes.order("receiver 0", claim=1, owner=0)
    until(lambda: fakes.heard("receiver 0")[-1]["kind"] == "claimed", "a peer that is ready at consumer 1")
    change(fakes, signal.SIGTTOU, "1 receivers and 1 consumers run")
    with fakes.segment() as segment:
        assert lib.ready_is_set(segment, 1, 0) and not lib.ready_is_set(segment, 2, 0)


def test_there_is_always_one(fakes: FakeWorkers) -> None:
    fakes.start(1)
    first = workers(fakes)
    change(fakes, signal.SIGTTOU, "there are no fewer than one receiver and one consumer")
    assert workers(fakes) == first


def test_one_more_that_cannot_start_is_given_up(fakes: FakeWorkers) -> None:
    fakes.start(1)
    first = workers(fakes)
    (fakes.directory / "receiver 1.start").write_text("fail")
    (fakes.directory / "consumer 1.start").write_text("exit")
    change(fakes, signal.SIGTTIN, "consumer 1 does not start: it ended with code")
    assert fakes.words().count("receiver 1 does not start: it ended with code") == 1
    assert workers(fakes) == first and sockets(fakes) == 2
    for title in ("receiver 1", "consumer 1"):
        (fakes.directory / f"{title}.start").unlink()
    change(fakes, signal.SIGTTIN, "2 receivers and 2 consumers run")


@pytest.mark.parametrize("now, text, wanted", [(2, "+1", 3), (2, "-1", 1), (2, "4", 4), (3, "3", 3)])
def test_what_is_asked_for_is_more_fewer_or_so_many(now: int, text: str, wanted: int) -> None:
    assert asked(now, text) == wanted


def begin_to_leave(fakes: FakeWorkers, drain: float) -> None:
    """Two receivers with datagrams in their sockets, of which one leaves; no look of the watchdog helps."""
    fakes.start(2, drain=drain, look=600.0)
    fakes.host.run([sys.executable, "-c", FLOOD, str(fakes.port())])
    fakes.signal(signal.SIGTTOU)


def test_killed_while_it_leaves(fakes: FakeWorkers) -> None:
    """It comes back with its own sockets, to read what they hold."""
    begin_to_leave(fakes, 600)
    until(lambda: held(fakes, "control") == lane(0), "others let go")
    before = len(fakes.heard("receiver 1"))
    os.kill(fakes.pids()["receiver 1"], signal.SIGKILL)
    fakes.next_heard("receiver 1", "start", before)
    expect(fakes, {"receiver 1": lane(1)})
    fakes.order("receiver 1", drink=True)
    until(lambda: "1 receivers and 1 consumers run" in fakes.words(), "the end")
    assert "packets are lost" not in fakes.words()
    assert workers(fakes).keys() == {"control", "receiver 0", "consumer 0"}


def test_what_nobody_reads_of_one_that_leaves_is_counted(fakes: FakeWorkers) -> None:
    begin_to_leave(fakes, 0)
    until(lambda: "1 receivers and 1 consumers run" in fakes.words(), "the end")
    [lost] = re.findall(r"(\d+) packets are lost with the sockets of receiver 1", fakes.words())
    assert fakes.counts("UDP_RECEIVED", "DROP_KILLED") == [int(lost)] * 2 and int(lost) > 0
