"""Values: the text that a line has after its `=`, and what it means."""

from __future__ import annotations

import re
from base64 import b64decode
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # conversions of text, no sockets
from typing import Final, NamedTuple

from engine._engine import lib
from engine.uapi.refusals import Bad

NAME_MOST: Final = int(lib.NAME_MOST)  # bytes of UTF-8
SESSION_ROW: Final = (  # columns of a packed row of `get_sessions` and of `neighbour`
    ("index", "<u4"),  # the receiver index that the gateway gave out
    ("public_key", "V32"),  # of its peer
)
SESSION_BYTES: Final = 36
ZERO_KEY: Final = bytes(32)
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}\Z", re.ASCII)
_HEX_TIMESTAMP = re.compile(r"[0-9a-fA-F]{24}\Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,20}\Z", re.ASCII)
_ZONE = re.compile(r"[0-9A-Za-z_.:-]{1,15}\Z", re.ASCII)
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})", re.ASCII)
_ESCAPED = re.compile(rb"[^ -$&-~]")  # what no line may have, and %


class Endpoint(NamedTuple):
    """Where a peer is reached: 4 or 16 bytes, port 1 to 65535, zone name or number ("" for none)."""

    address: bytes
    port: int
    zone: str = ""

    def __str__(self) -> str:
        if len(self.address) == 4:
            return f"{inet_ntop(AF_INET, self.address)}:{self.port}"
        zone = f"%{self.zone}" if self.zone else ""
        return f"[{inet_ntop(AF_INET6, self.address)}{zone}]:{self.port}"


_MAPPED = bytes(10) + b"\xff\xff"


def endpoint_of(address: bytes, port: int, zone: str = "") -> Endpoint:
    """The endpoint that an address as written means.

    An IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2) is an IPv4 address in the clothes of programs that
    have sockets for both. No packet carries it; the kernel module takes it and reaches nothing.
    """
    if len(address) == 16 and address.startswith(_MAPPED):
        return Endpoint(address[12:], port)
    return Endpoint(address, port, zone)


class AllowedIP(NamedTuple):
    """A prefix: address of bits/8 bytes, masked to cidr. removed: a `-` stood before it."""

    address: bytes
    bits: int  # 32 or 128
    cidr: int
    removed: bool = False

    def __str__(self) -> str:
        text = inet_ntop(AF_INET if self.bits == 32 else AF_INET6, self.address)
        return f"{'-' if self.removed else ''}{text}/{self.cidr}"


def parse_key(value: str) -> bytes:
    if not _HEX_KEY.match(value):
        raise Bad("not a key", "a key is 64 hexadecimal digits here", "convert base64 keys to hexadecimal")
    return bytes.fromhex(value)


def parse_timestamp(value: str) -> bytes:
    if not _HEX_TIMESTAMP.match(value):
        why = "it is 24 hexadecimal digits, as `evicted` told them"
        raise Bad("not a timestamp", why, "write those, or leave the line out")
    return bytes.fromhex(value)


def parse_sessions(value: str) -> bytes:
    """Rows SESSION_ROW."""
    try:
        rows = b64decode(value, validate=True)
    except ValueError:
        rows = b"?"
    if len(rows) % SESSION_BYTES:
        why = f"they are base64 of rows of {SESSION_BYTES} bytes: an index, little-endian, and a public key"
        raise Bad("not sessions", why, "write such rows, 84 a line at most")
    return rows


def parse_name(value: str) -> str:
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value).encode("latin-1")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise Bad("not a name", "it is no UTF-8", "write each byte of it that is no ASCII as %XX") from None
    if len(raw) > NAME_MOST or not name.isprintable():
        why = f"it has more than {NAME_MOST} bytes, or control characters"
        raise Bad("not a name", why, "write a shorter or plainer one")
    return name


def encode_name(name: str) -> str:
    """The name as a line has it: % and what is no printable ASCII as %XX, byte by byte of UTF-8."""
    return _ESCAPED.sub(lambda found: b"%%%02X" % ord(found[0]), name.encode()).decode("ascii")


def parse_number(value: str, most: int) -> int:
    if not _DECIMAL.match(value) or int(value) > most:
        raise Bad("not a number in range", f"it must be decimal, 0 to {most}", "write such a number")
    return int(value)


def parse_true(value: str) -> bool:
    if value != "true":
        raise Bad("not true", "the only value is true", "write true, or leave the line out")
    return True


def parse_endpoint(value: str) -> Endpoint:
    host, colon, port_text = value.rpartition(":")
    if not colon:
        raise Bad("not an endpoint", "there is no port", "write 192.0.2.1:51820 or [2001:db8::1]:51820")
    port = parse_number(port_text, 0xFFFF)
    if port == 0:
        raise Bad("not an endpoint", "nothing can be sent to port 0", "write the port of the peer")
    if host.startswith("[") and host.endswith("]"):
        text, percent, zone = host[1:-1].partition("%")
        address = _address(AF_INET6, text)
        if address is not None and (not percent or _ZONE.match(zone)):
            return endpoint_of(address, port, zone)
    else:
        address = _address(AF_INET, host)
        if address is not None:
            return Endpoint(address, port)
    why = "it is not an IPv4 address, nor an IPv6 address in brackets"
    raise Bad("not an endpoint", why, "write 192.0.2.1:51820 or [2001:db8::1]:51820, never a name")


def parse_allowed_ip(value: str) -> AllowedIP:
    removed = value.startswith("-")
    text, slash, cidr_text = value[removed:].partition("/")
    for family, bits in ((AF_INET, 32), (AF_INET6, 128)):
        address = _address(family, text)
        if address is None:
            continue
        if not slash:
            raise Bad("not a prefix", "there is no /length", f"write {text}/{bits} for one address")
        cidr = parse_number(cidr_text, bits)
        return AllowedIP(masked(address, cidr), bits, cidr, removed)
    why = "the address is neither IPv4 nor IPv6"
    raise Bad("not a prefix", why, "write 192.0.2.0/24 or 2001:db8::/32")


def masked(address: bytes, cidr: int) -> bytes:
    """The address with all bits after the first cidr cleared."""
    rest = len(address) * 8 - cidr
    return (int.from_bytes(address, "big") >> rest << rest).to_bytes(len(address), "big")


def _address(family: int, text: str) -> bytes | None:
    try:
        return inet_pton(family, text)
    except (OSError, ValueError):  # not an address; or a NUL in it
        return None
