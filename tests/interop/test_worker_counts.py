"""A TCP stream goes on while receivers and consumers are added and taken away, under the same keys.

    one (plaitd)  10.200.1.1 ──── 10.200.1.2  two (plaitd)
     wg0 10.0.0.1 ═══ TCP stream ═══▶ 10.0.0.2 wg0

The stalls are printed; `pytest -s` shows them.
"""

from __future__ import annotations

import signal
import time

import pytest

from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab
from tests.support.stream import Stream, pid_of
from tests.support.tunnel import PYTHON, Side, eventually, two_hosts

pytestmark = pytest.mark.network

SETTINGS = 'receivers = 1\nconsumers = 1\nmax_receivers = 3\nmax_consumers = 3\nhandoff = "{}"\n'
MANY = """
handoff = "pipeline"
receivers = 66
consumers = 66
max_peers = 128
small_slots = 64
train_slots = 1
"""
# A datagram from each of many ports to ADDRESS.
FLOWS = """
import socket, sys
for _ in range(400):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"flow", (sys.argv[1], 9))
"""
MORE, FEWER = signal.SIGTTIN, signal.SIGTTOU


def change(side: Side, number: signal.Signals, count: int) -> float:
    """Have one more or fewer; when. Returns when so many run and packets flow."""
    said = f"{count} receivers and {count} consumers run"
    before, moved, at = side.engine.process.output().count(said), side.transfer(), time.monotonic()
    side.engine.process.signal(number)
    eventually(lambda: side.engine.process.output().count(said) > before)
    eventually(lambda: min(map(int.__sub__, side.transfer(), moved)) > 20_000)
    return at


def carries(side: Side, number: int) -> bool:
    """Whether this consumer has sent anything."""
    rows = [row for row in side.report()["processes"] if (row["role"], row["number"]) == ("consumer", number)]
    return any(row["packets"]["udp_sent"] + row["packets"]["tun_sent"] for row in rows)


@pytest.mark.parametrize(
    ("handoff", "end", "steps"), [("pipeline", 1, (MORE, MORE, FEWER, FEWER)), ("inline", 0, (MORE, FEWER))]
)
def test_stream_survives_changes_of_number(handoff: str, end: int, steps: tuple[signal.Signals, ...]) -> None:
    """The peer is the second in the table: its inbound queue is consumer 1's as soon as there is one."""
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS.format(handoff), before=1)
        one, two = tunnel.sides
        side, count = tunnel.sides[end], 1
        assert one.echo(two.address4, 2) == 2
        with Stream(one, two) as stream:
            for number in steps:
                count += 1 if number == MORE else -1
                stream.note(f"{handoff}: {number.name}", change(side, number, count))
                if handoff == "pipeline":
                    eventually(lambda count=count: carries(side, 1) == (count > 1))
            assert pid_of(side, "receiver 1") is pid_of(side, "consumer 1") is None
        stream.check()
        for side in (one, two):
            counters = side.counters()
            assert (counters["drop_killed"], counters["lost_wakes"]) == (0, 0)
        tunnel.check()


def test_more_than_64_of_each_carry_packets() -> None:
    """The peer is the 65th in the table: its queues are the last consumers'; flows come by all receivers."""
    with Lab() as lab:
        other, side = two_hosts(lab, WIREGUARD_GO, PLAIT, settings=MANY, before=64).sides
        assert other.echo(side.address4, 3) == 3
        side.host.run([*PYTHON, "-c", FLOWS, other.address4])

        def by_the_last() -> bool:
            sums = {"receiver": 0, "consumer": 0}
            for row in side.report()["processes"]:
                if row["role"] in sums and row["number"] >= 64:
                    packets = row["packets"]
                    sums[row["role"]] += packets["tun_received" if row["role"] == "receiver" else "udp_sent"]
            return min(sums.values()) > 0

        eventually(by_the_last)
        assert len(side.report()["processes"]) == 2 + 2 * 66
        assert side.engine.stop() == 0
