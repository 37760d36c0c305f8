"""What control died of three times is not tried again: the set, the peer, the step, the piece of news."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from engine.uapi import parse_set
from tests.support.control_harness import ControlProcess, Holder, Interface, Parts, dying_in, uapi
from tests.support.waiting import PATIENCE
from tests.unit.workers.test_control_handshakes import Other
from tests.unit.workers.test_control_loop import KEY, OURS, PEER, Loop
from workers._workers import lib
from workers.attempts import DEATHS, Attempts, GivenUp, Step
from workers.control.events import Event
from workers.control.pace import Pace
from workers.control.process import Control
from workers.control.vault import CAME_UP, KEY_CHANGED, WENT_DOWN, Vault
from workers.supervisor.news import News

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

PEERS = "".join(f"public_key={n:064x}\nallowed_ip=10.0.0.{n}/32\n" for n in (1, 2, 3))


@pytest.fixture
def interface() -> Iterator[Interface]:
    with Interface(f"pla{os.getpid()}") as made:
        yield made


def events_of(interface: Interface) -> list[dict[str, Any]]:
    lines = uapi(interface, "events=0\n\n").splitlines()
    return [json.loads(line.removeprefix("event=")) for line in lines if line.startswith("event=")]


def prepare_redo(parts: Parts | Control, text: str, cut: int = 0) -> None:
    """As a control leaves it that is killed when a set is committed; without its last bytes."""
    operation = parse_set("set=1\n" + text)
    records = operation.records[: len(operation.records) - cut]
    for _ in parts.vault.prepare_redo(operation.head(), records):
        pass
    parts.vault.commit_redo(operation.peer_count)


def test_a_set_that_control_dies_of_is_dropped_after_three_deaths(interface: Interface) -> None:
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    prepare_redo(parts, f"public_key={4:064x}\nallowed_ip=10.0.0.4/32\nallowed_ip=10.0.0.5/32\n", cut=1)
    parts.close()  # the first death
    for _ in range(DEATHS - 1):
        control = ControlProcess(interface)
        assert control.process.wait(PATIENCE) == 1
        control.kill()
    with ControlProcess(interface):
        shown = uapi(interface, "get=1\n\n")
        assert shown.count("public_key=") == 3
        (told,) = [each for each in events_of(interface) if each["event"] == Event.SET_GIVEN_UP]
        assert told["tries"] == DEATHS and "of its 1 peers" in told["reason"]
        assert interface.counter("GIVEN_UP") == 1
        assert "errno=0" in uapi(interface, f"set=1\npublic_key={5:064x}\n\n")
    with ControlProcess(interface):
        assert not [each for each in events_of(interface) if each["event"] == Event.SET_GIVEN_UP]
        assert uapi(interface, "get=1\n\n").count("public_key=") == 4
        assert interface.counter("GIVEN_UP") == 1


def test_an_initiation_that_control_dies_of_asking_about_ends(interface: Interface) -> None:
    """Alone: the others are asked about."""
    strangers = [Other(seed, OURS.public_key) for seed in (0x51, 0x52)]
    loop = Loop(interface)
    loop.add_peer()
    loop.control.handshakes.lookups.join(8)
    for stranger in strangers:
        interface.deliver(stranger.initiation(), (b"\x7f\0\0\1", stranger.endpoint.port))
    for _ in range(DEATHS):
        with dying_in(loop.control.handshakes.lookups, "_ask"):
            loop.turn()
        loop.close()
        loop = Loop(interface)
        provider = loop.control.handshakes.lookups.join(8)
        assert provider is not None
    assert interface.counter("GIVEN_UP") == 1 and interface.counter("HS_UNKNOWN_PEER") == 1
    loop.turn()
    assert [question.key for question in provider.open.values()] == [strangers[1].identity.public_key]
    assert b'"event": "step_given_up"' in b"".join(loop.control.events.remembered())
    loop.close()
    for _ in range(DEATHS):
        loop = Loop(interface, begins=False)
        with dying_in(loop.control.handshakes.lookups.parking, "read"):
            loop.control.begin()
        loop.close()
    Loop(interface).close()
    assert interface.counter("GIVEN_UP") == 2 and interface.counter("HS_UNKNOWN_PEER") == 2


def test_a_place_is_the_same_however_the_slices_fell(interface: Interface) -> None:
    parts = Parts(interface)
    prepare_redo(parts, PEERS + f"public_key={4:064x}\nallowed_ip=10.0.0.4/32\n", cut=1)
    parts.close()
    found = []
    for size in (1, 2, 512):
        with pytest.raises(ValueError, match="damaged"):
            Parts(interface, Pace(peers=size))
        found.append(vault_of(interface).attempts.judge())
    assert found == [None, None, GivenUp(Step.SET, 3)]


def vault_of(interface: Interface) -> Vault:
    return Vault(os.dup(interface.vault_fd), int(interface.segment.geometry.max_peers))


def test_a_set_given_up_after_it_brought_the_key_starts_what_waits(interface: Interface) -> None:
    with Holder(interface) as holder:
        first = Loop(interface)
        peer = f"public_key={PEER.public_key.hex()}\npersistent_keepalive_interval=25\n"
        assert first.set(peer + f"endpoint=127.0.0.1:{first.endpoint.port}\n") == 0
        holder.take_turns()
        first.turn()
        prepare_redo(first.control, f"{KEY}public_key={4:064x}\nallowed_ip=10.0.0.4/32\n", cut=1)
        first.channel.close()
        for _ in range(DEATHS - 1):
            with pytest.raises(ValueError, match="damaged"):
                Loop(interface)
        last = Loop(interface)
        assert last.control.vault.private_key is not None and not last.control.vault.has_redo
        last.turn()
        holder.take_turns()
        last.turn()
        assert first.messages() == [1]
        last.channel.close()
        for loop in (first, last):
            loop.heard.close()


@pytest.mark.parametrize("killed", ["before the peers know", "when some know"])
def test_a_private_key_that_a_kill_cut_short_reaches_every_peer(
    interface: Interface, killed: str
) -> None:
    """Also when the set is not finished: the next control finds that key there already."""
    first = Loop(interface, Pace(looked=1))
    assert first.set(KEY + PEERS) == 0
    vault, used = first.control.vault, first.control.peers.used
    for row in range(used):
        vault.store_static_static(row, bytes([7]) * 32)
        interface.segment.rows[row].key_word = 1 << 21
    first.control.memory.rows["orders"][:used] = 0
    steps = first.control.configuration.apply(parse_set(f"set=1\nprivate_key={'42' * 32}\n"))
    if killed.startswith("before"):
        with dying_in(vault, "make_stale"):
            list(steps)
    else:
        while not first.orders(0) & lib.ORDER_STOP_SENDING:
            next(steps)
    assert not first.orders(used - 1)
    first.channel.close()
    second = Loop(interface, Pace(looked=1))
    assert not any(vault.rows["flags"][:used]), "no handshake uses a secret of the key before"
    while second.control.passes:
        second.turn()
    assert second.control.handshakes.is_up and not second.control.vault.passing
    assert [bool(second.orders(row) & lib.ORDER_STOP_SENDING) for row in range(used)] == [True] * used
    assert not any(second.control.vault.rows["static_static"][:used].flat), "of the key before"
    second.channel.close()
    for loop in (first, second):
        loop.heard.close()


def test_a_death_that_does_not_happen_fails_its_test() -> None:
    counts = Counter[str]()
    with pytest.raises(pytest.fail.Exception), dying_in(counts, "update", "a"):
        counts.update("b")
    with pytest.raises(AttributeError), dying_in(counts, "updated"):
        counts.update("b")
    with dying_in(counts, "update"):
        counts.update("b")
    assert counts == {"b": 1} and "update" not in vars(counts)


def test_a_control_that_is_told_to_end_did_not_die_of_its_set(interface: Interface) -> None:
    """As in an upgrade: its successor goes on with the set, and nothing is counted."""
    vault = vault_of(interface)
    with ControlProcess(interface) as control:
        vault.attempts.begin(Step.SET)
        assert control.stop() == 0
    assert vault.attempts.judge() is None and not int(vault.header[0]["suspect_deaths"])


@pytest.mark.parametrize("peer", [0, 2])
def test_a_pass_over_the_peers_that_control_dies_of_is_given_up(interface: Interface, peer: int) -> None:
    """At whichever peer it dies. A slice has one here."""
    parts = Parts(interface)
    assert parts.set("set=1\n" + KEY + PEERS) == 0
    parts.memory.device.up = 1
    parts.vault.note_passing(WENT_DOWN | KEY_CHANGED | CAME_UP)
    parts.vault.store_static_static(0, bytes([7]) * 32)
    parts.close()
    for _ in range(DEATHS):
        loop = Loop(interface, Pace(ordered=1), begins=False)
        with contextlib.closing(loop), dying_in(loop.control.peers, "active_rows", True, peer):
            loop.control.begin()  # there, or in a turn
            for _ in range(10):
                loop.turn()
    vault = vault_of(interface)
    loop = Loop(interface)
    assert WENT_DOWN not in [way for way, _ in loop.control.passes]
    while loop.control.passes:
        loop.turn()
    assert not vault.rows["static_static"][0].any(), "the other passes are made"
    assert not vault.passing and loop.control.handshakes.is_up
    told = [json.loads(line.removeprefix(b"event=")) for line in loop.control.events.remembered()]
    assert [each["event"] for each in told].count(Event.STEP_GIVEN_UP) == 1
    loop.close()


def test_what_a_holder_told_and_control_dies_of_is_dropped(interface: Interface) -> None:
    """It stands in the row, so that a kill loses nothing: each successor finds it again."""
    parts = Parts(interface)
    assert parts.set("set=1\n" + KEY + PEERS) == 0
    parts.close()
    bad = parts.peers.find((2).to_bytes(32))
    assert bad is not None
    for row in range(3):
        lib.events_give(interface.segment, row, lib.EVENT_HANDSHAKE_WANTED)
    for _ in range(DEATHS):
        loop = Loop(interface)
        with dying_in(loop.control.handshakes.initiator, "wanted", bad):
            for _ in range(4):
                loop.turn()
        loop.channel.close()
    loop = Loop(interface)
    for _ in range(4):
        loop.turn()
    assert not loop.control.timer_columns.is_retrying(bad), "nobody looked at what it wanted"
    assert interface.counter("GIVEN_UP") == 1 and loop.control.peers.count == 3
    assert not any(int(lib.events_read(interface.segment, row)) & 0xFFFFFFFF for row in range(3))
    loop.channel.close()


def test_a_removed_peer_that_control_dies_of_is_left_out(interface: Interface) -> None:
    first = Loop(interface)
    assert first.set(PEERS) == 0
    with Holder(interface) as holder:
        assert first.set(f"public_key={2:064x}\nremove=true\n") == 0
        first.channel.close()
        for _ in range(DEATHS):
            loop = Loop(interface)
            with dying_in(loop.control.keypairs, "release_all"):
                for _ in range(10):
                    loop.turn()
                    holder.take_turns()
            loop.channel.close()
        loop = Loop(interface)
        for _ in range(10):
            loop.turn()
    assert interface.counter("GIVEN_UP") == 1 and not loop.control.peers.retiring
    assert loop.control.peers.count == 2 and len(loop.control.peers.free) == 0
    loop.channel.close()


def test_an_endpoint_that_waits_and_that_control_dies_of_leaves_its_peer_out(interface: Interface) -> None:
    """Not in the recovery: in a turn, which each successor comes to."""
    parts = Parts(interface)
    for port in (1, 2):  # nobody applies the first, so the second waits
        assert parts.set(f"set=1\npublic_key={1:064x}\nendpoint=127.0.0.1:{port}\n") == 0
    assert list(parts.endpoints.waiting) == [0]
    parts.memory.rows["orders"][0] = 0
    parts.close()
    for _ in range(DEATHS):
        loop = Loop(interface)
        with dying_in(loop.control.endpoints, "_move_waiting"):
            loop.turn()
        loop.channel.close()
    loop = Loop(interface)
    loop.turn()
    assert loop.control.peers.count == 0 and interface.counter("GIVEN_UP") == 1
    loop.channel.close()


def test_an_endpoint_whose_zone_is_gone_when_the_set_is_applied_is_left_out(interface: Interface) -> None:
    parts = Parts(interface)
    zone = f"gone{os.getpid() % 100_000}"
    prepare_redo(parts, f"public_key={4:064x}\nendpoint=[fe80::1%{zone}]:7\nallowed_ip=10.0.0.4/32\n" + PEERS)
    parts.close()
    parts = Parts(interface)
    shown = parts.get()
    assert shown.count("public_key=") == 4 and shown.count("allowed_ip=") == 4 and "endpoint" not in shown
    assert not parts.vault.has_redo
    parts.close()


def test_a_peer_that_control_dies_of_is_left_out_and_can_be_added_again(interface: Interface) -> None:
    parts = Parts(interface)
    keys = {n: bytes([n + 0x70]) * 32 for n in (1, 2, 3)}
    secrets = "".join(f"public_key={n:064x}\npreshared_key={key.hex()}\n" for n, key in keys.items())
    assert parts.set("set=1\n" + PEERS + secrets) == 0
    row = parts.peers.find((2).to_bytes(32))
    assert row
    for _ in range(DEATHS - 1):  # as controls leave it that die at that row
        parts.vault.attempts.begin(Step.PEERS)
        parts.vault.attempts.at(row + 1)
        assert parts.vault.attempts.judge() is None
    parts.vault.attempts.begin(Step.PEERS)
    parts.vault.attempts.at(row + 1)
    parts.close()
    others = ["public_key=" + f"{n:064x}" for n in (1, 3)]
    with ControlProcess(interface):
        (told,) = [each for each in events_of(interface) if each["event"] == Event.PEER_LEFT_OUT]
        assert told["tries"] == DEATHS and told["peer"].startswith("AAAA") and told["reason"]
        assert interface.counter("GIVEN_UP") == 1
    kept = os.pread(interface.vault_fd, os.fstat(interface.vault_fd).st_size, 0)
    assert {n for n, key in keys.items() if key in kept} == {1, 3}, "its secrets are gone"
    with ControlProcess(interface):  # it stays out
        shown = uapi(interface, "get=1\n\n")
        assert [line for line in shown.splitlines() if line.startswith("public_key=")] == others
        assert "allowed_ip=10.0.0.2/32" not in shown
        again = f"set=1\npublic_key={2:064x}\nallowed_ip=10.0.0.2/32\n\n"
        assert "errno=0" in uapi(interface, again)
        assert "allowed_ip=10.0.0.2/32" in uapi(interface, "get=1\n\n")
    parts = Parts(interface)
    assert parts.peers.find((2).to_bytes(32)) not in (None, row)
    parts.close()


def test_rows_that_do_not_exist_are_not_recovered(interface: Interface) -> None:
    """Any worker may write that word; a control that believed it would die of it, as would each after it."""
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    parts.close()
    interface.segment.device.rows_used = 0xFFFFFFFF
    with ControlProcess(interface):
        assert uapi(interface, "get=1\n\n").count("public_key=") == 3


@pytest.mark.parametrize("step", [each for each in Step if each not in (Step.SET, Step.PEERS)])
def test_a_step_without_a_place_is_left_out_once(interface: Interface, step: Step) -> None:
    parts = Parts(interface)
    assert parts.set("set=1\n" + PEERS) == 0
    for _ in range(DEATHS - 1):
        parts.vault.attempts.begin(step)
        assert parts.vault.attempts.judge() is None
    parts.vault.attempts.begin(step)
    parts.close()
    with ControlProcess(interface):
        assert [each["event"] for each in events_of(interface)].count(Event.STEP_GIVEN_UP) == 1
        shown = uapi(interface, "get=1\n\n")
        assert shown.count("public_key=") == 3
        assert shown.count("allowed_ip=") == (0 if step is Step.TRIE else 3)
        assert "errno=0" in uapi(interface, "set=1\n" + PEERS + "\n")
        assert uapi(interface, "get=1\n\n").count("allowed_ip=") == 3


def test_deaths_at_different_places_or_with_work_between_are_not_counted_together() -> None:
    header = dict.fromkeys(
        ("attempt_step", "attempt_place", "suspect_step", "suspect_place", "suspect_deaths"), 0
    )
    attempts = Attempts(header)
    for place in range(4 * DEATHS):
        attempts.begin(Step.SET)
        attempts.at(place)
        assert attempts.judge() is None
    for _ in range(4 * DEATHS):
        attempts.begin(Step.SET)
        assert attempts.judge() is None
        with attempts.trying(Step.SET):
            pass
        assert attempts.judge() is None, "the one before finished it"
    for place in (0, 0, 0, 3, 3, 3):
        attempts.begin(Step.SET)
        attempts.at(place)
        assert attempts.judge() is None
        attempts.begin(Step.SET)
        attempts.done(Step.SET)  # the next control finished it; then another set came
    for row in (7, 7, 7):
        before = attempts.note(Step.FREEING, row)
        assert attempts.judge() is None
        attempts.note(Step.FREEING, row)
        attempts.over(before)
    attempts.begin(Step.SET)
    attempts.at(5)
    for _ in attempts.each(Step.PASSES, [1]):
        assert header["attempt_step"] == Step.PASSES
    assert (header["attempt_step"], header["attempt_place"]) == (Step.SET, 5), "a step within it is over"
    given = []
    for _ in range(DEATHS):
        with pytest.raises(RuntimeError):
            for row in attempts.each(Step.ORDERS, [3, 4]):
                if row == 4:
                    raise RuntimeError
        given.append(attempts.judge())
    assert given == [None, None, GivenUp(Step.ORDERS, 5)]
    assert attempts.judge() is None


def test_the_piece_of_news_that_control_dies_of_is_given_up_alone() -> None:
    told: list[str] = []
    counted: list[int] = []

    def hear(message: dict[str, Any]) -> None:
        sent.append([each["event"] for each in message["news"]])
        upto.append(message["upto"])

    sent: list[list[str]] = []
    upto: list[int] = []
    news = News(hear, lambda: counted.append(1))
    for event in ("first", "bad", "last"):
        news.emit(event)
    news.control_is_ready()
    for _ in range(20):
        if not sent:
            break
        (events, number), sent[:], upto[:] = (sent[-1], upto[-1]), [], []
        if "bad" in events:
            news.control_is_ready()  # the next one: this one died
        else:
            told += events
            news.heard(number)
    assert told == ["first", "last", "step_given_up"] and counted == [1]
