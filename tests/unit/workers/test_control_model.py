"""Any sequence of sets, against a dictionary: the same peers, and after a kill still the same.

Holder and control take their turns in between at random, so that rows retire, wait for grace and are
used again in every order. Every peer that the model has must be found, with its own allowed IPs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

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
