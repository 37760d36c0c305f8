"""engine/allowedips: the trie against a linear scan, its rules after each step, and a killed writer."""

from __future__ import annotations

import os
import signal
import time
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

from .trie import LIVE, NOBODY, Network, Scan, Trie

ROWS = 5


def network_of(version: int, value: int, cidr: int) -> Network:
    bits = 32 if version == 4 else 128
    value &= 2**bits - 1
    kind = IPv4Address if version == 4 else IPv6Address
    return ip_network((kind(value >> (bits - cidr) << (bits - cidr)), cidr))


def close_value(version: int) -> st.SearchStrategy[int]:
    """Addresses that differ in few places, so that prefixes meet and fork."""
    bits = 32 if version == 4 else 128
    places = st.lists(st.sampled_from([0, 1, 2, 7, 8, 15, 23, 24, 30, 31, bits - 2, bits - 1]), max_size=4)
    return places.map(lambda chosen: sum(1 << (bits - 1 - p) for p in set(chosen)))


def networks_of(version: int) -> st.SearchStrategy[Network]:
    bits = 32 if version == 4 else 128
    cidrs = st.one_of(st.integers(0, bits), st.sampled_from([0, 1, 8, 9, 24, bits - 1, bits]))
    values = st.one_of(close_value(version), st.integers(0, 2**bits - 1))
    return st.builds(network_of, st.just(version), values, cidrs)


networks = st.one_of(networks_of(4), networks_of(6))
addresses = st.one_of(
    close_value(4).map(IPv4Address),
    st.integers(0, 2**32 - 1).map(IPv4Address),
    close_value(6).map(IPv6Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
)
actions = st.one_of(
    st.tuples(st.sampled_from(["insert", "insert", "insert", "remove"]), networks, st.integers(0, ROWS - 1)),
    st.tuples(st.sampled_from(["take away", "move"]), st.integers(0, 100), st.integers(0, ROWS - 1)),
    st.tuples(st.sampled_from(["peer", "reclaim", "restart"]), st.just(0), st.integers(0, ROWS - 1)),
)


def probes(model: Scan) -> list[Any]:
    """Each prefix's first and last address and the ones beside it."""
    found: list[Any] = []
    for network in model.owner:
        kind = IPv4Address if network.version == 4 else IPv6Address
        for value in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
            if 0 <= value < 2**network.max_prefixlen:
                found.append(kind(value))
    return found


@settings(deadline=None, max_examples=250)
@given(walk=st.lists(actions, max_size=30), extra=st.lists(addresses, max_size=10))
def test_is_a_scan(walk: list[tuple[str, Any, int]], extra: list[Any]) -> None:
    trie, model = Trie(70, ROWS), Scan()
    for kind, what, row in walk:
        known = sorted(model.owner, key=str)
        if kind in ("take away", "move"):
            if not known:
                continue
            what = known[what % len(known)]
            if kind == "take away":
                row, kind = model.owner[what], "remove"
            else:
                kind = "insert"
        if kind == "insert":
            assert trie.insert(what, row) == 0
            model.owner[what] = row
        elif kind == "remove":
            expected = model.owner.get(what) == row
            assert trie.remove(what, row) == expected
            if expected:
                del model.owner[what]
        elif kind == "peer":
            gone = [n for n, owner in model.owner.items() if owner == row]
            assert trie.remove_peer(row) == len(gone)
            for network in gone:
                del model.owner[network]
        elif kind == "reclaim":
            lib.allowedips_reclaim(trie.ips)
            assert trie.ips.waiting_head == 0
        else:
            trie.recover()
        assert trie.check() == model.owner
    for address in probes(model) + extra:
        assert trie.lookup(address) == model.lookup(address), address


def test_lists_keep_the_order_of_insertion() -> None:
    trie = Trie(50, 2)
    order = [
        ip_network(n) for n in ("10.0.0.0/8", "::/0", "0.0.0.0/0", "10.1.2.3/32", "fd00::/8", "9.0.0.0/8")
    ]
    for network in order:
        trie.insert(network, 0)
    trie.insert(order[2], 1)  # moves to the other peer
    trie.insert(order[2], 0)  # and back, now as the last
    assert trie.listed(0) == order[:2] + order[3:] + [order[2]]
    trie.insert(order[0], 0)  # is there: stays where it is
    assert trie.listed(0)[0] == order[0]
    trie.check()


def test_host_bits_are_ignored() -> None:
    trie = Trie(10, 1)
    assert lib.allowedips_insert(trie.ips, b"\x0a\xff\xff\xff", 32, 8, 0, trie.first, 4) == 0
    assert trie.check() == {ip_network("10.0.0.0/8"): 0}
    assert lib.allowedips_remove(trie.ips, b"\x0a\x01\x02\x03", 32, 8, 0, trie.first, 4) == 1
    assert trie.check() == {}


@pytest.mark.parametrize(("bits", "cidr"), [(32, 33), (128, 129), (0, 0), (64, 10), (33, 8)])
def test_what_is_no_prefix_is_refused(bits: int, cidr: int) -> None:
    trie = Trie(10, 1)
    assert lib.allowedips_insert(trie.ips, bytes(16), bits, cidr, 0, trie.first, 4) == -1
    assert lib.allowedips_remove(trie.ips, bytes(16), bits, cidr, 0, trie.first, 4) == 0
    assert trie.check() == {}


def test_a_full_trie_refuses_and_changes_nothing() -> None:
    """With one node left a fork (two nodes) is refused, an insert above or below (one node) is not."""
    trie = Trie(1 + 4, 2)  # four nodes
    for network in ("10.0.0.0/32", "10.0.0.1/32"):
        assert trie.insert(ip_network(network), 0) == 0  # and their branch
    before = bytes(trie.memory)
    assert trie.insert(ip_network("10.0.0.2/32"), 0) == -1
    assert bytes(trie.memory) == before
    assert trie.insert(ip_network("10.0.0.0/31"), 1) == 0  # the branch gets an owner: no node
    assert trie.insert(ip_network("10.0.0.0/8"), 1) == 0  # the last one
    before = bytes(trie.memory)
    assert trie.insert(ip_network("::/0"), 0) == -1
    assert bytes(trie.memory) == before
    assert trie.insert(ip_network("10.0.0.0/8"), 0) == 0  # moves need no node
    assert trie.remove(ip_network("10.0.0.1/32"), 0) == 1
    assert trie.insert(ip_network("::/0"), 0) == -1  # its node waits for a grace period
    lib.allowedips_reclaim(trie.ips)
    assert trie.insert(ip_network("::/0"), 0) == 0
    assert len(trie.check()) == 4


def test_two_nodes_a_prefix_are_enough() -> None:
    random = Random(4)
    trie, model = Trie(1 + 2 * 300, ROWS), Scan()
    while len(model.owner) < 300:
        version = random.choice([4, 6])
        bits = 32 if version == 4 else 128
        network = network_of(version, random.getrandbits(bits), random.randint(0, bits))
        assert trie.insert(network, len(model.owner) % ROWS) == 0
        model.owner[network] = trie.check()[network]
    assert trie.ips.used <= 600


def test_readers_survive_garbage() -> None:
    """Random bytes as nodes, and rings: each lookup ends and stays in the nodes."""
    random = Random(5)
    for turn in range(300):
        count = random.choice([1, 2, 8, 60])
        nodes = ffi.new("struct trie_node[]", count)  # exactly: a sanitizer would see one too far
        ffi.memmove(nodes, random.randbytes(64 * count), 64 * count)
        for i in range(count):
            if turn % 2:  # likely links, prefixes that match anything
                nodes[i].bits, nodes[i].cidr = 32, random.choice([0, 0, 1, 31, 32, 255])
                nodes[i].address = bytes(16)
                nodes[i].child = [random.randrange(count + 1), random.randrange(count + 1)]
        for bits in (32, 128):
            root = random.choice([random.randrange(count + 1), random.getrandbits(32)])
            lib.allowedips_lookup(nodes, count, root, bytes(bits // 8), bits)
    ring = ffi.new("struct trie_node[3]")
    for i, other in ((1, 2), (2, 1)):
        ring[i].bits, ring[i].child, ring[i].peer = 32, [other, other], i
    assert lib.allowedips_lookup(ring, 3, 1, bytes(4), 32) in (0, 1)


@pytest.mark.parametrize(("bits", "cidr"), [(128, 0), (0, 0), (32, 33), (128, 33)])
def test_a_node_of_the_other_family_or_with_too_long_a_prefix_is_no_route(bits: int, cidr: int) -> None:
    nodes = ffi.new("struct trie_node[2]")
    nodes[1].bits, nodes[1].cidr, nodes[1].peer = 32, 0, 3
    assert lib.allowedips_lookup(nodes, 2, 1, bytes(16), 32) == 2
    nodes[1].bits, nodes[1].cidr = bits, cidr
    assert lib.allowedips_lookup(nodes, 2, 1, bytes(16), 32) == NOBODY


@settings(deadline=None, max_examples=80)
@given(
    content=st.dictionaries(networks, st.integers(0, ROWS - 1), max_size=15),
    seed=st.integers(0, 2**32),
    left=st.lists(st.integers(0, 100), max_size=3),
)
def test_recovery_needs_only_the_links(content: dict[Network, int], seed: int, left: list[int]) -> None:
    """Whatever stands in the writer's fields, and with nodes whose removal was begun."""
    random = Random(seed)
    trie, model = Trie(70, ROWS), Scan(dict(content))
    for network, row in content.items():
        trie.insert(network, row)
    for which in left:  # killed after the owner was taken away, before the tree was tidied
        owned = [n for n in range(1, trie.ips.used + 1) if trie.nodes[n].state == LIVE and trie.nodes[n].peer]
        if owned:
            number = owned[which % len(owned)]
            model.owner.pop(trie.network(number))
            trie.nodes[number].peer = 0
    for number in range(1, trie.ips.used + 1):
        node = trie.nodes[number]
        node.parent, node.peer_next, node.peer_previous = (random.getrandbits(32) for _ in range(3))
        node.state = random.randrange(3)
    for row in range(ROWS):
        ffi.cast("uint32_t *", trie.first)[row] = random.getrandbits(32)
    trie.recover()
    assert trie.check() == model.owner
    for address in probes(model):
        assert trie.lookup(address) == model.lookup(address)


def test_recovery_cuts_what_breaks_the_rules() -> None:
    """Links out of range, to the other family, upwards; owners that cannot be."""
    for damage in range(5):
        trie = Trie(30, 2)
        for network in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00::/8"):
            trie.insert(ip_network(network), 0)
        first, second = trie.nodes[1], trie.nodes[2]
        side = 1 if first.child[1] else 0
        if damage == 0:
            first.child[side] = 29
        elif damage == 1:
            first.child[side] = trie.roots[1]
        elif damage == 2:
            second.child[0] = second.child[1] = 1
        elif damage == 3:
            second.peer = 3
        else:
            trie.nodes[0].peer_next = 0xFFFFFFFF
        trie.recover()
        assert len(trie.check()) == [2, 2, 3, 3, 4][damage]


def test_recovery_leaves_a_node_on_one_link_only() -> None:
    """Two links that lead to one node: a tree has one way to each."""
    trie = Trie(30, 2)
    for network in ("10.0.0.0/8", "10.1.0.0/16", "10.129.0.0/16", "fd00::/8"):
        trie.insert(ip_network(network), 0)
    top = trie.nodes[trie.roots[0]]
    assert top.child[0] and top.child[1]
    top.child[1] = top.child[0]
    trie.recover()
    left = [node for node in trie.nodes[trie.roots[0]].child if node]
    assert len(left) == len(set(left)) == 1
    live = [n for n in range(1, trie.ips.used + 1) if trie.nodes[n].state == LIVE]
    assert trie.ips.live == len(live) == 3


def write_until_killed(trie: Trie, plan: list[tuple[str, Network, int]], turn: Any) -> None:
    for number, (kind, network, row) in enumerate(plan):
        turn[0] = number
        if kind == "insert":
            trie.insert(network, row)
        else:
            trie.remove(network, row)
        if number % 20 == 0:
            lib.allowedips_reclaim(trie.ips)
    turn[0] = len(plan)


def test_a_killed_writer_leaves_a_tree_as_before_or_after_its_step() -> None:
    """A process that inserts, moves and removes, killed at a random moment, time and again."""
    random = Random(6)
    pool = [
        network_of(4, random.getrandbits(5) << 27 | random.getrandbits(3), random.randint(0, 32))
        for _ in range(40)
    ]
    for _ in range(25):
        plan = [
            (random.choice(["insert", "insert", "remove"]), random.choice(pool), random.randrange(ROWS))
            for _ in range(20_000)
        ]
        trie = Trie(300, ROWS + 1)
        turn: Any = (
            ffi.cast("uint32_t *", trie.first) + ROWS
        )  # a row that owns nothing: its head counts steps
        child = os.fork()
        if child == 0:
            write_until_killed(trie, plan, turn)
            os._exit(0)
        time.sleep(random.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reached = turn[0]
        model = Scan()

        def step(model: Scan, number: int, plan: list[tuple[str, Network, int]] = plan) -> None:
            kind, network, row = plan[number]
            if kind == "insert":
                model.owner[network] = row
            elif model.owner.get(network) == row:
                del model.owner[network]

        for number in range(reached):
            step(model, number)
        allowed = [dict(model.owner)]
        if reached < len(plan):
            step(model, reached)
            allowed.append(dict(model.owner))
        trie.recover()  # clears the count too
        owners = trie.check()
        assert owners in allowed
        assert trie.lookup(IPv4Address(0)) == Scan(owners).lookup(IPv4Address(0))
        trie.insert(ip_network("203.0.113.0/24"), 0)  # and it goes on
        lib.allowedips_reclaim(trie.ips)
        trie.check()


def test_empty() -> None:
    trie = Trie(4, 1)
    assert trie.lookup(IPv4Address("10.0.0.1")) == trie.lookup(IPv6Address("::1")) == NOBODY
    trie.recover()
    assert trie.check() == {}
