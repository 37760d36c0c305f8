"""Another listen port, with actors for workers (fake_workers_program.py): what lies in the old sockets."""

from __future__ import annotations

import re
import signal
import sys

import pytest

from tests.support.waiting import until
from tests.unit.workers.fake_workers import Stage

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


def send(stage: Stage, port: int) -> None:
    stage.host.run([sys.executable, "-c", SEND, str(port)])


def is_open(stage: Stage, port: int) -> bool:
    return f":{port} " in stage.host.run(["ss", "-Haun"]).stdout


def test_receivers_read_what_lies_in_the_old_sockets(stage: Stage) -> None:
    stage.play(2, old_port=600.0)
    old = stage.port()
    send(stage, old)
    before = {title: len(stage.heard(title)) for title in ("receiver 0", "receiver 1")}
    answer = stage.change_port(0)
    assert answer["errno"] == 0 and answer["port"] != old
    for number, (title, after) in enumerate(before.items()):
        ports = stage.next_heard(title, "sockets", after)["ports"]
        assert ports == {f"udp{v}{'' if port != old else ':old'}:{number}": port
                         for v in (4, 6) for port in (old, answer["port"])}  # fmt: skip
    # Whoever sends to the old port now is told that it is closed, while what came before waits.
    stage.host.run([sys.executable, "-c", CLOSED, str(old)])
    assert is_open(stage, old)
    for title in before:
        stage.cue(title, drink=True)
    until(lambda: not is_open(stage, old), "the old port closed")
    assert stage.counts("UDP_RECEIVED", "DROP_KILLED") == [0, 0]


def test_what_nobody_reads_of_an_old_port_is_counted(stage: Stage) -> None:
    stage.play(2, old_port=0.0)
    send(stage, old := stage.port())
    stage.change_port(0)
    until(lambda: re.search(LOST, stage.words()), "the loss")
    assert re.findall(LOST, stage.words()) == [str(SENT)]
    assert stage.counts("UDP_RECEIVED", "DROP_KILLED") == [SENT, SENT]
    until(lambda: not is_open(stage, old), "the old port closed")


def test_a_port_that_is_being_left_can_be_had_again(stage: Stage) -> None:
    """Control is answered when it is free; one that dies meanwhile has asked for nothing."""
    stage.play(1, old_port=600.0)
    old = stage.port()
    send(stage, old)
    stage.change_port(0)
    new = stage.port()
    stage.cue("control", say={"kind": "listen_port", "port": old})
    stage.expect_replacement("control", lambda: stage.kill("control"))
    heard = len(stage.heard("control"))
    stage.cue("control", say={"kind": "listen_port", "port": old})
    stage.cue("receiver 0", drink=True)
    assert stage.next_heard("control", "listen_port", heard)["port"] == old
    assert sum(message["kind"] == "listen_port" for message in stage.heard("control")[heard:]) == 1
    until(lambda: not is_open(stage, new), "the new port closed")


def test_the_end_is_the_end_while_a_port_is_being_left(stage: Stage) -> None:
    stage.play(1, old_port=600.0)
    send(stage, stage.port())
    stage.change_port(0)
    stage.signal(signal.SIGTERM)
    assert stage.exit_code() == 0
