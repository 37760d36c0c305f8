"""What the gateway's host counted, and when it is believed."""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from plait.failure import Failure
from plait.lab.namespaces import Lab
from plait.load import arrivals as load_arrivals
from plait.load import result as load_result
from plait.load import thresholds as load_thresholds
from plait.load.arrivals import Arrivals, Arrived, counts_of, of_process
from tests.unit.plait.load.gateway import Gateway, checksum
from tests.unit.plait.load.test_generator import SEED, STORM, run_against


@pytest.mark.network
def test_a_host_counts_echoes_and_replies_to_nothing() -> None:
    """Of both families, and none of another host."""
    with Lab() as laboratory:
        host, other = laboratory.add_hosts(["host", "other"])
        host.ip("link set lo up")
        before, before_other = of_process(host.pid), of_process(other.pid)
        assert before is not None and before_other is not None
        for family, address, protocol, kinds in (
            (socket.AF_INET, "127.0.0.1", socket.IPPROTO_ICMP, (8, 0)),
            (socket.AF_INET6, "::1", socket.IPPROTO_ICMPV6, (128, 129)),
        ):
            with host.socket(family, socket.SOCK_RAW, protocol) as raw:
                for kind, times in zip(kinds, (2, 5), strict=True):
                    for _ in range(times):
                        body = struct.pack(">BxHHH", kind, 0, 7, 9)
                        raw.sendto(body[:2] + checksum(body).to_bytes(2, "big") + body[4:], (address, 0))
        after, after_other = of_process(host.pid), of_process(other.pid)
    assert after is not None and after_other is not None
    # Each request is answered by a reply, which comes back to the same host.
    assert after.since(before) == Arrived(4, 14) and after_other == before_other


class Counting:
    """A host's counts, moved on by a test."""

    def __init__(self) -> None:
        self.now: Arrived | None = Arrived(1000, 50)

    def __call__(self) -> Arrived | None:
        return self.now


def phase(**counters: int) -> load_result.PhaseResult:
    """A phase that counted that."""
    import numpy as np

    every = {**dict.fromkeys(load_result.counter_names(), 0), **counters}
    rows = np.zeros((len(load_result.HISTOGRAMS), len(load_result.bucket_middles())), dtype=np.uint64)
    return load_result.PhaseResult("p", every, rows, seconds=1.0)


def test_counts_are_believed_once_the_answered_echoes_are_among_them() -> None:
    counting, busy = Counting(), phase(answered=100, asked=110, inner_packets=110)
    arrivals = Arrivals(counting)
    arrivals.begin()
    counting.now = Arrived(1000, 70)
    # Nothing says whose they are.
    assert arrivals.of_phase(phase(oneway=20, inner_packets=20).counters, 0, 0) is None
    counting.now = Arrived(1105, 70)
    assert arrivals.of_phase(busy.counters, 100, 0) == Arrived(105, 0)
    counting.now = Arrived(1105, 90)
    assert arrivals.of_phase(phase(oneway=25, inner_packets=25).counters, 0, 0) == Arrived(0, 20)
    counting.now = Arrived(1204, 90)  # less than was answered: another host's
    assert arrivals.of_phase(busy.counters, 100, 0) is None
    counting.now = Arrived(2000, 90)
    assert arrivals.of_phase(busy.counters, 100, 0) is None


def test_what_is_still_on_its_way_is_waited_for() -> None:
    counting = Counting()
    arrivals = Arrivals(counting)
    arrivals.begin()
    counting.now = Arrived(1010, 52)

    def come() -> None:
        counting.now = Arrived(1010, 60)

    later = threading.Timer(0.1, come)
    later.start()
    made = phase(answered=10, asked=10, oneway=10, inner_packets=20)
    assert arrivals.of_phase(made.counters, 10, 60) == Arrived(10, 10)
    later.join()


@pytest.mark.parametrize(
    ("arrived", "loss", "why"),
    [
        (Arrived(10, 8), 0.1, ""),
        (Arrived(10, 10), 0.0, ""),
        (None, None, "whether 10 one-way packets arrived is not known"),
        (Arrived(11, 3), None, "more inner packets came to the gateway's host"),
        (Arrived(3, 11), None, "more inner packets came to the gateway's host"),
    ],
)
def test_loss_on_the_way_there(arrived: Arrived | None, loss: float | None, why: str) -> None:
    """Of echoes and one-way packets together; unknown, and said so, rather than guessed."""
    made = phase(oneway=10, asked=10, answered=3, inner_packets=20)
    made.arrived = arrived
    found = load_result.metrics([made])
    assert found["there_loss"] == (None if loss is None else pytest.approx(loss))
    said = [each.text for each in load_result.parties(made)]
    assert any(why in text for text in said) if why else not said
    assert load_thresholds.parse("there_loss<=10%").holds(found) == (loss is not None)
    kept = made.as_json()["arrived"]
    assert kept == (None if arrived is None else {"echoes": arrived.echoes, "oneway": arrived.oneway})


def test_a_gateway_whose_interface_is_elsewhere_is_not_believed_to_be_here() -> None:
    """The model's answers come from no host: this namespace counted none of them."""
    steady = {"name": "steady", "seconds": 0.3, "traffic": {"rate": 100}, "oneway": {"rate": 100}}
    with Gateway(SEED, 2) as gateway:
        run = run_against(gateway, [STORM, steady], arrivals=counts_of(None))
    assert [each.arrived for each in run.phases] == [None, None]
    assert load_result.metrics(run.phases)["there_loss"] is None


def test_counts_go_through_a_file(tmp_path: Path) -> None:
    """What stood there before it was asked for is not taken."""
    lines = tmp_path / "came"
    lines.write_text('{"at": 1, "echoes": -1, "oneway": -1}')
    stop = threading.Event()

    def writing() -> None:
        while not stop.wait(0.01):
            load_arrivals.write(lines, os.getpid())

    thread = threading.Thread(target=writing)
    thread.start()
    try:
        found = load_arrivals.of_file(lines)
    finally:
        stop.set()
        thread.join()
    assert found is not None and found.echoes >= 0 and found.oneway >= 0


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(Failure, match="cannot use --gateway-pid 4194305"):
        counts_of(4194305)
