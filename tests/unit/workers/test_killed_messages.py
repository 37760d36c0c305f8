"""Control dies at any line of its own while it has messages in hand: each message ends in one counter.

Receivers fill the mailbox, as they do; a death is an exception that nothing catches, at the n-th line of
control's that is run. The next control finds the two segments as they are then. Kills between two
instructions of C are tests/robustness/kill's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import workers.control
from shm.marks import marked
from tests.support.control_harness import Death, Interface
from tests.unit.workers.test_control_handshakes import Other, again, flip
from tests.unit.workers.test_lookups import Unknown, questions, section
from workers._workers import ffi, lib
from workers.control.handshake_batch import BATCH
from workers.control.handshakes import ENDS
from workers.control.lookups import PARKED_TIME

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

PLACE = Path(str(workers.control.__file__)).parent
MORTAL = {str(PLACE / name) for name in ("handshakes.py", "lookups.py", "parking.py")}
LIVES = 150


@contextmanager
def dying_at(line: int) -> Iterator[list[int]]:
    """A death when so many lines that move messages have been run within this; [how many were]."""
    run, before = [0], sys.gettrace()

    def in_control(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            run[0] += 1
            if run[0] == line:
                raise Death
        return in_control

    def begins(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        return in_control if code.co_filename in MORTAL and code.co_name[0] != "<" else None

    sys.settrace(begins)
    try:
        yield run
    except Death:
        pass
    finally:
        sys.settrace(before)


class Mortal(Unknown):
    """One life of control after the other over the same segments."""

    def deliver(self, other: Other, message: bytes) -> None:
        self.interface.deliver(message, (b"\x7f\0\0\1", other.endpoint.port))

    def put(self) -> int:
        rings = self.interface.geometry["max_receivers"]
        return sum(int(self.parts.segment.mailbox[ring].put) for ring in range(rings))

    def ended(self) -> int:
        counters = self.interface.counters()
        return sum(counters.get(name.upper(), 0) for name in marked("end message"))

    def not_ended(self) -> int:
        """Messages that wait in the mailbox or are parked."""
        return int(lib.mailbox_waiting(self.parts.segment)) + len(self.lookups.parking.places())

    def take(self, *_: Any, **__: Any) -> Any:
        while self.parts.handshakes.take_messages(self.time[0]):
            pass


@pytest.fixture
def world() -> Iterator[Mortal]:
    with Interface(f"plk{os.getpid()}") as interface:
        world = Mortal(interface)
        yield world
        world.parts.close()
        world.other.socket.close()


def test_the_ends_are_those_that_the_header_marks() -> None:
    assert sorted(ENDS) == sorted(getattr(lib, name.upper()) for name in marked("end message", "end knock"))


def messages(world: Mortal, strangers: list[Other]) -> list[tuple[Other, bytes]]:
    """Of each kind of end that needs no time of its own; the first stranger tries twice."""
    first = strangers[0]
    known = world.other.initiation()
    said = [
        (world.other, known), (world.other, known), (world.other, known[:100]),
        (world.other, flip(known, 120)),
        (world.other, again(world, flip(world.other.initiation(), 50))),
        (world.other, again(world, b"\x02\0\0\0" + bytes(88))), (first, first.initiation()),
    ]  # fmt: skip
    return [*said, *((stranger, stranger.initiation()) for stranger in strangers)]


def live(world: Mortal, strangers: list[Other]) -> None:
    """The first stranger's peer is added, the second is refused, the third waits in vain."""
    provider = world.join()
    world.take()
    world.turn()
    world.set(section(strangers[0]))
    world.turn()
    for asked in questions(provider)[:2]:
        world.lookups.heard(provider, b"refuse=%d\nttl=0\n\n" % asked["id"])
    world.pass_time(PARKED_TIME)


def test_every_message_ends_once_wherever_control_dies(world: Mortal) -> None:
    strangers = [world.stranger() for _ in range(3)]

    def one_life(line: int) -> int:
        for sender, message in messages(world, strangers):
            world.deliver(sender, message)
        with dying_at(line) as run:
            live(world, strangers)
        world.die()
        assert world.ended() + world.not_ended() == world.put(), f"control died at line {line}"
        world.take()
        world.pass_time(PARKED_TIME)
        world.set(f"public_key={strangers[0].identity.public_key.hex()}\nremove=true\n")
        assert (world.ended(), world.not_ended()) == (world.put(), 0), f"control died at line {line}"
        return run[0]

    lines = one_life(0)
    assert world.interface.counter("HS_KILLED") == 0, "whoever did not die had nothing in hand"
    for life in range(LIVES):
        one_life(1 + life * lines // LIVES)
    assert world.interface.counter("HS_KILLED") > 0


def test_what_a_broken_worker_puts_ends_as_well(world: Mortal) -> None:
    world.deliver(world.other, world.other.initiation())
    world.parts.segment.cells[int(world.parts.segment.mailbox[0].got)].length = 1 << 31
    world.take()
    assert world.counted() == {"HS_MESSAGE_LENGTH": 1}


def test_words_that_were_written_over_count_nothing_and_what_follows_is_right(world: Mortal) -> None:
    world.parts.segment.mailbox[0].got += BATCH + 1
    world.parts.segment.mailbox[0].put += BATCH + 1
    world.die()
    assert world.counted() == {}
    world.deliver(world.other, world.other.initiation())
    assert lib.mailbox_take(world.parts.segment, ffi.new("struct mailbox_cell[]", BATCH), BATCH) == 1
    for _ in range(2):
        world.die()
        assert world.counted() == {"HS_KILLED": 1}
