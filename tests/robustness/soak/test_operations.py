"""The bookkeeping of `plait soak --operations`: what is lost, silent or dead without being told is found."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from plait.lab.namespaces import Lab
from plait.lab.soak_books import ENDS, ON_THE_WIRE, Account, balance
from plait.lab.soak_deeds import HANDED_OVER, OPERATIONS, RECEIVERS, Operation
from plait.lab.soak_operations import Entry, Result, Run, deck, table, wrong
from plait.lab.soak_scene import Scene, Side

SENT = 100


# -- the books --------------------------------------------------------------------------------------


def spans() -> dict[str, Account]:
    """Of two ends, each of which sent as much as the other had."""
    names = {*ENDS, *ON_THE_WIRE, "udp_received", "tun_received"}
    return {
        end: Account(
            SENT, SENT, {**dict.fromkeys(names, 0), "tun_received": SENT, "udp_sent": SENT,
                         "udp_received": SENT, "tun_sent": SENT}, 0, {"Udp NoPorts": 0},
        ) for end in ("a", "b")
    }  # fmt: skip


def test_what_came_through_balances() -> None:
    assert not list(balance(spans()))


@pytest.mark.parametrize(
    ("counter", "change", "where"),
    [
        ("tun_received", -1, "the TUN of a"),  # and one less behind it
        ("udp_sent", -1, "the engine of a"),
        ("udp_received", -1, "the cable to a and the host there"),
        ("tun_sent", -1, "the engine of a"),
        ("drop_staged", 1, "the engine of a"),
    ],
)
def test_a_made_loss_is_found_where_it_was(counter: str, change: int, where: str) -> None:
    """Also what was counted and came through."""
    made = spans()
    counters = dict(made["a"].counters)
    counters[counter] += change
    made["a"].counters = counters
    gaps = {gap.where: gap.packets for gap in balance(made)}
    assert gaps[where] == -change, gaps


def test_a_packet_that_no_reader_got_is_found_unless_the_host_counted_it() -> None:
    made = spans()
    made["b"].received -= 3
    assert [(gap.where, gap.packets) for gap in balance(made)] == [("the cable to b and the host there", 3)]
    made["b"].host = {"Udp NoPorts": 3}
    assert not list(balance(made))
    assert made["b"].lost() == {"Udp NoPorts": 3}


def test_what_the_kernel_dropped_in_front_of_the_engine_is_counted() -> None:
    made = spans()
    made["a"].sent += 5
    made["a"].tun_drops = 5
    assert not list(balance(made)) and made["a"].lost() == {"kernel_drops tun": 5}


# -- figures ------------------------------------------------------------------------------------------


def result() -> Result:
    made = Result(60, "inline", 1, sent={"a": SENT, "b": SENT}, received={"a": SENT, "b": SENT})
    made.before = {"a": {"descriptors": 9, "processes": 6, "namespaces": 7, "memory": 1 << 20}}
    made.after = {"a": {"descriptors": 9, "processes": 6, "namespaces": 7, "memory": 2 << 20}}
    return made


def test_nothing_is_wrong() -> None:
    assert not list(wrong(result()))


@pytest.mark.parametrize("what", ["descriptors", "processes", "namespaces"])
@pytest.mark.parametrize("change", [-1, 1])
def test_what_is_not_flat_is_wrong(what: str, change: int) -> None:
    made = result()
    made.after["a"][what] += change
    (line,) = wrong(made)
    assert line.startswith(f"{what} of a: ")


def test_memory_that_grows_is_wrong() -> None:
    made = result()
    made.after["a"]["memory"] += 64 << 20
    (line,) = wrong(made)
    assert line.startswith("memory of a: ")


def test_losses_that_were_not_counted_are_wrong() -> None:
    made = result()
    made.received["a"] -= 10
    made.counted = {"drop_staged": 9}
    assert list(wrong(made)) == ["10 packets were lost, 1 more than were counted"]
    made.uncounted = 1  # by a kill, within its promise
    assert not list(wrong(made))
    made.counted, made.messages_lost, made.uncounted = {"drop_staged": 12}, 2, 0
    assert not list(wrong(made))


def test_a_seed_is_an_order() -> None:
    def drawn(seed: int) -> list[tuple[str, int, float]]:
        rounds = islice(deck(seed), 2 * len(OPERATIONS))
        return [(operation.name, end, random.random()) for operation, end, random in rounds]

    assert drawn(1) == drawn(1) != drawn(2)
    for part in (drawn(1)[: len(OPERATIONS)], drawn(1)[len(OPERATIONS) :]):
        assert {name for name, *_ in part} == {operation.name for operation in OPERATIONS}


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_fits(columns: int) -> None:
    made = result()
    made.log = [Entry(1.0, "client", operation.name, 59.999, 1.0, 10000) for operation in OPERATIONS[1:]]
    lines = list(table(made, columns))
    operations = lines[: lines.index("")]
    assert len(operations) == 1 + len(OPERATIONS)
    assert max(map(len, operations)) <= columns


# -- two engines --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with Lab() as lab:
        made = Run(Scene(lab, "inline"), Result(60, "inline", 1), lambda words: None)
        assert made.traffic.pump(60, made.traffic.flowing())
        made.traffic.settle()
        made.books = made.scene.accounts()
        yield made
        assert not made.scene.end()


def cable_out(side: Side, _random: Random) -> None:
    """What the engine sends meanwhile is lost on the way, and nobody counts it."""
    side.host.ip("link set eth0 down")
    time.sleep(0.3)
    side.host.ip("link set eth0 up", f"neighbour replace {side.other.address} dev eth0 lladdr {mac(side)}")


def mac(side: Side) -> str:
    return (side.other.host.root / "sys/class/net/eth0/address").read_text().strip()


def kill_in_secret(side: Side, _random: Random) -> None:
    pid = side.pids()[RECEIVERS[0]]
    os.kill(pid, signal.SIGKILL)
    side.await_complete(but=[pid])


def stop_of_all(side: Side, _random: Random) -> None:
    pids = list(side.pids().values())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)
    side.go_on(*reversed(pids))


def nothing(_side: Side, _random: Random) -> None:
    """Time passes."""
    time.sleep(0.2)


def tried(run: Run, operation: Operation, **rest: float) -> Entry:
    side = run.scene.sides[0]
    entry = Entry(0.0, side.name, operation.name, bound_s=operation.bound)
    run.try_one(operation, side, Random(1), entry, **rest)
    return entry


@pytest.mark.network
def test_nothing_done_balances(run: Run) -> None:
    entry = tried(run, Operation("nothing", nothing, bound=60))
    assert (entry.wrong, entry.lost, entry.uncounted) == ([], 0, 0)


@pytest.mark.network
def test_packets_that_the_cable_lost_are_found(run: Run) -> None:
    entry = tried(run, Operation("the cable is out", cable_out, bound=60), rest=0)
    assert entry.uncounted > 0 and len(entry.wrong) >= 1, entry
    assert all("and the host there" in line or "TUN" in line for line in entry.wrong), entry
    assert entry.lost >= entry.uncounted  # what this end sent was refused, and counted by its engine
    run.result.log = [entry]
    assert any("the cable is out: " in line for line in wrong(run.result))
    run.result.log = []


@pytest.mark.network
def test_a_silence_beyond_its_bound_is_found(run: Run) -> None:
    entry = tried(run, Operation("stopped", stop_of_all, bound=0.2))
    assert any(line.startswith("silent for ") for line in entry.wrong), entry


@pytest.mark.network
def test_a_death_that_nobody_meant_is_found(run: Run) -> None:
    entry = tried(run, Operation("a kill in secret", kill_in_secret, bound=60), rest=0)
    assert "1 workers died, 0 were killed" in entry.wrong, entry
    assert entry.uncounted <= HANDED_OVER
