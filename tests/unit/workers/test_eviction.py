"""Peers on demand that are idle: offered to the provider, taken away, brought back; replays are kept out.

Time is given, never waited for, as in test_lookups.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine import tai64n
from tests.support.control_harness import Interface
from tests.unit.workers.test_control_handshakes import SECOND, WALL, Other
from tests.unit.workers.test_lookups import Unknown, answered, base64, questions, section, told
from workers.control.eviction import AGAIN, ALLOWED_IPS_MOST, NEVER_COMPLETED, Eviction
from workers.control.lookups import FLOOR, REMEMBERED
from workers.control.provider import Provider

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

ON_DEMAND = "on_demand=1\nidle_after=5\n"
OVER = 185 * SECOND  # a session, and five seconds


class Evicting(Unknown):
    """With a provider, and with the loop's turn of evictions."""

    idle_after = 0

    def __init__(self, interface: Interface) -> None:
        super().__init__(interface)
        self.begin()

    def begin(self) -> None:
        self.eviction = Eviction(self.parts.configuration, self.idle_after)
        self.provider: Provider = self.join()
        told(self.provider)

    def restart(self) -> None:
        self.parts.close()
        self.parts = self.make_parts()
        self.begin()

    def add(self, lines: str = ON_DEMAND, *, connects: bool = True) -> Other:
        """A peer that had a session, and by now is idle or not."""
        other = self.stranger()
        self.set(section(other) + lines)
        if connects:
            assert self.comes(other) == "HS_INITIATION_ACCEPTED"
            self.complete(other)
        return other

    def row_of(self, other: Other) -> int | None:
        return self.parts.peers.find(other.identity.public_key)

    def complete(self, other: Other) -> None:
        answered(self, other)
        self.parts.handshakes.confirmed(np.array([self.row_of(other)], np.uint32))

    def evicted(self) -> list[dict[str, Any]]:
        """What the provider is told by the next look."""
        self.eviction.look(self.time[0])
        return [value for key, value in told(self.provider) if key == "evicted"]

    def answer(self, text: str) -> None:
        self.lookups.heard(self.provider, text.encode())
        while self.eviction.step(self.time[0]):
            pass
        self.turn()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[Evicting]:
    """Parameter: what its memory is laid out for, besides the usual."""
    with Interface(f"ple{os.getpid()}", **getattr(request, "param", {})) as interface:
        world = Evicting(interface)
        yield world
        world.parts.close()
        world.other.socket.close()


def test_an_idle_peer_is_handed_over_and_taken_away(world: Evicting) -> None:
    other = world.add()
    stamp = world.parts.vault.timestamp_seen(world.row_of(other) or 0).hex()
    latest = int(world.parts.peers.rows[world.row_of(other) or 0].handshake_sec)
    world.pass_time(OVER - 6 * SECOND)
    assert world.evicted() == [], "its session stands"
    world.pass_time(6 * SECOND)
    (told,) = world.evicted()
    assert len(told.pop("life")) > 16
    assert told == {
        "id": 1, "public_key": base64(other), "timestamp": stamp, "rx": 148, "tx": 92,
        "latest_handshake": latest,
    }  # fmt: skip
    assert latest > 0 and world.evicted() == [], "it was told once"
    assert world.row_of(other) is not None, "not before the provider has it"
    world.answer("done=1\n")
    assert world.row_of(other) is None and world.interface.counter("PEERS_EVICTED") == 1
    assert b'"event": "peer_evicted"' in b"".join(world.parts.events.remembered())


def test_peers_set_by_hand_stay_and_so_do_those_without_a_time(world: Evicting) -> None:
    by_hand, without = world.add("idle_after=5\n"), world.add("on_demand=1\n")
    world.pass_time(365 * 24 * 3600 * SECOND)
    assert world.evicted() == []
    world.eviction.idle_after = 60
    assert [each["public_key"] for each in world.evicted()] == [base64(without)], "the interface's time"
    world.answer("done=1\n")
    assert world.row_of(by_hand) is not None and world.row_of(without) is None
    world.set(f"public_key={by_hand.identity.public_key.hex()}\non_demand=1\n")
    assert [each["public_key"] for each in world.evicted()] == [base64(by_hand)]


def test_who_never_completes_a_handshake_is_gone_after_ninety_seconds(world: Evicting) -> None:
    silent, half = world.add("on_demand=1\n", connects=False), world.add("on_demand=1\n", connects=False)
    assert world.comes(half) == "HS_INITIATION_ACCEPTED"
    world.pass_time((NEVER_COMPLETED - 1) * SECOND)
    assert world.evicted() == []
    world.pass_time(2 * SECOND)
    assert {each["public_key"] for each in world.evicted()} == {base64(silent), base64(half)}


def test_without_a_provider_nobody_is_evicted(world: Evicting) -> None:
    other = world.add()
    world.lookups.leave(world.provider)
    world.pass_time(OVER)
    world.eviction.look(world.time[0])
    assert world.row_of(other) is not None and not world.lookups.leaving


@pytest.mark.parametrize("is_restarted", ["never", "before it is parked", "when it is parked"])
def test_an_initiation_from_before_the_eviction_is_refused_when_the_peer_is_back(
    world: Evicting, is_restarted: str
) -> None:
    """Remembered by this control; the next one takes nothing that is older than this eviction, but what this
    control parked and knew to be later than what it remembers."""
    other = world.add(connects=False)
    recorded = other.initiation()
    assert world.comes(other, recorded) == "HS_INITIATION_ACCEPTED"
    world.complete(other)
    world.pass_time(OVER)
    assert len(world.evicted()) == 1
    world.answer("done=1\n")
    if is_restarted == "before it is parked":
        world.restart()
    assert world.comes(other, recorded) == "parked"
    if is_restarted == "when it is parked":
        world.restart()
    world.turn()
    assert len(questions(world.provider)) == 1, "the key alone cannot tell"
    world.set(section(other) + ON_DEMAND)
    world.turn()
    assert world.counted()["HS_TIMESTAMP_REPLAYED"] == 1 and other.hears_nothing()
    assert world.comes(other, other.initiation(later=300 * SECOND)) == "HS_INITIATION_ACCEPTED"


def test_what_is_parked_while_its_peer_leaves_is_answered_by_the_next_control(world: Evicting) -> None:
    """It was parked as later than all that its peer had sent, which the next control does not know."""
    other = world.add()
    world.pass_time(OVER)
    assert len(world.evicted()) == 1
    assert world.comes(other, other.initiation(later=OVER)) == "parked"
    world.pass_time(3 * SECOND)
    world.answer("done=1\n")
    assert world.row_of(other) is None
    world.pass_time(SECOND)
    world.restart()
    world.turn()
    assert len(questions(world.provider)) == 1
    world.set(section(other) + ON_DEMAND)
    world.turn()
    answered(world, other)


def test_what_came_while_no_control_was_there_is_answered_by_the_next(world: Evicting) -> None:
    """It is older than that control, but not than the last peer that was taken away."""
    other = world.stranger()
    came = other.initiation(later=2 * SECOND)
    world.pass_time(9 * SECOND)
    world.restart()
    assert world.comes(other, came) == "parked"
    world.turn()
    world.set(section(other) + ON_DEMAND)
    world.turn()
    answered(world, other)


def test_a_timestamp_is_brought_back_and_never_set_back(world: Evicting) -> None:
    other = world.stranger()
    first, second = other.initiation(), other.initiation()
    world.pass_time(2 * FLOOR)  # this peer's clock is ten minutes late
    world.set(section(other) + ON_DEMAND)
    assert world.comes(other, first) == "HS_TIMESTAMP_REPLAYED"
    assert b'"event": "timestamp_too_old"' in world.parts.events.remembered()[-1]
    key = f"public_key={other.identity.public_key.hex()}\n"
    row = world.row_of(other)
    assert row is not None
    seen = stamp_of(1)
    world.set(f"{key}plait_timestamp={seen}\n")
    assert world.parts.vault.timestamp_seen(row).hex() == seen
    assert world.comes(other, first) == "HS_TIMESTAMP_REPLAYED"
    assert world.comes(other, second) == "HS_INITIATION_ACCEPTED", "its own last stamp is what counts"
    world.set(f"{key}plait_timestamp={seen}\n")
    world.pass_time(SECOND)
    assert world.comes(other, second) == "HS_TIMESTAMP_REPLAYED"


def stamp_of(seconds: int) -> str:
    """Of an initiation so many seconds after the clock of a peer began."""
    return tai64n.stamp(WALL + seconds * SECOND).hex()


def test_what_a_leaving_peer_sends_waits_until_it_is_gone(world: Evicting) -> None:
    other = world.add()
    world.pass_time(OVER)
    assert len(world.evicted()) == 1
    fresh = other.initiation(later=OVER)
    assert world.comes(other, fresh) == "parked" and other.hears_nothing()
    world.turn()
    assert questions(world.provider) == [], "it is a peer still"
    world.answer("done=1\n")
    assert [each["public_key"] for each in questions(world.provider)] == [base64(other)]
    world.set(section(other) + ON_DEMAND)
    world.turn()
    answered(world, other)


@pytest.mark.parametrize("said", ["refuse=1\n\n", None])
def test_a_peer_that_the_provider_does_not_take_stays_and_is_answered(
    world: Evicting, said: str | None
) -> None:
    other = world.add()
    world.pass_time(OVER)
    assert len(world.evicted()) == 1
    assert world.comes(other, other.initiation(later=OVER)) == "parked"
    if said is None:
        world.lookups.leave(world.provider)
        world.answer("")
    else:
        world.answer(said)
    answered(world, other)
    assert world.row_of(other) is not None and not world.lookups.leaving


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_peer_that_moved_meanwhile_stays_and_is_told_again_of_the_same_life(
    world: Evicting, is_restarted: bool
) -> None:
    """With all its totals, so that what was told before is replaced: by this control and by the next one."""
    other = world.add()
    world.pass_time(OVER)
    (first,) = world.evicted()
    assert first["rx"] == 148
    row = world.row_of(other)
    assert row is not None
    world.parts.peers.rows[row].rx_bytes += 1000
    world.answer("done=1\n")
    assert world.row_of(other) == row
    world.pass_time(AGAIN - 1)
    assert world.evicted() == []
    if is_restarted:
        world.restart()
    world.pass_time(1)
    (again,) = world.evicted()
    assert (again["rx"], again["tx"], again["life"]) == (1148, first["tx"], first["life"])
    world.answer(f"done={again['id']}\n")
    assert world.row_of(other) is None


def test_a_peer_that_is_back_has_another_life(world: Evicting) -> None:
    other = world.add()
    world.pass_time(OVER)
    (first,) = world.evicted()
    world.answer("done=1\n")
    assert world.comes(other, other.initiation(later=OVER)) == "parked"
    world.turn()
    world.set(section(other) + ON_DEMAND)
    world.answer("done=2\n")
    world.complete(other)
    world.pass_time(OVER)
    (again,) = [value for value in world.evicted() if value["public_key"] == base64(other)]
    assert (first["rx"], again["rx"]) == (148, 148) and first["life"] != again["life"]


def test_the_floor_rises_to_what_was_forgotten(world: Evicting) -> None:
    before = world.lookups.floor()
    world.pass_time(10_000 * SECOND)
    late = stamp_of(9_990)
    world.lookups.remember(b"k" * 32, bytes.fromhex(late))
    for number in range(REMEMBERED):
        world.lookups.remember(number.to_bytes(32, "little"), bytes(12))
    assert world.lookups.floor().hex() == late > before.hex()


def test_one_clock_that_is_ahead_shuts_nobody_out(world: Evicting) -> None:
    world.lookups.remember(b"k" * 32, tai64n.stamp(WALL + 10 * 365 * 24 * 3600 * SECOND))
    for number in range(REMEMBERED):
        world.lookups.remember(number.to_bytes(32, "little"), bytes(12))
    assert world.lookups.floor() <= tai64n.stamp(world.lookups.wall())


def test_a_peer_whose_clock_is_ahead_stays_until_then(world: Evicting) -> None:
    """No floor of ours would keep out what it sent before its eviction."""
    other = world.add(connects=False)
    assert world.comes(other, other.initiation(later=3600 * SECOND)) == "HS_INITIATION_ACCEPTED"
    world.complete(other)
    world.pass_time(OVER)
    assert world.evicted() == []
    world.pass_time(3600 * SECOND)
    assert [each["public_key"] for each in world.evicted()] == [base64(other)]


@pytest.mark.parametrize("world", [{"max_trie_nodes": 1 << 15}], indirect=True)
def test_a_peer_of_too_many_prefixes_to_be_taken_away_in_a_turn_stays(world: Evicting) -> None:
    other = world.add()
    key = f"public_key={other.identity.public_key.hex()}\n"
    prefixes = [f"allowed_ip=fd00:{n:x}::/32\n" for n in range(ALLOWED_IPS_MOST + 1)]
    world.set(key + "".join(prefixes))
    world.pass_time(OVER)
    assert world.evicted() == []
    world.set(key + "replace_allowed_ips=true\n" + "".join(prefixes[1:]))
    assert [each["public_key"] for each in world.evicted()] == [base64(other)]


def test_a_peer_that_was_removed_lets_no_replay_in_when_it_is_back(world: Evicting) -> None:
    other = world.add(connects=False)
    recorded = other.initiation()
    assert world.comes(other, recorded) == "HS_INITIATION_ACCEPTED"
    world.set(f"public_key={other.identity.public_key.hex()}\nremove=true\n")
    world.set(section(other) + ON_DEMAND)
    assert world.comes(other, recorded) == "HS_TIMESTAMP_REPLAYED"


def test_a_provider_that_ignores_evictions_is_closed(world: Evicting) -> None:
    """Its peer would be shut out: what it sends is parked until the answer."""
    world.add()
    world.pass_time(OVER)
    assert len(world.evicted()) == 1
    for _ in range(4):
        world.pass_time(10 * SECOND)
        world.lookups.heard(world.provider, b"\n")
        world.eviction.look(world.time[0])
    assert world.provider.is_over


def test_a_large_set_leaves_what_leaving_peers_sent_where_it_is(world: Evicting) -> None:
    other = world.add()
    world.pass_time(OVER)
    assert len(world.evicted()) == 1
    assert world.comes(other, other.initiation(later=OVER)) == "parked"
    world.lookups.peers_added(None)
    world.lookups.set_is_over()
    assert not world.lookups.ready and world.lookups.parked


def test_on_demand_peers_are_shown_and_replaced_as_others(world: Evicting) -> None:
    other = world.add(connects=False)
    assert "\non_demand=1\nidle_after=5\n" in world.parts.get()
    assert world.parts.get().count("idle_after") == 1, "of the peer by hand nothing is shown"
    world.set("replace_peers=true\n")
    assert world.row_of(other) is None

