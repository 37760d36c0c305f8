"""A TCP stream goes on through the death of each process that carries it, under the same keys.

    one (plaitd)  10.200.1.1 ──── 10.200.1.2  two (plaitd)
     wg0 10.0.0.1 ═══ TCP stream ═══▶ 10.0.0.2 wg0

The stalls are printed; `pytest -s` shows them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tunnel import PYTHON, Side, eventually, two_hosts

import plait.soak_stream
from plait.lab import PLAIT, Lab

pytestmark = pytest.mark.network

STREAM = str(plait.soak_stream.__file__)
SETTINGS = 'receivers = 1\nconsumers = 1\nhandoff = "{}"\n'
TITLES = ("control", "receiver 0", "consumer 0")
STALL_SECONDS = 1.0  # asserted; what is seen on an idle machine stands in docs/reliability.md


def pid_of(side: Side, title: str) -> int | None:
    """A process of the engine by the end of its title, numbered as in this test."""
    for row in side.host.usage():
        try:
            command = Path(f"/proc/{row.pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except FileNotFoundError:
            continue
        if command == f"plait: {side.interface} {title}":
            return row.pid
    return None


def kill(side: Side, title: str) -> tuple[str, float]:
    """Kill a process and wait until its replacement carries packets: (whose it was, when)."""
    eventually(lambda: pid_of(side, "standby"), 60)
    time.sleep(1)  # it has loaded
    victim, before = pid_of(side, title), side.transfer()
    assert victim is not None
    at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: pid_of(side, title) not in (None, victim), 60)
    eventually(lambda: min(map(int.__sub__, side.transfer(), before)) > 20_000, 30)
    return f"{side.host.name}: {title}", at


@pytest.mark.parametrize("handoff", ["split", "lend"])
def test_stream_survives_each_death(handoff: str) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS.format(handoff))
        one, two = tunnel.sides
        assert one.echo(two.address4, 2) == 2
        sessions = one.handshake(), two.handshake()
        receiver = two.host.popen([*PYTHON, STREAM, "receive", "7000"])
        two.host.wait_listening(7000, receiver)
        sender = one.host.popen([*PYTHON, STREAM, "send", two.address4, "7000", "/run/enough"])
        deaths = [kill(side, title) for title in TITLES for side in (one, two)]
        (one.host.root / "run/enough").touch()
        assert (sender.wait(), receiver.wait()) == (0, 0), sender.output() + receiver.output()
        sent, got = json.loads(sender.output()), json.loads(receiver.output())
        assert (got["bytes"], got["sha256"]) == (sent["bytes"], sent["sha256"])
        longest = {}
        for name, at in deaths:
            longest[name] = max((s for end, s in got["stalls"] if at < end and end - s < at + 2), default=0.0)
            print(f"{handoff:6}{name:24}{longest[name] * 1000:8.1f} ms")
        assert max(longest.values()) < STALL_SECONDS
        assert (one.handshake(), two.handshake()) == sessions
        accepted = ("hs_response_accepted", "hs_initiation_accepted")
        assert sum(one.counters()[name] for name in accepted) == 1
        tunnel.check()
