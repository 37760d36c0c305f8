"""What epoll does not watch is looked at by hand, until it can be watched."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.unit.workers.fake_workers import FakeWorkers
from workers.selector import Selector

REFUSING = str(Path(__file__).with_name("refusing.py"))
EPOLL_CTL_ADD = 1


@pytest.mark.network
@pytest.mark.parametrize("code", ["ENOMEM", "ENOSPC"])
def test_a_supervisor_lives_without_epoll_ctl(fakes: FakeWorkers, code: str) -> None:
    fakes.start(launcher=[sys.executable, REFUSING, f"epoll_ctl,1={EPOLL_CTL_ADD}:{code}", "--"])
    for title in ("receiver 0", "consumer 0", "control"):
        fakes.expect_replacement(title, lambda title=title: fakes.kill(title))
    assert fakes.change_port(0)["errno"] == 0
    fakes.signal(signal.SIGHUP)
    fakes.expect_words("SIGHUP is ignored")
    assert fakes.words().count("the kernel refuses epoll_ctl") == 1
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0


def test_what_was_refused_is_watched_later(caplog: pytest.LogCaptureFixture) -> None:
    """epoll takes a descriptor once: until the other watch on it is gone, ours is refused."""
    caplog.set_level(logging.INFO)
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, theirs, Selector() as selector:
        selector._selector.register(ours.fileno(), 0)
        key = selector.register(ours, selectors.EVENT_READ, "ours")
        selector.register(reader, selectors.EVENT_READ, "pipe")
        assert selector.select(0) == []
        theirs.send(b"x")
        os.write(writer, b"x")
        for _ in range(2):
            found = {key.data: events for key, events in selector.select(None)}
            assert found == {"ours": selectors.EVENT_READ, "pipe": selectors.EVENT_READ}
        ours.recv(1)
        os.read(reader, 1)
        assert selector.modify(ours, selectors.EVENT_WRITE, "ours").events == selectors.EVENT_WRITE
        assert [(key.data, found) for key, found in selector.select()] == [("ours", selectors.EVENT_WRITE)]
        selector.modify(ours, selectors.EVENT_READ, "ours")
        theirs.close()  # the end is something to read
        assert [(key.data, found) for key, found in selector.select()] == [("ours", selectors.EVENT_READ)]
        selector._selector.unregister(ours.fileno())
        assert [key.data for key, _ in selector.select(None)] == ["ours"]
        assert selector.refused == {} and selector.unregister(ours).fd == key.fd
        assert selector.select(0) == []
    for fd in (reader, writer):
        os.close(fd)
    said = [record.getMessage() for record in caplog.records if record.name == "plait"]
    assert said == [
        "the kernel refuses epoll_ctl (File exists): descriptors are looked at by hand",
        "the kernel watches every descriptor again",
    ]
