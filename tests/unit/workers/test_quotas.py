"""Peers that run out: cut off, kept out over deaths of control, and let in again.

Time is given, never waited for, as in test_lookups.py; the holder is the shipped one, in this process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from engine import timers
from tests.support.control_harness import Holder, Interface, dying_in
from tests.unit.workers.test_control_handshakes import SECOND, WALL, Other
from tests.unit.workers.test_lookups import Unknown, answered, section
from workers._workers import ffi, lib
from workers.control.quotas import CUT_A_TURN, Quotas

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

START = WALL // SECOND


class Limited(Unknown):
    """Peers with quotas and expiry times, and the loop's looks at them."""

    def __init__(self, interface: Interface, holder: Holder) -> None:
        super().__init__(interface)
        self.holder = holder
        self.begin()

    def begin(self) -> None:
        self.quotas = Quotas(self.parts.handshakes)
        self.quotas.begin(self.time[0])

    def restart(self) -> None:
        self.parts.close()
        self.parts = self.make_parts()
        self.begin()

    def look(self) -> None:
        while self.quotas.is_due(self.time[0], is_set_over=True):
            self.quotas.look(self.time[0])
        self.parts.settle(self.holder)

    def pass_time(self, ns: int) -> None:
        super().pass_time(ns)
        self.look()

    def add(self, lines: str, *, connects: bool = True) -> tuple[Other, int]:
        other = self.stranger()
        self.set(section(other) + lines)
        self.look()
        row = self.row_of(other)
        if connects:
            assert self.comes(other) == "HS_INITIATION_ACCEPTED"
            answered(self, other)
            self.parts.settle(self.holder)
            assert self.has_keys(row)
        return other, row

    def change(self, other: Other, lines: str) -> None:
        self.set(f"public_key={other.identity.public_key.hex()}\nupdate_only=true\n{lines}")
        self.look()

    def row_of(self, other: Other) -> int:
        row = self.parts.peers.find(other.identity.public_key)
        assert row is not None
        return row

    def has_keys(self, row: int) -> bool:
        return int(self.parts.peers.rows[row].key_word) != 0

    def moves(self, row: int, received: int, sent: int = 0) -> None:
        """As a holder counts them."""
        peer = self.parts.peers.rows[row]
        peer.rx_bytes += received
        peer.tx_bytes += sent
        self.parts.memory.columns[lib.LAST_AUTHENTICATED, row] = timers.tick(self.time[0])

    def told(self, event: str) -> list[str]:
        """Reasons of the events of this kind."""
        lines = [json.loads(line.removeprefix(b"event=")) for line in self.parts.events.remembered()]
        return [each.get("reason", "") for each in lines if each["event"] == event]


@pytest.fixture
def world() -> Iterator[Limited]:
    with Interface(f"plq{os.getpid()}") as interface, Holder(interface) as holder:
        world = Limited(interface, holder)
        yield world
        world.parts.close()
        world.other.socket.close()


def test_a_peer_that_used_its_quota_is_cut_off(world: Limited) -> None:
    other, row = world.add("plait_quota=10240\n")  # the handshake has 240
    number = world.parts.keypairs.numbers(row)[0]
    index = int(world.parts.keypairs.slab[number].local_index)
    world.moves(row, 6000, 3999)
    world.pass_time(SECOND)
    assert world.has_keys(row) and world.told("peer_ran_out") == [], "one byte is left"
    world.moves(row, 1)
    world.pass_time(SECOND)
    assert not world.has_keys(row)
    assert world.told("peer_ran_out") == ["as many bytes went as its quota allows"]
    place = ffi.new("uint32_t *")
    keypairs = world.parts.keypairs
    assert not lib.index_lookup(keypairs.table, keypairs.used, keypairs.key, index, place)
    assert "\nplait_quota=10240\nplait_ran_out=quota\n" in world.parts.get()
    assert world.comes(other) == "HS_RAN_OUT" and other.hears_nothing()
    assert not world.parts.handshakes.initiator.initiate(row, world.time[0])
    world.pass_time(60 * SECOND)
    assert world.told("peer_ran_out") == ["as many bytes went as its quota allows"], "it is told once"


def test_a_peer_expires_by_the_wall_clock(world: Limited) -> None:
    other, row = world.add(f"plait_expires={START + 30}\n")
    world.pass_time(29 * SECOND)
    assert world.has_keys(row) and world.comes(other) == "HS_INITIATION_ACCEPTED"
    world.pass_time(2 * SECOND)
    assert not world.has_keys(row) and world.told("peer_ran_out") == ["its time is over"]
    assert world.comes(other) == "HS_RAN_OUT"
    assert "plait_ran_out=expired\n" in world.parts.get()


def test_a_peer_that_is_over_when_it_is_set_has_no_session_at_all(world: Limited) -> None:
    other, row = world.add(f"plait_expires={START}\n", connects=False)
    assert world.comes(other) == "HS_RAN_OUT" and world.told("peer_ran_out") == ["its time is over"]
    assert not world.has_keys(row)


@pytest.mark.parametrize("more", ["plait_quota=0\n", "plait_quota=100000\n"])
def test_who_has_more_is_let_in_again_and_what_was_refused_stays_refused(world: Limited, more: str) -> None:
    other, row = world.add("plait_quota=300\n")
    world.moves(row, 100)
    world.pass_time(SECOND)
    refused = other.initiation()
    assert world.comes(other, refused) == "HS_RAN_OUT"
    world.change(other, more)
    assert world.told("peer_renewed") == [""] and "plait_ran_out" not in world.parts.get()
    assert world.comes(other, refused) == "HS_TIMESTAMP_REPLAYED"
    world.pass_time(SECOND)
    assert world.comes(other) == "HS_INITIATION_ACCEPTED"


def test_nothing_is_left_to_do_when_the_last_limit_is_gone(world: Limited) -> None:
    other, row = world.add("plait_quota=300\n")
    world.moves(row, 100)
    world.time[0] += SECOND
    world.quotas.due = world.time[0]
    world.set(f"public_key={other.identity.public_key.hex()}\nplait_quota=0\n")  # before it is cut off
    world.look()
    assert not world.quotas.is_due(world.time[0] + 3600 * SECOND, is_set_over=True)
    assert world.has_keys(row) and world.told("peer_ran_out") == []


def test_one_limit_more_does_not_help_who_is_over_the_other(world: Limited) -> None:
    other, row = world.add(f"plait_quota=300\nplait_expires={START + 5}\n")
    world.moves(row, 100)
    world.pass_time(10 * SECOND)
    world.change(other, "plait_quota=100000\n")
    assert world.told("peer_renewed") == [] and world.comes(other) == "HS_RAN_OUT"
    assert "plait_ran_out=expired\n" in world.parts.get()
    world.change(other, "plait_expires=0\n")
    assert world.told("peer_renewed") == [""] and world.comes(other) == "HS_INITIATION_ACCEPTED"


def test_a_control_after_a_kill_keeps_them_out_and_tells_nothing_twice(world: Limited) -> None:
    out, row = world.add("plait_quota=300\n")
    soon, row_of_soon = world.add("plait_quota=300\n")
    world.moves(row, 100)
    world.pass_time(SECOND)
    world.moves(row_of_soon, 100)  # nobody looked since
    world.restart()
    world.look()
    assert world.told("peer_ran_out") == ["as many bytes went as its quota allows"], "of the second alone"
    assert world.comes(out) == world.comes(soon) == "HS_RAN_OUT"
    assert not world.has_keys(row) and not world.has_keys(row_of_soon)
    world.change(out, "plait_quota=100000\n")
    assert world.comes(out) == "HS_INITIATION_ACCEPTED"


@pytest.mark.parametrize("step", ["withdraw_all", "order"])
def test_a_control_that_is_killed_while_it_cuts_is_followed_by_one_that_does(
    world: Limited, step: str
) -> None:
    """`ran_out`, which says that it is done, comes last."""
    other, row = world.add("plait_quota=300\n")
    world.moves(row, 100)
    world.time[0] += SECOND
    owner = world.parts.keypairs if step == "withdraw_all" else world.parts.peers
    with dying_in(owner, step):
        world.quotas.look(world.time[0])
    assert "plait_ran_out" not in world.parts.get()
    world.restart()
    world.look()
    assert not world.has_keys(row) and len(world.told("peer_ran_out")) == 1
    world.pass_time(SECOND)
    assert world.comes(other) == "HS_RAN_OUT"


def test_of_a_session_that_is_being_installed_nothing_is_sent(world: Limited) -> None:
    other, row = world.add("plait_quota=1000000\n")
    world.pass_time(SECOND)
    assert world.comes(other) == "HS_INITIATION_ACCEPTED", "and the holder did not have its turn"
    number = int(world.parts.peers.rows[row].installing_next)
    world.moves(row, 1000000)
    world.time[0] += SECOND
    world.quotas.look(world.time[0])
    assert int(world.parts.keypairs.slab[number].send_counter) >= lib.REJECT_AFTER_MESSAGES
    world.parts.settle(world.holder)
    assert not world.has_keys(row) and not world.parts.keypairs.numbers(row)


def test_a_row_that_another_peer_gets_has_no_rule_of_the_one_before(world: Limited) -> None:
    other, row = world.add("plait_quota=300\nplait_expires=1\n", connects=False)
    world.set(f"public_key={other.identity.public_key.hex()}\nremove=true\n")
    world.parts.settle(world.holder)
    fresh, row_of_fresh = world.add("")
    assert row_of_fresh == row and world.parts.peers.rules[row] == 0 and not world.parts.peers.expiries[row]
    world.pass_time(SECOND)
    assert world.has_keys(row) and world.comes(fresh) == "HS_INITIATION_ACCEPTED"


def test_a_replaced_configuration_has_its_own_rules_alone(world: Limited) -> None:
    """The peer has moved nothing, so that its row is kept."""
    other, row = world.add(f"plait_expires={START}\n", connects=False)
    world.set(f"replace_peers=true\n{section(other)}")
    world.look()
    assert world.row_of(other) == row and world.comes(other) == "HS_INITIATION_ACCEPTED"


def test_a_wall_clock_that_goes_back_lets_in_whose_time_is_not_over(world: Limited) -> None:
    other, row = world.add(f"plait_expires={START + 30}\n", connects=False)
    world.began -= 3600 * SECOND
    pace = world.parts.handshakes.pace
    assert pace.wall() // SECOND >= START
    world.pass_time(40 * SECOND)
    assert world.comes(other) == "HS_RAN_OUT"
    world.quotas._wall += 3600  # as if the look before had been by a clock that was ahead
    world.parts.peers.rows[row].expires = START + 3600
    world.pass_time(SECOND)
    assert world.told("peer_renewed") == [""]


def test_many_that_expire_at_once_are_cut_off_by_and_by(world: Limited) -> None:
    count = min(CUT_A_TURN + 9, int(world.parts.memory.max_peers) - 2)
    keys = [(n + 1000).to_bytes(32, "big").hex() for n in range(count)]
    world.set("".join(f"public_key={key}\nplait_expires={START + 5}\n" for key in keys))
    world.look()
    world.time[0] += 6 * SECOND
    world.quotas.look(world.time[0])
    assert len(world.quotas.leaving) == max(count - CUT_A_TURN, 0)
    assert all(world.parts.peers.rules[1 : count + 1] & lib.RULE_OUT), "no handshake with any of them"
    world.look()
    assert world.parts.get().count("plait_ran_out=expired\n") == count


def test_who_moved_nothing_is_not_looked_at(world: Limited) -> None:
    """An idle peer costs a look at its stamp: its counters are read when it moved something."""
    row = world.add("plait_quota=1000\n")[1]
    world.pass_time(10 * SECOND)
    world.parts.peers.rows[row].rx_bytes += 5000  # without a stamp no holder counts
    world.pass_time(10 * SECOND)
    assert world.has_keys(row)
    world.moves(row, 0)
    world.pass_time(SECOND)
    assert not world.has_keys(row)


def test_peers_without_a_limit_make_no_work(world: Limited) -> None:
    """Nor do pages of memory come into being for their rules."""
    world.add("", connects=False)
    world.parts.close()
    world.parts = world.make_parts()  # which goes through all rows
    assert not world.parts.peers.table.rules_changed and not world.parts.peers.rules.any()
    other, row = world.add("plait_quota=10\n", connects=False)
    assert world.parts.peers.rules[row]
    world.set(f"public_key={other.identity.public_key.hex()}\nremove=true\n")
    assert not world.parts.peers.rules.any()
