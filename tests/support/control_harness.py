"""Control processes without a supervisor: this stands in for it, with real segments and sockets.

Interface      what a supervisor makes: both segments, UDP sockets, UAPI socket, bells
ControlProcess a control process of its own program on an Interface; may be killed and started again
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shm.segment
from engine.aead import PROVIDERS
from engine.uapi import parse_set
from tests.support.waiting import PATIENCE
from workers._workers import ffi, lib
from workers.channel import Channel
from workers.control.configuration import Configuration
from workers.control.endpoints import Endpoint, EndpointOrders
from workers.control.events import Events
from workers.control.grace_periods import GracePeriods
from workers.control.handshakes import Handshakes
from workers.control.keypairs import Keypairs
from workers.control.memory import Memory
from workers.control.outgoing import Outgoing
from workers.control.pace import PACE, Pace
from workers.control.peers import Peers
from workers.control.timer_columns import TimerColumns
from workers.control.vault import Vault
from workers.launch import map_segment
from workers.settings import Settings, geometry
from workers.supervisor.sockets import close_sockets, open_sockets, port_of

RUN = Path("/var/run/wireguard")
# A process of tests has threads, so that it cannot be forked as the supervisor is.
ALONE = """
import sys
from workers.channel import Channel
from workers.control.process import work
from workers.launch import run_worker
run_worker(work, "control", sys.argv[2], Channel.inherited(int(sys.argv[1])), int(sys.argv[3]))
"""
SMALL: dict[str, Any] = {
    "receivers": 1,
    "consumers": 1,
    "cores": (0,),
    "max_peers": 64,
    "small_slots": 64,
    "train_slots": 1,
}


class Interface:
    """Everything of an interface but its processes. Use as a context manager."""

    def __init__(self, name: str, settings: Settings | None = None, **limits: int) -> None:
        self.name = name
        self.geometry = geometry(settings or Settings(**SMALL))
        self.geometry.update(limits)
        data = shm.segment.create(self.geometry)
        self.data_fd, self.data_bytes = os.dup(data.fd), data.bytes
        data.close()
        vault = shm.segment.create_plain(mmap.PAGESIZE)
        self.vault_fd = os.dup(vault.fd)
        vault.close()
        self.mapping, self.segment = map_segment(self.data_fd, self.data_bytes)
        self.pairs = open_sockets(0, 1)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path = RUN / f"{name}.sock"
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(16)
        status = self.path.stat()
        self.identity = status.st_dev, status.st_ino
        self.incarnation = 0

    def __enter__(self) -> Interface:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.listener.close()
        close_sockets(self.pairs)
        os.close(self.bell)
        os.close(self.data_fd)
        os.close(self.vault_fd)

    @property
    def port(self) -> int:
        return port_of(self.pairs)

    def named_sockets(self) -> dict[str, int]:
        four, six = self.pairs[0]
        return {name: fd for name, fd in (("udp4:0", four), ("udp6:0", six)) if fd is not None}

    def fds(self) -> dict[str, int]:
        return {
            "data": self.data_fd,
            "vault": self.vault_fd,
            "uapi": self.listener.fileno(),
            "bell:1": self.bell,
            **self.named_sockets(),
        }

    def counter(self, name: str) -> int:
        return int(lib.counter_sum(self.segment, getattr(lib, name)))

    def counters(self) -> dict[str, int]:
        """All counters that are not zero, by name."""
        names = ffi.typeof("enum counter").elements
        sums = {
            name: int(lib.counter_sum(self.segment, number))
            for number, name in names.items()
            if name != "COUNTERS"
        }
        return {name: value for name, value in sums.items() if value}

    def deliver(self, message: bytes, sender: tuple[bytes, int]) -> None:
        """As a receiver does: a handshake message into control's mailbox, and its bell."""
        assert self.offer(message, sender)

    def offer(self, message: bytes, sender: tuple[bytes, int]) -> bool:
        """Likewise; False when the mailbox is full."""
        place = ffi.new("struct endpoint *")
        address, port = sender
        place.family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        place.port = socket.htons(port)
        ffi.memmove(place.address, address, len(address))
        if lib.mailbox_put(self.segment, 0, place, message, len(message)) != 0:
            return False
        lib.bell_ring(self.segment, lib.WORKER_CONTROL, self.bell)
        return True

    def change_port(self, port: int) -> tuple[int, list[int]]:
        """What the supervisor does on request: (errno, new fds)."""
        try:
            pairs = open_sockets(port, 1)
        except Exception as error:
            return int(error.errno), []  # type: ignore[attr-defined]
        old, self.pairs = self.pairs, pairs
        close_sockets(old)
        return 0, list(self.named_sockets().values())


class ControlProcess:
    """One life of a control process. Use as a context manager: it is killed at the end."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        interface.incarnation += 1
        line = interface.segment.workers[lib.WORKER_CONTROL]
        line.incarnation = interface.incarnation
        self.channel, theirs = Channel.pair()
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-P", "-c", ALONE, str(theirs.fileno()), interface.name, str(os.getpid())],
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        named = interface.fds()
        start = {
            "kind": "start",
            "role": "control",
            "interface": interface.name,
            "socket": [str(interface.path), *interface.identity],
            "worker": 1,
            "number": 0,
            "incarnation": interface.incarnation,
            "segment_bytes": interface.data_bytes,
            "aead": "auto",
            "cpus": [],
            "oom_score": None,
            "receivers": 1,
            "consumers": 1,
            "away": [],
            "fds": list(named),
        }
        self.channel.send(start, list(named.values()))
        self.first_words = self.receive()

    def __enter__(self) -> ControlProcess:
        assert self.first_words["kind"] == "ready", self.first_words
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def receive(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next message of control but those that say what it has done."""
        while True:
            ready, _, _ = select.select([self.channel], [], [], seconds)
            assert ready, "control says nothing"
            message = self.channel.receive()[0]
            if message["kind"] not in ("replaced", "shared_out", "link_changed"):
                return message

    def answer_port(self) -> int:
        """Wait for a request of another port, and do it as the supervisor does; returns the errno."""
        request = self.receive()
        assert request["kind"] == "listen_port"
        code, fds = self.interface.change_port(request["port"])
        names = list(self.interface.named_sockets()) if not code else []
        message = {"kind": "listen_port", "port": self.interface.port, "errno": code, "fds": names}
        message |= {"receivers": 1, "consumers": 1, "away": []}
        self.channel.send(message, fds)
        return code

    def stop(self) -> int:
        """As the supervisor ends it; its exit code."""
        self.channel.send({"kind": "stop"})
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL, and reaped."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.channel.close()
        # What the supervisor's repair does for a worker that holds nothing: its mark means nobody.
        self.interface.segment.workers[lib.WORKER_CONTROL].incarnation = self.interface.incarnation + 1


class Death(Exception):
    """Stands for a SIGKILL: nothing after it happens."""


@contextlib.contextmanager
def dying_in(owner: object, name: str, *first: object) -> Iterator[None]:
    """Within this, a control in this process dies when it calls that method of this object, with these as its
    first arguments. An error when there is no such method, or when nothing died."""
    method = getattr(owner, name)

    def dies(*arguments: object) -> Any:
        if arguments[: len(first)] == first:
            raise Death
        return method(*arguments)

    setattr(owner, name, dies)
    try:
        with pytest.raises(Death):
            yield
    finally:
        delattr(owner, name)  # the method of its class is there again


def wg(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The real wg(8)."""
    return subprocess.run(
        ["wg", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def uapi(interface: Interface, text: str) -> str:
    """One operation, raw: its answer up to the empty line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(interface.path))
        sock.sendall(text.encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            part = sock.recv(1 << 16)
            assert part, f"the connection ended after {answer!r}"
            answer += part
    return answer.decode()


class Holder:
    """The one consumer of an Interface: the shipped holder, one turn at a time, in this process."""

    WORKER = int(lib.WORKER_CONSUMER)

    def __init__(self, interface: Interface) -> None:
        self.segment = interface.segment
        self.aead = lib.aead_new(PROVIDERS["evp"].number)
        self.holder = ffi.new("struct holder *")
        lib.holder_initialise(self.holder, self.segment, self.aead, self.WORKER)
        four, six = interface.pairs[0]
        self.holder.udp4 = -1 if four is None else four
        self.holder.udp6 = -1 if six is None else six
        self.holder.bells[lib.WORKER_CONTROL] = interface.bell
        self.cursor = ffi.new("uint32_t *")

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        lib.aead_free(self.aead)

    def take_turns(self) -> int:
        """Every peer that is ready has a turn; returns how many had one."""
        turns = 0
        while True:
            queue = int(lib.ready_take(self.segment, 1, self.cursor))
            if queue == 0xFFFFFFFF:
                return turns
            if lib.token_take(self.segment, queue, self.holder.mark):
                lib.holder_take_turn(self.holder, queue, lib.clock_now())
                turns += 1


def take_message(handshakes: Handshakes, message: bytes, sender: Endpoint, under_load: bool, now: int) -> int:
    """A batch of this one message; returns the counter that says what became of it."""
    cell = handshakes.cells[0]
    ffi.memmove(ffi.addressof(cell, "from"), sender.pack(), ffi.sizeof("struct endpoint"))
    ffi.memmove(cell.message, message, len(message))
    cell.length = len(message)
    return handshakes.take_batch(1, under_load, now)[0]


class Parts:
    """What a control process is made of, in this process, so that a test gives the time and the messages."""

    def __init__(self, interface: Interface, pace: Pace = PACE) -> None:
        self.interface = interface
        self.segment = interface.segment
        self.vault = Vault(os.dup(interface.vault_fd), int(self.segment.geometry.max_peers))
        self.memory = Memory(interface.data_fd, interface.mapping, self.segment, self.vault)
        self.memory.device.index_key = [1, 2]
        self.grace_periods = GracePeriods(self.segment)
        self.keypairs = Keypairs(self.memory, self.grace_periods, pace)
        self.peers = Peers(self.memory, self.grace_periods, self.keypairs, 1, pace)
        self.timer_columns = TimerColumns(self.memory)
        self.endpoints = EndpointOrders(self.segment, pace)
        self.outgoing = Outgoing(*(None if fd is None else os.dup(fd) for fd in interface.pairs[0]))
        self.events = Events(self.peers.public_key, self.peers.name, pace.now, pace.wall)
        self.handshakes = Handshakes(
            self.peers, self.timer_columns, self.endpoints, self.outgoing, self.events, pace=pace
        )
        self.configuration = Configuration(
            self.peers,
            self.handshakes,
            self.timer_columns,
            self.endpoints,
            lambda: list(interface.named_sockets().values()),
            pace=pace,
        )
        self.cursor = ffi.new("uint32_t *")
        self.peers.recover()
        self.endpoints.recover(self.peers.rows_with_pending_endpoint())
        self.handshakes.load_identity()
        self.handshakes.recover()
        self.configuration.redo()

    def close(self) -> None:
        """As if killed: nothing is written back."""
        self.outgoing.close()
        self.vault.close()

    def set(self, text: str) -> int:
        """Apply a whole set; 0 or its errno."""
        steps = self.configuration.apply(parse_set(text))
        try:
            while True:
                next(steps)
        except StopIteration as end:
            return int(end.value)

    def get(self) -> str:
        return b"".join(self.configuration.show()).decode()

    def ips_live(self) -> int:
        """Prefixes in the trie: its live nodes that name a peer."""
        nodes = self.peers.ips.nodes
        used = int(self.peers.ips.used)
        live = sum(1 for n in range(1, used + 1) if nodes[n].state == 1 and nodes[n].peer)
        assert int(self.peers.ips.live) >= live
        return live

    def take_events(self) -> None:
        """As the loop of control does, for the events that end a peer's or a keypair's life."""
        while True:
            row = int(lib.ready_take(self.segment, 0, self.cursor))
            if row == 0xFFFFFFFF:
                break
            word = int(lib.events_read(self.segment, row))
            if word & lib.EVENT_RETIRED:
                self.peers.holder_retired(row)
            if word & lib.EVENT_KEYS and self.peers.is_live(row):
                self.keypairs.collect(np.array([row], np.uint32), self.handshakes.initiator.numbers)
            lib.events_clear(self.segment, row, word)
        self.grace_periods.poll()

    def settle(self, holder: Holder) -> None:
        """Turns of holder and control until nothing changes any more."""
        for _ in range(100):
            holder.take_turns()
            self.take_events()
            self.endpoints.poll()
            ready = [number for number in (0, 1) if not lib.ready_is_empty(self.segment, number)]
            if not ready and not self.grace_periods.running and not self.grace_periods.waiting:
                return
        raise AssertionError("it does not settle")
