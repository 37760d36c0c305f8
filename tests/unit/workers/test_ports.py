"""Another listen port, with fake workers (fake_workers_program.py): what lies in the old sockets."""

from __future__ import annotations

import re
import signal
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers.supervisor.ports import Ports

pytestmark = pytest.mark.network

SEND = """
import socket, sys
for address in "127.0.0.1", "::1":
    for _ in range(32):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (address, int(sys.argv[1])))
"""
CLOSED = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("127.0.0.1", int(sys.argv[1])))
    try:
        while True:
            sock.send(b"x")
    except ConnectionRefusedError:
        pass
"""
SENT = 64
LOST = r"(\d+) packets are lost with the sockets of the old port"


def send(fakes: FakeWorkers, port: int) -> None:
    fakes.host.run([sys.executable, "-c", SEND, str(port)])


def is_open(fakes: FakeWorkers, port: int) -> bool:
    return f":{port} " in fakes.host.run(["ss", "-Haun"]).stdout


def test_receivers_read_what_lies_in_the_old_sockets(fakes: FakeWorkers) -> None:
    fakes.start(2, old_port=600.0)
    old = fakes.port()
    send(fakes, old)
    before = {title: len(fakes.heard(title)) for title in ("receiver 0", "receiver 1")}
    sending = {title: len(fakes.heard(title)) for title in ("consumer 0", "consumer 1")}
    answer = fakes.change_port(0)
    assert answer["errno"] == 0 and answer["port"] != old
    for number, (title, after) in enumerate(before.items()):
        ports = fakes.next_heard(title, "sockets", after)["ports"]
        assert ports == {f"udp{v}{'' if port != old else ':old'}:{number}": port
                         for v in (4, 6) for port in (old, answer["port"])}  # fmt: skip
    consumers = {title: fakes.next_heard(title, "sockets", n)["ports"] for title, n in sending.items()}
    assert consumers == {f"consumer {n}": {f"udp4:{n}": answer["port"], f"udp6:{n}": answer["port"]}
                         for n in (0, 1)}, "they send from the new port"  # fmt: skip
    # Whoever sends to the old port now is told that it is closed, while what came before waits.
    fakes.host.run([sys.executable, "-c", CLOSED, str(old)])
    assert is_open(fakes, old)
    for title in before:
        fakes.order(title, drink=True)
    until(lambda: not is_open(fakes, old), "the old port closed")
    assert fakes.counts("UDP_RECEIVED", "DROP_KILLED") == [0, 0]


def test_what_nobody_reads_of_an_old_port_is_counted(fakes: FakeWorkers) -> None:
    fakes.start(2, old_port=0.0)
    send(fakes, old := fakes.port())
    fakes.change_port(0)
    until(lambda: re.search(LOST, fakes.words()), "the loss")
    assert re.findall(LOST, fakes.words()) == [str(SENT)]
    assert fakes.counts("UDP_RECEIVED", "DROP_KILLED") == [SENT, SENT]
    until(lambda: not is_open(fakes, old), "the old port closed")


def test_a_port_that_is_being_left_can_be_had_again(fakes: FakeWorkers) -> None:
    """Control is answered when it is free."""
    fakes.start(1, old_port=600.0)
    send(fakes, old := fakes.port())
    new = fakes.change_port(0)["port"]
    heard = len(fakes.heard("control"))
    fakes.order("control", say={"kind": "listen_port", "port": old})
    fakes.order("receiver 0", drink=True)
    assert fakes.next_heard("control", "listen_port", heard)["port"] == old
    until(lambda: not is_open(fakes, new), "the new port closed")


def test_a_control_that_dies_while_it_waits_for_a_port_has_asked_for_none(fakes: FakeWorkers) -> None:
    fakes.start(1, old_port=600.0)
    send(fakes, old := fakes.port())
    new = fakes.change_port(0)["port"]
    fakes.order("control", say={"kind": "listen_port", "port": old})
    fakes.order("control", say={"kind": "log", "level": "info", "text": "it has asked"})
    fakes.expect_words("it has asked")  # and the supervisor has heard it
    fakes.expect_replacement("control", lambda: fakes.kill("control"))
    fakes.order("receiver 0", drink=True)
    until(lambda: not is_open(fakes, old), "the old port closed")
    heard = len(fakes.heard("control"))
    assert (fakes.change_port(new)["port"], fakes.port()) == (new, new)
    assert [m["kind"] for m in fakes.heard("control")[heard:]].count("listen_port") == 1


def test_the_end_is_the_end_while_a_port_is_being_left(fakes: FakeWorkers) -> None:
    fakes.start(1, old_port=600.0)
    send(fakes, fakes.port())
    fakes.change_port(0)
    fakes.signal(signal.SIGTERM)
    assert fakes.exit_code() == 0


def test_a_control_that_has_ended_gets_no_port() -> None:
    """The next one asks again."""
    asked: list[str] = []
    ports = Ports(cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace(find=asked.append)))
    ports.want(cast(Any, SimpleNamespace(process=None)), 51820)
    assert not asked and not ports.is_under_way
