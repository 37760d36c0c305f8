"""Any sequence of sets, against a dictionary: the same peers, and after a kill still the same.

Holder and control take their turns in between at random, so that rows retire, wait for grace and are
used again in every order. Every peer that the model has must be found, with its own allowed IPs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.uapi import parse_set
from tests.support.control_harness import SMALL, Holder, Interface, Parts
from workers._workers import ffi, lib
from workers.settings import Settings

KEYS = [bytes([n] * 32) for n in range(1, 7)]
PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "fd00:1::/32", "::/0"]
ENDPOINTS = ["192.0.2.1:1", "192.0.2.2:65535", "[2001:db8::1]:7"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")


@dataclass
class Peer:
    psk: bytes = bytes(32)
    endpoint: str = ""
    keepalive: int = 0
    heard: int = 0  # bytes: what it had is gone when all peers are replaced
    allowed: list[str] = field(default_factory=list)


@dataclass
class Change:
    """One peer's part of a set."""

    key: bytes
    remove: bool
    update_only: bool
    replace: bool
    psk: bytes | None
    endpoint: str | None
    keepalive: int | None
    allowed: list[tuple[bool, str]]

    def text(self) -> str:
        lines = [f"public_key={self.key.hex()}"]
        lines += ["remove=true"] * self.remove + ["update_only=true"] * self.update_only
        lines += ["replace_allowed_ips=true"] * self.replace
        if self.psk is not None:
            lines.append(f"preshared_key={self.psk.hex()}")
        if self.endpoint is not None:
            lines.append(f"endpoint={self.endpoint}")
        if self.keepalive is not None:
            lines.append(f"persistent_keepalive_interval={self.keepalive}")
        lines += [f"allowed_ip={'-' * minus}{prefix}" for minus, prefix in self.allowed]
        return "\n".join(lines) + "\n"


changes = st.builds(
    Change,
    key=st.sampled_from(KEYS),
    remove=st.booleans(),
    update_only=st.booleans(),
    replace=st.booleans(),
    psk=st.none() | st.binary(min_size=32, max_size=32),
    endpoint=st.none() | st.sampled_from(ENDPOINTS),
    keepalive=st.none() | st.integers(0, 65535),
    allowed=st.lists(st.tuples(st.booleans(), st.sampled_from(PREFIXES)), max_size=4),
)


class Configured(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.interface = Interface(f"plm{os.getpid()}", Settings(**SMALL))
        self.holder = Holder(self.interface)
        self.parts = Parts(self.interface)
        self.model: dict[bytes, Peer] = {}

    def teardown(self) -> None:
        self.parts.close()
        self.holder.__exit__()
        self.interface.__exit__()

    @rule(replace_peers=st.booleans(), peers=st.lists(changes, max_size=4))
    def set(self, replace_peers: bool, peers: list[Change]) -> None:
        text = "set=1\n" + "replace_peers=true\n" * replace_peers + "".join(peer.text() for peer in peers)
        assert self.parts.set(text) == 0
        if replace_peers:
            self.model.clear()
        for change in peers:
            self._model(change)

    def _model(self, change: Change) -> None:
        if change.remove:
            self.model.pop(change.key, None)
            return
        if change.key not in self.model:
            if change.update_only:
                return
            self.model[change.key] = Peer()
        peer = self.model[change.key]
        peer.psk = peer.psk if change.psk is None else change.psk
        peer.endpoint = change.endpoint or peer.endpoint
        peer.keepalive = peer.keepalive if change.keepalive is None else change.keepalive
        if change.replace:
            peer.allowed.clear()
        for minus, prefix in change.allowed:
            if minus:
                if prefix in peer.allowed:
                    peer.allowed.remove(prefix)
            elif prefix not in peer.allowed:
                for other in self.model.values():
                    if prefix in other.allowed:
                        other.allowed.remove(prefix)
                peer.allowed.append(prefix)

    @rule(key=st.sampled_from(KEYS))
    def hears(self, key: bytes) -> None:
        row = self.parts.peers.find(key)
        if row is not None:
            self.parts.segment.rows[row].rx_bytes += 32
            self.model[key].heard += 32

    @rule()
    def holder_turns(self) -> None:
        self.holder.take_turns()

    @rule()
    def control_turns(self) -> None:
        self.parts.take_events()
        self.parts.endpoints.poll()

    @rule()
    def settle(self) -> None:
        self.parts.peers.look_for_retired()
        self.parts.settle(self.holder)
        assert len(self.parts.peers.free) + self.parts.peers.count == self.parts.peers.used
        assert self.parts.ips_live() == sum(len(peer.allowed) for peer in self.model.values())

    @rule()
    def kill_and_restart(self) -> None:
        self.parts.close()
        self.parts = Parts(self.interface)

    @invariant()
    def shows_the_model(self) -> None:
        shown: dict[bytes, Peer] = {}
        peer = Peer()
        for line in self.parts.get().splitlines():
            key, _, value = line.partition("=")
            if key == "public_key":
                peer = shown[bytes.fromhex(value)] = Peer()
            elif key == "preshared_key":
                peer.psk = bytes.fromhex(value)
            elif key == "endpoint":
                peer.endpoint = value
            elif key == "persistent_keepalive_interval":
                peer.keepalive = int(value)
            elif key == "rx_bytes":
                peer.heard = int(value)
            elif key == "allowed_ip":
                peer.allowed.append(value)
        for each in [*shown.values(), *self.model.values()]:
            each.allowed.sort()
        assert shown == self.model

    @invariant()
    def finds_every_prefix(self) -> None:
        device, nodes = self.parts.memory.device, self.parts.peers.ips.nodes
        owners = {prefix: key for key, peer in self.model.items() for prefix in peer.allowed}
        for prefix in PREFIXES:
            network = ip_network(prefix)
            root = device.trie_root4 if network.version == 4 else device.trie_root6
            address = network.network_address
            row = lib.allowedips_lookup(
                nodes, self.parts.memory.max_trie_nodes, root, address.packed, network.max_prefixlen
            )
            best = max(
                (n for n in map(ip_network, owners) if n.version == network.version and address in n),
                key=lambda n: n.prefixlen,
                default=None,
            )
            expected = owners[str(best)] if best else None
            found = None if row == 0xFFFFFFFF else bytes(ffi.buffer(self.parts.segment.rows[row].public_key))
            assert found == expected


TestConfigured = Configured.TestCase
TestConfigured.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Measured:
    """A set, measured against the peers that there are (workers/control/peer_changes.c). end: the records end
    before so many of their bytes. What stands behind them would be one more allowed IP."""

    def __init__(
        self, parts: Parts, text: str, own_key: bytes | None = None, end: int | None = None
    ) -> None:
        operation = parse_set(text)
        self.length = len(operation.records)
        self.records = ffi.new("uint8_t[]", bytes(operation.records) + bytes(lib.RECORD_ALLOWED_BYTES))
        self.changes = ffi.new("struct peer_changes *")
        self.changes.table, self.changes.records = parts.peers.table, self.records
        self.changes.bytes = self.length if end is None else end
        self.own_key = ffi.NULL if own_key is None else ffi.new("uint8_t[]", own_key)
        self.changes.own_key = self.own_key
        self.kept = ffi.new("uint8_t[]", parts.memory.max_peers)
        self.need = ffi.new("struct changes_need *")
        self.slots = np.zeros(1 << (2 * operation.peer_count).bit_length(), np.uint32)
        self.need.slots = ffi.cast("uint32_t *", self.slots.ctypes.data)
        self.need.slot_mask = len(self.slots) - 1
        if operation.replace_peers:
            self.changes.kept = self.kept
        else:
            self.need.count = self.need.peak = parts.peers.count
            self.need.nodes = parts.peers.ips.live

    def stop(self) -> int:
        """What stopped it: CHANGES_DONE, or CHANGES_RARE."""
        while (stop := lib.changes_measure(self.changes, self.need, 1)) == lib.CHANGES_SLICE:
            pass
        return int(stop)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    standing=st.lists(changes, max_size=4),
    heard=st.sets(st.sampled_from(KEYS)),
    replace_peers=st.booleans(),
    own_key=st.none() | st.sampled_from(KEYS),
    peers=st.lists(changes, max_size=7),
)
def test_what_a_set_will_need(
    standing: list[Change],
    heard: set[bytes],
    replace_peers: bool,
    own_key: bytes | None,
    peers: list[Change],
) -> None:
    """Peers at the most, new ones and trie nodes, as a dictionary counts them."""
    with Interface(f"plm{os.getpid()}", Settings(**SMALL)) as interface, Holder(interface) as holder:
        parts = Parts(interface)
        assert parts.set("set=1\n" + "".join(peer.text() for peer in standing)) == 0
        parts.settle(holder)
        found = {key: row for key in KEYS if (row := parts.peers.find(key)) is not None}
        for key in heard & found.keys():
            parts.segment.rows[found[key]].rx_bytes = 1
        text = "set=1\n" + "replace_peers=true\n" * replace_peers + "".join(peer.text() for peer in peers)
        measured = Measured(parts, text, own_key)
        count = peak = int(measured.need.count)
        fresh, nodes = 0, int(measured.need.nodes)
        mentioned: dict[bytes, bool] = {}  # whether there is such a peer at this point
        for change in peers:
            key = change.key
            if key == own_key:
                continue
            is_there = mentioned.get(key, key in found and not replace_peers)
            if change.remove:
                count -= is_there
                mentioned[key] = False
                continue
            if not is_there:
                if change.update_only:
                    continue
                has_endpoint = key in found and parts.endpoints.read(found[key]) is not None
                is_kept = (replace_peers and key in found and key not in mentioned and key not in heard
                           and (change.endpoint is not None or not has_endpoint))  # fmt: skip
                fresh += not is_kept
                count += 1
                peak = max(peak, count)
            elif change.replace and key not in mentioned:
                nodes -= len(parts.peers.allowed(found[key]))
            mentioned[key] = True
            nodes += 2 * sum(not minus for minus, _ in change.allowed)
        assert measured.stop() == lib.CHANGES_DONE
        need = measured.need
        found_needs = [int(each) for each in (need.count, need.peak, need.fresh, need.nodes)]
        assert found_needs == [count, peak, fresh, nodes]
        parts.close()


@pytest.fixture
def parts() -> Iterator[Parts]:
    """With one peer that nobody has used."""
    with Interface(f"plm{os.getpid()}", Settings(**SMALL)) as interface:
        parts = Parts(interface)
        assert parts.set(f"set=1\npublic_key={KEYS[0].hex()}\n") == 0
        yield parts
        parts.close()


WHOLE = Change(KEYS[1], remove=False, update_only=False, replace=True, psk=bytes(32),
               endpoint="[2001:db8::1]:7",
               keepalive=25, allowed=[(False, "10.0.0.0/8"), (True, "::/0")])  # fmt: skip
ENDPOINT_LAST = replace(WHOLE, allowed=[], keepalive=None)
BARE = Change(KEYS[1], False, False, False, None, None, None, [])


@pytest.mark.parametrize("change", [WHOLE, ENDPOINT_LAST, BARE])
def test_a_record_that_ends_too_early_is_no_record(parts: Parts, change: Change) -> None:
    """A damaged redo record; each of the three passes over the records stops in front of it."""
    text = "set=1\nreplace_peers=true\n" + change.text()
    length = Measured(parts, text).length
    for end in range(1, length + 1):
        is_whole = end == length
        expected = lib.CHANGES_DONE if is_whole else lib.CHANGES_RARE
        assert Measured(parts, text, end=end).stop() == expected, end
        cut = Measured(parts, text, end=end).changes
        cut.place = ffi.new("uint32_t *")
        assert lib.changes_mark(cut, 1 << 20) == expected, end
        if not is_whole:
            cut.at = 0
            assert lib.changes_apply(cut, 1 << 20) == lib.CHANGES_RARE, end
            assert not lib.changes_pass(cut), end
    assert parts.peers.find(KEYS[1]) is None


def is_kept(parts: Parts, text: str = "") -> bool:
    """Whether a set that replaces all peers by the one that there is lets its row stand."""
    measured = Measured(parts, f"set=1\nreplace_peers=true\npublic_key={KEYS[0].hex()}\n{text}")
    assert lib.changes_mark(measured.changes, 1 << 20) == lib.CHANGES_DONE
    return bool(measured.kept[0])


@pytest.mark.parametrize("word", ["key_word", "tx_bytes", "rx_bytes", "handshake_sec", "orders",
                                  "handshake_tx", "handshake_rx"])
def test_a_peer_that_was_used_is_replaced(parts: Parts, word: str) -> None:
    row = parts.segment.rows[0]
    assert is_kept(parts) and not is_kept(parts, "remove=true\n") and not is_kept(parts, "update_only=true\n")
    setattr(row, word, 1)
    assert not is_kept(parts)
    setattr(row, word, 0)
    assert is_kept(parts)


def test_a_peer_whose_secrets_or_endpoint_were_used_is_replaced(parts: Parts) -> None:
    row, secrets = parts.segment.rows[0], parts.peers.table.vault[0]
    for owner, word in ((secrets, "seen_seconds"), (secrets, "sent")):
        setattr(owner, word, 1)
        assert not is_kept(parts), word
        setattr(owner, word, 0)
    row.pending_endpoint[0] = 1
    assert not is_kept(parts), "an endpoint that waits"
    row.pending_endpoint[0] = 0
    endpoint = ffi.new("struct endpoint *", {"source": [0] * 15 + [1]})
    lib.endpoint_store(parts.segment, 0, endpoint)
    assert not is_kept(parts), "a source that was learnt"
    endpoint = ffi.new("struct endpoint *", {"family": 2})
    lib.endpoint_store(parts.segment, 0, endpoint)
    assert not is_kept(parts) and is_kept(parts, "endpoint=192.0.2.1:1\n"), "no order takes an endpoint away"


@pytest.mark.parametrize(("seconds", "ns", "is_time"), [
    (0, 0, True), (5, 7, True), (2**63 - 1, 999_999_999, True),
    (2**63, 7, False), (5, 1_000_000_000, False), (2**64 - 1, 2**32 - 1, False),
])  # fmt: skip
def test_a_time_that_is_none_is_shown_as_none(parts: Parts, seconds: int, ns: int, is_time: bool) -> None:
    """wg would refuse the whole answer."""
    row = parts.segment.rows[0]
    row.handshake_sec, row.handshake_nsec = seconds, ns
    shown = [line.partition("=")[2] for line in parts.get().splitlines() if line.startswith("last_handshake")]
    assert shown == ([str(seconds), str(ns)] if is_time else ["0", "0"])


def walled(data: bytes) -> mmap.mmap:
    """A copy at the end of what can be read of this memory."""
    room = -(-len(data) // mmap.PAGESIZE) * mmap.PAGESIZE
    area = mmap.mmap(-1, room + mmap.PAGESIZE)
    area[room - len(data) : room] = data
    wall = int(ffi.cast("uintptr_t", ffi.from_buffer(area))) + room
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(wall), mmap.PAGESIZE, 0) == 0
    return area


@pytest.mark.parametrize("change", [WHOLE, ENDPOINT_LAST, BARE])
def test_nothing_behind_the_records_is_read(parts: Parts, change: Change) -> None:
    """A damaged redo record may end where the memory ends. Whoever reads on dies of it, here a child."""
    text = "set=1\n" + change.text()
    records = bytes(parse_set(text).records)
    child = os.fork()
    if child == 0:
        try:
            for end in range(1, len(records) + 1):
                measured = Measured(parts, text, end=end)
                measured.records = ffi.from_buffer("uint8_t[]", walled(records[:end]))
                measured.changes.records = measured.records + len(measured.records) - mmap.PAGESIZE - end
                assert measured.stop() == (lib.CHANGES_DONE if end == len(records) else lib.CHANGES_RARE)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
