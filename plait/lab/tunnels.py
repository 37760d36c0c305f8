"""Tunnels to test programs in: hosts of the laboratory, an engine in each, sessions between them.

plait/pytest_plugin.py makes fixtures of them. Ends are reached over a wire that can lose and delay packets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any, Final

from plait.api.interface import Interface, attach
from plait.api.values import Endpoint, Key, Peer
from plait.failure import Failure
from plait.lab.namespaces import CLONE_NEWNET, Host, Lab, Process
from plait.lab.wire import Wire

PORT: Final = 51820
SECONDS: Final = 60.0  # for a session, and for a process that is replaced
SETTINGS: Final = "receivers = 1\nconsumers = 1\n"
KEEPALIVE: Final = 25  # seconds; who has one begins the session without a packet


class End:
    """One end of a tunnel: a host with an engine. address, address6: inside the tunnel."""

    def __init__(self, lab: Lab, wire: Wire, number: int) -> None:
        self.host: Host = lab.host(f"end {number}")
        self.place = Endpoint.parse(wire.join(self.host).endpoint(PORT))
        self.address, self.address6 = f"10.77.{number >> 8}.{number & 255}", f"fd77::{number:x}"
        self.private_key = Key.generate()
        self._engine = self.host.engine(settings=SETTINGS, wait=False)

    def open(self) -> None:
        """Until the engine answers, with its key and addresses."""
        self._engine.wait_ready()
        self.interface.configure(private_key=self.private_key, listen_port=PORT)
        name = self._engine.interface
        self.host.ip(
            f"link set {name} up", f"address add {self.address}/16 dev {name}",
            f"address add {self.address6}/64 dev {name} nodad",
        )  # fmt: skip

    @property
    def interface(self) -> Interface:
        """The engine's interface, as `plait.attach` gives it."""
        return attach(self.socket_path)

    @property
    def socket_path(self) -> str:
        """The engine's configuration socket, for `plait.aio.attach`."""
        return str(self._engine.socket_path)

    @contextmanager
    def netns(self) -> Iterator[None]:
        """This thread is in the end's network meanwhile: sockets and threads that it makes are there."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.host.pid}/ns/net") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of the end's network, used from wherever the caller is."""
        return self.host.socket(family, kind)

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """A program in the end's namespaces, to its end; options as of Host.run."""
        return self.host.run(command, **options)

    def popen(self, command: Sequence[str]) -> Process:
        """A program in the end's namespaces."""
        return self.host.popen(command)

    def processes(self) -> dict[str, int]:
        """The engine's processes by title (`supervisor`, `control`, `receiver 0`, …), and their pids here."""
        return self.host.titles(self._engine.interface)

    def kill(self, process: str = "control") -> None:
        """kill -9 of one process of the engine, and until another one is in its place.

        Failure when it has no such process; nobody comes for the supervisor, with which the engine ends.
        """
        before = self.processes().get(process)
        if before is None:
            step = f"There are: {', '.join(sorted(self.processes()))}"
            raise Failure(f"{process} cannot be killed", "the engine has no such process", step)
        with contextlib.suppress(ProcessLookupError):
            os.kill(before, signal.SIGKILL)
        if process != "supervisor":
            _until(lambda: self.processes().get(process) not in (None, before), f"another {process}")

    def meet(self, other: End) -> None:
        """A session with the other end, which this one begins."""
        for end, there, keepalive in ((other, self, 0), (self, other, KEEPALIVE)):
            inside = [ip_network(there.address), ip_network(there.address6)]
            key = there.private_key.public_key
            end.interface.add(Peer(key, inside, there.place, keepalive=keepalive))
        key = other.private_key.public_key
        _until(lambda: self.interface.peer(key).latest_handshake, "a session")


class Tunnel:
    """Two ends and a session between them: `a, b = tunnel`."""

    def __init__(self, lab: Lab) -> None:
        self._wire = Wire(lab)
        self.ends = End(lab, self._wire, 1), End(lab, self._wire, 2)
        for end in self.ends:
            end.open()
        self.ends[0].meet(self.ends[1])

    def __iter__(self) -> Iterator[End]:
        return iter(self.ends)

    def loss(self, share: float) -> None:
        """From now on so many packets are lost between the ends, 0 to 1."""
        self._wire.set(share, self._wire.delay)

    def delay(self, seconds: float) -> None:
        """From now on packets take so much longer, each way."""
        self._wire.set(self._wire.loss, seconds)

    def kill(self, process: str = "control") -> None:
        """kill -9 of one process of the first end's engine, as `End.kill`."""
        self.ends[0].kill(process)


class Gateway(End):
    """An end that others have tunnels to."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._wire, self._count = lab, Wire(lab), 1
        super().__init__(lab, self._wire, 1)
        self.open()

    def client(self) -> End:
        """A new host with a session to the gateway."""
        self._count += 1
        made = End(self._lab, self._wire, self._count)
        made.open()
        made.meet(self)
        return made

    def loss(self, share: float) -> None:
        """From now on so many packets are lost between the gateway and its clients, 0 to 1."""
        self._wire.set(share, self._wire.delay)

    def delay(self, seconds: float) -> None:
        """From now on packets take so much longer, each way."""
        self._wire.set(self._wire.loss, seconds)


@contextmanager
def tunnel() -> Iterator[Tunnel]:
    """A tunnel, and nothing of it behind the block."""
    with Lab() as lab:
        yield Tunnel(lab)


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A gateway, and nothing of it behind the block."""
    with Lab() as lab:
        yield Gateway(lab)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{what} did not come", f"not within {SECONDS:.0f} s", "See the engines' logs")
        time.sleep(0.005)
