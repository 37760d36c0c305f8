"""Which addresses a load generator may send to: those of its own user.

The whole rule: loopback addresses; addresses of this host (or of the network namespace that the command runs
in); and each address that --i-own-this-target names, networks excluded.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass

from plait.failure import Failure

RULE = (
    "Only loopback addresses, addresses of this host or network namespace, and those named by "
    "--i-own-this-target ADDRESS are sent to."
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(text: str) -> tuple[Address, int]:
    """ADDRESS:PORT or [ADDRESS]:PORT. Failure when it is not that; names are not looked up."""
    host, colon, port = text.rpartition(":")
    try:
        if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("there is no port from 1 to 65535 behind it")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        address = ipaddress.ip_address(bare)
        if (address.version == 6) != (bare != host):
            raise ValueError("an IPv6 address stands in brackets, an IPv4 address does not")
    except ValueError as error:
        mend = "Write 127.0.0.1:51820 or [::1]:51820."
        raise Failure(f"cannot use target {text}", str(error), mend) from error
    return address, int(port)


def own_addresses() -> set[Address]:
    """The addresses of this network namespace's interfaces."""
    from plait.programs import ip_json

    found: set[Address] = set()
    for interface in ip_json("address"):
        found |= {
            ipaddress.ip_address(entry["local"]) for entry in interface["addr_info"] if "local" in entry
        }
    return found


def check(
    address: Address, owned: Collection[str], own: Callable[[], Collection[Address]] = own_addresses
) -> None:
    """Failure unless the rule allows the address. owned: the values of --i-own-this-target."""
    named = set()
    for text in owned:
        try:
            named.add(ipaddress.ip_address(text))
        except ValueError as error:
            mend = "Give one address, without a port; networks and names are not taken."
            raise Failure(f"cannot use --i-own-this-target {text}", str(error), mend) from error
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        mend = "Give the address of one gateway; --i-own-this-target does not change that."
        raise Failure(f"{address} is no target", "it is the address of many hosts", mend)
    if address in named or address.is_loopback:
        return
    if not address.is_unspecified and not address.is_multicast and address in own():
        return
    raise Failure(
        f"{address} is no target",
        "it is neither loopback nor an address of this host",
        f"{RULE} If it is yours, add --i-own-this-target {address}.",
    )


@dataclass(frozen=True)
class Sources:
    """So many consecutive source addresses; with count 0 the route decides which address is used."""

    first: Address | None = None
    count: int = 0


def sources(text: str | None, target: Address) -> Sources:
    """FIRST+COUNT, for example 127.1.0.1+500. Failure when the text is anything else, or an
    address is not of this host."""
    if text is None:
        return Sources()
    first, _, count = text.partition("+")
    try:
        address = ipaddress.ip_address(first)
        if not count.isdecimal() or not 0 < int(count) <= 1 << 20:
            raise ValueError("how many follow `+`, from 1 to 1048576")
        if address.version != target.version:
            raise ValueError("it is of another family than the target")
        last = address + (int(count) - 1)
    except ValueError as error:
        mend = "Write the first address and how many: 127.1.0.1+500."
        raise Failure(f"cannot use sources {text}", str(error), mend) from error
    for each in (address, last):
        family = socket.AF_INET6 if each.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(each), 0))
            except OSError as error:
                mend = f"Make them local, for example: ip route add local {first}/24 dev lo"
                raise Failure(f"cannot send from {each}", str(error.strerror), mend) from error
    return Sources(address, int(count))
