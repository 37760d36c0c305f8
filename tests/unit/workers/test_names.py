"""Names of peers: kept over deaths of control, and gone with their peers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from engine import uapi
from tests.support.control_harness import Holder, Interface, Parts, dying_in
from workers.control.vault import NAME_BYTES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

ALICE, BOB = "a1" * 32, "b0" * 32
LONG = "\N{CAT}" * 16  # 64 bytes


class World:
    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.parts = Parts(interface)

    def restart(self) -> None:
        self.parts.close()
        self.parts = Parts(self.interface)

    def set(self, *lines: str) -> None:
        assert self.parts.set("set=1\n" + "\n".join(lines) + "\n") == 0

    def names(self) -> dict[str, str]:
        """By key, of those that have one, as `get` tells them."""
        found, key = {}, ""
        for line in self.parts.get().splitlines():
            name, _, value = line.partition("=")
            if name == "public_key":
                key = value
            elif name == "plait_name":
                found[key] = value
        return found


@pytest.fixture
def world() -> Iterator[World]:
    with Interface(f"pln{os.getpid()}") as interface:
        world = World(interface)
        yield world
        world.parts.close()


def test_a_name_is_told_and_outlives_control(world: World) -> None:
    world.set(f"public_key={ALICE}", "plait_name=Alice%C3%A9 100%25", f"public_key={BOB}")
    assert world.names() == {ALICE: "Alice%C3%A9 100%25"}
    row = world.parts.peers.find(bytes.fromhex(ALICE))
    assert row is not None and world.parts.peers.name(row) == "Alice\N{LATIN SMALL LETTER E WITH ACUTE} 100%"
    world.restart()
    world.set(f"public_key={BOB}", f"plait_name={uapi.encode_name(LONG)}")
    assert world.names() == {ALICE: "Alice%C3%A9 100%25", BOB: uapi.encode_name(LONG)}
    world.set(f"public_key={ALICE}", "persistent_keepalive_interval=25")
    assert ALICE in world.names(), "a set that says nothing of it"
    world.set(f"public_key={ALICE}", "plait_name=")
    assert world.names() == {BOB: uapi.encode_name(LONG)}


def test_a_set_that_a_kill_cut_short_names_its_peers_all_the_same(world: World) -> None:
    with dying_in(world.parts.vault, "clear_redo"):
        world.set(f"public_key={ALICE}", "plait_name=alice")
    world.restart()
    assert world.names() == {ALICE: "alice"}


def test_a_row_that_another_peer_gets_has_no_name_of_the_one_before(world: World) -> None:
    with Holder(world.interface) as holder:
        world.set(f"public_key={ALICE}", "plait_name=alice")
        row = world.parts.peers.find(bytes.fromhex(ALICE))
        world.set(f"public_key={ALICE}", "remove=true")
        world.parts.settle(holder)
        world.set(f"public_key={BOB}")
        assert world.parts.peers.find(bytes.fromhex(BOB)) == row and world.names() == {}


def test_a_replaced_configuration_has_its_own_names_alone(world: World) -> None:
    """Neither peer has moved anything, so that their rows are kept."""
    world.set(f"public_key={ALICE}", "plait_name=alice", f"public_key={BOB}", "plait_name=bob")
    world.set("replace_peers=true", f"public_key={ALICE}", f"public_key={BOB}", "plait_name=robert")
    assert world.names() == {BOB: "robert"}


def test_a_worker_that_writes_into_a_row_shows_no_other_memory(world: World) -> None:
    world.set(f"public_key={ALICE}", "plait_name=alice")
    row = world.parts.peers.find(bytes.fromhex(ALICE))
    world.parts.peers.rows[row].name_bytes = 0xFFFF
    assert world.names() == {}


def test_rows_without_a_name_take_no_memory_for_one(world: World) -> None:
    vault = world.parts.vault
    world.set(*(f"public_key={n + 1:064x}" for n in range(60)))
    before = os.fstat(vault.fd).st_blocks
    world.parts.get()
    assert os.fstat(vault.fd).st_blocks == before
    world.set(f"public_key={1:064x}", "plait_name=one")
    assert before < os.fstat(vault.fd).st_blocks <= before + 4096 // 512
    assert os.fstat(vault.fd).st_size == vault.names_at + 4096 and NAME_BYTES == uapi.NAME_MOST


def test_a_replaced_configuration_has_its_own_preshared_keys_alone(world: World) -> None:
    """The peers that stay keep nothing of the former one."""
    world.set(*(f"public_key={key}\npreshared_key={'1f' * 32}" for key in (ALICE, BOB)))
    assert world.parts.get().count(f"preshared_key={'1f' * 32}\n") == 2
    world.set("replace_peers=true", f"public_key={ALICE}", f"public_key={BOB}", f"preshared_key={'2f' * 32}")
    told = [line for line in world.parts.get().splitlines() if line.startswith("preshared_key")]
    assert sorted(told) == sorted(["preshared_key=" + each * 32 for each in ("00", "2f")])
