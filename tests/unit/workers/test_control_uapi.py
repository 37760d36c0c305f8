"""A control process behind its UAPI socket, asked by the real wg(8) and by hand."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import selectors
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from engine.uapi import CHUNK_BYTES, Set, parse_set
from plait import uapi_client
from tests.support.control_harness import ControlProcess, Holder, Interface, Parts, uapi, wg
from tests.support.waiting import PATIENCE, until
from workers._workers import ffi, lib
from workers.control.configuration import Configuration, Pause
from workers.control.events import Events
from workers.control.uapi_server import (
    CHUNKS_A_TURN,
    MAX_CONNECTIONS,
    MAX_FOLLOWERS,
    SETS_A_TURN,
    SETS_TIME,
    UapiServer,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sockets in /var/run/wireguard"),
    pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg(8): apt install wireguard-tools"),
]

PRIVATE = "6d" * 32
A, B, C = ("0a" * 32, "0b" * 32, "0c" * 32)


def key(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def clamped(hexadecimal: str) -> str:
    raw = bytearray.fromhex(hexadecimal)
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return raw.hex()


@pytest.fixture
def interface() -> Iterator[Interface]:
    with Interface(f"plu{os.getpid()}") as interface:
        yield interface


@pytest.fixture
def control(interface: Interface) -> Iterator[ControlProcess]:
    with ControlProcess(interface) as control:
        yield control


def get(control: ControlProcess) -> str:
    return uapi(control.interface, "get=1\n\n")


def set_(control: ControlProcess, text: str) -> int:
    """The errno of a set as its client reads it."""
    answer = uapi(control.interface, f"set=1\n{text}\n")
    found = re.fullmatch(r"errno=(-?\d+)\n\n", answer)
    assert found, answer
    return int(found[1])


FILE = f"""[Interface]
ListenPort = PORT
PrivateKey = {key(clamped(PRIVATE))}
FwMark = 0x1234

[Peer]
PublicKey = {key(A)}
PresharedKey = {key("99" * 32)}
AllowedIPs = 10.0.0.0/24, fd00:1::/64
Endpoint = 192.0.2.7:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {key(B)}
AllowedIPs = 10.0.1.0/24
Endpoint = [2001:db8::7]:51821
"""


def test_wg_sets_and_shows(control: ControlProcess, tmp_path: object) -> None:
    name = control.interface.name
    path = os.path.join(str(tmp_path), "wg.conf")
    with open(path, "w") as file:
        file.write(FILE.replace("PORT", str(control.interface.port)))
    assert wg("setconf", name, path).returncode == 0
    assert words(wg("showconf", name).stdout) == words(FILE.replace("PORT", str(control.interface.port)))
    more = f"[Peer]\nPublicKey = {key(C)}\nAllowedIPs = 10.0.2.0/24, 10.0.1.0/24\n"
    assert wg("addconf", name, "/dev/stdin", stdin=more).returncode == 0
    assert dump(name) == {
        key(A): ("10.0.0.0/24,fd00:1::/64", "192.0.2.7:51820", "25"),
        key(B): ("(none)", "[2001:db8::7]:51821", "off"),
        key(C): ("10.0.2.0/24,10.0.1.0/24", "(none)", "off"),
    }
    assert wg("syncconf", name, path).returncode == 0
    assert dump(name).keys() == {key(A), key(B)}
    assert dump(name)[key(B)][0] == "10.0.1.0/24"
    assert wg("set", name, "peer", key(A), "remove").returncode == 0
    assert dump(name).keys() == {key(B)}
    assert wg("show", name, "fwmark").stdout == "0x1234\n"


def test_an_allowed_ip_joins_those_that_are_there(control: ControlProcess) -> None:
    for lines, shown in (
        ("allowed_ip=10.0.0.0/24\n", "10.0.0.0/24"),
        ("allowed_ip=10.0.1.0/24\n", "10.0.0.0/24,10.0.1.0/24"),
        ("allowed_ip=10.0.0.0/24\n", "10.0.0.0/24,10.0.1.0/24"),
        ("replace_allowed_ips=true\nallowed_ip=10.0.2.0/24\n", "10.0.2.0/24"),
        ("replace_allowed_ips=true\n", "(none)"),
    ):
        assert set_(control, f"public_key={A}\n{lines}") == 0
        assert ",".join(sorted(dump(control.interface.name)[key(A)][0].split(","))) == shown


def test_peers_are_shown_by_the_piece() -> None:
    """As many as there is room for, each whole, and the next piece goes on where this one ended."""
    with Interface(f"plw{os.getpid()}") as interface:
        parts = Parts(interface)
        assert parts.set("set=1\n" + "".join(f"public_key={n:064x}\n" for n in range(1, 33))) == 0
        text, show = ffi.new("char[]", 1 << 14), ffi.new("struct peer_show *")
        written = lib.table_show(parts.peers.table, show, 32, text, 1 << 14)
        whole = ffi.buffer(text, written)[:]
        assert (show.row, whole.count(b"public_key=")) == (32, 32)
        show.row, pieces = 0, []
        most = max(written // 3, lib.UAPI_PEER_TEXT)
        while piece := lib.table_show(parts.peers.table, show, 32, text, most):
            assert piece == (show.row * written // 32) - sum(map(len, pieces))
            pieces.append(ffi.buffer(text, piece)[:])
        assert len(pieces) > 2 and b"".join(pieces) == whole
        parts.close()


def test_a_peer_that_a_set_names_twice_needs_one_row(control: ControlProcess) -> None:
    room = int(control.interface.segment.geometry.max_peers)
    assert set_(control, "".join(f"public_key={n:064x}\n" for n in range(1, room))) == 0
    last, one_more = f"public_key={room:064x}\n", f"public_key={room + 1:064x}\n"
    assert set_(control, last + one_more + last) != 0
    assert len(dump(control.interface.name)) == room - 1
    assert set_(control, last + f"public_key={1:064x}\n" + last) == 0
    assert len(dump(control.interface.name)) == room


def words(text: str) -> list[str]:
    """A configuration's lines within their sections, in an order of no meaning put into one."""
    sections = re.split(r"\n(?=\[)", text.lower())
    lines = ([re.sub(r"\s", "", line) for line in part.splitlines()] for part in sections)
    return sorted(" ".join(sorted(part)) for part in lines)


def dump(name: str) -> dict[str, tuple[str, str, str]]:
    """public key -> allowed IPs, endpoint, keepalive, as `wg show dump` has them."""
    lines = wg("show", name, "dump").stdout.splitlines()[1:]
    fields = [line.split("\t") for line in lines]
    return {f[0]: (f[3], f[2], f[7]) for f in fields}


GOOD = (
    f"private_key={PRIVATE}\nfwmark=7\nreplace_peers=true\npublic_key={A}\n"
    "endpoint=192.0.2.1:9\nallowed_ip=10.0.0.0/8\npersistent_keepalive_interval=3\n"
)
OTHER = f"private_key={'5e' * 32}\nfwmark=9\nreplace_peers=true\npublic_key={B}\nallowed_ip=10.0.0.0/8\n"


@pytest.mark.parametrize(
    ("bad", "number"),
    [
        ("allowed_ip=10.0.0.0/33\n", errno.EINVAL),
        ("endpoint=192.0.2.1\n", errno.EINVAL),
        ("endpoint=[fe80::1%nosuchif0]:7\n", errno.ENODEV),
        ("endpoint=[fe80::1%99999999999]:7\n", errno.ENODEV),
        ("persistent_keepalive_interval=70000\n", errno.EINVAL),
        ("nonsense=1\n", errno.EINVAL),
        ("nonsense\n", errno.EINVAL),
        ("preshared_key=00\n", errno.EINVAL),
        ("".join(f"public_key={n:064x}\n" for n in range(1000, 1200)), errno.ENOSPC),
        (
            "".join(f"allowed_ip=10.{n // 256}.{n % 256}.0/24\n" for n in range(2000)),
            errno.ENOSPC,
        ),
    ],
)
def test_a_set_is_whole_or_nothing(control: ControlProcess, bad: str, number: int) -> None:
    assert set_(control, GOOD) == 0
    before = get(control)
    assert set_(control, OTHER + bad) == -number
    assert get(control) == before
    assert set_(control, OTHER) == 0, "and without the bad lines it is accepted"
    assert f"public_key={B}\n" in get(control) and A not in get(control)


def test_a_cut_set_changes_nothing(control: ControlProcess) -> None:
    assert set_(control, GOOD) == 0
    before = get(control)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(control.interface.path))
        sock.sendall(f"set=1\n{OTHER}".encode())
    assert get(control) == before


def test_get_refuses_with_a_non_negative_errno(control: ControlProcess) -> None:
    assert uapi(control.interface, "get=1\nprivate_key=1\n\n") == f"errno={errno.EPROTO}\n\n"


@pytest.fixture
def roomy() -> Iterator[ControlProcess]:
    """A control process with room for thousands of allowed IPs."""
    with (
        Interface(f"plr{os.getpid()}", max_trie_nodes=1 << 14) as interface,
        ControlProcess(interface) as control,
    ):
        yield control


def test_one_peer_alone_is_asked_for(roomy: ControlProcess) -> None:
    """With more allowed IPs than a piece of an answer holds, between two others; and by `plait show`."""
    ips = "".join(f"allowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in range(4000))
    peers = [f"public_key={A}\n", f"public_key={B}\nendpoint=192.0.2.7:51820\n{ips}", f"public_key={C}\n"]
    assert set_(roomy, f"private_key={PRIVATE}\n" + "".join(peers)) == 0
    whole = get(roomy)
    assert len(ips) > CHUNK_BYTES
    one = uapi(roomy.interface, f"get=1\npublic_key={B}\n\n")
    section = whole[whole.index(f"public_key={B}"): whole.index(f"public_key={C}")]
    assert one == section + "errno=0\n\n"
    assert uapi(roomy.interface, f"get=1\npublic_key={'0d' * 32}\n\n") == f"errno={errno.ENOENT}\n\n"

    name = roomy.interface.name
    assert uapi_client.get_peer(name, key(B)) == uapi_client.get(name).peers[1]
    with pytest.raises(uapi_client.Unknown):
        uapi_client.get_peer(name, key("0d" * 32))
    assert set_(roomy, f"public_key={B}\nremove=true\n") == 0
    with pytest.raises(uapi_client.Unknown):
        uapi_client.get_peer(name, key(B))


def test_the_port_changes_by_the_supervisor(control: ControlProcess) -> None:
    interface = control.interface
    assert set_(control, f"private_key={PRIVATE}\nfwmark=5\n") == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        before = get(control)
        refused = ask(interface, f"listen_port={port}\nfwmark=6\nprivate_key={'5e' * 32}\n")
        assert control.answer_port() == errno.EADDRINUSE
        assert answer_of(refused) == f"errno=-{errno.EADDRINUSE}\n\n"
        assert get(control) == before
    waiting = ask(interface, f"listen_port={port}\nfwmark=6\n")
    assert control.answer_port() == 0
    assert answer_of(waiting) == "errno=0\n\n"
    assert f"listen_port={port}\n" in get(control)
    for fd in interface.named_sockets().values():
        with socket.socket(fileno=os.dup(fd)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 6
    assert set_(control, f"listen_port={port}\n") == 0, "the same port is no request"


def ask(interface: Interface, text: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    sock.connect(str(interface.path))
    sock.sendall(f"set=1\n{text}\n".encode())
    return sock


def answer_of(sock: socket.socket) -> str:
    with sock:
        return sock.recv(4096).decode()


def test_several_operations_on_one_connection(control: ControlProcess) -> None:
    text = f"set=1\n{GOOD}\nget=1\n\nset=1\npublic_key={A}\nremove=true\n\nget=1\n\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(control.interface.path))
        sock.sendall(text.encode())
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(4096):
            answer += part
    first, shown, third, empty, rest = answer.decode().split("\n\n")
    assert first == "errno=0" and third == "errno=0" and not rest
    assert f"public_key={A}" in shown and "public_key" not in empty


def test_a_client_that_does_not_read_holds_up_nobody(interface: Interface) -> None:
    with ControlProcess(interface) as control:
        peers = "".join(
            f"public_key={n:064x}\n" + "".join(f"allowed_ip=10.{n}.{m}.0/24\n" for m in range(3))
            for n in range(1, 60)
        )
        assert set_(control, peers) == 0
        sleepy = []
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            sock.connect(str(interface.path))
            sock.sendall(b"get=1\n\n" * 200)
            sleepy.append(sock)
        assert get(control).count("public_key=") == 59
        assert set_(control, f"public_key={1:064x}\nremove=true\n") == 0
        assert get(control).count("public_key=") == 58
        for sock in sleepy:
            sock.close()
        assert get(control).count("public_key=") == 58


def test_a_long_answer_to_a_fast_reader_is_sent_in_turns(tmp_path: Path) -> None:
    made: list[int] = []

    class Answering:
        def show(self, public_key: bytes | None = None) -> Iterator[bytes]:
            for number in range(50):
                made.append(number)
                yield b"%d\n" % number

    with (
        selectors.DefaultSelector() as selector,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        events = Events(lambda row: bytes(32), lambda row: "", lambda: 0, lambda: 0)
        unused = cast(Any, None)
        server = UapiServer(listener, selector, cast(Configuration, Answering()), unused, unused, events)
        client.connect(str(tmp_path / "socket"))
        client.sendall(b"get=1\n\n")
        client.settimeout(PATIENCE)
        answer, most = b"", 0
        while answer.count(b"\n") < 50:
            before = len(made)
            for key_, mask in selector.select(PATIENCE):
                key_.data(mask)
            server.step()
            most = max(most, len(made) - before)
            if len(made) > before:
                answer += client.recv(1 << 16)
        assert answer == b"".join(b"%d\n" % number for number in range(50))
        assert most <= 2 * CHUNKS_A_TURN
        server.close()


class Served:
    """A UapiServer with a clock of its own, and its clients."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, stack: contextlib.ExitStack) -> None:
        class Answering:
            def show(self, public_key: bytes | None = None) -> Iterator[bytes]:
                yield from (b"x" * 65535 + b"\n" for _ in range(64))

            def apply(answering, operation: Set) -> Iterator[Pause | None]:
                yield from (None for _ in range(1, self.slices))
                yield from (Pause() for _ in range(self.pauses))
                self.applied += 1
                self.now += self.set_takes
                return 0

        self.slices, self.pauses, self.set_takes, self.applied = 1, 0, 0, 0
        self.path, self.selector, self.stack, self.now = path, selector, stack, 0
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(128)
        self.events = Events(lambda row: bytes(32), lambda row: "", lambda: 0, lambda: 0)
        unused = cast(Any, None)
        answering = cast(Configuration, Answering())
        self.server = UapiServer(listener, selector, answering, unused, unused, self.events, lambda: self.now)
        stack.callback(self.server.close)

    def client(self, text: bytes = b"") -> socket.socket:
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(self.path))
        client.setblocking(False)
        client.sendall(text)
        self.settle()
        return client

    def settle(self) -> None:
        """Until nothing is left that the server could do at this time."""
        idle = 0
        for _ in range(10_000):
            if idle == 2:  # a step may find that it has to listen again
                return
            ready = self.selector.select(0)
            for key_, mask in ready:
                key_.data(mask)
            self.server.step()
            self.server.push_events()
            idle = 0 if ready or self.server.has_work else idle + 1
        raise AssertionError("it does not settle")

    def is_closed(self, client: socket.socket) -> bool:
        """By the server; what it had sent before is read."""
        try:
            while client.recv(1 << 20):
                pass
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        return True


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        yield Served(tmp_path / "socket", selector, stack)


def answers(served: Served, client: socket.socket) -> bool:
    """Whether the client has its whole answer, which it reads."""
    served.settle()
    got = b""
    with contextlib.suppress(BlockingIOError):
        while part := client.recv(1 << 20):
            got += part
            served.settle()
    return got.endswith(b"errno=0\n\n") or got.endswith(b"x\n")


SECOND = 1_000_000_000


@pytest.mark.parametrize(("slices", "set_takes", "in_a_turn"), [
    (1, 0, SETS_A_TURN), (1, SETS_TIME // 4, 4), (2, 0, 0),
])  # fmt: skip
def test_sets_of_one_slice_are_applied_together(
    served: Served, slices: int, set_takes: int, in_a_turn: int
) -> None:
    """A provider's answers come so: a turn for each would cost more than the sets do."""
    served.slices, served.set_takes = slices, set_takes
    client = served.client()
    client.sendall(b"set=1\nlisten_port=1\n\n" * 64)
    for key_, mask in served.selector.select(PATIENCE):
        key_.data(mask)
    served.server.step()
    assert served.applied == in_a_turn
    served.settle()
    assert served.applied == 64
    assert client.recv(1 << 16) == b"errno=0\n\n" * 64


def test_a_set_that_paused_last_is_over_and_the_next_one_has_its_turn(served: Served) -> None:
    served.pauses = 100
    client = served.client(b"set=1\nlisten_port=1\n\n")
    assert served.server.is_pausing and not served.server.has_work, "it waits for its peers"
    while served.server.is_pausing:
        assert served.applied == 0
        served.server.step()
    assert served.applied == 1 and client.recv(99) == b"errno=0\n\n"


def test_a_set_of_one_peer_is_one_slice(interface: Interface) -> None:
    parts = Parts(interface)
    steps = parts.configuration.apply(parse_set(f"set=1\npublic_key={A}\nallowed_ip=10.0.0.1/32\n"))
    with pytest.raises(StopIteration):
        next(steps)
    assert parts.peers.count == 1


def test_who_comes_when_all_places_are_taken_gets_that_of_the_longest_idle_client(served: Served) -> None:
    idle = []
    for _ in range(MAX_CONNECTIONS):
        idle.append(served.client(b"get=1\n"))
        served.now += 1
    late = served.client(b"events=0\n\n")
    assert not answers(served, late), "they have had less than a second"
    served.now += SECOND - 1
    assert answers(served, late)
    assert [served.is_closed(client) for client in idle].count(True) == 1 and served.is_closed(idle[0])
    # Who sends something keeps its place, and so does who asked and was answered.
    served.now += SECOND // 2
    idle[1].sendall(b"\n")
    served.settle()
    served.now += SECOND // 2
    assert answers(served, served.client(b"events=0\n\n"))
    assert not served.is_closed(idle[1]) and served.is_closed(idle[2])
    assert len(served.server.connections) == MAX_CONNECTIONS


def test_who_waits_for_us_keeps_its_place(served: Served) -> None:
    """However long we take: nothing is idle that we have not looked at."""
    clients = [served.client() for _ in range(MAX_CONNECTIONS)]
    for client in clients:
        client.sendall(b"events=0\n\n")
    served.now += 100 * SECOND
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(served.path))
        served.server.accept(selectors.EVENT_READ)
        assert len(served.server.connections) == MAX_CONNECTIONS
        assert all(answers(served, client) for client in clients)


def test_who_reads_or_writes_too_slowly_is_closed_when_others_wait(served: Served) -> None:
    """A byte now and then, for a minute."""
    others = [served.client() for _ in range(MAX_CONNECTIONS - 2)]
    writer, reader = served.client(b"set=1\n"), served.client(b"get=1\n\n")
    for _ in range(61):
        served.now += SECOND
        for other in others:
            other.sendall(b"events=0\n\n")
        writer.sendall(b"\0")
        reader.recv(1)
        served.settle()
        assert all(answers(served, other) for other in others)
    for _ in range(2):
        assert answers(served, served.client(b"events=0\n\n"))
    assert served.is_closed(writer) and served.is_closed(reader)
    assert not any(served.is_closed(other) for other in others)


def test_a_suspend_makes_no_client_slow(tmp_path: Path) -> None:
    """All who were served were suspended as well."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        unused = cast(Any, None)
        events = Events(lambda row: bytes(32), lambda row: "", lambda: 0, lambda: 0)
        server = UapiServer(listener, selector, unused, unused, unused, events)
        steps = tmp_path / "steps"
        steps.write_bytes(bytes(16))
        assert lib.clock_open_steps(bytes(steps)) == 0
        clocks = lib.clock_now(), server.clock()
        file = os.open(steps, os.O_WRONLY)
        stack.callback(os.close, file)
        stack.callback(os.pwrite, file, bytes(16), 0)
        os.pwrite(file, struct.pack("<qq", 3600 * SECOND, 0), 0)
        assert lib.clock_now() - clocks[0] >= 3600 * SECOND > server.clock() - clocks[1]


def test_who_follows_events_takes_no_place_of_others(served: Served) -> None:
    followers = [served.client(b"events=1\n\n") for _ in range(MAX_FOLLOWERS)]
    served.now += 100 * SECOND
    clients = [served.client(b"events=0\n\n") for _ in range(MAX_CONNECTIONS)]
    assert all(answers(served, client) for client in clients)
    served.now += SECOND
    refused = served.client(b"events=1\n\n")
    assert refused.recv(100) == b"errno=%d\n\n" % errno.EBUSY
    # One that does not read makes room for the next.
    for _ in range(20_000):
        for follower in served.events.followers:
            follower.unread.append(b"event={}\n" * 10)
        served.settle()
        for follower in followers[1:]:
            served.is_closed(follower)
        if any(each.unsent for each in served.server.connections if each.follower is not None):
            break
    served.now += SECOND
    served.client(b"events=1\n\n")
    assert served.is_closed(followers[0]) and not any(served.is_closed(each) for each in followers[1:])
    assert len(served.events.followers) == MAX_FOLLOWERS


def test_a_set_waits_for_the_rows_of_the_peers_that_it_replaces(interface: Interface) -> None:
    with ControlProcess(interface) as control, Holder(interface) as holder:
        for turn in range(3):
            peers = "".join(f"public_key={n + 100 * turn:064x}\n" for n in range(1, 65))
            with ask(interface, "replace_peers=true\n" + peers) as waiting:
                waiting.setblocking(False)

                def answer(sock: socket.socket = waiting) -> bytes:
                    holder.take_turns()
                    try:
                        return sock.recv(100)
                    except BlockingIOError:
                        return b""

                assert until(answer, "the set to be applied") == b"errno=0\n\n"
            assert get(control).count("public_key=") == 64
        assert set_(control, f"public_key={A}\n") == -errno.ENOSPC


def test_a_set_waits_for_the_memory_of_the_prefixes_that_it_replaces() -> None:
    """A packet may still be looked up in what it takes away: that memory is free a grace period later."""
    with Interface(f"plw{os.getpid()}", max_trie_nodes=64) as interface, ControlProcess(interface) as control:
        for turn in range(3):
            ips = [f"allowed_ip=10.{turn}.{n}.1/32" for n in range(20)]
            text = "\n".join([f"public_key={A}", "replace_allowed_ips=true", *ips, ""])
            assert set_(control, text) == 0
            assert [line for line in get(control).splitlines() if line.startswith("allowed_ip=")] == ips


def test_a_persistent_keepalive_is_sent_at_once(control: ControlProcess) -> None:
    segment = control.interface.segment

    def ordered() -> bool:
        return bool(int(lib.orders_read(segment, 0)) & lib.ORDER_KEEPALIVE)

    assert set_(control, f"public_key={A}\nendpoint=192.0.2.1:9\n") == 0
    assert not ordered()
    assert set_(control, f"public_key={A}\npersistent_keepalive_interval=20\n") == 0
    assert ordered()


def test_restart_shows_the_same(interface: Interface) -> None:
    with ControlProcess(interface) as control:
        assert set_(control, GOOD) == 0
        before = get(control)
    with ControlProcess(interface) as control:
        assert get(control) == before
        assert control.stop() == 0


def test_the_end_of_the_socket_file_is_told(control: ControlProcess) -> None:
    control.interface.path.unlink()
    message = control.receive()
    assert message["kind"] == "ended" and str(control.interface.path) in message["reason"]


def test_control_ends_with_its_channel(control: ControlProcess) -> None:
    """A supervisor that lives kills it then; the death of one removes the socket file."""
    control.channel.close()
    assert control.process.wait(PATIENCE) == 1


def test_a_vault_of_another_layout_is_a_clear_failure(interface: Interface) -> None:
    os.ftruncate(interface.vault_fd, 4096)
    os.pwrite(interface.vault_fd, b"not a vault", 0)
    failed = ControlProcess(interface)
    try:
        assert failed.first_words["kind"] == "failed"
        assert "vault" in failed.first_words["why"]
    finally:
        failed.kill()
