"""A TCP stream goes on through the death of each process that carries it, under the same keys.

    one (plaitd)  10.200.1.1 ──── 10.200.1.2  two (plaitd)
     wg0 10.0.0.1 ═══ TCP stream ═══▶ 10.0.0.2 wg0

The stalls are printed; `pytest -s` shows them.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from plait.lab.namespaces import PLAIT, Lab
from tests.support import asked
from tests.support.stream import Stream, pid_of
from tests.support.tunnel import Side, eventually, two_hosts

pytestmark = [pytest.mark.long, pytest.mark.network]

SETTINGS = 'receivers = 1\nconsumers = 1\nhandoff = "{}"\naead = "{}"\n'
PROVIDERS = {"pipeline": "boringssl", "inline": "evp"}  # tests/interop/test_offload.py has other pairs
TITLES = ("control", "receiver 0", "consumer 0")


def kill(side: Side, title: str) -> tuple[str, float]:
    """Kill a process and wait until its replacement carries packets: (whose it was, when)."""
    victim, before = pid_of(side, title), side.transfer()
    assert victim is not None
    at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: pid_of(side, title) not in (None, victim))
    eventually(lambda: min(map(int.__sub__, side.transfer(), before)) > 20_000)
    return f"{side.host.name}: {title}", at


@pytest.mark.parametrize("handoff", [asked.HANDOFF] if asked.HANDOFF else PROVIDERS)
def test_stream_survives_each_death(handoff: str) -> None:
    aead = asked.provider(PROVIDERS.get(handoff, "auto"))
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS.format(handoff, aead))
        one, two = tunnel.sides
        assert one.echo(two.address4, 2) == 2
        with Stream(one, two) as stream:
            for title in TITLES:
                for side in (one, two):
                    stream.note(*kill(side, title))
        stream.check()
        tunnel.check()
