"""Malformed operations over the real UAPI socket: refused whole, and `get` afterwards is byte-identical.

    host one
     └─ wg0 (plaitd, two peers)
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import PLAIT, Engine, Lab, Peer, keypair, preshared_key
from tests.support.tunnel import check_words, eventually
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.network

A = "aa" * 32
B = "0b" * 31 + "01"

# What stands before the bad line, each of which would change something.
GOOD = [
    "listen_port=41000\n", f"private_key={'48' * 32}\n", "fwmark=77\n", "replace_peers=true\n",
    f"public_key={A}\nallowed_ip=10.50.0.0/16\n",
    f"replace_peers=true\npublic_key={B}\npreshared_key={'77' * 32}\nendpoint=192.0.2.1:1\n",
]
BAD_DEVICE = [
    "listen_port=65536", "listen_port=-1", "listen_port= 1", "listen_port=1x", "listen_port=", "listen_port",
    "private_key=" + "0" * 63, "private_key=" + "g" * 64, "private_key=" + "0" * 66, "fwmark=4294967296",
    "fwmark=0x10", "replace_peers=false", "replace_peers=1", "unknown=1", "=", "=1", "allowed_ip=10.0.0.0/8",
    "endpoint=192.0.2.1:1", "remove=true", "get=1", "set=1", "\x00", "listen_port=1\x00", "\x80\xff", " ",
    "public_key=" + "0" * 63, "public_key=" + "é" * 32, "listen_port=٣", "x" * 5000 + "=1",
]
BAD_PEER = [
    "preshared_key=" + "0" * 62, "preshared_key=" + "z" * 64, "endpoint=192.0.2.1", "endpoint=192.0.2.1:0",
    "endpoint=192.0.2.1:65536", "endpoint=192.0.2.256:1", "endpoint=2001:db8::1:1", "endpoint=[::1]",
    "endpoint=[::g]:1", "endpoint=example.org:1", "endpoint=:1", "persistent_keepalive_interval=65536",
    "persistent_keepalive_interval=off", "persistent_keepalive_interval=1.5", "allowed_ip=10.0.0.0/33",
    "allowed_ip=10.0.0.0", "allowed_ip=10.0.0/8", "allowed_ip=::/129", "allowed_ip=::/",
    "allowed_ip=10.0.0.0/+8", "allowed_ip=/8", "allowed_ip=--10.0.0.0/8", "replace_allowed_ips=yes",
    "remove=false", "update_only=0", "protocol_version=2", "protocol_version=", "listen_port=1",
    "private_key=" + "0" * 64, "nothing=here",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Lab() as lab:
        engine = lab.host("one").engine("wg0", PLAIT)
        engine.configure(keypair()[0], [
            Peer(keypair()[1], ["10.0.0.2/32", "fd01::/64"], "192.0.2.2:51820", preshared_key(), 25),
            Peer(keypair()[1], ["10.0.3.0/24"])], listen_port=51820)
        # Down again, so that no keepalive changes a byte count between two looks.
        engine.host.ip("link set wg0 down")
        yield engine
        check_words(engine.process)
        assert engine.stop() == 0


def converse(engine: Engine, data: bytes) -> str:
    """Send bytes on a connection of their own, end it, and read all answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(engine.socket_path))
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while part := client.recv(1 << 16):
                answer += part
        except ConnectionResetError:
            pass
        return answer.decode()


def assert_refused(engine: Engine, text: str) -> None:
    before = engine.uapi("get=1\n\n")
    answer = converse(engine, text.encode("utf-8", "surrogateescape"))
    # Negative, as wg(8) needs it for `set`; nothing else is said.
    assert re.fullmatch(r"errno=-[1-9][0-9]*\n\n", answer), answer
    assert engine.uapi("get=1\n\n") == before


@pytest.mark.parametrize("bad", BAD_DEVICE, ids=lambda bad: repr(bad)[:40])
def test_bad_interface_line(engine: Engine, bad: str) -> None:
    for good in GOOD[:4]:
        assert_refused(engine, f"set=1\n{good}{bad}\n\n")
        assert_refused(engine, f"set=1\n{bad}\n{good}\n")


@pytest.mark.parametrize("bad", BAD_PEER, ids=lambda bad: repr(bad)[:40])
def test_bad_peer_line(engine: Engine, bad: str) -> None:
    for good in GOOD:
        peer = "" if "public_key=" in good else f"public_key={A}\n"
        assert_refused(engine, f"set=1\n{good}{peer}{bad}\n\n")
        # Also when whole peers, good ones, follow it.
        assert_refused(engine, f"set=1\n{good}{peer}{bad}\npublic_key={B}\nallowed_ip=10.9.0.0/16\n\n")


def restored(engine: Engine, text: str) -> bool:
    return engine.host.run(["wg", "setconf", "wg0", "/dev/stdin"], text=text, check=False).returncode == 0


def test_each_good_text_is_accepted_without_the_bad_line(engine: Engine) -> None:
    """So it is the bad line that was refused above; then everything is put back."""
    text = engine.wg("showconf", "wg0")
    before = engine.uapi("get=1\n\n")
    for good in GOOD:
        assert engine.uapi(f"set=1\n{good}\n") == "errno=0\n\n"
        assert engine.uapi("get=1\n\n") != before
        engine.wg("set", "wg0", "fwmark", "0")
        # A port that was left just now is busy until the last worker has closed its sockets.
        eventually(lambda: restored(engine, text))
        again = engine.wg("showconf", "wg0")
        assert sorted(again.strip().split("\n\n")) == sorted(text.strip().split("\n\n"))


@pytest.mark.parametrize("text", [
    "get=2\n\n", "get=1\nlisten_port=1\n\n", "hello\n\n", "SET=1\nlisten_port=1\n\n",
    "set=2\nlisten_port=1\n\n"])
def test_what_is_no_operation(engine: Engine, text: str) -> None:
    before = engine.uapi("get=1\n\n")
    assert re.search(r"errno=-?[1-9][0-9]*\n\n$", converse(engine, text.encode()))
    assert engine.uapi("get=1\n\n") == before


@pytest.mark.parametrize("text", [
    "", "\n", "set=1\nlisten_port=1", "set=1\nlisten_port=41000\n",
    f"set=1\nreplace_peers=true\npublic_key={A}\n"])
def test_operation_that_is_cut_off_changes_nothing(engine: Engine, text: str) -> None:
    before = engine.uapi("get=1\n\n")
    converse(engine, text.encode())
    assert engine.uapi("get=1\n\n") == before


def test_refusal_leaves_the_connection_usable(engine: Engine) -> None:
    answer = converse(engine, b"set=1\nlisten_port=x\n\nget=1\n\nset=1\nfwmark=0\n\n")
    parts = answer.split("\n\n")
    assert re.fullmatch("errno=-[0-9]+", parts[0])
    assert parts[1].endswith("errno=0")
    assert parts[2] == "errno=0"


def test_an_endless_operation_ends(engine: Engine) -> None:
    """64 MiB of one line without an end: refused or cut off, and the engine still answers."""
    before = engine.uapi("get=1\n\n")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(engine.socket_path))
        client.sendall(b"set=1\nlisten_port=")
        try:
            for _ in range(1024):
                client.sendall(b"1" * 65536)
            client.sendall(b"\n\n")
            assert client.recv(100).startswith(b"errno=-")
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert engine.uapi("get=1\n\n") == before
    memory = {row.name: row.pss_bytes for row in engine.processes()}
    assert max(memory.values()) < 200e6, memory
