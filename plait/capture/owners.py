"""Whose a packet is. An inner one by its address (allowed IPs, the longest prefix), an outer one by the
session that its index names, else by its endpoint.

What the engine tells of its peers is asked for now and then; sessions are learned from what the engine sends.
What comes from outside teaches nothing: anybody can write any index and source.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from plait import uapi_client
from plait.api.tap import Owners as InnerOwners
from plait.api.tap import far_end
from plait.capture.packets import COOKIE, DATA, INITIATION, RESPONSE, Packet, addresses

SESSIONS = 1 << 16  # that are remembered, and addresses


class Owners:
    """Packets -> public keys in base64."""

    def __init__(self) -> None:
        self._inner = InnerOwners()
        self._inner_found: dict[bytes, str | None] = {}
        self._endpoints: dict[tuple[bytes, int], str] = {}
        self._sessions: dict[bytes, str] = {}  # by the index that the engine chose
        self._comments: dict[str | None, str] = {None: ""}

    def learn(self, peers: Iterable[uapi_client.Peer]) -> None:
        """These are all the peers that there are now."""
        peers = list(peers)
        self._inner.learn(peers)
        self._inner_found.clear()
        self._endpoints = {place: peer.public_key for peer in peers if (place := _place(peer.endpoint))}
        self._comments = {None: ""}
        for peer in peers:
            name = f" ({peer.name})" if peer.name else ""
            self._comments[peer.public_key] = f"peer {peer.public_key}{name}"

    def comment(self, owner: str | None) -> str:
        """What is written beside a packet: key and name. Empty where it is nobody's."""
        return self._comments.get(owner, f"peer {owner}")

    def inner(self, packet: Packet) -> str | None:
        """Whose an inner packet is."""
        address = far_end(packet.data, packet.is_out)
        if address.packed not in self._inner_found:
            if len(self._inner_found) >= SESSIONS:
                self._inner_found.clear()
            key = self._inner.of(address)
            self._inner_found[address.packed] = None if key is None else str(key)
        return self._inner_found[address.packed]

    def outer(self, packet: Packet) -> str | None:
        """Whose an outer packet is; of what the engine sends, this learns whose its indices are."""
        kind, index, other = packet.message[:4], packet.message[4:8], packet.message[8:12]
        place = self._endpoints.get(addresses(packet)[1])
        if not packet.is_out:
            # The index that the engine chose, and the sender names.
            return self._sessions.get({RESPONSE: other, COOKIE: index, DATA: index}.get(kind, b"")) or place
        if place is not None and kind in (INITIATION, RESPONSE):
            self._sessions.pop(index, None)
            self._sessions[index] = place
            if len(self._sessions) > SESSIONS:
                del self._sessions[next(iter(self._sessions))]  # the oldest
        return place


def _place(endpoint: str) -> tuple[bytes, int] | None:
    """Address and port of an endpoint as `get` tells it; None without one."""
    host, _, port = endpoint.rpartition(":")
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).packed, int(port)
    except ValueError:
        return None
