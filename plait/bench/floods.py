"""`plait bench floods`: what bad packets cost an engine, and what an honest peer keeps meanwhile.

    host attacker ── cable ──┐
    host honest   ── cable ──┤ host gateway: plaitd, the engine that is measured
    host victim   ── cable ──┘

The attacker has seen a packet on the victim's cable, so it knows a receiver index of the gateway's; it sends
as fast as one process can (trains of UDP_SEGMENT), from an address of its own. Of each flood three things
are measured: the flood alone (CPU a packet), the honest peer alone, and both at once.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from plait.failure import Failure
from plait.handoff_option import HandoffChoice

if TYPE_CHECKING:
    from plait.lab.namespaces import Lab, Process

PORT = 51820
GATEWAY, HONEST, VICTIM = "10.202.0.1", "10.202.0.2", "10.202.0.3"
PACED = "100M"  # what the honest peer sends, bits a second: less than any core carries
EXIT_SHARE = 99  # an honest peer kept less than was asked for

# Runs in the attacker's host: ADDRESS PORT PREFIX (hexadecimal) BYTES SECONDS. Prints how many it sent.
SENDER = """
import os, socket, struct, sys, time
address, port, prefix, size, seconds = sys.argv[1:]
prefix, size, end = bytes.fromhex(prefix), int(size), time.monotonic() + float(seconds)
count = min(64, 65507 // size)
train = b"".join(prefix + os.urandom(size - len(prefix)) for _ in range(count))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
out.connect((address, int(port)))
segment = [(socket.SOL_UDP, 103, struct.pack("=H", size))]  # UDP_SEGMENT
sent = 0
while time.monotonic() < end:
    for _ in range(16):
        try:
            sent += out.sendmsg([train], segment) // size
        except OSError:  # an ICMP error of an earlier one, or no room for a moment
            pass
print(sent)
"""


@dataclass(frozen=True)
class Flood:
    """One kind of bad packet: what each begins with, its bytes, and the counter that names it."""

    title: str
    prefix: bytes
    bytes: int
    counter: str


@dataclass
class Found:
    """What one flood came to. Rates a second."""

    flood: str
    bytes: int
    offered: float  # by the attacker
    seen: float  # by the engine; the rest was dropped in the kernel's socket
    counted: dict[str, int]  # by cause, of the flood alone
    cpu_us: float  # of the engine's processes, for each packet that it has seen
    alone_mbit: float  # the honest peer's TCP, paced
    kept: float  # of that, during the flood
    ping_ms: float  # median, during the flood
    ping_alone_ms: float


def floods(index: int) -> list[Flood]:
    """The floods; index: a receiver index that is in use."""
    data, live = struct.pack("<I", 4), struct.pack("<II", 4, index)
    return [
        Flood("no message type", b"\xff" * 4, 1400, "drop_message_type"),
        Flood("unknown index", data + b"\0" * 4, 1400, "drop_index_unknown"),
        Flood("bad tag", live, 1400, "drop_data_tag"),
        Flood("bad tag, small", live, 64, "drop_data_tag"),
        Flood("bad mac1", struct.pack("<I", 1), 148, "hs_mac1_bad"),
    ]


class Scene:
    """The four hosts and what can be asked of them."""

    def __init__(self, lab: Lab, settings: str | None) -> None:
        from plait.lab.namespaces import Peer, keypair

        names = ["gateway", "honest", "victim", "attacker"]
        self.gateway, self.honest, self.victim, self.attacker = lab.add_hosts(names)
        cables = [lab.link(self.gateway, host) for host in (self.honest, self.victim, self.attacker)]
        self.address = cables[2].address(self.gateway)
        self.engine = self.gateway.engine(settings=settings)
        others = [host.engine() for host in (self.honest, self.victim)]
        keys = [keypair() for _ in range(3)]
        for engine, own, key, cable in zip(others, (HONEST, VICTIM), keys[1:], cables, strict=False):
            peer = Peer(keys[0][1], [f"{GATEWAY}/32"], cable.endpoint(self.gateway, PORT), keepalive=1)
            engine.configure(key[0], [peer], [f"{own}/24"], PORT)
        peers = [Peer(keys[1][1], [f"{HONEST}/32"]), Peer(keys[2][1], [f"{VICTIM}/32"])]
        self.engine.configure(keys[0][0], peers, [f"{GATEWAY}/24"], PORT)
        self.index = self._seen_index(cables[1].interface(self.victim))
        if not self.honest.ping(GATEWAY, 3).received:
            raise Failure("no tunnel", "the honest peer's echoes are not answered", "Try `plait demo`")

    def _seen_index(self, interface: str) -> int:
        """The receiver index in a data message on the victim's cable, as anybody there may see it."""

        with self.victim.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as wire:
            wire.bind((interface, 0))
            wire.settimeout(10)
            self.victim.ping(GATEWAY, 3)
            try:
                while True:
                    packet = wire.recv(2048)
                    message = packet[28:]  # IPv4 without options, UDP
                    to_gateway = (
                        packet[0] == 0x45 and packet[9] == 17 and packet[22:24] == struct.pack("!H", PORT)
                    )
                    if to_gateway and message[:4] == struct.pack("<I", 4) and packet[12:16] != b"":
                        return int(struct.unpack_from("<I", message, 4)[0])
            except TimeoutError:
                raise Failure(
                    "no data message on the victim's cable", "nothing was seen for 10 s", "Try `plait demo`"
                ) from None

    def cpu(self) -> float:
        """CPU seconds of all processes of the gateway's engine."""
        return sum(process.cpu_seconds for process in self.engine.processes())

    def flood(self, flood: Flood, seconds: float) -> Process:
        """Begin one."""
        command = [sys.executable, "-I", "-S", "-c", SENDER, self.address, str(PORT)]
        return self.attacker.popen([*command, flood.prefix.hex(), str(flood.bytes), str(seconds)])

    def stream(self, seconds: int) -> float:
        """Paced TCP from the honest peer to the gateway; Mbit/s as received."""
        extra = ["-b", PACED, "--connect-timeout", "3000"]
        return self.honest.iperf3(self.gateway, GATEWAY, seconds, extra=extra).bits_per_second / 1e6

    def ping_ms(self, seconds: float) -> float:
        """Median of the honest peer's echoes, 20 a second."""
        return self.honest.ping(GATEWAY, int(seconds * 20), 0.05).quantile(0.5)


def measure(scene: Scene, flood: Flood, seconds: int) -> Found:
    """One flood: alone, the honest peer alone, both."""
    before, cpu, begin = scene.engine.counters(), scene.cpu(), time.monotonic()
    sender = scene.flood(flood, seconds)
    sender.wait(seconds + 30)
    took = time.monotonic() - begin
    time.sleep(0.3)  # what is in queues
    gained = {name: n - before[name] for name, n in scene.engine.counters().items() if n != before[name]}
    used, sent, seen = scene.cpu() - cpu, int(sender.output()), gained.get("udp_received", 0)
    ping_alone, alone = scene.ping_ms(1), scene.stream(seconds)
    sender = scene.flood(flood, seconds + 4)
    time.sleep(0.2)
    ping, kept = scene.ping_ms(1), scene.stream(seconds)
    sender.signal(15)
    sender.wait(30)
    causes = {name: n for name, n in gained.items() if name.startswith(("drop_", "hs_"))}
    return Found(
        flood.title, flood.bytes, sent / took, seen / took, causes,
        used / seen * 1e6 if seen else float("nan"),
        alone, kept / alone if alone else float("nan"), ping, ping_alone,
    )  # fmt: skip


def run(seconds: int, settings: str | None, report: Callable[[str], None]) -> list[Found]:
    """All floods. Failure when the hosts or engines cannot be had."""
    from plait.lab.namespaces import Lab, missing

    lacks = missing("wg", "iperf3", "ping")
    if lacks:
        raise Failure(lacks[0].what, lacks[0].why, lacks[0].next_step)
    found = []
    with Lab() as lab:
        report("four hosts, three engines, two tunnels")
        scene = Scene(lab, settings)
        for flood in floods(scene.index):
            report(f"{flood.title}, {flood.bytes} bytes")
            found.append(measure(scene, flood, seconds))
    return found


def table(found: list[Found]) -> list[str]:
    """The figures lined up, and how to read them."""
    lines = [
        f"{'flood':<16}{'bytes':>6}{'offered/s':>12}{'seen/s':>12}{'CPU us each':>13}"
        f"{'honest Mbit/s':>15}{'kept':>7}{'ping ms':>9}{'alone':>7}"
    ]
    lines += [
        f"{f.flood:<16}{f.bytes:>6}{f.offered:>12,.0f}{f.seen:>12,.0f}{f.cpu_us:>13.3f}"
        f"{f.alone_mbit:>15.1f}{f.kept:>7.2f}{f.ping_ms:>9.2f}{f.ping_alone_ms:>7.2f}"
        for f in found
    ]
    lines += [
        "",
        "seen: by the engine, the rest was dropped in the kernel's socket. CPU: of the engine's processes,",
        f"the flood alone. honest: another peer's TCP of {PACED}bit/s; kept: its share during the flood.",
        "Everything runs on this machine's cores, the attacker too.",
        "",
    ]
    for f in found:
        causes = ", ".join(f"{name} {n:,}" for name, n in sorted(f.counted.items(), key=lambda one: -one[1]))
        lines.append(f"{f.flood}: {causes}")
    return lines


@click.command(short_help="What bad packets cost, and what an honest peer keeps.")
@click.option(
    "--seconds", type=click.IntRange(1, 60), default=4, show_default=True, help="Of each measurement."
)
@click.option("--handoff", type=HandoffChoice(), default=None, help="Of the engine measured.")
@click.option(
    "--least", type=float, default=None, help="Exit with 99 when a bad tag leaves honest peers less."
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def floods_command(seconds: int, handoff: str | None, least: float | None, as_json: bool) -> None:
    """Flood an engine with five kinds of bad packets, in hosts of its own on this machine. Needs root.

    Examples: plait bench floods; plait bench floods --seconds 10 --least 0.8
    """

    def report(text: str) -> None:
        click.echo(f"floods: {text}", err=True)

    found = run(seconds, f'handoff = "{handoff}"\n' if handoff else None, report)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        click.echo("\n".join(table(found)))
    if least is not None and any(one.kept < least for one in found if one.flood.startswith("bad tag")):
        sys.exit(EXIT_SHARE)
