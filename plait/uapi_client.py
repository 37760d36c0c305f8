"""The client's side of the configuration socket: one place that speaks to /var/run/wireguard/IFACE.sock.

The protocol is text (wireguard.com/xplatform, engine/uapi.py); answers stay text here, since
showing them is all that this side does with them.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plait.failure import Failure

SOCKETS = Path("/var/run/wireguard")
TIMEOUT = 30.0  # seconds without a byte from the engine


@dataclass(slots=True)
class Peer:
    """One peer as `get` tells it. Keys in base64, preshared_key empty when there is none."""

    public_key: str
    preshared_key: str = ""
    endpoint: str = ""
    handshake_sec: int = 0
    handshake_nsec: int = 0
    tx_bytes: int = 0
    rx_bytes: int = 0
    keepalive: int = 0
    allowed_ips: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Device:
    """One interface as `get` tells it. Keys in base64, empty when there is none."""

    name: str
    private_key: str = ""
    listen_port: int = 0
    fwmark: int = 0
    peers: list[Peer] = field(default_factory=list)

    @property
    def public_key(self) -> str:
        """Of the private key; empty when there is none."""
        if not self.private_key:
            return ""
        from plait.keys import public_key

        return public_key(self.private_key.encode())


def interfaces() -> list[str]:
    """Names of all interfaces with a socket that somebody listens on, sorted."""
    try:
        names = sorted(path.stem for path in SOCKETS.iterdir() if path.suffix == ".sock")
    except OSError:
        return []
    return [name for name in names if is_live(name)]


def is_live(name: str) -> bool:
    """Whether a process listens on the interface's socket. A stale file is none of our business."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(os.fspath(SOCKETS / f"{name}.sock"))
        except PermissionError:
            return True  # only an ask tells more, and it says whose the socket is
        except OSError:
            return False
        return True


def get(name: str) -> Device:
    """Ask for an interface and all its peers. Failure when nobody answers, or answers an error."""
    return _device(name, _ask(name, b"get=1\n\n"))


def parse(name: str, answer: str) -> Device:
    """The interface in a `get` answer that was received some other way."""
    return _device(name, _pairs(name, answer.splitlines(keepends=True)))


def _device(name: str, pairs: Iterable[tuple[str, str]]) -> Device:
    device = Device(name)
    peer: Peer | None = None
    for key, value in pairs:
        if key == "public_key":
            peer = Peer(_base64(value))
            device.peers.append(peer)
        elif peer is None:
            _set_device(device, key, value)
        else:
            _set_peer(peer, key, value)
    return device


def change(name: str, text: Iterable[str]) -> None:
    """Send one `set` operation (engine.uapi.format_set makes its text). Failure when it is refused."""
    for _ in _ask(name, "".join(text).encode("ascii")):
        pass


def engine(name: str) -> dict[str, Any]:
    """Ask for the engine's own report (workers/engine_report.py says its shape)."""
    return _report(name, _ask(name, b"get_engine=1\n\n"))


def busiest(name: str, count: int) -> dict[str, Any]:
    """Ask which peers carry most (workers/busiest.py says the answer's shape)."""
    return _report(name, _ask(name, f"get_busiest={count}\n\n".encode()), "busiest")


def events(name: str) -> list[dict[str, Any]]:
    """What the engine remembers of events (workers/events.py says their shape), oldest first."""
    return [json.loads(value) for key, value in _ask(name, b"events=0\n\n") if key == "event"]


def ask(name: str, operation: bytes) -> socket.socket:
    """A connection on which this operation was sent; its answer is the caller's to read."""
    with _explained(name, f"{name} cannot be asked"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(os.fspath(SOCKETS / f"{name}.sock"))
            sock.sendall(operation)
        except BaseException:
            sock.close()
            raise
        return sock


def no_events(name: str) -> Failure:
    """The engine refused to tell its events."""
    why = "its engine does not know what is asked"
    return Failure(f"{name} tells no events", why, "Is it an engine other than plaitd, or an older one?")


def parse_engine(name: str, answer: str) -> dict[str, Any]:
    """The engine's report in a `get_engine` answer that was received some other way."""
    return _report(name, _pairs(name, answer.splitlines(keepends=True)))


def _report(name: str, pairs: Iterable[tuple[str, str]], which: str = "engine") -> dict[str, Any]:
    for key, value in pairs:
        if key == which:
            report: dict[str, Any] = json.loads(value)
            return report
    what = f"{name} has no engine report"
    raise Failure(what, "its engine answered without one", "Is it an engine other than plaitd?")


def _set_device(device: Device, key: str, value: str) -> None:
    if key == "private_key":
        device.private_key = _base64(value)
    elif key == "listen_port":
        device.listen_port = int(value)
    elif key == "fwmark":
        device.fwmark = int(value)


def _set_peer(peer: Peer, key: str, value: str) -> None:
    match key:
        case "preshared_key":
            peer.preshared_key = _base64(value) if value.strip("0") else ""
        case "endpoint":
            peer.endpoint = value
        case "last_handshake_time_sec":
            peer.handshake_sec = int(value)
        case "last_handshake_time_nsec":
            peer.handshake_nsec = int(value)
        case "tx_bytes":
            peer.tx_bytes = int(value)
        case "rx_bytes":
            peer.rx_bytes = int(value)
        case "persistent_keepalive_interval":
            peer.keepalive = int(value)
        case "allowed_ip":
            peer.allowed_ips.append(value)


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def _ask(name: str, operation: bytes) -> Iterator[tuple[str, str]]:
    """Send one operation; give its answer's key=value pairs, errno excepted, which must be 0."""
    what = f"{name} cannot be asked"
    with _explained(name, what), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(os.fspath(SOCKETS / f"{name}.sock"))
        sock.sendall(operation)
        with sock.makefile("r", encoding="ascii", newline="\n") as lines:
            yield from _pairs(name, lines)


def _pairs(name: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """key=value of each line up to the empty one, errno excepted, which must be there and 0."""
    what = f"{name} cannot be asked"
    code: int | None = None
    for line in lines:
        if line == "\n":
            break
        key, _, value = line.rstrip("\n").partition("=")
        if key == "errno":
            code = abs(int(value))
        else:
            yield key, value
    if code is None:
        raise Failure(what, "the answer ended early", "Its engine may have stopped; look at its log.")
    if code:
        why = f"its engine answered {os.strerror(code)} ({errno.errorcode.get(code, code)})"
        mend = "Look at the engine's log (WG_LOG_FILE names one); it names the line that is wrong."
        if code == errno.EADDRINUSE:
            what = f"the UDP port of {name} stays as it was"
            why = "another program or interface has the one that was asked for"
            mend = "Choose another UDP port, or see who has it: ss -lunp"
        raise Failure(what, why, mend)


@contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Turn what goes wrong on the socket into a Failure."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        mend = f"Start its engine first: plaitd {name} (those that run: plait show interfaces)."
        raise Failure(what, f"nobody listens on {SOCKETS / name}.sock", mend) from error
    except PermissionError as error:
        raise Failure(what, f"{SOCKETS / name}.sock is root's", "Run this as root.") from error
    except TimeoutError as error:
        why = f"no answer came within {TIMEOUT:.0f} s"
        raise Failure(what, why, "Its engine may be stuck; look at its log.") from error
    except (OSError, ValueError) as error:
        mend = "Is it an engine for the WireGuard protocol? Look at its log."
        raise Failure(what, str(error), mend) from error
