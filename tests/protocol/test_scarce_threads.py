"""Control whose kernel has no thread for its helpers (workers/control/crypto_threads.py)."""

from __future__ import annotations

import os
import signal

import pytest

from plait.lab.namespaces import Lab, state
from tests.support.fake_peer import FakePeer, Network
from tests.support.scarce import pids_cgroup
from tests.support.tunnel import check_words
from tests.support.waiting import until

pytestmark = pytest.mark.network
BATCH = 40  # more than one thread's part


def test_a_batch_of_handshakes_is_worked_off_alone() -> None:
    """Refused at first, had later: what comes at once is heard, by the same control."""
    with pids_cgroup() as group, Lab() as lab:
        network = Network(lab)
        titles = network.plait.titles()
        group.take(titles.values())
        control = titles["control"]
        message, _ = FakePeer(network).initiation()
        for limit in ("1", "max", "1"):
            group.limit(limit)
            before, flooder = network.counters(), FakePeer(network)
            os.kill(control, signal.SIGSTOP)
            until(lambda: state(control) == "T", "control stands still")
            for _ in range(BATCH):
                flooder.send_raw(message)
            os.kill(control, signal.SIGCONT)
            until(lambda before=before: ends(network.counters()) - ends(before) >= BATCH, "all are heard")
            FakePeer(network).initiate(tries=9)
        assert network.plait.titles()["control"] == control
        check_words(network.engine.process)


def ends(counters: dict[str, int]) -> int:
    """Handshake messages that control is done with."""
    ends = "timestamp_replayed", "initiation_flood", "initiation_accepted", "rate_limited", "cookie_sent"
    return sum(counters[f"hs_{name}"] for name in ends)
