"""Another receiver and consumer, and one fewer, with fake workers (fake_workers_program.py)."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm._shm import lib
from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers.failure import Exit, Failure
from workers.supervisor.scaling import Scaling, asked

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


class Counted(Scaling):
    """Without processes: a step changes a number."""

    def step(self, kind: str, by: int) -> Iterator[None]:
        setattr(self.resources, kind, getattr(self.resources, kind) + by)
        yield

    def _add_receiver(self) -> Iterator[None]:
        return self.step("receivers", 1)

    def _remove_receiver(self) -> Iterator[None]:
        return self.step("receivers", -1)

    def _add_consumer(self) -> Iterator[None]:
        return self.step("consumers", 1)

    def _remove_consumer(self) -> Iterator[None]:
        return self.step("consumers", -1)


def counted(counts: tuple[int, int], room: tuple[int, int]) -> Counted:
    resources: Any = SimpleNamespace(
        receivers=counts[0], consumers=counts[1], queues=[None] * room[0], given=None, one_queue="",
        interface="wg0", segment=SimpleNamespace(geometry=SimpleNamespace(max_consumers=room[1])),
    )  # fmt: skip
    return Counted(resources, cast(Any, None))


def done(change: Any) -> dict[str, Any]:
    while True:
        try:
            next(change)
        except StopIteration as end:
            answer: dict[str, Any] = end.value
            return answer


def named(counts: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("receivers", "consumers"), counts, strict=True))


least = st.integers(1, 4)
pairs = st.tuples(least, least)


@given(pairs, pairs, st.integers(1, 5))
def test_steps_go_as_far_as_there_is_room(counts: tuple[int, int], more: tuple[int, int], times: int) -> None:
    room = (counts[0] + more[0] - 1, counts[1] + more[1] - 1)
    up = tuple(min(count + times, most) for count, most in zip(counts, room, strict=True))
    down = tuple(max(count - times, 1) for count in counts)
    for goal, change in ((up, Counted.scale_up), (down, Counted.scale_down)):
        scaling = counted(counts, room)
        if goal == counts:
            with pytest.raises(Failure) as refused:
                done(change(scaling, str(times)))
            assert refused.value.code == (Exit.SETTINGS if goal is up else Exit.USAGE)
            if goal is up:
                assert "raise max_receivers and max_consumers in" in refused.value.next_step
        else:
            answer = done(change(scaling, str(times)))
            assert answer == {"before": named(counts), "after": named((goal[0], goal[1]))}
        assert (scaling.resources.receivers, scaling.resources.consumers) == goal


@given(pairs, pairs, st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_numbers_are_reached_or_refused_before_any_step(counts: tuple[int, int], more: tuple[int, int],
                                                        goal: tuple[int, int]) -> None:
    room = (counts[0] + more[0] - 1, counts[1] + more[1] - 1)
    scaling, words = counted(counts, room), [str(each) for each in goal]
    full = [name for name, wanted, most in zip(("max_receivers", "max_consumers"), goal, room, strict=True)
            if wanted > most]  # fmt: skip
    if min(goal) < 1 or full:
        with pytest.raises(Failure) as refused:
            done(scaling.scale(*words))
        assert refused.value.code == (Exit.USAGE if min(goal) < 1 else Exit.SETTINGS)
        assert min(goal) < 1 or f"raise {' and '.join(full)} in" in refused.value.next_step
        goal = counts
    else:
        assert done(scaling.scale(*words))["after"] == named(goal)
    assert (scaling.resources.receivers, scaling.resources.consumers) == goal


@pytest.mark.parametrize(("given", "one_queue", "next_step"), [
    ([3], "the sockets are given", "let plaitd open its own sockets, or ask for more consumers alone"),
    (None, "wg0 was made without multi_queue", "let plaitd make the interface, or make it with multi_queue"),
])  # fmt: skip
def test_why_one_receiver_alone_has_room_is_said_of_receivers_alone(given: Any, one_queue: str,
                                                                    next_step: str) -> None:
    scaling = counted((1, 1), (1, 1))
    scaling.resources.given, scaling.resources.one_queue = given, one_queue
    for numbers, wanted in ((("2", "1"), next_step), (("2", "2"), next_step),
                            (("1", "2"), "raise max_consumers in ")):  # fmt: skip
        with pytest.raises(Failure) as refused:
            done(scaling.scale(*numbers))
        assert refused.value.next_step.startswith(wanted)
        assert (one_queue in refused.value.why) == (wanted == next_step)


@pytest.mark.parametrize("consumers", [1, 2, 3])
def test_a_consumer_comes_or_goes_when_control_has_shared_the_peers_out_among_so_many(consumers: int) -> None:
    """What control said before of the same number is forgotten: there were others since."""
    told: list[str] = []
    roster: Any = SimpleNamespace(find=lambda kind: kind, share=told.append)
    resources: Any = SimpleNamespace(consumers=consumers, segment=None)
    scaling = Scaling(resources, roster)
    scaling.shared_out = consumers
    steps = scaling._share_out()
    assert next(steps, "over") is None and told == ["control"]
    for said in (consumers - 1, consumers + 1):
        scaling.shared_out = said
        assert next(steps, "over") is None
    scaling.shared_out = consumers
    assert next(steps, "over") == "over" and told == ["control"]
