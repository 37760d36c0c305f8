"""The bench's own datagrams: none is counted twice or for another run, and none leaves before its time."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.bench._bench import ffi, lib

ROOT = Path(__file__).resolve().parents[3]
RUN = 0x1122334455667788
BYTES = 64
PACKETS = 200


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected sender and a receiver on loopback."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sender,
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver


def make_load(rate: int = 100_000, packets: int = PACKETS, size: int = BYTES) -> Any:
    values = {"run": RUN, "bytes": size, "tick_us": 1000, "rate": rate, "packets": packets}
    return ffi.new("struct load *", values)


DATAGRAMS = st.tuples(
    st.sampled_from([RUN, RUN, RUN, RUN + 1, 0]),
    st.one_of(st.integers(0, PACKETS + 5), st.integers(0, 2**64 - 1)),
    st.sampled_from([BYTES, BYTES, BYTES, BYTES - 1, BYTES + 1, 8, 0, 2000]),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DATAGRAMS, max_size=150))
def test_what_is_counted(
    pair: tuple[socket.socket, socket.socket], datagrams: list[tuple[int, int, int]]
) -> None:
    """Of this run, of the right size, each number once: as a set counts them."""
    sender, receiver = pair
    load, seen = make_load(), ffi.new("uint64_t[]", (PACKETS + 63) // 64)
    for run, number, size in datagrams:
        sender.send((struct.pack("=QQ", run, number) + bytes(2000))[:size])
    load.done = 1
    assert lib.load_receive(receiver.fileno(), load, seen, 2000) == 0
    model = {number for run, number, size in datagrams if (run, size) == (RUN, BYTES) and number < PACKETS}
    assert load.received == len(model)
    assert {n for n in range(len(seen) * 64) if seen[n // 64] >> n % 64 & 1} == model


def test_each_datagram_leaves_once_and_not_before_its_time(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """200 of them at 10,000 a second take 20 ms, each of its own number."""
    sender, receiver = pair
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    load = make_load(rate=10_000, packets=200)
    begun = time.monotonic()
    assert lib.load_send(sender.fileno(), load) == 0
    assert time.monotonic() - begun >= 0.0195
    assert load.sent == 200 and load.done == 1 and load.ns >= 19_500_000
    receiver.setblocking(False)
    got = [receiver.recv(2000) for _ in range(200)]
    assert [struct.unpack("=QQ", data[:16]) for data in got] == [(RUN, number) for number in range(200)]
    assert {len(data) for data in got} == {BYTES}


def test_what_cannot_be_sent_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    """A payload without room for its number is refused; a socket that is closed is told by its errno."""
    sender, _ = pair
    load = make_load(size=lib.LOAD_MIN_BYTES - 1)
    assert lib.load_send(sender.fileno(), load) == -1
    assert (load.error, load.done, load.sent) == (errno.EINVAL, 2, 0)
    load = make_load()
    assert lib.load_send(-1, load) == -1
    assert (load.error, load.done) == (errno.EBADF, 2)
    load.error = 0
    assert lib.load_receive(-1, load, ffi.new("uint64_t[4]"), 1000) == -1
    assert load.error == errno.EBADF


def make_flood(rate: int = 20_000) -> Any:
    values = {"key": bytes(range(32)), "inner": bytes(range(32, 64)), "receiver": 0x01020304}
    return ffi.new("struct flood *", values | {"tick_us": 1000, "rate": rate})


def test_a_flood_is_a_sessions_messages_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each opens under the session's key with its own counter, from 0, and none leaves before its time."""
    sender, receiver = pair
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    receiver.settimeout(30)
    flood = make_flood()
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(lib.flood_send, sender.fileno(), flood)
        messages = [receiver.recv(2000) for _ in range(200)]
        flood.stop = 1
        assert sending.result() == 0
    cipher = ChaCha20Poly1305(bytes(flood.key))
    for counter, message in enumerate(messages):
        assert message[:16] == struct.pack("<IIQ", 4, 0x01020304, counter)
        nonce = struct.pack("<4xQ", counter)
        assert cipher.decrypt(nonce, message[16:], None) == bytes(flood.inner)
    assert 200 <= flood.sent <= flood.ns * flood.rate // 10**9


def test_a_flood_that_cannot_be_sent_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, _ = pair
    flood = make_flood(rate=0)
    assert (lib.flood_send(sender.fileno(), flood), flood.error) == (-1, errno.EINVAL)
    flood = make_flood()
    assert (lib.flood_send(-1, flood), flood.error, flood.sent) == (-1, errno.EBADF, 0)


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_under_sanitizers(sanitizers: str, tmp_path: Path) -> None:
    """Both threads at once: nothing is written beside its place, and done hands sent and ns over."""
    program = tmp_path / "load_threads"
    flags = ["-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", f"-I{ROOT}", f"-fsanitize={sanitizers}"]
    sources = [ROOT / "tests/unit/plait/load_threads.c", ROOT / "plait/bench/load.c"]
    command = ["cc", *flags, "-fno-sanitize-recover=all", *sources, "-o", program, "-lpthread"]
    subprocess.run(command, check=True)
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([program], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
