"""Inner packets with the peer whose they are: the kernel's packet socket on the TUN, joined with allowed IPs.

The engine has no part in it: the kernel copies each packet (packet(7)), and whose it is follows from
its addresses, by the same rule as in the engine: the longest prefix. So a tap costs the engine nothing but
the kernel's copy, and drops packets itself when its program is slow.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from plait import uapi_client
from plait.api.values import Address, Key, Peer, public
from plait.failure import Failure

ETH_P_ALL = 3  # linux/if_ether.h
BYTES = 1 << 17  # more than a super-packet has
BUFFER_BYTES = 8 << 20
REFRESH_SECONDS = 1.0  # between two questions for peers, when an address is nobody's


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it is inside the tunnel."""

    time: datetime
    """UTC, when the program took it."""
    direction: Literal["in", "out"]
    """`in`: from the peer to this host."""
    peer: Key | None
    """None: no peer's allowed IPs have its address."""
    data: bytes
    """The IP packet. Several of one stream may come as one of up to 64 KiB, as the kernel has them."""


class Owners:
    """Whose an address is: the longest prefix among the allowed IPs of all peers."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], dict[int, Key]] = {}  # IP version, prefix length -> network
        self._lengths: list[tuple[int, int]] = []
        self.asked = 0.0  # time.monotonic()

    def learn(self, peers: Iterable[uapi_client.Peer]) -> None:
        """These are all the peers that there are now."""
        self._tables.clear()
        for peer in peers:
            key = public(Key(peer.public_key))
            for prefix in peer.allowed_ips:
                network = ipaddress.ip_network(prefix)
                table = self._tables.setdefault((network.version, network.prefixlen), {})
                table[int(network.network_address)] = key
        self._lengths = sorted(self._tables, reverse=True)
        self.asked = time.monotonic()

    def of(self, address: Address) -> Key | None:
        """The peer's public key."""
        number = int(address)
        for version, length in self._lengths:
            if version == address.version:
                bits = address.max_prefixlen - length
                if key := self._tables[version, length].get(number >> bits << bits):
                    return key
        return None


class Tap:
    """The packet socket of an interface of this network namespace, and whose its packets are."""

    def __init__(self, interface: str, peer: Peer | Key | None) -> None:
        """peer: whose packets are wanted; None: everybody's. Failure when the kernel refuses."""
        self._wanted = peer.public_key if isinstance(peer, Peer) else peer
        self.owners = Owners()
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except PermissionError as error:
            step = "Run this as root, or give it CAP_NET_RAW."
            raise Failure(f"{interface} cannot be tapped", "packet sockets need a privilege", step) from error
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self.socket.bind((interface, ETH_P_ALL))
        except OSError as error:
            self.socket.close()
            step = "Run this in the network namespace where the interface is: ip link show"
            raise Failure(f"{interface} cannot be tapped", error.strerror or str(error), step) from error

    def receive(self) -> tuple[bytes, bool] | None:
        """The next IP packet, and whether it goes out; None when none waits."""
        while True:
            try:
                data, place = self.socket.recvfrom(BYTES)
            except BlockingIOError:
                return None
            except OSError as error:  # ENETDOWN: it is down, or gone
                step = "Is the interface up? `ip link show`"
                raise Failure("no more packets are tapped", error.strerror or str(error), step) from error
            if data and data[0] >> 4 in (4, 6):
                return data, place[2] == socket.PACKET_OUTGOING

    def owner(self, data: bytes, is_out: bool) -> Key | None:
        """Whose the packet is."""
        return self.owners.of(far_end(data, is_out))

    @property
    def is_stale(self) -> bool:
        """Whether peers may be asked for again, for an address that is nobody's."""
        return time.monotonic() - self.owners.asked >= REFRESH_SECONDS

    def packet(self, data: bytes, is_out: bool) -> Packet | None:
        """The packet for the caller; None when it is another peer's than the one that is wanted."""
        owner = self.owner(data, is_out)
        if self._wanted is not None and owner != self._wanted:
            return None
        return Packet(datetime.now(UTC), "out" if is_out else "in", owner, data)

    def close(self) -> None:
        self.socket.close()


def far_end(data: bytes, is_out: bool) -> Address:
    """The peer's end: where an outgoing packet goes, where the other comes from. Zero in a cut header."""
    if data[0] >> 4 == 4:
        at = 16 if is_out else 12
        return ipaddress.IPv4Address(data[at : at + 4].ljust(4, b"\0"))
    at = 24 if is_out else 8
    return ipaddress.IPv6Address(data[at : at + 16].ljust(16, b"\0"))
