"""The supervisor with fake workers (fake_workers_program.py): starts, deaths, messages and ends.

host (own network, processes, /run, /dev/shm)
  fake_workers_program.py --+-- fake control
    TUN tN, UDP, UAPI      +-- fake receiver 0, receiver 1
                           +-- fake consumer 0, consumer 1
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from plait.bench.implementation import cpu_seconds
from plait.lab.namespaces import Host, descriptors, read_proc, state
from plait.watch.processes import children
from shm._shm import lib as shm
from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers._workers import lib
from workers.supervisor.process import Supervisor

pytestmark = pytest.mark.network

LOOK = 0.1
ROOM = 64  # for peers
BUSY_CONTROL = 1.2
TITLES = ("control", "receiver 0", "receiver 1", "consumer 0", "consumer 1")


@pytest.fixture(scope="module")
def running(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeWorkers]:
    """One that runs through all tests that do not end it. Deaths do not add up to pauses."""
    made = FakeWorkers(host, tmp_path_factory.mktemp("running"), "t1")
    made.start(2, steady=0, closed=0.1, look=LOOK, busy=0.3, busy_control=BUSY_CONTROL)
    yield made
    assert made.process is not None
    assert made.process.stop() == 0
    made.process.close()
    assert made.leftovers() == []


def test_nobody_but_the_workers_is_left_beside_the_supervisor(running: FakeWorkers) -> None:
    """The guard of the socket file has gone: control removes the file from now on."""
    assert running.process is not None
    supervisor = running.process.pid
    until(lambda: sorted(children(supervisor)) == sorted(running.pids().values()), "the workers alone")


def opened(pid: int) -> int:
    """How many descriptors a process has, but for those of later versions of libffi, which ctypes needs."""
    return sum("/libffi." not in name for name in descriptors(pid).values())


def test_every_worker_gets_its_fds_and_its_place(running: FakeWorkers) -> None:
    bells = [f"bell:{worker}" for worker in (1, 2, 3, 4)]  # there is room for three receivers
    packets = [[f"tun:{number}", f"udp4:{number}", f"udp6:{number}"] for number in (0, 1)]
    expected = {
        "control": (1, 0, ["data", "directory", "uapi", "vault", *bells, *packets[0], "udp4:1", "udp6:1"]),
        "receiver 0": (2, 0, [*bells, *packets[0]]),
        "receiver 1": (3, 1, [*bells, *packets[1]]),
        "consumer 0": (lib.WORKER_CONSUMER, 0, [*bells, *packets[0]]),
        "consumer 1": (lib.WORKER_CONSUMER + 1, 1, [*bells, *packets[1]]),
    }
    pids = until(lambda: len(running.pids()) >= len(expected) and running.pids(), "everybody")
    assert set(pids) == set(expected)
    cores = sorted(os.sched_getaffinity(0))
    for title, (worker, number, fds) in expected.items():
        message = running.heard(title)[0]
        assert (message["kind"], message["incarnation"]) == ("start", 1)
        assert (message["worker"], message["number"]) == (worker, number)
        assert (message["receivers"], message["consumers"]) == (2, 2)
        assert message["held"] == sorted(fds)
        assert len(set(message["ports"].values())) == 1
        of_control = {"broken", "idle_after", "socket", "given", "program"}
        assert of_control & set(message) == (of_control if title == "control" else set())
        assert os.sched_getaffinity(pids[title]) == set(cores)
        # Nothing else was inherited: three, the channel, its orders, in control the mapping's copy.
        copies = 1 if title == "control" else 0
        count = 3 + 1 + len(fds) + 1 + copies
        until(lambda pid=pids[title], count=count: opened(pid) == count, f"{count} descriptors")
        assert os.getpgid(pids[title]) == pids[title]  # Ctrl-C does not reach it


@pytest.mark.parametrize("title", TITLES)
def test_killed_worker_comes_back(running: FakeWorkers, title: str) -> None:
    before, first = running.pids(), running.heard(title)[-1]
    second = running.expect_replacement(title, lambda: os.kill(before[title], signal.SIGKILL))
    assert second == {**first, "incarnation": first["incarnation"] + 1}  # same fds, same place
    after = running.pids()
    assert {other for other in TITLES if after.get(other) != before[other]} == {title}
    running.expect_words(f"{title} was killed by SIGKILL")
    running.expect_words(f"{title} repaired")


@pytest.mark.parametrize("title", ["receiver 1", "control"])
def test_control_is_told_of_deaths(running: FakeWorkers, title: str) -> None:
    """Of its own, too: its successor is."""
    before, begin = len(running.news(title)), time.monotonic()
    again = running.expect_replacement(title, lambda: running.kill(title))
    until(lambda: len(running.news(title)) >= before + 2, "news")
    died, replaced = running.news(title)[before:]
    assert (died["event"], died["cause"]) == ("worker_died", "killed")
    assert (died["reason"], died["repaired"]) == ("it was killed by SIGKILL", "it left nothing undone")
    assert (replaced["event"], replaced["incarnation"]) == ("worker_replaced", again["incarnation"])
    assert 0 < replaced["away"] < time.monotonic() - begin
    assert died["at"] <= replaced["at"]


@pytest.mark.parametrize(("order", "cause", "reason"), [
    (None, "killed", "it was killed by SIGKILL"),
    ({"exit": 0}, "ended", "it ended with code 0"),
    ({"exit": 9}, "ended", "it ended with code 9"),
    ({"close": True}, "stuck", "it closed its channel, so that it was killed"),
    ({"raw": "[]"}, "stuck", "it sent what the supervisor does not understand, so that it was killed"),
])  # fmt: skip
def test_each_death_has_its_cause(running: FakeWorkers, order: dict[str, Any] | None, cause: str,
                                  reason: str) -> None:
    causes = ("killed", "ended", "stuck")
    counters = [f"DEATHS_{each.upper()}" for each in causes]
    title, before = "consumer 1", running.counts(*counters)
    news = len(running.news(title))
    running.expect_replacement(title, lambda: running.order(title, **order) if order else running.kill(title))

    def deaths() -> list[dict[str, Any]]:
        return [each for each in running.news(title)[news:] if each["event"] == "worker_died"]

    [died] = until(deaths, "news")
    assert (died["cause"], died["reason"]) == (cause, reason)
    gained = [after - was for after, was in zip(running.counts(*counters), before, strict=True)]
    assert gained == [each == cause for each in causes]


def test_each_worker_that_runs_says_so_in_its_line(running: FakeWorkers) -> None:
    lines = {"control": lib.WORKER_CONTROL, "receiver 0": lib.WORKER_RECEIVER,
             "receiver 1": lib.WORKER_RECEIVER + 1, "consumer 0": lib.WORKER_CONSUMER,
             "consumer 1": lib.WORKER_CONSUMER + 1}  # fmt: skip
    with running.segment() as segment:
        for title, number in lines.items():
            line = segment.workers[number]
            until(lambda line=line: line.state == lib.WORKER_RUNNING, f"{title} runs")
            assert line.incarnation == running.heard(title)[-1].get("incarnation", line.incarnation)
            assert line.cpu == 0xFFFFFFFF, "it may run anywhere"
        supervisor = segment.workers[lib.WORKER_SUPERVISOR]
        assert (supervisor.state, supervisor.incarnation) == (lib.WORKER_RUNNING, 1)


def test_nobody_is_awake_where_nobody_is(running: FakeWorkers) -> None:
    """A broken worker wrote so; grace periods would never end."""
    with running.segment() as segment:
        nobody = segment.workers[lib.WORKER_RECEIVER + 2]  # there is room for three, two are there
        epoch = nobody.epoch = (nobody.epoch + 1) | 1
        until(lambda: nobody.epoch != epoch, "asleep")
        assert nobody.epoch % 2 == 0


def test_deaths_of_several_at_once_are_told_once_each(running: FakeWorkers) -> None:
    """Control is among them: it sleeps until it is found stuck, and does not hear of the others."""
    titles = ("control", "receiver 0", "consumer 0", "consumer 1")
    before = {title: len(running.news(title)) for title in titles}
    pids = running.pids()
    running.order("control", sleep=True)
    until(lambda: running.heard("control")[-1]["kind"] == "asleep", "a control that does not hear")
    for title in titles[1:]:
        os.kill(pids[title], signal.SIGKILL)
    for title in titles:
        until(lambda title=title: len(running.news(title)) >= before[title] + 2, f"news of {title}")
        assert [news["event"] for news in running.news(title)[before[title] :]] == [
            "worker_died",
            "worker_replaced",
        ]


def test_forbidden_system_call_is_named(running: FakeWorkers) -> None:
    """The filter of system calls ends a worker by this signal (workers/system_calls.c)."""
    pid = running.pids()["control"]
    running.expect_replacement("control", lambda: os.kill(pid, signal.SIGSYS))
    running.expect_words("control was killed by SIGSYS, since it made a system call that no worker makes")


NONSENSE = [
    "nonsense",
    '{"kind": "sing"}',
    "{}",
    '{"kind": "listen_port", "port": "x"}',
    '{"kind": "listen_port", "port": Infinity}',
    '{"kind": "heard", "upto": 1e999}',
    "[]",
]


@pytest.mark.parametrize("raw", NONSENSE)
def test_nonsense_costs_the_worker_its_life(running: FakeWorkers, raw: str) -> None:
    words = "control sent what the supervisor does not understand"
    count = running.words().count(words)
    running.expect_replacement("control", lambda: running.order("control", raw=raw))
    until(lambda: running.words().count(words) > count, words)


@pytest.mark.parametrize("title", ["control", "receiver 0", "consumer 1"])
def test_promises_that_are_none_cost_the_worker_its_life(running: FakeWorkers, title: str) -> None:
    words = f"{title} sent what the supervisor does not understand"
    for broken in (1, ["locked"], None):
        count = running.words().count(words)
        running.expect_replacement(
            title, lambda broken=broken: running.order(title, say={"kind": "broken", "broken": broken})
        )
        until(lambda count=count: running.words().count(words) > count, words)


def test_promises_without_end_hinder_no_start(running: FakeWorkers) -> None:
    """Every control is told of all at its start, in one message. What is too much is left out."""
    for turn in range(40):
        broken = {f"promise {turn} {number}": "x" * 1000 for number in range(40)}
        running.order("receiver 0", say={"kind": "broken", "broken": broken})
    running.expect_words("promise 0 0")
    running.order("receiver 0", say={"kind": "log", "level": "info", "text": "that was all of them"})
    running.expect_words("that was all of them")
    start = running.expect_replacement("control", lambda: running.kill("control"))
    assert 0 < len(json.dumps(start["broken"])) < 16_384


@pytest.mark.parametrize(
    "message", [{"kind": "ended", "reason": "boredom"}, {"kind": "listen_port", "port": 1}]
)
def test_only_control_may_ask(running: FakeWorkers, message: dict[str, Any]) -> None:
    running.expect_replacement("receiver 0", lambda: running.order("receiver 0", say=message))
    running.expect_words("receiver 0 sent what the supervisor does not understand")


def test_closed_channel_costs_the_worker_its_life(running: FakeWorkers) -> None:
    running.expect_replacement("receiver 0", lambda: running.order("receiver 0", close=True))


@pytest.mark.parametrize("title", ["control", "receiver 0", "consumer 1"])
def test_stopped_worker_is_replaced(running: FakeWorkers, title: str) -> None:
    pid, before = running.pids()[title], len(running.news(title))
    running.expect_replacement(title, lambda: os.kill(pid, signal.SIGSTOP))
    running.expect_words(f"{title} is stuck: it is stopped; it is killed")
    died = until(lambda: running.news(title)[before:], "news")[0]
    assert (died["cause"], died["reason"]) == ("stuck", "it is stopped, so that it was killed")


def test_worker_that_does_not_wake_up_is_replaced(running: FakeWorkers) -> None:
    running.expect_replacement("receiver 1", lambda: running.order("receiver 1", sleep=True))
    running.expect_words("receiver 1 is stuck: it does not wake up; it is killed")


def test_worker_that_runs_in_circles_is_replaced(running: FakeWorkers) -> None:
    """And named with the peer that it holds; the row of this one was never used."""
    running.expect_replacement("consumer 0", lambda: running.order("consumer 0", spin=8))
    key = "A" * 43 + "="
    running.expect_words(f"consumer 0 is stuck with peer {key} in hand: it has run for")
    running.expect_replacement("consumer 0", lambda: running.order("consumer 0", spin=ROOM + 1))
    running.expect_words("consumer 0 is stuck: it has run for")


def test_control_that_runs_in_circles_is_replaced(running: FakeWorkers) -> None:
    """Later than others would be: its turns are long."""
    running.expect_replacement("control", lambda: running.order("control", spin=8))
    running.expect_words("control is stuck with peer")
    [seconds] = re.findall(r"control is stuck .*it has run for ([\d.]+) s", running.words())
    assert float(seconds) >= BUSY_CONTROL


def test_sleeping_busy_and_starved_workers_are_left_alone(running: FakeWorkers) -> None:
    """They sleep for most of the time. One now shares its cores with many that are busy, for as long
    as the watchdog takes for many looks."""
    before = running.pids()
    core = os.sched_getaffinity(before["consumer 1"])
    code = f"import os, sys, time; os.sched_setaffinity(0, {core}); print('on', flush=True)\nwhile True: pass"
    crowd = [running.host.popen([sys.executable, "-c", code]) for _ in range(6)]
    try:
        until(lambda: all(one.output() for one in crowd), "a crowd")
        begun = cpu_seconds([one.pid for one in crowd])
        many = 10 * LOOK * len(core)
        until(lambda: cpu_seconds([one.pid for one in crowd]) - begun > many, "a busy crowd")
    finally:
        for one in crowd:
            one.stop()
            one.close()
    after = running.pids()
    assert [after[title] for title in TITLES] == [before[title] for title in TITLES]


@pytest.mark.parametrize("number, words", [
    (signal.SIGHUP, "SIGHUP is ignored"),
    *[(number, f"{number.name} means nothing here") for number in Supervisor.MEANINGLESS],
])  # fmt: skip
def test_signals_that_change_nothing(running: FakeWorkers, number: signal.Signals, words: str) -> None:
    before = running.pids()
    running.signal(number)
    running.expect_words(words)
    after = running.pids()
    assert [after[title] for title in TITLES] == [before[title] for title in TITLES]


def test_words_of_a_worker_are_logged(running: FakeWorkers) -> None:
    running.order("consumer 1", say={"kind": "log", "level": "error", "text": "a line of its own"})
    until(lambda: "consumer 1: a line of its own" in running.words(), "the line")


def test_last_words_of_a_worker_are_heard(running: FakeWorkers) -> None:
    """Both lines wait in the channel when the supervisor learns that their author is dead."""
    process, author = running.process, running.pids()["consumer 1"]
    assert process is not None

    def speak_and_die() -> None:
        running.signal(signal.SIGSTOP)
        # nsenter, which waits for the supervisor, stops with it and goes on with it.
        both = (process.pid, process.session)
        until(lambda: [state(pid) for pid in both] == ["T", "T"], "a stopped supervisor")
        try:
            for line in ("first", "second"):
                text = f"{line} last word"
                running.order("consumer 1", say={"kind": "log", "level": "error", "text": text})
            running.order("consumer 1", sleep=True)
            until(lambda: running.heard("consumer 1")[-1]["kind"] == "asleep", "all is said")
            os.kill(author, signal.SIGKILL)
            until(lambda: state(author) == "Z", "a dead author")
        finally:
            os.kill(process.session, signal.SIGCONT)

    running.expect_replacement("consumer 1", speak_and_die)
    running.expect_words("first last word")
    running.expect_words("second last word")


def new_ports(message: dict[str, Any]) -> dict[str, int]:
    """Of the sockets that it holds besides the old ones, which receivers still read."""
    return {name: port for name, port in message["ports"].items() if ":old:" not in name}


def test_listen_port_changes_for_everybody(running: FakeWorkers) -> None:
    old = running.port()
    wanted = old + 1 if old < 65535 else old - 1
    after = {title: len(running.heard(title)) for title in TITLES}
    answer = running.change_port(wanted)
    assert (answer["errno"], answer["port"]) == (0, wanted)
    assert set(new_ports(answer).values()) == {wanted}
    for title in TITLES[1:]:
        told = running.next_heard(title, "sockets", after[title])
        assert set(new_ports(told).values()) == {wanted} and len(new_ports(told)) == 2
    until(lambda: f":{old} " not in running.host.run(["ss", "-Hlun"]).stdout, "the old port closed")
    pid = running.pids()["receiver 0"]
    again = running.expect_replacement("receiver 0", lambda: os.kill(pid, signal.SIGKILL))
    assert set(new_ports(again).values()) == {wanted}


def test_taken_listen_port_changes_nothing(running: FakeWorkers) -> None:
    old = running.port()
    code = (
        "import signal, socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); s.bind(('', 0));"
        "print(s.getsockname()[1], flush=True); signal.pause()"
    )
    other = running.host.popen([sys.executable, "-c", code])
    taken = int(until(lambda: other.output().strip(), "a port"))

    def lives() -> list[int]:
        return [running.starts(title) for title in TITLES]

    while True:
        before, after = lives(), {title: len(running.heard(title)) for title in TITLES[1:]}
        answer = running.change_port(taken)
        assert (answer["errno"], answer["port"], answer["fds"]) == (98, old, [])
        assert set(answer["ports"].values()) == {old}
        told = {title: len(running.heard(title)) for title in TITLES[1:]}
        if lives() == before:  # else a worker that was late was replaced, of which others are told
            break
    other.close()
    running.expect_words(f"cannot open UDP port {taken}: another program uses it")
    assert told == after


def test_same_and_random_listen_port(running: FakeWorkers) -> None:
    old = running.port()
    answer = running.change_port(old)
    assert (answer["errno"], answer["port"]) == (0, old)
    answer = running.change_port(0)
    assert answer["errno"] == 0 and answer["port"] not in (0, old)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_cleanly(fakes: FakeWorkers, number: int) -> None:
    fakes.start().signal(number)
    assert fakes.exit_code() == 0, fakes.words()
    assert fakes.leftovers() == []
    for title in ("control", "receiver 0", "consumer 0"):
        assert [message["kind"] for message in fakes.heard(title)].count("stop") == 1
    words = fakes.words()
    assert words.count("ending:") == 1
    for fate in ("ended with code", "repaired", "starts again", "did not start"):
        assert fate not in words, "an end that was asked for is no death"


def test_an_end_that_is_asked_for_twice_kills_and_is_one_end(fakes: FakeWorkers) -> None:
    fakes.start(stop=3600.0).order("consumer 0", deaf=True)

    def stops() -> int:
        return [message["kind"] for message in fakes.heard("consumer 0")].count("stop")

    fakes.signal(signal.SIGTERM)
    until(stops, "it is told")
    fakes.signal(signal.SIGTERM)
    until(lambda: fakes.ended() or stops() > 1, "the end")
    assert stops() == 1
    assert fakes.exit_code() == 0
    assert fakes.words().count("ending:") == 1


def test_a_worker_that_waits_for_its_next_start_does_not_hold_up_the_end(fakes: FakeWorkers) -> None:
    fakes.start(2, pauses=[600.0])
    fakes.kill("receiver 1")
    fakes.expect_words("receiver 1 starts again in 600.0 s")
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0
    assert fakes.starts("receiver 1") == 1


def test_a_worker_that_waits_for_its_next_start_can_leave(fakes: FakeWorkers) -> None:
    fakes.start(2, pauses=[600.0])
    fakes.kill("consumer 1")
    fakes.expect_words("consumer 1 starts again in 600.0 s")
    fakes.signal(signal.SIGTTOU)
    fakes.expect_words("1 receivers and 1 consumers run")
    assert fakes.pids().keys() >= {"control", "receiver 0", "consumer 0"}
    assert not {"receiver 1", "consumer 1"} & fakes.pids().keys()


def test_a_successor_that_does_not_become_ready_is_killed_and_told_of(fakes: FakeWorkers) -> None:
    fakes.start(restart=0.1, pauses=[0.0, 600.0])
    (fakes.directory / "receiver 0.start").write_text("hang")
    fakes.kill("receiver 0")
    fakes.expect_words("receiver 0 did not become ready in time and is killed")
    _, not_replaced = until(lambda: len(told := fakes.news("receiver 0")) == 2 and told, "news")
    assert not_replaced["event"] == "worker_not_replaced"
    assert (not_replaced["reason"], not_replaced["pause"]) == ("it did not become ready in time", 600.0)
    with fakes.segment() as segment:
        assert segment.workers[lib.WORKER_RECEIVER].state == lib.WORKER_ABSENT


def test_the_supervisor_and_its_workers_follow_the_name_of_the_interface(fakes: FakeWorkers) -> None:
    fakes.start()
    fakes.host.run(["ip", "link", "set", "t0", "name", "t0new"], check=True)
    after = {title: len(fakes.heard(title)) for title in ("control", "receiver 0", "consumer 0")}
    fakes.order("control", say={"kind": "renamed"})
    answer = fakes.next_heard("control", "renamed", after["control"])
    assert answer["interface"] == "t0new" and answer["socket"][0].endswith("/t0new.sock")
    for title in ("receiver 0", "consumer 0"):
        assert fakes.next_heard(title, "sockets", after[title])["interface"] == "t0new"
    fakes.expect_words("the interface is called t0new from now on")
    assert (fakes.host.root / "run/wireguard/t0new.sock").exists()
    assert not (fakes.host.root / "run/wireguard/t0.sock").exists()
    until(lambda: "supervisor" in fakes.host.titles("t0new"), "its title")
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0


def test_after_a_death_everybody_is_woken(fakes: FakeWorkers) -> None:
    """The dead may have taken what a sleeper had announced, and not rung. No look of the watchdog helps."""
    fakes.start(2, look=600.0)

    def rung(title: str) -> int:
        path = fakes.directory / f"{title}.rung"
        return path.stat().st_size if path.exists() else 0

    with fakes.segment() as segment:
        for dead, others in (("consumer 0", ("control", "receiver 0", "receiver 1")),
                             ("receiver 1", ("control", "receiver 0")),
                             ("control", ("receiver 0", "receiver 1"))):  # fmt: skip
            before = {title: rung(title) for title in others}
            line = segment.workers[lib.WORKER_CONSUMER + 1]
            bell = segment.bells[lib.WORKER_CONSUMER + 1]  # a fake one, which does not sleep there
            bell.sleeping = 1
            fakes.expect_replacement(dead, lambda dead=dead: fakes.kill(dead))
            for title in others:
                until(lambda title=title, before=before: rung(title) > before[title], f"{title} is woken")
            until(lambda bell=bell: bell.sleeping == 0, "and consumers")
            assert line.state == lib.WORKER_RUNNING


def test_signal_while_starting_ends_it(fakes: FakeWorkers) -> None:
    (fakes.directory / "consumer 0.start").write_text("hang")
    fakes.begin(stop=0.2)
    until(lambda: fakes.heard("receiver 0"), "receiver 0 begins")
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0, fakes.words()
    assert not (fakes.directory / "ready").exists()
    assert fakes.leftovers() == []


def test_control_can_end_it(fakes: FakeWorkers) -> None:
    fakes.start().order("control", say={"kind": "ended", "reason": "the interface was removed"})
    assert fakes.exit_code() == 0
    assert "ending: the interface was removed" in fakes.words()
    assert fakes.leftovers() == []


def test_socket_file_removed_while_control_is_away(fakes: FakeWorkers) -> None:
    """A new control cannot know what was there: the supervisor looks when it is ready."""
    fakes.start()
    (fakes.host.root / "run/wireguard/t0.sock").unlink()
    os.kill(fakes.pids()["control"], signal.SIGKILL)
    assert fakes.exit_code() == 0
    assert "ending: the socket file /var/run/wireguard/t0.sock was removed" in fakes.words()


def test_deaf_worker_is_killed_in_the_end(fakes: FakeWorkers) -> None:
    fakes.start(stop=0.5).order("consumer 0", deaf=True)
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0
    assert fakes.leftovers() == []


def test_later_failures_are_tried_again_after_growing_pauses(fakes: FakeWorkers) -> None:
    """What would be an error at the start is a pause and another try later on."""
    fakes.start()
    (fakes.directory / "receiver 0.start").write_text("fail")
    os.kill(fakes.pids()["receiver 0"], signal.SIGKILL)
    until(lambda: "receiver 0 starts again in 0.2 s" in fakes.words(), "three tries")
    for pause in ("0.0", "0.1"):
        assert f"receiver 0 starts again in {pause} s" in fakes.words()
    (fakes.directory / "receiver 0.start").unlink()
    until(lambda: fakes.starts("receiver 0") == 2, "its replacement")
    until(lambda: "worker_replaced" in [news["event"] for news in fakes.news("receiver 0")], "news")
    died, *tries, _ = fakes.news("receiver 0")
    assert died["event"] == "worker_died"
    assert {news["event"] for news in tries} == {"worker_not_replaced"}
    assert {news["reason"] for news in tries} == {"the fake worker cannot start: its orders say so"}
    assert [news["pause"] for news in tries][:2] == [0.1, 0.2]


def test_the_peers_of_a_consumer_that_does_not_come_back_are_others(fakes: FakeWorkers) -> None:
    """Control is told; what was marked ready at the dead one is passed on; and back when it works again."""
    fakes.start(2, pauses=[0.0, 0.1])
    (fakes.directory / "consumer 1.start").write_text("fail")
    fakes.order("receiver 0", claim=1, owner=0)
    until(lambda: fakes.heard("receiver 0")[-1]["kind"] == "claimed", "a peer that is ready at consumer 1")
    before = len(fakes.heard("control"))
    fakes.kill("consumer 1")
    assert until(lambda: [m for m in fakes.heard("control")[before:] if m["kind"] == "sockets"],
                 "control is told")[0]["away"] == [1]  # fmt: skip
    with fakes.segment() as segment:
        until(lambda: shm.ready_is_set(segment, 1, 0), "the peer is ready at consumer 0")
        assert not shm.ready_is_set(segment, 2, 0)
    again = fakes.expect_replacement("control", lambda: fakes.kill("control"))
    assert again["away"] == [1]
    before = len(fakes.heard("control"))
    (fakes.directory / "consumer 1.start").unlink()
    assert fakes.next_heard("control", "sockets", before)["away"] == []
    fakes.expect_words("the peers of consumer 1 belong to other consumers until it is back")


def test_who_lacks_cpu_at_its_start_is_not_killed(fakes: FakeWorkers) -> None:
    """Its start takes ten times as long as the supervisor would wait for one that sleeps."""
    fakes.start(restart=0.05)
    (fakes.directory / "receiver 0.start").write_text("slow")
    fakes.expect_replacement("receiver 0", lambda: fakes.kill("receiver 0"))
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0


@pytest.mark.parametrize("fault", ["fail", "hang"])
def test_others_read_what_is_sent_to_a_receiver_that_does_not_come_back(fakes: FakeWorkers,
                                                                        fault: str) -> None:
    fakes.start(2, stand_in=0.1)
    own = [[f"tun:{number}", f"udp4:{number}", f"udp6:{number}"] for number in (0, 1)]

    def reads(number: int) -> list[str]:
        held: list[str] = fakes.heard(f"receiver {number}")[-1]["held"]
        return [name for name in held if not name.startswith("bell")]

    for dead, living in ((1, 0), (0, 1)):
        (fakes.directory / f"receiver {dead}.start").write_text(fault)
        fakes.kill(f"receiver {dead}")
        until(lambda living=living: reads(living) == sorted(own[0] + own[1]), "the other reads for two")
        ports = dict.fromkeys(("udp4:0", "udp4:1", "udp6:0", "udp6:1"), fakes.change_port(0)["port"])
        until(lambda ports=ports, living=living: fakes.heard(f"receiver {living}")[-1]["ports"] == ports,
              "on the new port, too")  # fmt: skip
        (fakes.directory / f"receiver {dead}.start").unlink()
        if fault == "hang":
            fakes.kill(f"receiver {dead}")
        for number in (dead, living):
            until(lambda number=number: reads(number) == own[number], "each reads its own")
    assert fakes.words().count("is read by other receivers until it is back") == 2
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0
    assert fakes.leftovers() == []


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("fail", "the fake worker cannot start: its orders say so; send another one"),
        ("crash", "the consumer 0 process cannot start: RuntimeError: the fake worker's orders say so; see"),
        ("exit", "the consumer 0 process cannot start: it ended with code 7 before it was ready; see"),
    ],
)
def test_failure_to_start_ends_everything(fakes: FakeWorkers, start: str, words: str) -> None:
    (fakes.directory / "consumer 0.start").write_text(start)
    fakes.begin()
    assert fakes.exit_code() != 0
    assert words in fakes.words()
    assert not (fakes.directory / "ready").exists()
    assert fakes.leftovers() == []


def test_patience_with_a_start_ends(fakes: FakeWorkers) -> None:
    (fakes.directory / "consumer 0.start").write_text("hang")
    fakes.begin(start=1, stop=0.2)
    assert fakes.exit_code() != 0
    assert "consumer 0 did not become ready: 1 seconds have passed; see" in fakes.words()
    assert fakes.leftovers() == []


def holders(host: Host, segments: set[int]) -> list[tuple[int, str]]:
    """Who has one of these inodes of shared memory, mapped or open."""
    found = []
    for pid in host.pids():
        lines = (read_proc(pid, "maps") or "").splitlines()
        found += [(pid, line) for line in lines if "/dev/shm/" in line and int(line.split()[4]) in segments]
        for fd, name in descriptors(pid).items():
            with contextlib.suppress(OSError):  # closed meanwhile
                if name.startswith("/dev/shm/") and os.stat(f"/proc/{pid}/fd/{fd}").st_ino in segments:
                    found.append((pid, name))
    return found


def test_nothing_outlives_a_killed_supervisor(fakes: FakeWorkers) -> None:
    """One worker does not notice that its channel closes, and control sleeps for ever as well: who outlives
    it now does so for good. Keys stand in shared memory without a name, which ends with its last holder."""
    fakes.start()
    assert fakes.process is not None
    supervisor = fakes.process.pid
    segments = {os.stat(f"/proc/{supervisor}/fd/{fd}").st_ino
                for fd, name in descriptors(supervisor).items() if name.startswith("/dev/shm/")}
    assert len(segments) == 2 and holders(fakes.host, segments)
    for title in ("consumer 0", "control"):
        fakes.order(title, sleep=True)
        until(lambda title=title: fakes.heard(title)[-1]["kind"] == "asleep", "asleep")
    fakes.signal(signal.SIGKILL)
    until(lambda: fakes.leftovers() == [] and not holders(fakes.host, segments), "nothing left")
    fakes.start()


def test_socket_file_of_another_engine_stays(fakes: FakeWorkers) -> None:
    """Control compares before it removes: this one stands where its own was."""
    fakes.start(look=60)
    path = fakes.host.root / "run/wireguard/t0.sock"
    path.unlink()
    path.touch()
    fakes.signal(signal.SIGKILL)
    until(lambda: fakes.leftovers() == ["t0.sock"], "nothing but that file")
    path.unlink()
