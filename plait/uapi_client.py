"""The client's side of the configuration socket: one place that speaks to /var/run/wireguard/IFACE.sock.

The protocol is text (wireguard.com/xplatform, engine/uapi/). Here is what engines of every make answer;
plaitd_client.py asks what plaitd alone does. What is read of an answer stays text: the commands show it, and
plait/api makes it into values. Answer and Reading know no socket, so a client that waits and one of
asyncio's (plait/aio.py) read by the same rules.

`name` is an interface's, or the path of a socket that stands elsewhere; a path has a `/` in it, and a name
never has.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from plait.failure import Failure
from plait.keys import decode, encode, public_key

if TYPE_CHECKING:
    pass

T = TypeVar("T")
SOCKETS = Path("/var/run/wireguard")
TIMEOUT = 30.0  # seconds of patience with one engine that is asked alone; a long configuration takes some
GET = b"get=1\n\n"
LONGEST_LINE = 1 << 22  # bytes; what plaitd tells has less
_ERRNO = re.compile(r"-?[0-9]{1,4}")
RETRY = 0.05  # seconds between two tries while the engine's queue of connections is full


class Unanswered(Failure):
    """The connection ended before the first line of an answer."""


class Refused(Failure):
    """The engine answered with an error."""

    code = 0  # its errno


class Unknown(Refused):
    """The engine has no such peer."""


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
    name: str = ""
    expires: int = 0  # seconds since 1970, 0: never
    quota: int = 0  # bytes of both directions together, 0: none
    ran_out: str = ""  # quota or expired: the peer was cut off
    others: dict[str, str] = field(default_factory=dict)  # lines that this program has no name for


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
        return public_key(self.private_key.encode()) if self.private_key else ""


def interfaces() -> list[str]:
    """Names of all interfaces with a socket, sorted, also where nobody listens any more.

    Failure when the directory cannot be read; none where it does not exist.
    """
    try:
        return sorted(path.stem for path in SOCKETS.iterdir() if path.suffix == ".sock" and _is_socket(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        why = f"{SOCKETS} may not be read by this user"
        raise Failure("engines cannot be looked for", why, "Run this as root.") from error
    except OSError as error:
        why = f"{SOCKETS} cannot be read ({error.strerror})"
        raise Failure("engines cannot be looked for", why, f"Look at it: ls -ld {SOCKETS}") from error


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:  # it is gone, or not ours to look at
        return False


def path_of(name: str) -> Path:
    """The socket of an interface, which may be named by that path."""
    return Path(name) if "/" in name else SOCKETS / f"{name}.sock"


def interface_of(name: str) -> str:
    """The interface's own name, which may have a full stop in it. name: that, or the path of its socket."""
    return path_of(name).stem


def socket_number(name: str) -> int:
    """Which socket the interface has: another engine's has another number. 0 when there is none."""
    try:
        return path_of(name).stat().st_ino
    except OSError:
        return 0


def is_live(name: str) -> bool:
    """Whether a process listens on the interface's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path_of(name)))
        except (PermissionError, BlockingIOError):
            return True  # only an ask tells more; or its queue of connections is full
        except OSError:
            return False
        return True


def check_live(name: str, patience: float = TIMEOUT) -> None:
    """Failure when nobody listens on the interface's socket."""
    if not is_live(name):
        raise _nobody(name)


def get(name: str, patience: float = TIMEOUT) -> Device:
    """Ask for an interface and all its peers. Failure when nobody answers, or answers an error.

    patience: seconds without a byte from the engine.
    """
    reading = Reading(name)
    reading.take(exchange(name, GET, patience))
    return reading.device


def head(name: str, patience: float = TIMEOUT) -> Device:
    """Ask for an interface without its peers: the rest of the answer is not read."""
    reading = Reading(name)
    for pair in exchange(name, GET, patience):
        if pair[0] == "public_key":
            break
        reading.take([pair])
    return reading.device


def get_peer(name: str, public_key: str, patience: float = TIMEOUT) -> Peer:
    """Ask for one peer, by its key in base64. Unknown when the interface has none of it.

    An engine that does not know the question (another make, an older plaitd) is asked for all peers.
    """
    reading = Reading(name)
    try:
        reading.take(exchange(name, question_of(public_key), patience))
    except Unknown:
        raise unknown(name, public_key) from None
    except (Unanswered, Refused):
        return peer_of(get(name, patience), public_key)
    return peer_of(reading.device, public_key)


def question_of(public_key: str) -> bytes:
    """The operation that asks for one peer, by its key in base64."""
    return f"get=1\npublic_key={decode(public_key).hex()}\n\n".encode()


def peer_of(device: Device, public_key: str) -> Peer:
    """That peer of an interface, by its key in base64. Unknown when there is none."""
    for peer in device.peers:
        if peer.public_key == public_key:
            return peer
    raise unknown(device.name, public_key)


def parse(name: str, answer: str) -> Device:
    """The interface in a `get` answer that was received some other way."""
    reading = Reading(name)
    reading.take(pairs_of(name, answer))
    return reading.device


class Reading:
    """The reader of a `get` answer, which comes in pieces."""

    def __init__(self, name: str) -> None:
        self.device = Device(name)
        self._peer: Peer | None = None

    def take(self, pairs: Iterable[tuple[str, str]]) -> None:
        """The next key=value pairs of the answer. Failure when one has a value that is none."""
        key = ""
        try:
            for key, value in pairs:
                if key == "public_key":
                    self._peer = Peer(_base64(value))
                    self.device.peers.append(self._peer)
                elif self._peer is None:
                    _set_device(self.device, key, value)
                else:
                    _set_peer(self._peer, key, value)
        except ValueError as error:  # the value is not told: it may be a secret
            raise nonsense(self.device.name, f"its answer has a `{key}` that is none") from error


def change(name: str, text: Iterable[str]) -> None:
    """Send one `set` operation (engine.uapi.format_set makes its text). Failure when it is refused."""
    for _ in exchange(name, "".join(text).encode("ascii"), TIMEOUT):
        pass


def ask(name: str, operation: bytes, patience: float = TIMEOUT) -> socket.socket:
    """A connection on which this operation was sent; its answer is the caller's to read, without waiting."""
    with explained(name, f"{name} cannot be asked", patience):
        sock = _connected(name, patience)
        try:
            _send(sock, operation)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock


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
        case "plait_name":
            peer.name = unquote(value)
        case "plait_expires":
            peer.expires = int(value)
        case "plait_quota":
            peer.quota = int(value)
        case "plait_ran_out":
            peer.ran_out = value
        case "protocol_version":
            pass
        case _:
            peer.others[key] = value


def _base64(hexadecimal: str) -> str:
    return encode(bytes.fromhex(hexadecimal))


def _connected(name: str, patience: float) -> socket.socket:
    """A connection to the engine, on which no wait is longer than patience."""
    until = time.monotonic() + patience
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(patience)
        while True:
            try:
                sock.connect(os.fspath(path_of(name)))
                return sock
            except BlockingIOError:  # unix(7): the listener takes no more for now
                if time.monotonic() >= until:
                    raise TimeoutError from None
                time.sleep(RETRY)
    except BaseException:
        sock.close()
        raise


def _send(sock: socket.socket, operation: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it ended it
        sock.sendall(operation)


def exchange(
    name: str, operation: bytes, patience: float, *, is_whole: bool = False
) -> Iterator[tuple[str, str]]:
    """Send one operation; give its answer's key=value pairs, errno excepted, which must be 0.

    patience: seconds without a byte, or with is_whole for the whole of the answer.
    """
    what = f"{name} cannot be asked"
    until = time.monotonic() + patience
    answer = Answer(name)
    with explained(name, what, patience), _connected(name, patience) as sock:
        _send(sock, operation)
        while not answer.is_whole:
            if is_whole:
                sock.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = sock.recv(1 << 16)
            except ConnectionResetError:  # it ended the connection with something unread
                data = b""
            if not data:
                break
            yield from answer.take(data)
    answer.end()


def pairs_of(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The key=value pairs of an answer that is all there."""
    answer = Answer(name)
    yield from answer.take(text.encode())
    answer.end()


class Answer:
    """The reader of one operation's answer: bytes in, key=value pairs out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_whole = False  # its last line, which is empty, was read
        self._is_begun = False
        self._rest = b""
        self._errno: int | None = None

    def take(self, data: bytes) -> Iterator[tuple[str, str]]:
        """key=value of each line that is whole now, errno excepted. Failure when a line is none."""
        lines, end, self._rest = (self._rest + data).rpartition(b"\n")
        if end:
            try:
                text = lines.decode("ascii")
            except UnicodeDecodeError as error:
                raise nonsense(self.name, "its answer is not text") from error
            yield from self._pairs(text.split("\n"))
        if len(self._rest) > LONGEST_LINE:
            raise nonsense(self.name, "its answer has a line without an end")

    def _pairs(self, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
        for line in lines:
            if not line:
                self.is_whole = True
                return
            self._is_begun = True
            key, sign, value = line.partition("=")
            if not sign:
                raise nonsense(self.name, "its answer has a line that is no key=value")
            if key == "errno":
                if not _ERRNO.fullmatch(value):
                    raise nonsense(self.name, "its answer has an `errno` that is none")
                self._errno = abs(int(value))
            else:
                yield key, value

    def end(self) -> None:
        """No more comes. Failure unless the answer came to its end, and that says success."""
        if self._rest and not self.is_whole:
            raise Failure(*_early(self.name))
        if self._errno is None:
            raise Failure(*_early(self.name)) if self._is_begun else Unanswered(*_early(self.name))
        if self._errno:
            raise _refused(self.name, self._errno)


def _refused(name: str, code: int) -> Failure:
    if code == errno.ENOENT:
        return unknown(name)
    what = f"{name} cannot be asked"
    why = f"its engine answered {os.strerror(code)} ({errno.errorcode.get(code, code)})"
    mend = "Look at the engine's log (WG_LOG_FILE names one); it names the line that is wrong."
    if code == errno.EADDRINUSE:
        what = f"the UDP port of {name} stays as it was"
        why = "another program or interface has the one that was asked for"
        mend = "Choose another UDP port, or see who has it: ss -lunp"
    elif code == errno.EOPNOTSUPP:
        what = f"the UDP port of {name} stays as it was"
        why = "its engine was given its UDP sockets when it was started, and can open no others"
        mend = "Start it again with that port."
    elif code == errno.ENOSPC:
        what = f"{name} stays as it was"
        why = "its engine has no room for so many peers or allowed IPs"
        mend = f"Raise max_peers in /etc/plait/{name}.toml, or free /dev/shm if it is full. Start it again."
    refused = Refused(what, why, mend)
    refused.code = code
    return refused


def unknown(name: str, public_key: str = "that peer") -> Unknown:
    """An interface has no such peer."""
    mend = f"See which it has: plait show {name} peers"
    return Unknown(f"{name} does not show {public_key}", "no peer of this public key is configured", mend)


def _early(name: str) -> tuple[str, str, str]:
    """The three parts for a connection that ended too soon."""
    why = "the answer ended early"
    return f"{name} cannot be asked", why, "Its engine may have stopped; look at its log."


def nonsense(name: str, why: str) -> Failure:
    """The engine told something that the protocol does not have."""
    mend = "Is it an engine for the WireGuard protocol? Look at its log."
    return Failure(f"{name} cannot be understood", why, mend)


def _nobody(name: str) -> Failure:
    mend = f"Start one: plait up {name}, or plaitd {name} (those that run: plait show interfaces)."
    return Failure(f"{name} cannot be asked", f"nobody listens on {path_of(name)}", mend)


@contextmanager
def explained(name: str, what: str, patience: float) -> Iterator[None]:
    """Turn what goes wrong on the socket into a Failure."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise _nobody(name) from error
    except PermissionError as error:
        raise Failure(what, f"{path_of(name)} is root's", "Run this as root.") from error
    except TimeoutError as error:
        why = f"no answer came within {patience:.0f} s"
        mend = "Its engine may be stuck, or busy with a long configuration; look at its log."
        raise Failure(what, why, mend) from error
    except UnicodeDecodeError as error:
        raise nonsense(name, "its answer is not text") from error
    except OSError as error:
        mend = "Is it an engine for the WireGuard protocol? Look at its log."
        raise Failure(what, error.strerror or str(error), mend) from error
