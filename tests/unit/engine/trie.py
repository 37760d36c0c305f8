"""A trie over memory of the test: its model is a list that is scanned, and its rules are checked."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from engine._engine import ffi, lib

Network = IPv4Network | IPv6Network
NOBODY = 0xFFFFFFFF
FREE, LIVE, WAITING = range(3)


@dataclass
class Scan:
    """The model: who owns each prefix; a lookup scans all of them."""

    owner: dict[Network, int] = field(default_factory=dict)

    def lookup(self, address: Any) -> int:
        matching = [n for n in self.owner if n.version == address.version and address in n]
        return self.owner[max(matching, key=lambda n: n.prefixlen)] if matching else NOBODY


class Trie:
    """max_nodes nodes, two roots and a list head a row, in memory that a child process shares."""

    def __init__(self, max_nodes: int, rows: int) -> None:
        self.max_nodes, self.rows = max_nodes, rows
        self.memory = mmap.mmap(-1, 64 * max_nodes + 8 + 4 * rows)
        base = ffi.cast("uint8_t *", ffi.from_buffer(self.memory))
        self.nodes = ffi.cast("struct trie_node *", base)
        self.roots = ffi.cast("uint32_t *", base + 64 * max_nodes)
        self.first = base + 64 * max_nodes + 8
        self.open()

    def open(self) -> None:
        self.ips = ffi.new("struct allowedips *")
        lib.allowedips_open(self.ips, self.nodes, self.max_nodes, self.roots, self.roots + 1)

    def recover(self) -> None:
        self.open()
        lib.allowedips_recover(self.ips, self.rows, self.first, 4)

    def insert(self, network: Network, row: int) -> int:
        packed = network.network_address.packed
        return int(
            lib.allowedips_insert(self.ips, packed, len(packed) * 8, network.prefixlen, row, self.first, 4)
        )

    def remove(self, network: Network, row: int) -> int:
        packed = network.network_address.packed
        return int(
            lib.allowedips_remove(self.ips, packed, len(packed) * 8, network.prefixlen, row, self.first, 4)
        )

    def remove_peer(self, row: int) -> int:
        return int(lib.allowedips_remove_peer(self.ips, row, self.first, 4))

    def lookup(self, address: Any) -> int:
        root = self.roots[0 if address.version == 4 else 1]
        bits = address.max_prefixlen
        return int(lib.allowedips_lookup(self.nodes, self.max_nodes, root, address.packed, bits))

    def network(self, number: int) -> Network:
        node = self.nodes[number]
        packed = bytes(node.address)[: node.bits // 8]
        assert not any(bytes(node.address)[node.bits // 8 :])
        return ip_network((packed, node.cidr))  # strict: refuses bits behind the mask

    def listed(self, row: int) -> list[Network]:
        heads = ffi.cast("uint32_t *", self.first)
        found, number, before = [], heads[row], None
        while number:
            assert self.nodes[number].peer == row + 1
            assert before is None or self.nodes[number].peer_previous == before
            found.append(self.network(number))
            before, number = number, self.nodes[number].peer_next
            assert len(found) <= self.max_nodes
        if before is not None:
            assert self.nodes[heads[row]].peer_previous == before  # the first knows the last
        return found

    def check(self) -> dict[Network, int]:
        """All rules of the tree and its lists; returns what it says."""
        owners: dict[Network, int] = {}
        live: set[int] = set()

        def walk(number: int, parent: int, bits: int) -> None:
            node = self.nodes[number]
            assert 0 < number <= self.ips.used < self.max_nodes and number not in live
            live.add(number)
            network = self.network(number)
            assert (node.state, node.parent, node.bits) == (LIVE, parent, bits)
            if parent // 2:
                above = self.network(parent // 2)
                assert network.subnet_of(above) and network.prefixlen > above.prefixlen  # type: ignore[arg-type]
                place = above.prefixlen
                assert int(network.network_address) >> (bits - 1 - place) & 1 == parent % 2
            children = [child for child in node.child if child]
            if node.peer:
                owners[network] = node.peer - 1
            else:
                assert len(children) == 2, f"{network} is a branch without need"
            for side in (0, 1):
                if node.child[side]:
                    walk(node.child[side], number * 2 + side, bits)

        for family, bits in ((0, 32), (1, 128)):
            if self.roots[family]:
                walk(self.roots[family], family, bits)
        assert self.ips.live == len(live) <= max(0, 2 * len(owners))
        assert self.ips.used == self.nodes[0].peer_next
        assert sorted(
            ((network, row) for row in range(self.rows) for network in self.listed(row)), key=str
        ) == sorted(owners.items(), key=str)
        free, waiting = (
            self.chain(self.ips.free_head, "child"),
            self.chain(self.ips.waiting_head, "waiting"),
        )
        assert all(self.nodes[n].state == FREE for n in free)
        assert all(self.nodes[n].state == WAITING for n in waiting)
        assert sorted([*live, *free, *waiting]) == list(range(1, self.ips.used + 1)), (
            "a node is lost or twice"
        )
        return owners

    def chain(self, number: int, by: str) -> list[int]:
        found = []
        while number:
            found.append(number)
            assert len(found) < self.max_nodes
            number = self.nodes[number].child[0] if by == "child" else self.nodes[number].waiting_next
        return found
