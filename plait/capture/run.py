"""The loop of `plait capture`: packet sockets, what the engine tells of its peers, its key log, the file."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from plait import plaitd_client, uapi_client
from plait.capture import pcapng
from plait.capture.assembly import Assembly, Held
from plait.capture.keylog import KeyLog
from plait.capture.output import STANDARD_OUTPUT, Output
from plait.capture.owners import Owners
from plait.capture.packets import INITIATION, RESPONSE, Packet, Source, datagrams
from plait.failure import Failure
from plait.keys import is_key
from plait.signals import Ending
from plait.watch import which_peer
from workers.version import VERSION

INNER, OUTER = 0, 1  # the file's two interfaces
SOON: Final = 0.1  # seconds between two questions while it is not known whose a packet is
SELDOM: Final = 5.0  # and without such a packet: peers and port may have changed
SHARE: Final = 20  # of so many times what a question takes, none is asked again
PATIENCE: Final = 2.0  # seconds without a word from the engine, behind the first answer
SEEN: Final = 1 << 12  # outer messages that are remembered


def run(interface: str, peer: str | None, target: str, *, with_keys: bool, is_quiet: bool = False) -> None:
    """Capture until a signal, the end of the interface, or of the reader; what happened goes to stderr.

    is_quiet: only what went wrong; Wireshark takes each line for an error.
    """
    device = uapi_client.get(interface)
    if peer is not None:
        peer = peer if is_key(peer) else which_peer.key_of(peer, device.peers)
        uapi_client.peer_of(device, peer)
    with contextlib.ExitStack() as stack:
        log = None
        if with_keys:
            log = KeyLog(_key_log_of(interface, plaitd_client.engine(interface)), peer)
            stack.callback(log.close)
        capture = Capture(interface, peer, device, log)
        stack.callback(capture.close)
        output = Output(target, has_keys=with_keys)
        stack.callback(output.close)
        ending = stack.enter_context(Ending())
        if with_keys:
            place = "standard output" if target == STANDARD_OUTPUT else target
            say(f"KEYS GO TO {place}: whoever has it can read this traffic, and can be {interface}, "
                "whose private key is among them")  # fmt: skip
        why = ""
        with contextlib.suppress(BrokenPipeError):
            why = capture.follow(output, ending)
    if not is_quiet:
        capture.say_what_was(output, why)
    if dropped := capture.dropped:
        why = "since this command did not keep up"
        say(f"{dropped} packets were dropped by the kernel, {why}; the capture does not have them")


def say(words: str) -> None:
    """A line of talk."""
    print(f"plait: {words}", file=sys.stderr, flush=True)


def _number_of(interface: str) -> int:
    """Its number in this network namespace, 0 when it has none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _key_log_of(interface: str, report: dict[str, Any]) -> str:
    """Failure when the engine keeps no key log: it is never begun from here."""
    if not (path := report.get("key_log")):
        why = "its engine keeps no key log"
        step = "Start it with one, PLAIT_KEYLOG=FILE plaitd …, or leave --keys out."
        raise Failure(f"there are no keys of {interface}", why, step)
    return str(path)


@dataclass
class Seen:
    """Outer messages that passed lately, by the device that they were seen on first: a bridge, a VLAN or a
    bond shows the same packet on each of its devices."""

    devices: dict[bytes, str] = field(default_factory=dict)

    def is_new(self, packet: Packet) -> bool:
        # What tells messages apart: type, index and counter, and some of what is sealed.
        mark = bytes([packet.is_out]) + packet.message[:32]
        first = self.devices.setdefault(mark, packet.device)
        if len(self.devices) > SEEN:
            del self.devices[next(iter(self.devices))]
        return first == packet.device


class Capture:
    """An interface's packets. Once it is made, none is missed without being counted."""

    def __init__(
        self, interface: str, peer: str | None, device: uapi_client.Device, log: KeyLog | None
    ) -> None:
        """peer: whose packets alone are wanted. Failure when there are no packets to be had."""
        self.interface = interface
        self._wanted = peer
        self._log = log
        self._owners = Owners()
        self._owners.learn(device.peers)
        self._port = device.listen_port
        self._assembly = Assembly(self._owners)
        self._seen = Seen()
        self._asked = time.monotonic()
        self._cost = 0.0  # seconds of the latest question
        self.written = [0, 0]
        self._taken = [0, 0]
        self._is_down = False
        if not (number := _number_of(interface)):
            why = "this network namespace has no such interface"
            step = "Run this in the network namespace where it is: ip link show"
            raise Failure(f"{interface} cannot be captured", why, step)
        self._number = number
        self._sources = [Source(interface, None)]
        try:
            self._sources.append(Source(None, self._port))
        except Failure:
            self.close()
            raise

    def close(self) -> None:
        for source in self._sources:
            source.look()
            source.close()

    def follow(self, output: Output, ending: Ending) -> str:
        """Write packets until it ends; why it did, empty after a signal.

        BrokenPipeError when the reader is gone.
        """
        output.write(self._head())
        waiting = select.poll()
        for source in self._sources:
            waiting.register(source.socket, select.POLLIN)
        waiting.register(ending, select.POLLIN)
        waiting.register(output.fileno(), 0)  # a reader that goes away
        while not ending.number:
            waiting.poll(self._patience() * 1000)
            if output.has_no_reader:
                raise BrokenPipeError
            self._take()
            now = time.monotonic()
            self._ask(now)
            output.write(b"".join(self._blocks(self._assembly.ready(now))))
            if self._is_down and _number_of(self.interface) != self._number:
                break
        end = time.time_ns()
        while self._take() < end:  # what had come by then, and waits in the sockets
            output.write(b"".join(self._blocks(self._assembly.ready(time.monotonic()))))
        with contextlib.suppress(Failure):  # an engine that has ended
            self._learn()
        output.write(b"".join(self._blocks(self._assembly.ready(math.inf))))
        output.write(self._tail())
        return "" if ending.number else "the interface is gone"

    def _take(self) -> float:
        """What the sockets have, by time. The latest packet's time in ns since 1970, infinity without one."""
        found: list[tuple[int, bool, Packet]] = []
        for number, source in enumerate(self._sources):
            try:
                for packet in source.receive():
                    self._taken[number] += 1
                    found.append((packet.time, number == OUTER, packet))
                    self._is_down = self._is_down and number == OUTER
            except OSError:  # ENETDOWN: down, and perhaps about to go
                self._is_down = True
        now = time.monotonic()
        found.sort(key=lambda each: each[0])
        for _, is_outer, packet in found:
            if not is_outer:
                self._assembly.take(packet, False, now)
                continue
            if packet.device == self.interface:
                continue  # a packet inside the tunnel
            for each in datagrams(packet):
                if self._seen.is_new(each):
                    self._assembly.take(each, True, now)
        return found[-1][0] if found else math.inf

    # -- what the engine knows ------------------------------------------------------------------

    def _pause(self) -> float:
        """Seconds from one question to the next."""
        return max(SOON if self._assembly.wants else SELDOM, SHARE * self._cost)

    def _patience(self) -> float:
        """Seconds until there is something to do without a packet."""
        times = [self._asked + (SOON if self._is_down else self._pause())]
        if (until := self._assembly.until()) is not None:
            times.append(until)
        return max(0.01, min(times) - time.monotonic())

    def _ask(self, now: float) -> None:
        if now - self._asked >= self._pause():
            with contextlib.suppress(Failure):  # control is being replaced; the next time, then
                self._learn()
            self._asked = time.monotonic()
            self._cost = self._asked - now

    def _learn(self) -> None:
        device = uapi_client.get(self.interface, PATIENCE)
        self._owners.learn(device.peers)
        self._assembly.look_again()
        if device.listen_port != self._port:
            self._port = device.listen_port
            self._sources[OUTER].follow(self._port)

    # -- the file -------------------------------------------------------------------------------

    def _head(self) -> bytes:
        inner = f"inner packets of {self.interface}"
        outer = f"outer packets of {self.interface}: UDP port {self._port}"
        interfaces = pcapng.interface(self.interface, inner) + pcapng.interface("any", outer)
        return pcapng.section(f"plait {VERSION}") + interfaces

    def _blocks(self, packets: Iterator[Held]) -> Iterator[bytes]:
        for held in packets:
            packet, number = held.packet, OUTER if held.is_outer else INNER
            if self._wanted is not None and held.owner != self._wanted:
                continue
            if packet.message[:4] in (INITIATION, RESPONSE) and self._log is not None:
                new = self._log.read()
                yield pcapng.secrets(new) if new else b""
            self.written[number] += 1
            comment = self._owners.comment(held.owner)
            yield pcapng.packet(number, packet.time, packet.data, is_out=packet.is_out, comment=comment)

    def _tail(self) -> bytes:
        now = time.time_ns()
        return b"".join(
            pcapng.statistics(number, now, received=self._taken[number], dropped=source.look())
            for number, source in enumerate(self._sources)
        )

    @property
    def dropped(self) -> int:
        """Packets that the kernel dropped, up to the latest look."""
        return sum(source.dropped for source in self._sources)

    def say_what_was(self, output: Output, why: str) -> None:
        """What was captured, on stderr."""
        if why:
            say(f"{why}: the capture of {self.interface} ends")
        inner, outer = self.written
        place = "standard output" if output.target == STANDARD_OUTPUT else output.target
        say(f"{inner} inner and {outer} outer packets of {self.interface} were written to {place}")
