"""Tunnels between two or more hosts of a lab, and what the tests ask of them."""

from __future__ import annotations

import itertools
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.lab.namespaces import Engine, Host, Lab, Link, Peer, Process, keypair, preshared_key
from tests.support.waiting import PATIENCE, until

PYTHON = (sys.executable, "-I", "-S")
ECHO = str(Path(__file__).with_name("echo.py"))
TRANSFER = str(Path(__file__).with_name("transfer.py"))
PORT = 51820
_ports = itertools.count(7000)

# What a Plait process says when one of its parts went wrong although the test may not notice.
BAD_WORDS = ("Traceback", "AddressSanitizer", "ThreadSanitizer", "runtime error:")


class Clock:
    """The file that PLAIT_CLOCK names, one for each host that has one (workers/clock.h)."""

    PATH = "/run/clock"

    def __init__(self, host: Host, boottime: int | None = None) -> None:
        """boottime: ns that the engines' CLOCK_BOOTTIME shows now; None: the kernel's."""
        self._path = host.root / self.PATH.lstrip("/")
        self._steps = [0 if boottime is None else boottime - time.clock_gettime_ns(time.CLOCK_BOOTTIME), 0]
        self._path.write_bytes(struct.pack("<qq", *self._steps))

    def step(self, seconds: float) -> None:
        """Both clocks of the host's engines jump ahead."""
        self._steps = [step + int(seconds * 1e9) for step in self._steps]
        with self._path.open("r+b") as file:
            file.write(struct.pack("<qq", *self._steps))


@dataclass
class Side:
    """One end of a tunnel: its engine, keys and inner addresses."""

    host: Host
    engine: Engine
    private_key: str
    public_key: str
    address4: str
    address6: str

    def address(self, version: int) -> str:
        return self.address6 if version == 6 else self.address4

    @property
    def interface(self) -> str:
        return self.engine.interface

    def echo(self, address: str, count: int = 3, timeout: float = PATIENCE) -> int:
        """Echo requests from here, 84 bytes each on IPv4; how many were answered, however late."""
        arguments = [*PYTHON, ECHO, address, str(count), str(timeout)]
        return int(self.host.run(arguments, timeout=timeout + 30).stdout)

    def transfer(self) -> tuple[int, int]:
        """Bytes received and sent with the only peer, by `wg show IFACE transfer`."""
        _, received, sent = self.engine.wg("show", self.interface, "transfer").split()
        return int(received), int(sent)

    def get(self) -> dict[str, str]:
        """The answer to get=1 of an interface with one peer, as a mapping (allowed_ip: the last)."""
        return dict(line.split("=", 1) for line in self.engine.uapi("get=1\n\n").splitlines() if line)

    def handshake(self) -> tuple[int, int]:
        """Time of the last handshake with the only peer, (0, 0) for never."""
        answer = self.get()
        return int(answer["last_handshake_time_sec"]), int(answer["last_handshake_time_nsec"])

    def report(self) -> dict[str, Any]:
        """What Plait says of its own inside (`plait show --engine`)."""
        return self.engine.report()

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.report()["counters"]
        return counters


@dataclass
class Tunnel:
    """Two configured sides. The initiator alone knows an endpoint."""

    initiator: Side
    responder: Side
    link: Link
    clocks: list[Clock]

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.initiator, self.responder

    def check(self) -> None:
        """No engine has complained of itself."""
        for side in self.sides:
            check_words(side.engine.process)


def check_words(process: Process) -> None:
    """Fail when an engine printed a traceback or a sanitizer's report."""
    words = process.output()
    assert not any(bad in words for bad in BAD_WORDS), words[-4000:]


def two_hosts(lab: Lab, initiator: Sequence[str], responder: Sequence[str], *, version: int = 4,
              psk: bool = False, settings: str | None = None, keepalive: int = 0,
              stepped: bool = False, environment: Mapping[str, str] | None = None,
              mtu: int = 1420, link_mtu: int = 1500, before: int = 0,
              boottime: int | None = None) -> Tunnel:
    """A tunnel 10.0.0.1 -- 10.0.0.2, fd01::1 -- fd01::2; version: of the outer addresses.

    settings: of Plait engines. stepped: their clocks can be stepped, those of the initiator first, and show
    `boottime` in the beginning.
    environment: of both engines, besides. mtu: of wg0; link_mtu: of the cable. before: so many peers were
    there before the only one, and so have the rows before its own.
    """
    hosts = lab.add_hosts(["initiator", "responder"])
    link = lab.link(*hosts, mtu=link_mtu)
    clocks = [Clock(host, boottime) for host in hosts] if stepped else []
    environment = {**(environment or {}), **({"PLAIT_CLOCK": Clock.PATH} if stepped else {})}
    engines = [host.engine("wg0", command, settings=settings, environment=environment, wait=False)
               for host, command in zip(hosts, (initiator, responder), strict=True)]
    sides = []
    for number, engine in enumerate(engines, 1):
        engine.wait_ready()
        sides.append(Side(engine.host, engine, *keypair(), f"10.0.0.{number}", f"fd01::{number}"))
    shared = preshared_key() if psk else None
    for side, other in zip(sides, reversed(sides), strict=True):
        endpoint = link.endpoint(other.host, PORT, version) if side is sides[0] else None
        peer = Peer(other.public_key, [f"{other.address4}/32", f"{other.address6}/128"], endpoint, shared,
                    keepalive if side is sides[0] else 0)
        addresses = [f"{side.address4}/24", f"{side.address6}/64"]
        others = [Peer(keypair()[1], [f"10.9.9.{i}/32"]) for i in range(before)]
        side.engine.configure(side.private_key, [*others, peer], addresses, PORT, mtu)
        for gone in others:
            side.engine.wg("set", side.interface, "peer", gone.public_key, "remove")
    return Tunnel(sides[0], sides[1], link, clocks)


class Transfer:
    """Random bytes on their way over TCP from one host to another."""

    def __init__(self, source: Host, target: Host, address: str, count: int, endless: bool = False) -> None:
        """endless: send at least count bytes, and go on until finish() is called."""
        port = next(_ports)
        self.count = count
        self._enough = source.root / f"run/enough{port}" if endless else None
        self.receiver = target.popen([*PYTHON, TRANSFER, "receive", str(port)])
        target.wait_listening(port, self.receiver)
        command = [*PYTHON, TRANSFER, "send", address, str(port), str(count)]
        self.sender = source.popen([*command, f"/run/enough{port}"] if endless else command)

    @property
    def is_flowing(self) -> bool:
        return self.sender.poll() is None

    def enough(self) -> None:
        """An endless flow may end now."""
        if self._enough is not None:
            self._enough.touch()

    def finish(self, timeout: float = 120) -> None:
        """Wait; all bytes must have arrived unchanged."""
        self.enough()
        codes = self.sender.wait(timeout), self.receiver.wait(timeout)
        assert codes == (0, 0), self.sender.output() + self.receiver.output()
        assert self.receiver.output() == self.sender.output()
        total = int(self.receiver.output().split()[0])
        assert total >= self.count if self._enough is not None else total == self.count


def begin_each_way(one: Side, two: Side, count: int, version: int = 4, back: int | None = None,
                   endless: bool = False) -> list[Transfer]:
    """count bytes over TCP through the tunnel both ways at once; back: inner version of the second.

    That begins when there is a session: until then its side may not know where the other is, and says
    that the host cannot be reached.
    """
    there = Transfer(one.host, two.host, two.address(version), count, endless)
    eventually(lambda: two.handshake() != (0, 0))
    return [there, Transfer(two.host, one.host, one.address(back or version), count, endless)]


def transfer_each_way(one: Side, two: Side, count: int, version: int = 4) -> None:
    """count bytes over TCP through the tunnel both ways at once."""
    for transfer in begin_each_way(one, two, count, version):
        transfer.finish()


def eventually(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """The first true value of condition; AssertionError after timeout seconds."""
    return until(condition, "what the test waits for", timeout)
