"""Keys, endpoints and peers as values: frozen, comparable, checked when they are made."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, TypeAlias

from engine import uapi
from engine.constants import TIMESTAMP_BYTES
from plait import keys, uapi_client
from plait.failure import Failure

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MOST = {number.field: number.most for number in uapi.NUMBERS.values()}  # of a peer's numbers
LISTENS = "Give the port that the peer listens on."


class Key:
    """32 bytes: a private, public or preshared key.

    `str()` is base64, as wg(8) writes keys. `repr()` shows public keys and hides all others, so that a
    printed Peer or traceback tells no secret. A key counts as public when it comes from `Key.public_key` or
    from an engine, or when it is a Peer's `public_key`.

    >>> key = Key.from_base64("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
    >>> key
    Key(hidden)
    >>> str(key)
    'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk='
    >>> Peer(key).public_key
    Key('yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=')
    """

    __slots__ = ("_bytes", "_is_public")

    def __init__(self, key: str | bytes) -> None:
        """key: 44 characters of base64, or 32 bytes. Failure when it is neither, without its text."""
        try:
            self._bytes = keys.decode(key) if isinstance(key, str) else bytes(key)
            if len(self._bytes) != keys.KEY_BYTES:
                raise ValueError(f"{len(self._bytes)} bytes")
        except ValueError as error:
            why = f"it is not 32 bytes, nor the 44 characters that wg(8) writes for them ({error})"
            raise Failure("the key is refused", why, "Give the text that `wg genkey` printed.") from None
        self._is_public = False

    @classmethod
    def generate(cls) -> Key:
        """A new private key, from the kernel's random numbers."""
        return cls(keys.clamp(os.urandom(keys.KEY_BYTES)))

    @classmethod
    def generate_preshared(cls) -> Key:
        """A new preshared key, from the kernel's random numbers."""
        return cls(os.urandom(keys.KEY_BYTES))

    @classmethod
    def from_base64(cls, text: str) -> Key:
        """The key that these 44 characters stand for. Failure when they stand for none."""
        return cls(text)

    @property
    def public_key(self) -> Key:
        """The public key of this private key (X25519, RFC 7748).

        >>> Key("SCw4CYIPO+qsnLkRbpSBEOPDIuFRUSwnYhEFSNj3c2E=").public_key
        Key('FDff0q83mcxJTXSsW3Wnzj5VXYN3H7qzr3QtTi+OLk0=')
        """
        return public(Key(keys.public_key(str(self).encode())))

    def __bytes__(self) -> bytes:
        return self._bytes

    def __str__(self) -> str:
        return keys.encode(self._bytes)

    def __repr__(self) -> str:
        return f"Key({str(self)!r})" if self._is_public else "Key(hidden)"

    def __eq__(self, other: object) -> bool:
        return self._bytes == other._bytes if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes)


def public(key: Key) -> Key:
    """The same key, known to be no secret."""
    if key._is_public:
        return key
    made = Key(bytes(key))
    made._is_public = True
    return made


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address (IPv6: with its zone, if it has one) and a UDP port of 0 to 65535.

    >>> Endpoint.parse("[fe80::1%eth0]:51820")
    Endpoint(address=IPv6Address('fe80::1%eth0'), port=51820)
    >>> str(Endpoint.parse("192.0.2.1:51820"))
    '192.0.2.1:51820'
    """

    address: Address
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 0xFFFF:
            why = f"the port is {self.port}, and there are 0 to 65535"
            raise Failure(f"the endpoint {self} is refused", why, LISTENS)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """The endpoint in text such as `192.0.2.1:51820` or `[2001:db8::1]:51820`. Failure for anything else,
        host names too: to resolve one could wait for a name server."""
        host, _, port = text.rpartition(":")
        is_bracketed = host.startswith("[") and host.endswith("]")
        try:
            address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
            if (address.version == 6) != is_bracketed or not (port.isascii() and port.isdecimal()):
                raise ValueError
        except ValueError:
            why = "it is no address and port"
            step = "Write 192.0.2.1:51820 or [2001:db8::1]:51820; resolve a name first."
            raise Failure(f"the endpoint {text} is refused", why, step) from None
        return cls(address, int(port))

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: its configuration and, in what an engine answers, its figures.

    Two peers are equal when their configuration is: what was measured is not compared, and `add` does not
    send it.

    >>> from ipaddress import ip_network
    >>> key = Key.generate().public_key
    >>> Peer(key, [ip_network("10.0.0.2/32")]) == Peer(key, (ip_network("10.0.0.2"),), rx_bytes=7)
    True
    """

    NEVER: ClassVar[datetime] = datetime(1970, 1, 1, tzinfo=UTC)
    """The `expires` that takes away the one it has."""

    public_key: Key
    allowed_ips: Sequence[Network] = ()
    """Packets to these prefixes go to the peer, and packets of the peer must come from them."""
    endpoint: Endpoint | None = None
    """None in a peer that is added: an endpoint that the engine already knows stays."""
    preshared_key: Key | None = None
    keepalive: int = 0
    """Seconds between two persistent keepalives, 0 to 65535; 0: none."""
    latest_handshake: datetime | None = field(default=None, compare=False)
    """UTC; None: never."""
    rx_bytes: int = field(default=0, compare=False)
    """From the peer, with WireGuard's own headers."""
    tx_bytes: int = field(default=0, compare=False)
    """To the peer, likewise."""
    quota: int | None = None
    """Bytes of both directions together that it may use; None in what is added: as it was; 0: no limit."""
    expires: datetime | None = None
    """When it is cut off, with a time zone; None in what is added: as it was; NEVER: not at all."""
    name: str | None = None
    """For people, at most 64 bytes of UTF-8; None in what is added: as it was; "": none."""
    ran_out: str = field(default="", compare=False)
    """What it was cut off for: "quota" or "expired"."""
    on_demand: bool | None = None
    """True: when it is idle it goes back to the provider (`Interface.evicted`). False: it stays. None in what
    is added: as it was, and a new one stays; from an engine: it stays."""
    idle_after: int = 0
    """Seconds until an on-demand peer is idle; 0: as the interface's settings say."""
    timestamp: bytes | None = field(default=None, compare=False)
    """Of its greatest initiation, 12 bytes, as `Totals` had it: no older one is accepted. None: unknown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "public_key", public(self.public_key))
        object.__setattr__(self, "allowed_ips", tuple(self.allowed_ips))
        if not 0 <= self.keepalive <= MOST["keepalive"]:
            why = f"its keepalive is {self.keepalive} s, and the protocol has 0 to {MOST['keepalive']}"
            step = "Give 25 to keep a NAT open, else 0."
            raise Failure(f"the peer {self.public_key} is refused", why, step)
        self._check_limits()
        if self.endpoint is not None and not self.endpoint.port:
            why = "nothing can be sent to port 0"
            raise Failure(f"the peer {self.public_key} is refused", why, LISTENS)
        if not 0 <= self.idle_after <= MOST["idle_after"]:
            why = f"its idle_after is {self.idle_after} s, and there are 0 to {MOST['idle_after']}"
            step = "Give 0 for the interface's setting."
            raise Failure(f"the peer {self.public_key} is refused", why, step)
        if self.timestamp is not None and len(self.timestamp) != TIMESTAMP_BYTES:
            why = f"its timestamp has {len(self.timestamp)} bytes instead of {TIMESTAMP_BYTES}"
            raise Failure(f"the peer {self.public_key} is refused", why, "Give what `Totals.timestamp` was.")

    def _check_limits(self) -> None:
        what = f"the peer {self.public_key} is refused"
        name = self.name or ""
        if len(name.encode()) > uapi.NAME_MOST or not name.isprintable():
            step = f"Give {uapi.NAME_MOST} bytes of printable text at most."
            raise Failure(what, f"its name is {name!r}", step)
        if self.quota is not None and not 0 <= self.quota <= MOST["quota"]:
            step = f"Give 1 to {MOST['quota']}, or 0 for none."
            raise Failure(what, f"its quota is {self.quota} bytes", step)
        if self.expires is not None and self.expires.tzinfo is None:
            step = "Give one: datetime(2027, 1, 31, tzinfo=UTC)."
            raise Failure(what, "its `expires` has no time zone", step)
        if self.expires is not None and not 0 <= self.expires.timestamp() <= MOST["expires"]:
            raise Failure(what, f"it expires at {self.expires}", "Give a time of 1970 to 2106.")


@dataclass(frozen=True, slots=True)
class Refuse:
    """A provider's answer: there is no such peer."""

    ttl: int = 60
    """Seconds in which the engine does not ask again, 0 to 3600; 0: it asks with the client's next try."""

    def __post_init__(self) -> None:
        if not 0 <= self.ttl <= uapi.TTL_MOST:
            why = f"its ttl is {self.ttl} s, and there are 0 to {uapi.TTL_MOST}"
            raise Failure("a refusal is refused", why, "Give 0 when the store is down, else 60.")


@dataclass(frozen=True, slots=True)
class Totals:
    """What an on-demand peer carried in one life: from the `set` that added it to its eviction."""

    rx_bytes: int
    """From the peer, with WireGuard's own headers."""
    tx_bytes: int
    """To the peer, likewise."""
    latest_handshake: datetime | None
    """UTC; None: never."""
    timestamp: bytes
    """Of its greatest initiation, 12 bytes: for `Peer.timestamp` when it is added again."""
    life: str
    """Names this life of the peer. One may be told of again: keep the totals of each life once, under this
    name, the latest in place of those before, and add them up over lives."""


def text_of_set(add: Sequence[Peer], remove: Sequence[Key], head: uapi.Set) -> str:
    """One `set` operation: the lines of the interface (head), of removed peers, then of added peers."""
    changes = [uapi.PeerChange(bytes(key), remove=True) for key in remove]
    lines = [uapi.format_head(head), *map(uapi.format_change, changes)]
    lines += [uapi.format_change(change_of(peer)) for peer in add]
    return "".join(lines) + "\n"


def change_of(peer: Peer) -> uapi.PeerChange:
    """The change that adds the peer, or makes one that is there equal to it."""
    place = None
    if (given := peer.endpoint) is not None:
        place = uapi.endpoint_of(given.address.packed, given.port, zone_of(given.address))
    networks = ((ip.network_address.packed, ip.max_prefixlen, ip.prefixlen) for ip in peer.allowed_ips)
    return uapi.PeerChange(
        bytes(peer.public_key),
        preshared_key=bytes(peer.preshared_key) if peer.preshared_key else bytes(keys.KEY_BYTES),
        endpoint=place,
        keepalive=peer.keepalive,
        replace_allowed_ips=True,
        allowed_ips=[uapi.AllowedIP(*network) for network in networks],
        quota=peer.quota,
        name=peer.name,
        expires=None if peer.expires is None else int(peer.expires.timestamp()),
        on_demand=None if peer.on_demand is None else int(peer.on_demand),
        idle_after=peer.idle_after if peer.on_demand is not None or peer.idle_after else None,
        timestamp=peer.timestamp,
    )


def zone_of(address: Address) -> str:
    """The interface of a link-local address."""
    return (address.scope_id or "") if isinstance(address, ipaddress.IPv6Address) else ""


def peer_of(told: uapi_client.Peer) -> Peer:
    """The same peer, from what an engine answered."""
    handshake = None
    if told.handshake_sec or told.handshake_nsec:
        handshake = datetime.fromtimestamp(told.handshake_sec, UTC)
        handshake = handshake.replace(microsecond=told.handshake_nsec // 1000)
    idle_after = told.others.get("idle_after", "0")
    return Peer(
        public(Key(told.public_key)),
        tuple(ipaddress.ip_network(prefix) for prefix in told.allowed_ips),
        Endpoint.parse(told.endpoint) if told.endpoint else None,
        Key(told.preshared_key) if told.preshared_key else None,
        told.keepalive,
        handshake,
        told.rx_bytes,
        told.tx_bytes,
        told.quota or None,
        datetime.fromtimestamp(told.expires, UTC) if told.expires else None,
        told.name or None,
        told.ran_out,
        True if told.others.get("on_demand") == "1" else None,
        int(idle_after) if idle_after.isdecimal() else 0,
    )
