"""The priority of workers and the moderation of what they receive, in C, against plain Python models."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import until
from tests.unit.workers.test_data_path import Path
from workers._workers import ffi, lib
from workers.priorities import allow_realtime, capabilities_to_return

BUSY, PAUSE, PAUSE_MOST = lib.PRIORITY_BUSY_NS, lib.PRIORITY_PAUSE_NS, lib.PRIORITY_PAUSE_MOST
HOLD, CLOSE, ROUNDS = lib.MODERATION_HOLD_NS, lib.MODERATION_CLOSE_NS, lib.MODERATION_ROUNDS
SMALL, LEAST = lib.MODERATION_SMALL, lib.MODERATION_LEAST
TRAIN = bytes(8000)  # what does not fit in a small slot
TRAINS, BUSY_ROUNDS = lib.MODERATION_TRAINS_NS, lib.MODERATION_BUSY_ROUNDS


@pytest.fixture(scope="module", autouse=True)
def realtime_is_allowed() -> Iterator[None]:
    """This process may have real-time priority, and does not have it afterwards."""
    before = resource.getrlimit(resource.RLIMIT_RTPRIO)
    allow_realtime()
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    resource.setrlimit(resource.RLIMIT_RTPRIO, before)


class Model:
    """struct priority."""

    def __init__(self, now: int) -> None:
        self.since, self.pause, self.realtime = now, PAUSE, True

    def check(self, now: int) -> None:
        if self.realtime and now - self.since > BUSY:
            self.realtime, self.since = False, now
        elif not self.realtime and now - self.since > self.pause:
            self.realtime, self.since = True, now
            self.pause = min(2 * self.pause, PAUSE_MOST)

    def sleep(self, now: int) -> None:
        self.since, self.pause = now, PAUSE


def policy() -> tuple[int, int]:
    """What the kernel has of this process."""
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority


@given(st.lists(st.tuples(st.sampled_from(("check", "check", "check", "sleep")), st.integers(0, 2 * BUSY))))
def test_the_kernel_schedules_as_the_model_says(steps: list[tuple[str, int]]) -> None:
    now = 1 << 40
    priority, model = ffi.new("struct priority *"), Model(now)
    assert lib.priority_open(priority, now) == 0
    for step, passed in steps:
        now += passed
        if step == "check":
            lib.priority_check(priority, now)
            model.check(now)
        else:
            lib.priority_before_sleep(priority)
            assert policy() == (os.SCHED_RR, 1)
            lib.priority_after_sleep(priority, now)
            model.realtime = True
            model.sleep(now)
        assert policy() == ((os.SCHED_RR, 1) if model.realtime else (os.SCHED_OTHER, 0))


def test_pauses_of_a_worker_that_never_sleeps_grow_until_others_have_most_of_the_core() -> None:
    now = 1 << 40
    priority = ffi.new("struct priority *")
    assert lib.priority_open(priority, now) == 0
    held = []
    for _ in range(1000):  # a second, by the millisecond
        now += 1_000_000
        lib.priority_check(priority, now)
        held.append(policy()[0] == os.SCHED_RR)
    assert all(held[:10]) and sum(held[:12]) == 10  # the first pause is short
    assert sum(held[-300:]) < 80


def test_a_refused_priority_changes_nothing() -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setresuid(65534, 65534, 65534)
        priority = ffi.new("struct priority *")
        opened = lib.priority_open(priority, 0)
        lib.priority_check(priority, 10 * BUSY)
        lib.priority_before_sleep(priority)
        normal = policy() == (os.SCHED_OTHER, 0)
        os.write(writer, b"y" if opened == -1 and normal else b"n")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"y"
    os.waitpid(child, 0)


def test_a_confined_worker_has_its_priority_again_after_a_pause_and_before_a_sleep() -> None:
    """Also where RLIMIT_RTPRIO cannot be raised, as on hosts without CAP_SYS_RESOURCE."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        priority = ffi.new("struct priority *")
        opened = lib.priority_open(priority, 0)
        refused = lib.sandbox_enter(capabilities_to_return(), ffi.NULL, ffi.NULL, 1)
        states = []
        for now in (BUSY + 1, BUSY + PAUSE + 2, 3 * BUSY):
            lib.priority_check(priority, now)
            states.append(priority.state)
        lib.priority_before_sleep(priority)
        os.write(writer, repr((opened, refused, *states, priority.state)).encode())
        os._exit(0)
    os.close(writer)
    given_up, realtime = lib.PRIORITY_GIVEN_UP, lib.PRIORITY_REALTIME
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read().decode() == repr((0, 0, given_up, realtime, given_up, realtime))
    os.waitpid(child, 0)


@st.composite
def rounds(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """(ns since the round before, messages, with a train)."""
    limits = (CLOSE, CLOSE + TRAINS, CLOSE + HOLD)
    near = st.sampled_from((0, 50_000, *(near for limit in limits for near in (limit - 1, limit)), 10 * HOLD))
    few = st.sampled_from((0, 1, LEAST - 1, LEAST, SMALL - 1, SMALL, 64))
    train = st.sampled_from(draw(st.sampled_from(((False, False, False, True), (False, True, True, True)))))
    return draw(st.lists(st.tuples(near, few, train), max_size=40))


@given(rounds())
def test_rounds_are_held_as_the_model_says(given_rounds: list[tuple[int, int, bool]]) -> None:
    moderation = ffi.new("struct moderation *")
    now, run, busy, hold = 1 << 40, 0, 0, 0
    moderation.round_at = now
    for passed, messages, with_train in given_rounds:
        now += passed
        small = messages < SMALL
        close = passed < CLOSE + hold
        in_vain = hold == HOLD and messages < LEAST
        busy = min(busy + 1, BUSY_ROUNDS) if close else 0
        ends = not close or with_train or in_vain or (run < ROUNDS and not small)
        run = 0 if ends else min(run + 1, ROUNDS)
        hold = 0
        if small and (run == ROUNDS or (with_train and busy == BUSY_ROUNDS)):
            hold = HOLD if run == ROUNDS else TRAINS
        assert lib.moderation_round(moderation, now, messages, with_train) == hold


def test_a_lone_packet_is_never_held_and_a_stream_of_them_is_gathered() -> None:
    moderation = ffi.new("struct moderation *")
    now = 1 << 40
    for _ in range(20):
        now += 1_000_000
        assert not lib.moderation_round(moderation, now, 1, 0)
    held = []
    for _ in range(10):
        now += 20_000
        held.append(lib.moderation_round(moderation, now, 1, 0))
        if held[-1]:
            break
    assert held == [0] * (ROUNDS - 1) + [HOLD]
    for _ in range(5):
        now += HOLD
        assert lib.moderation_round(moderation, now, 12, 0)  # what came in the meantime
    now += HOLD
    assert not lib.moderation_round(moderation, now, 1, 0)  # the stream has ended


def test_a_lone_train_is_never_held_and_a_stream_of_them_is_while_few_wait() -> None:
    moderation = ffi.new("struct moderation *")
    now = 1 << 40
    for _ in range(20):
        now += 1_000_000
        assert not lib.moderation_round(moderation, now, 1, 1)
    held = []
    for _ in range(BUSY_ROUNDS):
        now += 50_000
        held.append(lib.moderation_round(moderation, now, 2, 1))
    assert held == [0] * (BUSY_ROUNDS - 1) + [TRAINS]
    assert not lib.moderation_round(moderation, now, SMALL, 1)
    assert lib.moderation_round(moderation, now, SMALL - 1, 1) == TRAINS
    assert not lib.moderation_round(moderation, now + CLOSE + TRAINS, 1, 1)  # the stream has paused


class Receiver:
    """One with real-time priority; a channel with a message, which a test may take, is ready in each turn."""

    def __init__(self) -> None:
        self.channel, self.words = os.pipe()
        os.write(self.words, b"x")
        self.path = Path(channel=self.channel)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert lib.receiver_wake_at_once(self.path.receiver) == 0

    def sleeps(self, messages: int = 0, message: bytes = b"x") -> bool:
        """After so many messages, one turn: whether the receiver gave the core away in it."""
        for _ in range(messages):
            self.sender.sendto(message, self.path.udp.getsockname())
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        lib.receiver_run(self.path.receiver, 0)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > before

    def small_rounds(self) -> None:
        """The first is close to none. On a busy machine the others may not be, either."""
        for _ in range(1 + ROUNDS):
            self.sleeps(messages=1)

    def gathers(self) -> bool:
        """After messages one by one: whether the receiver sleeps though there is something to read."""
        self.small_rounds()
        return self.sleeps(messages=LEAST)

    def holds_trains(self) -> bool:
        """After trains one by one: whether the receiver sleeps before it reads on."""
        for _ in range(1 + BUSY_ROUNDS):
            self.sleeps(1, TRAIN)
        return self.sleeps(1, TRAIN)

    def close(self) -> None:
        self.path.close()
        self.sender.close()
        os.close(self.channel)
        os.close(self.words)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_receiver_that_always_finds_work_gives_the_priority_up_until_it_sleeps(receiver: Receiver) -> None:
    receiver.sleeps()
    assert policy() == (os.SCHED_RR, 1)
    time.sleep(BUSY / 1e9)  # which the receiver cannot tell from work
    receiver.sleeps()
    assert policy() == (os.SCHED_OTHER, 0)
    os.read(receiver.channel, 1)
    receiver.sleeps()
    assert policy() == (os.SCHED_RR, 1), "with nothing to do it is about to sleep"


def test_a_receiver_gathers_messages_that_come_one_by_one_and_no_others(receiver: Receiver) -> None:
    until(lambda: sum(receiver.sleeps() for _ in range(4 * ROUNDS)) == 0, "turns without messages")
    until(lambda: sum(receiver.sleeps(messages=2 * SMALL) for _ in range(4 * ROUNDS)) == 0, "many at once")
    until(receiver.gathers, "a sleep though there is something to read")
    until(lambda: receiver.gathers() and not receiver.sleeps(), "a sleep that gathered nothing is the last")


def test_a_receiver_that_gathers_has_its_priority_again(receiver: Receiver) -> None:
    def has_it_again() -> bool:
        while policy() != (os.SCHED_RR, 1):  # the pause is over in some ms
            receiver.sleeps()
        receiver.small_rounds()
        time.sleep(BUSY / 1e9)
        return receiver.sleeps(messages=1) and policy() == (os.SCHED_RR, 1)

    until(has_it_again, "real-time priority after the sleep")


def test_a_receiver_holds_trains_that_keep_coming_and_its_priority_sees_no_sleep(receiver: Receiver) -> None:
    def gives_up_soon_after_a_hold() -> bool:
        while policy() != (os.SCHED_RR, 1):
            receiver.sleeps()
        time.sleep(0.6 * BUSY / 1e9)
        begin = time.monotonic_ns()
        held = receiver.holds_trains()
        time.sleep(0.6 * BUSY / 1e9)
        receiver.sleeps()
        return held and policy() == (os.SCHED_OTHER, 0) and time.monotonic_ns() - begin < BUSY

    until(lambda: sum(receiver.sleeps(SMALL, TRAIN) for _ in range(2 * BUSY_ROUNDS)) == 0, "many at once")
    until(receiver.holds_trains, "a sleep though there is something to read")
    until(gives_up_soon_after_a_hold, "the priority is given up")
