"""engine/uapi/sections.c and text.c against Python alone: the same for any bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import uapi
from engine._engine import ffi, lib
from engine.uapi import changes
from tests.unit.engine.test_uapi import PEERS, pieces, sets, text_of


class LineByLine(uapi.Reader):
    """The oracle: Python alone."""

    def _sections(self, data: bytes, at: int) -> tuple[int, bool]:
        return at, False


KEY = "ab" * 32
VALUES = {
    "public_key": [KEY, "CD" * 32, "0" * 64, KEY[1:], KEY + "0", "g" * 64, ""],
    "preshared_key": [KEY, "0" * 64, KEY[2:]],
    "endpoint": [
        "192.0.2.1:1", "[2001:db8::1]:65535", "[::ffff:1.2.3.4]:9", "[fe80::1%eth0]:7", "[fe80::1%]:7",
        "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:000000080", "1.2.3.4:0000000000080", "1.2.3.256:1",
        "01.2.3.4:1", "1.2.3:1", "[1.2.3.4]:5", "::1:5", "[]:5", "[:5", "1.2.3.4", ":", "1.2.3.4 :5",
        "1.2.3.4:+5", "[1::2::3]:4", "1..3.4:5", ".1.2.3:4", "1.2.3.:4", "1.2.3.4.5:6", "1.2.3.4.:5",
        "256.1.1.1:2", "1.2.3.0:4", "1.2.3.00:4", "1.2.3.4:65535", "[2001:db8::1]:0", "x[::1]:5",
        "[::1]x:5", "[::1:5",
        "[::fffe:102:304]:5", "[1:2:3:4:5:6:7:8]:9", "[1111:2222:3333:4444:5555:6666:123.123.123.123]:9",
        "[01111:2222:3333:4444:5555:6666:123.123.123.123]:9", "[::1\0]:5", "1.2.3.4:1x", "1.2.3.4:/",
        "1.2.3.4::",
    ],
    **{
        key: ["0", str(number.most), str(number.most + 1), "007", "-1", "", "9" * 20, "1" * 21]
        for key, number in uapi.NUMBERS.items()
    },
    "plait_name": [
        "alice", "Alice's  phone=1 ", "", "%41%25", "Andr%C3%A9", "%E9", "%", "%zz", "a%00", "%0A", "a" * 64,
        "a" * 65, "%F0%9F%90%88" * 16, "%F0%9F%90%88" * 17, "\x7f", "a\tb",
    ],
    "replace_allowed_ips": ["true", "false", ""],
    "remove": ["true", "True"],
    "update_only": ["true", "true "],
    "protocol_version": ["1", "2", "01"],
    "allowed_ip": [
        "10.1.2.3/8", "0.0.0.0/0", "255.255.255.255/32", "1.2.3.4/33", "1.2.3.4", "1.2.3.4/", "/8",
        "-10.0.0.0/8", "--10.0.0.0/8", "::/0", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/61", "1::1/129",
        "-1::1/128", "1.2.3.4/8/8", "1.2.3.04/8", "1.2.3.4/08", "::1.2.3.4/128", "1::/0000000064", "",
        "1.2.3.4\0/8", "0001:2::/64", "00001::/64", "1..3.4/8", ".1.2.3/8", "1.2.3/8", "1.2.3.4.5/8",
        "256.1.1.1/8", "1.2.3.4/32", "255.255.255.255/31", "255.255.255.255/25",
        "255.255.255.255/24", "255.255.255.255/7",
        "255.255.255.255/0", "ffff::/128", "ffff::ffff/127", "ffff:ffff::/17", "1.2.3.4/-1", "1.2.3.4/:",
        "-", "-/8",
        "1.2.3.4/4294967296", "1.2.3.4/18446744073709551616", "1.2.3.4/9999999999999999999",
    ],
    "listen_port": ["1"],
    "nonsense": ["1"],
}  # fmt: skip
_GOOD = [(key, values[0]) for key, values in VALUES.items() if key not in ("listen_port", "nonsense")]
LINES = st.one_of(
    st.sampled_from([f"{key}={value}".encode() for key, value in _GOOD]),
    st.sampled_from([f"{key}={value}".encode() for key, values in VALUES.items() for value in values]),
    st.sampled_from([b"", b"=", b"public_key", b"allowed_ip=\xff", b"x" * 5000, b"get=1"]),
    st.binary(max_size=40),
)


PEER = b"public_key=" + KEY.encode()
LIMITS = st.sampled_from([1 << 28, 300])  # of an operation


def outcome(reader: uapi.Reader, parts: list[bytes]) -> list[Any]:
    """Every operation as something that can be compared."""
    return [
        (str(o.error), o.error.errno, o.was_set) if isinstance(o, uapi.Refused) else o
        for part in parts
        for o in reader.feed(part)
    ]


@settings(deadline=None, max_examples=150)
@given(st.lists(LINES, max_size=30), st.lists(st.integers(0, 10**6), max_size=5), LIMITS)
@example([PEER, b"allowed_ip=1.2.3.4/32"] * 3, [], 140)
@example([PEER, *[b"allowed_ip=1.2.3.4/32"] * 5000, b"public_key=00"], [70000], 1 << 28)
def test_any_lines_are_taken_or_refused_alike(lines: list[bytes], cuts: list[int], limit: int) -> None:
    data = b"set=1\n" + b"\n".join(lines) + b"\n\nget=1\n\n"
    assert outcome(uapi.Reader(limit), list(pieces(data, cuts))) == outcome(LineByLine(limit), [data])


@pytest.mark.parametrize("key", VALUES)
def test_each_value_is_taken_or_refused_alike(key: str) -> None:
    """Alone, and between what is right."""
    for value in VALUES[key]:
        line = f"{key}={value}".encode()
        for lines in ([PEER, line], [PEER, b"allowed_ip=1.2.3.4/32", line, b"endpoint=1.2.3.4:5", PEER]):
            data = b"set=1\n" + b"\n".join(lines) + b"\n\n"
            assert outcome(uapi.Reader(), [data]) == outcome(LineByLine(), [data]), line


@pytest.mark.parametrize("cuts", [0, 1, 2])
@pytest.mark.parametrize("allowed", [0, 1, 40])
def test_a_set_is_as_large_as_its_limit_and_no_larger(allowed: int, cuts: int) -> None:
    """Whole sections count, in whatever pieces they come."""
    section = b"\n".join([PEER, *[b"allowed_ip=::/0"] * allowed]) + b"\n"
    data = b"set=1\n" + section * 6 + b"\n"
    places = [len(b"set=1\n") + len(section) * 6 * n // (cuts + 1) + 1 for n in range(1, cuts + 1)]
    for peers in range(4, 7):
        for shift in (-1, 0, 1):
            limit = peers * (changes.PEER_MOST + changes.ALLOWED.size * allowed) + shift
            [found] = outcome(uapi.Reader(limit), list(pieces(data, places)))
            assert isinstance(found, uapi.Set) is (peers == 6 and shift >= 0)
            assert [found] == outcome(LineByLine(limit), [data])


@settings(deadline=None, max_examples=60)
@given(sets(), st.integers(0, 10**6), st.integers(0, 255))
def test_any_changed_byte_is_taken_or_refused_alike(operation: uapi.Set, place: int, byte: int) -> None:
    data = bytearray(text_of(operation))
    data[place % len(data)] = byte
    assert outcome(uapi.Reader(), [bytes(data)]) == outcome(LineByLine(), [bytes(data)])


def test_what_is_plain_does_not_come_to_python() -> None:
    """The C takes a large set whole, in any pieces; else this file would compare Python with Python."""

    class NoPeers(uapi.Reader):
        def _change(self, key: str, value: str) -> None:
            raise AssertionError(key)

    peer = "public_key={:064x}\npreshared_key={:064x}\nendpoint=[1::{:x}]:7\n"
    peer += "replace_allowed_ips=true\nallowed_ip=::{:x}/128\n"
    text = "".join(peer.format(*[n] * 4) for n in range(1, 3000)).encode()
    for size in (1 << 20, 1 << 16, 1 << 12, 77):
        reader = NoPeers()
        data = b"set=1\n" + text + b"\n"
        found = [o for at in range(0, len(data), size) for o in reader.feed(data[at : at + size])]
        assert len(found) == 1 and isinstance(found[0], uapi.Set) and found[0].peer_count == 2999
        assert found == list(LineByLine().feed(data))


@settings(deadline=None)
@given(PEERS, *[st.integers(0, 2**64 - 1)] * 4, st.sampled_from(["", "quota", "expired"]))
def test_peers_are_written_alike(
    peer: uapi.PeerChange, sec: int, nsec: int, tx: int, rx: int, ran_out: str
) -> None:
    endpoint = peer.endpoint
    if endpoint is not None and len(endpoint.address) == 4:
        endpoint = endpoint._replace(zone="")
    psk = peer.preshared_key or bytes(32)
    record = uapi.PeerRecord(
        peer.public_key, psk, endpoint, sec, nsec, tx, rx,
        [getattr(peer, number.field) or 0 for number in uapi.NUMBERS.values()],
        [ip._replace(removed=False) for ip in peer.allowed_ips], ran_out, peer.name or "",
    )  # fmt: skip
    zone = ffi.new("char[]", endpoint.zone.encode() if endpoint else b"")
    address = ffi.from_buffer("uint8_t[]", endpoint.address if endpoint else b"")
    key, secret = ffi.from_buffer("uint8_t[]", peer.public_key), ffi.from_buffer("uint8_t[]", psk)
    port = endpoint.port if endpoint else 0
    why = ffi.new("char[]", ran_out.encode()) if ran_out else ffi.NULL
    fields = [key, secret, address, zone, len(address), port, sec, nsec, tx, rx, list(record.numbers)]
    name = record.name.encode()
    fields += [ffi.from_buffer("uint8_t[]", name), len(name), why]
    shown = ffi.new("struct uapi_shown *", fields)
    text = ffi.new("char[]", lib.UAPI_PEER_TEXT)
    written = ffi.buffer(text, lib.uapi_write_peer(text, shown))[:]
    for ip in record.allowed_ips:
        line = ffi.new("char[]", lib.UAPI_ALLOWED_TEXT)
        address = ffi.from_buffer("uint8_t[]", ip.address)
        written += ffi.buffer(line, lib.uapi_write_allowed(line, address, ip.bits, ip.cidr))[:]
    assert written.decode() == uapi.format_peer(record)
