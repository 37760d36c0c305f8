"""Configuration files: what wg(8) reads (`wg setconf`) and what wg-quick(8) adds.

A file is sections [Interface] and [Peer] of ``Key = value`` lines; `#` begins a comment, except in the
commands of hooks, which bash reads whole. Case does not matter in keys, white space does not matter
anywhere but in commands. Keys of wg-quick stand in [Interface] alone. Plait's own
keys stand in comments of a [Peer], a line each, so that the other programs read the same file:
`# PlaitQuota = 100 GB`. A mistake is a ConfError with file, line, what, why
and what to do; nothing half-read is ever returned.

Bytes that are not UTF-8 (a comment in Latin-1) mean themselves: decode() keeps them as surrogate escapes.

Host names of endpoints stay as they are in the result: resolving them is not parsing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # conversions of text, no sockets
from typing import Final, NamedTuple

from engine import uapi
from plait import keys
from plait.quick import limits

WG_INTERFACE_KEYS: Final = ("PrivateKey", "ListenPort", "FwMark")
QUICK_KEYS: Final = (
    "Address", "DNS", "MTU", "Table", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig",
)  # fmt: skip
PEER_KEYS: Final = ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")
PLAIT_KEYS: Final = ("Name", "PlaitQuota", "PlaitExpires")  # behind # in a [Peer]
# Keys of amneziawg-tools (August 2026; J1 to J3 and ITime are older) that change what is on the wire.
AMNEZIA_KEYS: Final = (
    "Jc", "Jmin", "Jmax", "S1", "S2", "S3", "S4", "H1", "H2", "H3", "H4", "I1", "I2", "I3", "I4", "I5",
    "J1", "J2", "J3", "ITime", "AdvancedSecurity", "ContentPaddingAddition", "DisableCookies",
    "HeaderProtectionKey", "KeepaliveTimeout", "MaxHandshakeAttempts", "RandomTrailers", "RejectAfterTime",
    "RekeyAfterTime", "RekeyTimeout",
)  # fmt: skip
NETWORKD_SECTIONS: Final = ("[NetDev]", "[WireGuard]", "[WireGuardPeer]", "[Match]", "[Network]")

_SPACE = " \t\n\v\f\r"  # of the C locale, as both programs see it
_SPACES = re.compile(f"[{_SPACE}]+")
_INTERFACE_NAME = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}\Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,20}\Z", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}\Z", re.ASCII)
_HOST = re.compile(r"[0-9A-Za-z._:%-]{1,255}\Z", re.ASCII)
_TABLE_NAME = re.compile(r"[0-9A-Za-z_.-]{1,64}\Z", re.ASCII)
_DNS_SERVER = re.compile(r"[0-9.]+\Z|.*:", re.ASCII)
_SECRETS = ("privatekey", "presharedkey")
_SECRETISH = re.compile(r"[0-9A-Za-z+/]{32,}=*")


class ConfError(ValueError):
    """A file that is refused. `line` is safe to log: what could be a secret is hidden."""

    def __init__(self, file: str, line_number: int, line: str, what: str, why: str, next_step: str) -> None:
        super().__init__(f"{file}:{line_number}: {what} ({line}): {why}; {next_step}")
        self.file = file
        self.line_number = line_number
        self.line = line
        self.what = what
        self.why = why
        self.next = next_step


class Address(NamedTuple):
    """An address of the interface, host bits kept: bytes, 32 or 128, prefix length."""

    address: bytes
    bits: int
    cidr: int

    def __str__(self) -> str:
        return f"{inet_ntop(AF_INET if self.bits == 32 else AF_INET6, self.address)}/{self.cidr}"


class Host(NamedTuple):
    """An endpoint as written: a name or an address (without brackets), and a port of 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> uapi.Endpoint | None:
        """The endpoint when the host is an address already (uapi.endpoint_of), else None: a name."""
        text, _, zone = self.host.partition("%")
        if (address := _address(AF_INET, self.host)) is not None:
            return uapi.Endpoint(address, self.port)
        if (address := _address(AF_INET6, text)) is not None:
            return uapi.endpoint_of(address, self.port, zone)
        return None


@dataclass(slots=True)
class Interface:
    """The [Interface] sections together. None or empty: not mentioned."""

    private_key: bytes | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    addresses: list[Address] = field(default_factory=list)
    dns: list[str] = field(default_factory=list)  # addresses of servers
    dns_search: list[str] = field(default_factory=list)  # domains
    mtu: int | None = None
    table: str = "auto"  # auto, off, or a routing table's number or name
    pre_up: list[str] = field(default_factory=list)  # commands, in order; %i stands for the interface
    post_up: list[str] = field(default_factory=list)
    pre_down: list[str] = field(default_factory=list)
    post_down: list[str] = field(default_factory=list)
    save_config: bool = False


@dataclass(slots=True)
class Peer:
    """One [Peer] section, which begins at line_number."""

    line_number: int
    public_key: bytes = b""
    preshared_key: bytes | None = None
    endpoint: Host | None = None
    keepalive: int | None = None  # seconds, 0 = off
    allowed_ips: list[uapi.AllowedIP] = field(default_factory=list)
    name: str | None = None
    expires: int | None = None  # seconds since 1970, 0 = never
    quota: int | None = None  # bytes of both directions together, 0 = none
    replace_allowed_ips: bool = True  # False when the last AllowedIPs line has a + or - before an entry


@dataclass(slots=True)
class Conf:
    """A whole file."""

    interface: Interface = field(default_factory=Interface)
    peers: list[Peer] = field(default_factory=list)


def interface_name(file: str) -> str:
    """The interface that a wg-quick file is for: its name without .conf. ConfError when it is none."""
    name = file.rsplit("/", 1)[-1]
    stem = name.removesuffix(".conf")
    if stem == name or not _INTERFACE_NAME.match(stem):
        why = "it must be an interface name of 1 to 15 letters, digits or _=+.- followed by .conf"
        raise ConfError(file, 0, name[:80], "not a wg-quick file name", why, "rename it, e.g. to wg0.conf")
    return stem


def decode(data: bytes, file: str = "-") -> str:
    """The text of a file. ConfError for UTF-16, which Windows programs write and no WireGuard tool reads."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        why = "each character takes two bytes, and wg and wg-quick read one at a time"
        raise ConfError(file, 0, "UTF-16", "not UTF-8", why, "save it as UTF-8 without a byte order mark")
    return data.decode("utf-8", "surrogateescape")


def parse(text: str, file: str = "-", quick: bool = True) -> Conf:
    """Read a file's text (from decode, with its line ends). ConfError at the first mistake.

    quick: keys of wg-quick are accepted; otherwise they are mistakes, as for `wg setconf`.
    """
    reader = _Reader(file, quick)
    for number, line in enumerate(text.split("\n"), 1):
        reader.line(number, line)
    return reader.end()


def strip(text: str) -> str:
    """What `wg-quick strip` prints: the file without the lines that are wg-quick's own."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    kept = []
    in_interface = False
    for raw in lines:
        line = raw.strip(" \t")
        key, _, in_interface = _quick_key(line, in_interface)
        if not (in_interface and key in _QUICK):
            kept.append(line + "\n")
    return "".join(kept) + "\n"


def to_set(
    conf: Conf, resolve: Callable[[Host], uapi.Endpoint] | None = None, append: bool = False
) -> uapi.Set:
    """The file as one UAPI operation, as `wg setconf` would send it, or `wg addconf` with append.

    resolve turns a host name into an endpoint; without it, a name raises ValueError.
    """
    interface = conf.interface
    if append:
        done = uapi.Set(interface.private_key, interface.listen_port, interface.fwmark)
    else:
        zero = bytes(32)
        done = uapi.Set(
            interface.private_key or zero, interface.listen_port or 0, interface.fwmark or 0, True
        )
    for peer in conf.peers:
        endpoint = None
        if peer.endpoint is not None:
            endpoint = peer.endpoint.endpoint
            if endpoint is None:
                if resolve is None:
                    raise ValueError(f"{peer.endpoint.host} is a name; resolve it first")
                endpoint = resolve(peer.endpoint)
        done.add_peer(
            uapi.PeerChange(
                peer.public_key,
                preshared_key=peer.preshared_key,
                endpoint=endpoint,
                keepalive=peer.keepalive,
                replace_allowed_ips=peer.replace_allowed_ips,
                allowed_ips=peer.allowed_ips,
                name=peer.name,
                expires=peer.expires,
                quota=peer.quota,
            )
        )
    return done


def to_text(conf: Conf) -> str:
    """The part of a file that wg(8) knows, laid out as `wg showconf` does."""
    interface = conf.interface
    lines = ["[Interface]"]
    if interface.listen_port:
        lines.append(f"ListenPort = {interface.listen_port}")
    if interface.fwmark:
        lines.append(f"FwMark = {interface.fwmark:#x}")
    if interface.private_key is not None and any(interface.private_key):
        lines.append(f"PrivateKey = {keys.encode(interface.private_key)}")
    sections = ["\n".join(lines) + "\n"]
    for peer in conf.peers:
        lines = ["[Peer]", f"PublicKey = {keys.encode(peer.public_key)}"]
        if peer.preshared_key is not None and any(peer.preshared_key):
            lines.append(f"PresharedKey = {keys.encode(peer.preshared_key)}")
        if peer.allowed_ips:
            plus = "" if peer.replace_allowed_ips else "+"
            ips = [str(ip) if ip.removed else f"{plus}{ip}" for ip in peer.allowed_ips]
            # The last line decides whether the list replaces what the peer has.
            joined = ips if any(ip.removed for ip in peer.allowed_ips) else [", ".join(ips)]
            lines += [f"AllowedIPs = {part}" for part in joined]
        if peer.endpoint is not None:
            lines.append(f"Endpoint = {peer.endpoint}")
        if peer.keepalive:
            lines.append(f"PersistentKeepalive = {peer.keepalive}")
        if peer.name:
            lines.append(f"# Name = {peer.name}")
        if peer.quota:
            lines.append(f"# PlaitQuota = {peer.quota}")
        if peer.expires:
            lines.append(f"# PlaitExpires = {limits.format_expires(peer.expires)}")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


# --- reading ------------------------------------------------------------------------------------

_QUICK = {key.lower(): key for key in QUICK_KEYS}
_WG_INTERFACE = {key.lower(): key for key in WG_INTERFACE_KEYS}
_PEER = {key.lower(): key for key in PEER_KEYS}
_PLAIT = {*(key.lower() for key in PLAIT_KEYS), "friendly_name"}  # prometheus_wireguard_exporter's word
_AMNEZIA = {key.lower() for key in AMNEZIA_KEYS}
_NETWORKD = {section.lower() for section in NETWORKD_SECTIONS}
_HOOKS = {"preup": "pre_up", "postup": "post_up", "predown": "pre_down", "postdown": "post_down"}


class _Bad(Exception):
    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.why, self.next = what, why, next_step


def _quick_key(line: str, in_interface: bool) -> tuple[str, str, bool]:
    """Key in lower case and value of a line as wg-quick sees them, and whether [Interface] goes on.

    A hook's value is the whole of the line behind its =, since `#` has its meaning from bash.
    """
    name, _, value = line.partition("#")[0].partition("=")
    key = name.strip(_SPACE).lower()
    if key.startswith("["):
        in_interface = key == "[interface]"
    if key in _HOOKS:
        value = line.partition("=")[2]
    return key, value.strip(_SPACE), in_interface


class _Reader:
    def __init__(self, file: str, quick: bool) -> None:
        self.file = file
        self.quick = quick
        self.conf = Conf()
        self.section = ""
        # wg leaves out spaces wherever they are, wg-quick around a line only.
        self.is_interface_of_quick = False

    def line(self, number: int, raw: str) -> None:
        try:
            self._take(number, raw)
        except _Bad as bad:
            raise self._error(number, raw, bad) from None

    def end(self) -> Conf:
        self._end_section()
        return self.conf

    def _error(self, number: int, raw: str, bad: _Bad) -> ConfError:
        return ConfError(self.file, number, mask(raw), bad.what, bad.why, bad.next)

    def _take(self, number: int, raw: str) -> None:
        if number == 1 and raw.startswith("\ufeff"):
            why = "wg and wg-quick take it for a part of the first word"
            raise _Bad("a byte order mark", why, "save the file as UTF-8 without one")
        bare = _SPACES.sub("", raw.partition("#")[0])
        if not bare:
            if self.section == "[peer]":
                self._take_comment(raw)
            return
        if "\0" in bare:
            raise _Bad("not text", "there is a NUL byte in it", "remove it")
        if bare.startswith("["):
            self._begin_section(number, bare.lower())
            self.is_interface_of_quick = _quick_key(raw, False)[2]
            return
        if not self.section:
            raise _Bad(
                "a line before any section", "it belongs to nothing", "begin with [Interface] or [Peer]"
            )
        name, equals, value = bare.partition("=")
        if not equals:
            raise _Bad(
                "not understood", "there is no = in it", "write Key = value, a section, or # a comment"
            )
        key = name.lower()
        if not value and key in (_PEER if self.section == "[peer]" else _WG_INTERFACE):
            raise _Bad("no value", "nothing stands after =", "write a value, or remove the line")
        if self.section == "[peer]":
            self._take_peer(key, name, value)
        elif key in _WG_INTERFACE:
            self._take_wg(key, value)
        elif self.quick and (quick := _quick_key(raw, True))[0] in _QUICK:
            if not self.is_interface_of_quick:
                why = "wg-quick does not take the head of its section for [Interface]"
                raise _Bad("a key of wg-quick", why, "write [Interface] without spaces in it")
            self._take_quick(quick[0], quick[1])
        else:
            raise self._unknown(
                name, "[Interface]", (*WG_INTERFACE_KEYS, *(QUICK_KEYS if self.quick else ()))
            )

    def _unknown(self, name: str, section: str, known: tuple[str, ...]) -> _Bad:
        key = name.lower()
        if key in _PEER and section == "[Interface]":
            return _Bad("a peer's key", f"{_PEER[key]} has no meaning in [Interface]", "move it to a [Peer]")
        if key in _WG_INTERFACE or (key in _QUICK and section == "[Peer]"):
            full = _WG_INTERFACE.get(key) or _QUICK[key]
            return _Bad("an interface's key", f"{full} has no meaning in [Peer]", "move it to [Interface]")
        if key in _QUICK:
            why = f"{_QUICK[key]} is wg-quick's, wg does not know it"
            return _Bad("a key of wg-quick", why, "pass the file through `wg-quick strip`")
        if key in _AMNEZIA:
            why = (
                "the other end speaks AmneziaWG, another protocol, and without this line the tunnel stays "
                "silent (unless S1 to S4 are 0 and H1 to H4 are 1 to 4)"
            )
            step = "ask the other end for plain WireGuard, or use AmneziaWG's own programs"
            return _Bad("a key of AmneziaWG", why, step)
        if key == "reserved":
            why = "it sets three bytes that are 0 in WireGuard, and an other end that needs them stays silent"
            return _Bad("a key of Cloudflare WARP", why, "ask the other end for plain WireGuard")
        why = f"{section} has {', '.join(known)}"
        step = "correct the spelling, or put # before the line if the other end works without it"
        return _Bad("an unknown key", why, step)

    def _begin_section(self, number: int, section: str) -> None:
        if section in _NETWORKD:
            why = "this is a file of systemd-networkd, which has sections and keys of its own"
            raise _Bad(
                "not a wg-quick file", why, "give it to systemd-networkd, or write [Interface] and [Peer]"
            )
        if section not in ("[interface]", "[peer]"):
            raise _Bad("an unknown section", "only [Interface] and [Peer] exist", "correct the spelling")
        self._end_section()
        self.section = section
        if section == "[peer]":
            self.conf.peers.append(Peer(number))

    def _end_section(self) -> None:
        if self.section == "[peer]" and not self.conf.peers[-1].public_key:
            bad = _Bad(
                "a peer without PublicKey", "a peer is its public key", "add PublicKey = … to the section"
            )
            raise self._error(self.conf.peers[-1].line_number, "[Peer]", bad)

    def _take_wg(self, key: str, value: str) -> None:
        interface = self.conf.interface
        if key == "privatekey":
            interface.private_key = _key(value)
        elif key == "listenport":
            interface.listen_port = _number(value, 0xFFFF)
        else:
            interface.fwmark = _fwmark(value)

    def _take_peer(self, key: str, name: str, value: str) -> None:
        peer = self.conf.peers[-1]
        if key == "publickey":
            peer.public_key = _key(value)
        elif key == "presharedkey":
            peer.preshared_key = _key(value)
        elif key == "endpoint":
            peer.endpoint = _host(value)
        elif key == "persistentkeepalive":
            peer.keepalive = 0 if value.lower() == "off" else _number(value, 0xFFFF, "off or ")
        elif key == "allowedips":
            parts = value.split(",")
            peer.allowed_ips += [_allowed_ip(part) for part in parts]
            peer.replace_allowed_ips = not any(part[:1] in ("+", "-") for part in parts)
        else:
            raise self._unknown(name, "[Peer]", PEER_KEYS)

    def _take_comment(self, raw: str) -> None:
        """A line that is nothing but a comment may be one of Plait's own keys."""
        name, equals, value = raw.strip(_SPACE).removeprefix("#").partition("=")
        key, value = name.strip(_SPACE).lower(), value.strip(_SPACE)
        if not equals or key not in _PLAIT:
            return
        if key in ("name", "friendly_name"):  # never refused: it may have been any comment before
            self.conf.peers[-1].name = limits.shorten_name(value)
            return
        try:
            if key == "plaitquota":
                self.conf.peers[-1].quota = limits.parse_quota(value)
            else:
                self.conf.peers[-1].expires = limits.parse_expires(value)
        except ValueError as error:
            what = "not a quota" if key == "plaitquota" else "not a time"
            raise _Bad(what, str(error), "write such a one, or take the line out") from None

    def _take_quick(self, key: str, value: str) -> None:
        interface = self.conf.interface
        words = value.replace(",", " ").split()
        if key in _HOOKS:
            if "\0" in value:
                raise _Bad("not text", "there is a NUL byte in it", "remove it")
            if value:
                getattr(interface, _HOOKS[key]).append(value)
        elif key == "address":
            interface.addresses += [_prefix(word) for word in words]
        elif key == "dns":
            for word in words:
                (interface.dns if _DNS_SERVER.match(word) else interface.dns_search).append(_dns(word))
        elif key == "mtu":
            interface.mtu = _mtu(value) if value else None
        elif key == "table":
            interface.table = _table(value)
        else:
            interface.save_config = _boolean(value)


def mask(line: str) -> str:
    """A line as it may be logged."""
    name, equals, value = line[:512].partition("=")
    key = _SPACES.sub("", name).lower()
    if key in _SECRETS:
        value = " (hidden)"
    elif key != "publickey":
        name, value = _SECRETISH.sub("(hidden)", name), _SECRETISH.sub("(hidden)", value)
    shown = "".join(c if c.isprintable() else " " if c in _SPACE else "?" for c in name + equals + value)
    shown = shown.strip()
    return shown if len(shown) <= 100 else shown[:97] + "..."


def _key(value: str) -> bytes:
    try:
        return keys.decode(value)
    except ValueError as error:
        raise _Bad("not a key", str(error), "make one with `wg genkey`, or copy it whole") from None


def _number(value: str, most: int, also: str = "") -> int:
    if not _DECIMAL.match(value) or int(value) > most:
        raise _Bad("not a number in range", f"it must be {also}0 to {most}, decimal", "write such a number")
    return int(value)


def _fwmark(value: str) -> int:
    if value.lower() == "off":
        return 0
    if (_HEX.match(value) and (mark := int(value, 16)) <= 0xFFFFFFFF) or (
        _DECIMAL.match(value) and (mark := int(value)) <= 0xFFFFFFFF
    ):
        return mark
    raise _Bad("not a mark", "it must be off, decimal, or 0x and hexadecimal, below 2^32", "e.g. 0xca6c")


def _host(value: str) -> Host:
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise _Bad(
                "not an endpoint", "after [ must come an address, then ]:port", "e.g. [2001:db8::1]:51820"
            )
        port = rest[1:]
    else:
        host, colon, port = value.rpartition(":")
        if not colon:
            raise _Bad("not an endpoint", "there is no port", "write host:port")
    if not _HOST.match(host):
        raise _Bad("not an endpoint", "the host is neither an address nor a name", "write host:port")
    number = _number(port, 0xFFFF)
    if number == 0:
        raise _Bad("not an endpoint", "nothing can be sent to port 0", "write the peer's port")
    return Host(host, number)


def _prefix(text: str) -> Address:
    head, slash, cidr = text.partition("/")
    for family, bits in ((AF_INET, 32), (AF_INET6, 128)):
        address = _address(family, head)
        if address is not None:
            return Address(address, bits, _number(cidr, bits) if slash else bits)
    raise _Bad("not an address", "it is neither IPv4 nor IPv6", "write e.g. 10.0.0.1/24, fd00::1/64")


def _allowed_ip(text: str) -> uapi.AllowedIP:
    """A prefix, with a - before one that is taken from the peer, a + before one that is added."""
    removed = text.startswith("-")
    address, bits, cidr = _prefix(text[1:] if text.startswith(("+", "-")) else text)
    return uapi.AllowedIP(uapi.masked(address, cidr), bits, cidr, removed)


def _dns(word: str) -> str:
    if _DNS_SERVER.match(word):
        if _address(AF_INET, word) is None and _address(AF_INET6, word.partition("%")[0]) is None:
            raise _Bad("not a DNS server", "it is neither an address nor a domain", "write e.g. 10.0.0.1")
    elif not _HOST.match(word):
        raise _Bad("not a DNS domain", "it has other characters than a name", "write e.g. example.com")
    return word


def _mtu(value: str) -> int:
    mtu = _number(value, 0xFFFF)
    if mtu < 68:
        raise _Bad("not an MTU", "IPv4 needs 68 bytes, IPv6 needs 1280", "write e.g. 1420, or leave it out")
    return mtu


def _table(value: str) -> str:
    if value and not _TABLE_NAME.match(value):
        raise _Bad("not a table", "it must be off, auto, a number or a name", "write e.g. Table = off")
    return value.lower() if value.lower() in ("off", "auto") else value or "auto"


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise _Bad("neither true nor false", "SaveConfig is one of them", "write SaveConfig = true")
    return value.lower() == "true"


def _address(family: int, text: str) -> bytes | None:
    try:
        return inet_pton(family, text)
    except (OSError, ValueError):  # not an address; or not ASCII, or a NUL in it
        return None
