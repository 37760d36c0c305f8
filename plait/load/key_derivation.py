"""Keys and addresses of simulated peers, and the gateway configuration that fits them.

All keys follow from a seed and a peer's number (plait/load/keys.c). The same seed gives the same keys on
any machine, so that a gateway and its load generators need not exchange any. Use such keys in tests alone:
whoever knows the seed knows every key.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plait.failure import Failure
from plait.keys import encode

INNER = "10.64.0.0/10"
INNER6 = "fd64::/64"
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

    def publics(self, span: range, *, psk: bool = False) -> Iterator[tuple[bytes, bytes | None]]:
        """(public key, preshared key or None) of peers of these numbers, computed as they are taken."""
        from plait.load._generator import ffi, lib

        publics, psks = ffi.new("uint8_t[]", 32 * CHUNK), ffi.new("uint8_t[]", 32 * CHUNK)
        for first in range(span.start, span.stop, CHUNK):
            n = min(CHUNK, span.stop - first)
            if lib.load_keys(self.seed, first, n, ffi.NULL, publics, psks if psk else ffi.NULL):
                raise _no_memory()
            public, shared = bytes(ffi.buffer(publics)), bytes(ffi.buffer(psks))
            for at in range(0, 32 * n, 32):
                yield public[at : at + 32], shared[at : at + 32] if psk else None


def _no_memory() -> Failure:
    return Failure("cannot compute keys", "there is no memory", "Free some and try again.")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


NO_HOSTS: list[Network] = [
    ipaddress.ip_network(each) for each in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "::/127", "ff00::/8")
]


def inner_network(text: str, peers: int) -> Network:
    """The network of the inner addresses. Failure when it is too small for a gateway and so many peers, or
    no host answers at its addresses."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        mend = f"Give a network such as {INNER} or {INNER6}."
        raise Failure(f"cannot use inner network {text}", str(error), mend) from error
    if network.num_addresses < peers + 3:
        why = (
            f"it has {network.num_addresses} addresses, and {peers} peers and their gateway need {peers + 3}"
        )
        raise Failure(f"cannot use inner network {text}", why, "Give a larger one.")
    if any(network.overlaps(each) for each in NO_HOSTS if each.version == network.version):
        why = "a host drops some of its addresses that come from a tunnel: loopback, multicast, 0.0.0.0/8"
        raise Failure(f"cannot use inner network {text}", why, f"Give one such as {INNER} or {INNER6}.")
    return network


def gateway_address(network: Network) -> Address:
    """The gateway's inner address: the first."""
    return network.network_address + 1


def peer_address(network: Network, number: int) -> Address:
    """A peer's inner address: peer 0 has the second."""
    return network.network_address + 2 + number


# Numbers of peers, and the network of their inner addresses.
Group = tuple[range, Network]


def setconf_text(
    keys: Keys, groups: Iterable[Group], *, port: int | None = PORT, psk: bool = False
) -> Iterator[str]:
    """The gateway's configuration for `wg setconf`, a peer at a time; port None: of peers alone."""
    if port is not None:
        yield f"[Interface]\nPrivateKey = {encode(keys.gateway()[0])}\nListenPort = {port}\n"
    for public, shared, address in _peers(keys, groups, psk):
        extra = f"PresharedKey = {encode(shared)}\n" if shared else ""
        yield f"[Peer]\nPublicKey = {encode(public)}\n{extra}AllowedIPs = {_whole(address)}\n"


def uapi_text(
    keys: Keys, groups: Iterable[Group], *, port: int | None = PORT, psk: bool = False
) -> Iterator[str]:
    """The same as one `set` operation of the configuration socket."""
    yield "set=1\n"
    if port is not None:
        yield f"private_key={keys.gateway()[0].hex()}\nlisten_port={port}\nreplace_peers=true\n"
    for public, shared, address in _peers(keys, groups, psk):
        extra = f"preshared_key={shared.hex()}\n" if shared else ""
        yield f"public_key={public.hex()}\n{extra}replace_allowed_ips=true\nallowed_ip={_whole(address)}\n"
    yield "\n"


def _peers(keys: Keys, groups: Iterable[Group], psk: bool) -> Iterator[tuple[bytes, bytes | None, Address]]:
    for span, network in groups:
        for number, (public, shared) in zip(span, keys.publics(span, psk=psk), strict=True):
            yield public, shared, peer_address(network, number)


def _whole(address: Address) -> str:
    """The address as a network of its own."""
    return f"{address}/{address.max_prefixlen}"
