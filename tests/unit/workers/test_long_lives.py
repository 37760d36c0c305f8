"""Numbers of control's that wrap, or that must not (docs/reliability.md has all of them)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import timers
from tests.support.control_harness import Interface, Parts
from workers._workers import lib
from workers.control.keypairs import RESTING
from workers.control.timer_columns import AGED_AT_ONCE, AGED_EVERY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

DAY = 24 * 3600 * 10**9
LAP = 1 << 56  # ns, of ticks


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    with Interface("wraps") as interface:
        made = Parts(interface)
        yield made
        made.close()


def test_a_test_clock_steps_each_clock_by_its_own(tmp_path: Path) -> None:
    program = """
import struct, sys
from workers._workers import lib
HOUR = 3600 * 10**9
before = lib.clock_now(), lib.clock_wall()
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<qq", 1000 * HOUR, -2000 * HOUR))
assert lib.clock_open_steps(sys.argv[1].encode()) == 0
stepped = lib.clock_now() - before[0], lib.clock_wall() - before[1]
assert [round(each / HOUR) for each in stepped] == [1000, -2000], stepped
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "clock")], check=True)


def test_a_test_clock_that_cannot_be_mapped_steps_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert lib.clock_open_steps(os.fsencode(path)) == -1
        assert lib.clock_now() > 0


def test_generations_of_a_row(parts: Parts) -> None:
    """The last is followed by 1: 0 is that of a row which never was, and so of no packet and no keypair."""
    row = parts.peers.used
    parts.segment.rows[row].generation = 0xFFFFFFFF
    assert parts.set(f"set=1\npublic_key={'17' * 32}\n\n") == 0
    assert parts.peers.find(b"\x17" * 32) == row
    assert parts.segment.rows[row].generation == 1
    assert parts.peers.is_generation(row, 1)


def test_numbers_of_events(parts: Parts) -> None:
    """They are Python's, which have no width."""
    parts.events._number = 1 << 64
    assert parts.set(f"set=1\npublic_key={'18' * 32}\n\n") == 0
    (line,) = [line for line in parts.events.remembered() if b"%d" % ((1 << 64) + 1) in line]
    assert json.loads(line.removeprefix(b"event="))["number"] == (1 << 64) + 1


def test_every_row_is_aged_once_a_day(parts: Parts) -> None:
    """Control's sweep comes to each row, whether the interface is up or down, and again a day later."""
    stamps, heard = parts.timer_columns, parts.memory.columns[lib.LAST_AUTHENTICATED]
    assert parts.set(f"set=1\npublic_key={'19' * 32}\n\n") == 0
    assert 0 < parts.peers.used <= AGED_AT_ONCE
    start = 3 * LAP
    for now in range(start, start + 1000 * DAY, DAY):
        if now == start:
            heard[: parts.peers.used] = timers.narrow(timers.tick(start))
        stamps.age(now)
        stamps.age(now + 1)
        assert not timers.is_younger(heard[: parts.peers.used], 0, timers.tick(now + 2 * DAY)).any()
    last = timers.tick(now)
    ages = [last - timers.widen(int(stamp), last) for stamp in heard[: parts.peers.used]]
    assert max(ages) <= lib.TIMER_OLD + lib.TIMER_OLDER + 2 * timers.ticks(AGED_EVERY)


@pytest.mark.parametrize("bits", [0, 4])
def test_a_keypair_number_rests_beside_a_gateway_s(parts: Parts, bits: int) -> None:
    """Its index has few generations then, so the number is given out again as late as can be."""
    parts.memory.device.index_key = [1, 2, bits << 8 | 3 if bits else 0]
    assert parts.set(f"set=1\npublic_key={'17' * 32}\n\n") == 0
    row, keypairs = parts.peers.find(b"\x17" * 32), parts.keypairs
    assert row is not None
    last: dict[int, int] = {}
    distances = []
    for turn in range(3 * min(keypairs.limit, RESTING)):
        number, index = keypairs.reserve(row)
        assert not bits or index % 16 == 3
        distances.append(turn - last.get(number, turn))
        last[number] = turn
        keypairs.release(row, number)
        while parts.grace_periods.poll():
            pass
    again = {distance for distance in distances if distance}
    assert again == {1} if not bits else min(again) >= min(RESTING, keypairs.limit - 2)
