"""Keys and addresses of simulated peers, and the gateway configuration that fits them.

All keys follow from a seed and a peer's number (plait/load/keys.c). The same seed gives the same keys on
any machine, so that a gateway and its load generators need not exchange any. Use such keys in tests alone:
whoever knows the seed knows every key.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from plait.failure import Failure
from plait.keys import encode

INNER = "10.64.0.0/10"
PORT = 51820
CHUNK = 256


def seed_bytes(seed: str) -> bytes:
    """The 32 bytes that a seed of any length stands for."""
    return hashlib.blake2s(seed.encode()).digest()


@dataclass(frozen=True)
class Keys:
    """The keys that follow from a seed."""

    seed: bytes

    def gateway(self) -> tuple[bytes, bytes]:
        """The gateway's private and public key."""
        from plait.load._generator import ffi, lib

        private, public = ffi.new("uint8_t[]", 32), ffi.new("uint8_t[]", 32)
        lib.load_gateway_key(self.seed, private)
        if lib.load_gateway_public(private, public):
            raise _no_memory()
        return bytes(private), bytes(public)

    def publics(self, count: int, *, psk: bool = False) -> Iterator[tuple[bytes, bytes | None]]:
        """(public key, preshared key or None) of peers 0 to count - 1, computed as they are taken."""
        from plait.load._generator import ffi, lib

        publics, psks = ffi.new("uint8_t[]", 32 * CHUNK), ffi.new("uint8_t[]", 32 * CHUNK)
        for first in range(0, count, CHUNK):
            n = min(CHUNK, count - first)
            if lib.load_keys(self.seed, first, n, ffi.NULL, publics, psks if psk else ffi.NULL):
                raise _no_memory()
            public, shared = bytes(ffi.buffer(publics)), bytes(ffi.buffer(psks))
            for at in range(0, 32 * n, 32):
                yield public[at : at + 32], shared[at : at + 32] if psk else None


def _no_memory() -> Failure:
    return Failure("cannot compute keys", "there is no memory", "Free some and try again.")


def inner_network(text: str, peers: int) -> ipaddress.IPv4Network:
    """The network of the inner addresses. Failure when it is too small for a gateway and so many peers."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        mend = f"Give an IPv4 network such as {INNER}."
        raise Failure(f"cannot use inner network {text}", str(error), mend) from error
    if network.num_addresses < peers + 3:
        why = (
            f"it has {network.num_addresses} addresses, and {peers} peers and their gateway need {peers + 3}"
        )
        raise Failure(f"cannot use inner network {text}", why, "Give a larger one.")
    return network


def gateway_address(network: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    """The gateway's inner address: the first."""
    return network[1]


def peer_address(network: ipaddress.IPv4Network, number: int) -> ipaddress.IPv4Address:
    """A peer's inner address: peer 0 has the second."""
    return network[2 + number]


def setconf_text(
    keys: Keys, peers: int, network: ipaddress.IPv4Network, *, port: int = PORT, psk: bool = False
) -> Iterator[str]:
    """The gateway's configuration for `wg setconf`, a peer at a time."""
    yield f"[Interface]\nPrivateKey = {encode(keys.gateway()[0])}\nListenPort = {port}\n"
    for number, (public, shared) in enumerate(keys.publics(peers, psk=psk)):
        extra = f"PresharedKey = {encode(shared)}\n" if shared else ""
        address = peer_address(network, number)
        yield f"[Peer]\nPublicKey = {encode(public)}\n{extra}AllowedIPs = {address}/32\n"


def uapi_text(
    keys: Keys, peers: int, network: ipaddress.IPv4Network, *, port: int = PORT, psk: bool = False
) -> Iterator[str]:
    """The same as one `set` operation of the configuration socket."""
    yield f"set=1\nprivate_key={keys.gateway()[0].hex()}\nlisten_port={port}\nreplace_peers=true\n"
    for number, (public, shared) in enumerate(keys.publics(peers, psk=psk)):
        extra = f"preshared_key={shared.hex()}\n" if shared else ""
        address = peer_address(network, number)
        yield f"public_key={public.hex()}\n{extra}replace_allowed_ips=true\nallowed_ip={address}/32\n"
    yield "\n"
