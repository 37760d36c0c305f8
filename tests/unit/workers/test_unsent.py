"""How many initiations that could not leave control remembers."""

from __future__ import annotations

import os

import pytest

from engine import noise
from tests.support.control_harness import Interface
from tests.unit.workers.test_control_loop import OURS, Loop, wanted
from workers.control.initiator import UNSENT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")


def test_so_many_and_no_more() -> None:
    with Interface(f"plu{os.getpid()}") as interface:
        loop = Loop(interface)
        assert loop.set(f"private_key={OURS.private_key.hex()}\n") == 0
        rows = []
        for n in (0x51, 0x52):
            key = noise.Identity(bytes([n]) * 32).public_key
            assert loop.set(f"public_key={key.hex()}\nendpoint=127.0.0.1:{loop.endpoint.port}\n") == 0
            rows.append(loop.control.peers.find(key))
        unsent = loop.control.handshakes.initiator.unsent
        unsent.update(dict.fromkeys(range(-UNSENT, -1), loop.now))  # of others: one less than the most
        loop.control.outgoing.fds = [-1, -1]  # nothing can be sent
        for row in rows:
            wanted(loop, row)
            loop.turn()
        assert [row in unsent for row in rows] == [True, False] and len(unsent) == UNSENT
        loop.channel.close()
        loop.heard.close()
