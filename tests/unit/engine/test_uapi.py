"""UAPI text: whole operations or none, every mistake named, no other exception whatever comes."""

import base64
import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import uapi

KEYS = st.binary(min_size=32, max_size=32)
PORTS = st.integers(1, 65535)
SECRET = "5e" * 32


def keys(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


@st.composite
def allowed_ips(draw: st.DrawFn) -> uapi.AllowedIP:
    bits = draw(st.sampled_from([32, 128]))
    cidr = draw(st.integers(0, bits))
    return uapi.AllowedIP(uapi.masked(draw(keys(bits // 8)), cidr), bits, cidr, draw(st.booleans()))


ENDPOINTS = st.one_of(
    st.builds(uapi.Endpoint, keys(4), PORTS, st.just("")),
    st.builds(uapi.Endpoint, keys(16), PORTS, st.sampled_from(["", "eth0", "7", "br-lan.1"])),
)
NAMES = st.text(max_size=uapi.NAME_MOST).filter(
    lambda name: name.isprintable() and len(name.encode("utf-8", "replace")) <= uapi.NAME_MOST
)
PEERS = st.builds(
    uapi.PeerChange,
    KEYS,
    st.booleans(),
    st.booleans(),
    st.none() | KEYS,
    st.none() | ENDPOINTS,
    st.none() | st.integers(0, 65535),
    st.booleans(),
    st.lists(allowed_ips(), max_size=4),
    expires=st.none() | st.integers(0, 2**32 - 1),
    quota=st.none() | st.integers(0, 2**63 - 1),
    name=st.none() | NAMES,
)


@st.composite
def sets(draw: st.DrawFn) -> uapi.Set:
    done = uapi.Set(
        draw(st.none() | KEYS),
        draw(st.none() | st.integers(0, 65535)),
        draw(st.none() | st.integers(0, 2**32 - 1)),
        draw(st.booleans()),
    )
    for peer in draw(st.lists(PEERS, max_size=4)):
        done.add_peer(peer)
    return done


def text_of(operation: uapi.Set) -> bytes:
    return "".join(uapi.format_set(operation)).encode()


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    last = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        yield data[last:cut]
        last = cut
    yield data[last:]


@given(sets())
def test_round_trips(operation: uapi.Set) -> None:
    peers = list(operation.peers)
    assert len(peers) == operation.peer_count
    for again in (uapi.parse_set(text_of(operation)), uapi.Set.from_bytes(operation.to_bytes())):
        assert again == operation
        assert list(again.peers) == peers
        assert again.to_bytes() == operation.to_bytes()


@given(st.lists(sets() | st.just(uapi.Get()), max_size=3), st.lists(st.integers(0, 10**6), max_size=8))
def test_pieces_of_any_size(operations: list[uapi.Set | uapi.Get], cuts: list[int]) -> None:
    data = b"".join(text_of(o) if isinstance(o, uapi.Set) else b"get=1\n\n" for o in operations)
    reader = uapi.Reader()
    assert [o for piece in pieces(data, cuts) for o in reader.feed(piece)] == operations


GOOD = (
    f"set=1\nprivate_key={SECRET}\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true\n"
    f"public_key={'ab' * 32}\npreshared_key={SECRET}\nendpoint=192.0.2.1:1\nreplace_allowed_ips=true\n"
    "allowed_ip=10.0.0.77/8\nallowed_ip=-fd00::1/64\nprotocol_version=1\npersistent_keepalive_interval=65535\n"
    f"public_key={'CD' * 32}\nendpoint=[fe80::1%eth0]:65535\nupdate_only=true\nremove=true\n"
).splitlines()


def test_meaning_of_each_line() -> None:
    done = uapi.parse_set("\n".join(GOOD))
    assert (done.private_key, done.listen_port, done.fwmark) == (b"\x5e" * 32, 51820, 2**32 - 1)
    assert done.replace_peers
    first, second = done.peers
    assert first == uapi.PeerChange(
        b"\xab" * 32,
        preshared_key=b"\x5e" * 32,
        endpoint=uapi.Endpoint(bytes((192, 0, 2, 1)), 1),
        keepalive=65535,
        replace_allowed_ips=True,
        allowed_ips=[
            uapi.AllowedIP(bytes((10, 0, 0, 0)), 32, 8),
            uapi.AllowedIP(b"\xfd" + bytes(15), 128, 64, True),
        ],
    )
    zone = uapi.Endpoint(b"\xfe\x80" + bytes(13) + b"\1", 65535, "eth0")
    assert second == uapi.PeerChange(b"\xcd" * 32, remove=True, update_only=True, endpoint=zone)


@pytest.mark.parametrize("zone", ["", "%eth0"])
def test_a_mapped_endpoint_is_the_ipv4_address(zone: str) -> None:
    """Line by line and in sections; a prefix of that kind stays one of IPv6, as in the kernel."""
    peer = f"public_key={'ab' * 32}\nendpoint=[::ffff:192.0.2.1{zone}]:7\nallowed_ip=::ffff:192.0.2.0/120\n"
    (done,) = uapi.Reader().feed(f"set=1\n{peer}\n".encode())
    assert isinstance(done, uapi.Set)
    for (found,) in (uapi.parse_set(f"set=1\n{peer}").peers, done.peers):
        assert found.endpoint == uapi.Endpoint(bytes((192, 0, 2, 1)), 7)
        assert str(found.endpoint) == "192.0.2.1:7"
        assert [ip.bits for ip in found.allowed_ips] == [128]


DEVICE, PEER = "set=1", f"set=1\npublic_key={'ab' * 32}"
BAD_LINES = [
    (DEVICE, "private_key=" + "5e" * 31),
    (DEVICE, "private_key=" + "5e" * 33),
    (DEVICE, "private_key=" + "5g" * 32),
    (DEVICE, "private_key= " + "5e" * 31 + "5"),
    (DEVICE, "private_key="),
    (DEVICE, "listen_port=65536"),
    (DEVICE, "listen_port=-1"),
    (DEVICE, "listen_port=+1"),
    (DEVICE, "listen_port=1_0"),
    (DEVICE, "listen_port= 1"),
    (DEVICE, "listen_port=0x10"),
    (DEVICE, "listen_port=\u0661"),
    (DEVICE, "listen_port=" + "1" * 4000),
    (DEVICE, "fwmark=4294967296"),
    (DEVICE, "replace_peers=false"),
    (DEVICE, "replace_peers=True"),
    (DEVICE, "replace_peers=1"),
    (DEVICE, "allowed_ip=10.0.0.0/8"),
    (DEVICE, "remove=true"),
    (DEVICE, "no_such_key=1"),
    (DEVICE, "=1"),
    (DEVICE, "listen_port"),
    (DEVICE, "set=1"),
    (DEVICE, "Listen_Port=1"),
    (DEVICE, "listen_port=1\r"),
    (DEVICE, "errno=0"),
    (PEER, "listen_port=1"),
    (PEER, "private_key=" + "5e" * 32),
    (PEER, "public_key=" + "ab" * 31),
    (PEER, "public_key=zz"),
    (PEER, "remove=yes"),
    (PEER, "update_only=false"),
    (PEER, "replace_allowed_ips="),
    (PEER, "protocol_version=2"),
    (PEER, "protocol_version=01"),
    (PEER, "persistent_keepalive_interval=65536"),
    (PEER, "persistent_keepalive_interval=off"),
    (PEER, "allowed_ip=10.0.0.0"),
    (PEER, "allowed_ip=10.0.0.0/"),
    (PEER, "allowed_ip=10.0.0.0/33"),
    (PEER, "allowed_ip=10.0.0/8"),
    (PEER, "allowed_ip=010.0.0.0/8"),
    (PEER, "allowed_ip=fd00::/129"),
    (PEER, "allowed_ip=fd00::%eth0/64"),
    (PEER, "allowed_ip=--10.0.0.0/8"),
    (PEER, "allowed_ip=10.0.0.0/8,10.0.0.0/9"),
    (PEER, "allowed_ip=10.0.0.0\0/8"),
    (PEER, "endpoint=192.0.2.1"),
    (PEER, "endpoint=192.0.2.1:"),
    (PEER, "endpoint=192.0.2.1:0"),
    (PEER, "endpoint=192.0.2.1:65536"),
    (PEER, "endpoint=192.0.2.256:1"),
    (PEER, "endpoint=example.com:1"),
    (PEER, "endpoint=2001:db8::1:1"),
    (PEER, "endpoint=[2001:db8::1]1"),
    (PEER, "endpoint=[192.0.2.1]:1"),
    (PEER, "endpoint=[fe80::1%]:1"),
    (PEER, "endpoint=[fe80::1%a b]:1"),
    (PEER, "endpoint=:1"),
    (PEER, "endpoint="),
]


@pytest.mark.parametrize(("before", "line"), BAD_LINES)
def test_bad_lines_are_named(before: str, line: str) -> None:
    reader = uapi.Reader()
    data = f"{before}\n{line}\nlisten_port=nonsense too\n\nget=1\n\n".encode()
    refused, after = reader.feed(data)
    assert isinstance(refused, uapi.Refused) and after == uapi.Get()
    error = refused.error
    assert refused.was_set and error.errno > 0
    assert error.line_number == before.count("\n") + 2
    assert error.what and error.why and error.next
    assert "5e5e5e5e" not in str(error)


SESSION = bytes(range(uapi.SESSION_BYTES))
ROW = base64.b64encode(SESSION).decode()
NO_OPERATIONS = [
    "", "get=2", "set=0", "foo=1", "get", "hello", "Set=1", "\xff=1", "upgrade=2", "upgrade=+1", "scale=1",
    "scale=1,", "scale=,1", "scale=1,2,3", "scale=1,two", "scale=--1,1", "scale=12345,1", "scale=1, 1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("upgrade=1", uapi.Upgrade(True)),
        ("upgrade=0", uapi.Upgrade(False)),
        ("scale=+1,-20", uapi.Scale("+1", "-20")),
        ("scale=4,0", uapi.Scale("4", "0")),
        ("events=0", uapi.Events(False)),
        ("events=1", uapi.Events(True)),
        ("events=1\nsessions=true", uapi.Events(True, True)),
        ("neighbour=0", uapi.Neighbour(0, 0, b"", False)),
        ("neighbour=255\nlease=10", uapi.Neighbour(255, 10, b"", False)),
        ("neighbour=7\nsessions=", uapi.Neighbour(7, 0, b"", True)),
        (f"neighbour=7\nlease=3\nsessions={ROW}\nsessions={ROW}", uapi.Neighbour(7, 3, SESSION * 2, True)),
    ],
)
def test_operations_of_ours(line: str, operation: uapi.Operation) -> None:
    assert list(uapi.Reader().feed(line.encode() + b"\n\nget=1\n\n")) == [operation, uapi.Get()]


@pytest.mark.parametrize("line", NO_OPERATIONS)
def test_unknown_operations(line: str) -> None:
    operations = list(uapi.Reader().feed(line.encode("latin-1") + b"\n\n"))
    if not line:
        assert operations == []  # empty lines between operations mean nothing
    else:
        assert [type(o) for o in operations] == [uapi.Refused]


@pytest.mark.parametrize("lines", [
    "neighbour=256", "neighbour=7\nlease=11", "neighbour=7\nlease=-1", "neighbour=7\nsessions=AAAA",
    f"neighbour=7\nsessions={ROW[:-1]}", f"neighbour=7\nsessions={ROW}!", "neighbour=7\nwindow=1",
])  # fmt: skip
def test_what_is_no_neighbour_is_refused(lines: str) -> None:
    [refused] = uapi.Reader().feed(f"{lines}\n\n".encode())
    assert isinstance(refused, uapi.Refused) and not refused.was_set


@pytest.mark.parametrize(
    "lines", ["events=0\nsessions=true", "events=1\nsessions=1", "events=1\nsessions=true\nsessions=true"]
)
def test_sessions_are_told_to_who_follows_events(lines: str) -> None:
    [refused] = uapi.Reader().feed(f"{lines}\n\n".encode())
    assert isinstance(refused, uapi.Refused) and not refused.was_set


def test_get_takes_no_more_lines() -> None:
    [refused] = uapi.Reader().feed(b"get=1\nlisten_port=1\n\n")
    assert isinstance(refused, uapi.Refused) and not refused.was_set
    assert uapi.answer_refused(refused) == b"errno=%d\n\n" % errno.EPROTO


def test_get_of_one_peer() -> None:
    key = "ab" * 32
    operations = list(uapi.Reader().feed(f"get=1\npublic_key={key}\n\nget=1\n\n".encode()))
    assert operations == [uapi.Get(bytes.fromhex(key)), uapi.Get()]
    for lines, code in (
        (f"public_key={key}\npublic_key={key}", errno.EPROTO),
        (f"public_key={key[1:]}", errno.EINVAL),
        (f"public_key={key}\nallowed_ip=10.0.0.0/8", errno.EPROTO),
    ):
        [refused] = uapi.Reader().feed(f"get=1\n{lines}\n\n".encode())
        assert isinstance(refused, uapi.Refused) and not refused.was_set and refused.error.errno == code


def test_what_follows_unknown_peers_is_no_operation() -> None:
    reader = uapi.Reader()
    assert list(reader.feed(b"get=1\n\nunknown_peers=1\nwindow=7\n\ndone=1\n")) == [
        uapi.Get(), uapi.UnknownPeers(7),
    ]  # fmt: skip
    assert reader.take_rest() == b"done=1\n" and reader.take_rest() == b""
    assert list(uapi.Reader().feed(b"unknown_peers=1\n\n")) == [uapi.UnknownPeers(uapi.WINDOW)]
    for lines in ("window=0", f"window={uapi.WINDOW_MOST + 1}", "window=1\nwindow=1", "done=1"):
        [refused] = uapi.Reader().feed(f"unknown_peers=1\n{lines}\n\n".encode())
        assert isinstance(refused, uapi.Refused) and not refused.was_set


MUTANTS = st.one_of(
    st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=80).map(
        lambda text: text.encode("latin-1")
    ),
    st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"")),
)


@settings(max_examples=400)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 80), st.integers(0, 5), MUTANTS)
def test_mutated_lines_are_refused_or_valid(which: int, at: int, length: int, new: bytes) -> None:
    """A line cut into anywhere: an error about that line or a later one, or a set that says what it reads."""
    line = GOOD[which].encode()
    mutant = line[:at] + new + line[at + length :]
    lines = [text.encode() for text in GOOD]
    data = b"\n".join([*lines[:which], mutant, *lines[which + 1 :]]) + b"\n\n"
    for operation in uapi.Reader().feed(data):
        if isinstance(operation, uapi.Set):
            assert uapi.parse_set(text_of(operation)) == operation
        elif isinstance(operation, uapi.Refused):
            assert operation.error.line_number >= which + 1 or not mutant
            assert SECRET[:32] not in str(operation.error)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    reader = uapi.Reader()
    for operation in reader.feed(b"set=1\n" + data + b"\n\n"):
        assert isinstance(operation, uapi.Set | uapi.Get | uapi.Refused)


def test_without_the_empty_line_nothing_happens() -> None:
    reader = uapi.Reader()
    assert list(reader.feed("\n".join(GOOD).encode() + b"\n")) == []
    assert list(reader.feed(b"\n")) != []


def test_the_later_line_counts() -> None:
    allowed = "allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=10.1.0.0/16"
    done = uapi.parse_set(f"set=1\nlisten_port=1\nlisten_port=2\npublic_key={'ab' * 32}\n{allowed}")
    [peer] = done.peers
    assert done.listen_port == 2 and peer.replace_allowed_ips
    assert [str(ip) for ip in peer.allowed_ips] == ["10.1.0.0/16"]


def test_long_lines_are_not_kept() -> None:
    reader = uapi.Reader()
    list(reader.feed(b"set=1\nprivate_key="))
    for _ in range(100):
        assert list(reader.feed(b"5e" * 5000)) == []
    assert len(reader._rest) <= uapi.LINE_BYTES + 1
    [refused] = reader.feed(b"\n\n")
    assert isinstance(refused, uapi.Refused)
    assert (refused.error.line_number, refused.error.errno) == (2, errno.E2BIG)
    assert "5e5e" not in str(refused.error)


def test_large_operations_are_refused_whole() -> None:
    reader = uapi.Reader(limit_bytes=1000)
    peers = b"".join(b"public_key=%064x\n" % i for i in range(100))
    [refused] = reader.feed(b"set=1\n" + peers + b"\n")
    assert isinstance(refused, uapi.Refused) and refused.error.errno == errno.E2BIG
    ips = b"allowed_ip=10.0.0.0/8\n" * 100
    [refused] = reader.feed(b"set=1\npublic_key=%064x\n" % 1 + ips + b"\n")
    assert isinstance(refused, uapi.Refused) and refused.error.errno == errno.E2BIG
    assert [type(o) for o in reader.feed(b"set=1\npublic_key=%064x\n\n" % 1)] == [uapi.Set]


@pytest.mark.parametrize(
    "line",
    [
        b"private_key=" + SECRET.encode(),
        b"private_key" + SECRET.encode(),
        b"preshared_key =" + SECRET.encode(),
        b"Private_Key=" + SECRET.encode(),
        b"prvate_key=" + SECRET.encode(),
        b"endpoint=" + SECRET.encode(),
        SECRET.encode(),
        b"x=" + b"5e" * 3,
        b"private_key=" + b"5e" * 3,
        b"preshared_key=" + b"5e" * 3,
    ],
)
def test_masked_lines_hold_no_secret(line: bytes) -> None:
    assert "5e5e5e" not in uapi.mask(line)


def test_public_keys_are_shown() -> None:
    assert uapi.mask(b"public_key=" + b"ab" * 32) == "public_key=" + "ab" * 32
    assert uapi.mask(b"listen_port=7x") == "listen_port=7x"
    assert uapi.mask(b"listen_port=\x1b[2J\xff") == "listen_port=?[2J\\xff"


# --- answers ------------------------------------------------------------------------------------


def test_signs_of_errno() -> None:
    assert uapi.answer_set(errno.EINVAL) == b"errno=-22\n\n"
    assert uapi.answer_set(0) == b"errno=0\n\n"
    assert uapi.answer_get_refused(errno.EINVAL) == b"errno=22\n\n"


def test_get() -> None:
    others = [1] * (len(uapi.NUMBERS) - 1)  # numbers but the keepalive: shown where they are not 0
    more = "".join(f"{key}=1\n" for key in list(uapi.NUMBERS)[1:])
    peers = [
        uapi.PeerRecord(
            b"\xab" * 32,
            bytes(32),
            uapi.Endpoint(bytes((192, 0, 2, 1)), 5),
            1700000000,
            7,
            8,
            9,
            [25, *others],
            [uapi.AllowedIP(bytes((10, 0, 0, 0)), 32, 8), uapi.AllowedIP(bytes(16), 128, 0)],
        ),
        uapi.PeerRecord(b"\xcd" * 32, b"\1" * 32, None, 0, 0, 0, 0, [0] * len(uapi.NUMBERS), []),
    ]
    shown = [uapi.format_peer(peer).encode() for peer in peers]
    text = b"".join(uapi.answer_get(uapi.DeviceRecord(b"\x5e" * 32, 51820, 7), shown)).decode()
    assert text == (
        f"private_key={SECRET}\nlisten_port=51820\nfwmark=7\n"
        f"public_key={'ab' * 32}\npreshared_key={'00' * 32}\nprotocol_version=1\nendpoint=192.0.2.1:5\n"
        "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=7\ntx_bytes=8\nrx_bytes=9\n"
        f"persistent_keepalive_interval=25\n{more}allowed_ip=10.0.0.0/8\nallowed_ip=::/0\n"
        f"public_key={'cd' * 32}\npreshared_key={'01' * 32}\nprotocol_version=1\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
        "persistent_keepalive_interval=0\nerrno=0\n\n"
    )
    empty = b"".join(uapi.answer_get(uapi.DeviceRecord(bytes(32), 0, 0), []))
    assert empty == b"errno=0\n\n"


def test_get_is_streamed() -> None:
    asked = 0

    def peers() -> Iterator[bytes]:
        nonlocal asked
        for asked in range(100):  # noqa: B007
            yield b"piece\n"
            yield b""  # rows without a peer

    chunks = uapi.answer_get(uapi.DeviceRecord(None, 0, 0), peers())
    assert next(chunks) == b"piece\n" and asked == 0
    assert all(chunks) and asked == 99
