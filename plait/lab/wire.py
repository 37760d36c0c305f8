"""A wire between hosts of the laboratory that can lose and delay packets, on any kernel.

The wire is a host of its own, and each end has a cable to it. While nothing is to happen the kernel forwards
between the cables. With a loss or a delay a relay takes its place: a program that reads frames from packet
sockets and writes them to the cable of their destination, later or never. (tc's netem is a module that many
kernels do not have.)
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Final

from plait.failure import Failure
from plait.lab.namespaces import Host, Lab, Link, Process

# argv[1]: {"ends": [{"name", "here", "there", "addresses"}], "loss", "delay"}; names of interfaces, MACs of
# the wire's and the host's end of each cable. A frame has a virtio header before it (packet(7),
# PACKET_VNET_HDR), so checksums that the kernel has not computed yet stay its business.
RELAY: Final = """
import heapq, itertools, json, random, select, socket, sys, time
asked = json.loads(sys.argv[1])
packets, routes, count = {}, {}, itertools.count()
poll = select.poll()
for end in asked["ends"]:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
    sock.setsockopt(263, 15, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((end["name"], 3))
    head = bytes.fromhex((end["there"] + end["here"]).replace(":", ""))
    for address in end["addresses"]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        routes[socket.inet_pton(family, address)] = sock, head
    packets[sock.fileno()] = sock
    poll.register(sock, select.POLLIN)
print("ready", flush=True)
waiting = []
def send(sock, frame):
    try:
        sock.send(frame)
    except OSError:
        pass
while True:
    now = time.monotonic()
    while waiting and waiting[0][0] <= now:
        _, _, sock, frame = heapq.heappop(waiting)
        send(sock, frame)
    rest = (waiting[0][0] - now) * 1000 if waiting else None
    for fd, _ in poll.poll(rest):
        for _ in range(64):
            try:
                frame, place = packets[fd].recvfrom(1 << 17)
            except BlockingIOError:
                break
            if place[2] == socket.PACKET_OUTGOING:
                continue
            kind = frame[22:24]
            target = frame[40:44] if kind == b"\\x08\\x00" else frame[48:64] if kind == b"\\x86\\xdd" else b""
            if target not in routes or random.random() < asked["loss"]:
                continue
            sock, head = routes[target]
            frame = frame[:10] + head + frame[22:]
            if asked["delay"]:
                heapq.heappush(waiting, (time.monotonic() + asked["delay"], next(count), sock, frame))
            else:
                send(sock, frame)
"""
FORWARDING: Final = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


@dataclass(frozen=True)
class End:
    """Where a host is joined."""

    host: Host
    link: Link  # between the host and the wire

    def endpoint(self, port: int) -> str:
        """ADDRESS:PORT by which the other ends reach the host."""
        return self.link.endpoint(self.host, port)


class Wire:
    """Joins hosts. loss: share of packets, 0 to 1; delay: seconds, each way."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._host = lab.host("wire")
        self._ends: list[End] = []
        self._relay: Process | None = None
        self.loss, self.delay = 0.0, 0.0
        self._forward(True)

    def join(self, host: Host) -> End:
        """A cable to the host, and routes there to all who are joined, now and later."""
        link = self._lab.link(host, self._host)
        host.ip(f"route add default via {link.addresses4[1]}", f"route add default via {link.addresses6[1]}")
        self._ends.append(End(host, link))
        # A train that nobody cuts would be lost as a whole.
        host.ip(f"link set {link.interface(host)} gso_max_segs 1")
        self.set(self.loss, self.delay)
        return self._ends[-1]

    def set(self, loss: float, delay: float) -> None:
        """From now on. Failure when the relay does not start."""
        if not 0 <= loss <= 1 or delay < 0:
            why = "a loss is a share from 0 to 1, and a delay is no less than 0 seconds"
            raise Failure(f"a wire with loss {loss} and delay {delay} cannot be", why, "Give such numbers")
        self.loss, self.delay = loss, delay
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        self._forward(not loss and not delay)
        if loss or delay:
            asked = {"ends": [self._described(end) for end in self._ends], "loss": loss, "delay": delay}
            self._relay = self._host.popen([sys.executable, "-I", "-S", "-c", RELAY, json.dumps(asked)])
            while "ready" not in self._relay.output():
                if self._relay.poll() is not None:
                    step = f"It said: {self._relay.output()[-2000:]}"
                    raise Failure("the wire's relay did not start", "it ended at once", step)

    def _described(self, end: End) -> dict[str, object]:
        here, there = (
            (host.root / "sys/class/net" / end.link.interface(host) / "address").read_text().strip()
            for host in (self._host, end.host)
        )
        addresses = [end.link.address(end.host), end.link.address(end.host, 6)]
        return {"name": end.link.interface(self._host), "here": here, "there": there, "addresses": addresses}

    def _forward(self, does: bool) -> None:
        for switch in FORWARDING:
            self._host.run(["sh", "-c", f"echo {int(does)} > /proc/sys/{switch}"])
