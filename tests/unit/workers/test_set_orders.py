"""What a set has a peer's holders do besides its change (kernel: netlink.c, set_peer)."""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.support.control_harness import Interface
from tests.unit.workers.test_control_loop import PEER, Loop, stage_packet
from workers._workers import lib

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")


@pytest.mark.parametrize("more", [
    "", "update_only=true\n", f"preshared_key={7:064x}\n", "persistent_keepalive_interval=0\n",
    "replace_allowed_ips=true\nallowed_ip=10.9.0.0/16\n",
])  # fmt: skip
def test_whatever_a_set_says_of_a_peer_has_what_waits_for_it_looked_at(more: str) -> None:
    """And nothing is looked at where nothing waits."""
    text = f"public_key={PEER.public_key.hex()}\n{more}"
    with Interface(f"plo{os.getpid()}") as interface, contextlib.closing(Loop(interface)) as loop:
        row = loop.add_peer()
        assert loop.set(text) == 0 and not loop.orders(row) & lib.ORDER_LOOK
        stage_packet(loop, row)
        assert loop.set(text) == 0 and loop.orders(row) & lib.ORDER_LOOK
