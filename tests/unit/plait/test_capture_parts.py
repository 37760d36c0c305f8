"""The parts of `plait capture`: trains, whose a packet is and how long it is held, key log, output."""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
from base64 import b64encode
from pathlib import Path

import pytest

from plait.capture import pcapng
from plait.capture.assembly import HOLD, MOST, Assembly
from plait.capture.keylog import KeyLog
from plait.capture.output import Output
from plait.capture.owners import Owners
from plait.capture.packets import Packet, Source, addresses, datagrams, part_bytes
from plait.failure import Failure
from plait.uapi_client import Peer

HERE, THERE, ELSEWHERE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
PORT = 51820
ALICE, BOB = (b64encode(bytes([i]) * 32).decode() for i in (1, 2))


def data(size: int, counter: int = 0, index: int = 7) -> bytes:
    """A data message of so many bytes, which could be sealed."""
    return struct.pack("<IIQ", 4, index, counter) + os.urandom(size - 16)


def initiation(index: int) -> bytes:
    return struct.pack("<II", 1, index) + bytes(140)


def response(index: int, receiver: int) -> bytes:
    return struct.pack("<III", 2, index, receiver) + bytes(80)


def outer(message: bytes, *, to: str | None = None, by: str | None = None, version: int = 4) -> Packet:
    """A UDP packet from here, or by somebody else to here."""
    source, target = (HERE, to) if to else (by or THERE, HERE)
    udp = struct.pack("!HHHH", PORT, PORT, 8 + len(message), 0) + message
    if version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + bytes(32)
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 9, 0, 64, 17, 0)
        head += socket.inet_aton(source) + socket.inet_aton(target)
    packet = Packet(1, to is not None, head + udp, "eth0")
    packet.message = message
    return packet


TRAINS = {
    "one message": ([1452], 1452),
    "equal ones": ([1452] * 45, 1452),
    "a shorter last one": ([1452, 1452, 48], 1452),
    "keepalives": ([32, 32, 32], 32),
    "of two sessions": ([1452, 1452], 1452),
}


@pytest.mark.parametrize("case", TRAINS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_train_is_cut_into_its_datagrams(case: str, version: int) -> None:
    sizes, part = TRAINS[case]
    step = 5 if "sessions" in case else 0
    messages = [data(size, i, 7 + step * i) for i, size in enumerate(sizes)]
    whole = outer(b"".join(messages), version=version)
    assert part_bytes(whole.message) == part
    found = list(datagrams(whole))
    assert [each.message for each in found] == messages
    header = 40 if version == 6 else 20
    for each in found:
        assert each.data[header + 8 :] == each.message
        assert struct.unpack_from("!H", each.data, header + 4) == (8 + len(each.message),)
        length = struct.unpack_from("!H", each.data, 4 if version == 6 else 2)[0]
        assert length == len(each.data) - (40 if version == 6 else 0)
        same = slice(6, 40) if version == 6 else slice(4, 10)
        assert each.data[same] == whole.data[same] and each.data[12:20] == whole.data[12:20]
    if version == 4 and len(found) > 1:  # RFC 1071: a sum over all of it is all ones
        total = sum(struct.unpack_from("!10H", found[0].data))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_handshakes_that_came_as_one_are_cut_by_their_size() -> None:
    assert part_bytes(initiation(1) + initiation(2)) == 148
    assert part_bytes(initiation(1)[:100]) == 100
    assert part_bytes(b"rubbish" * 100) == 700


@pytest.mark.network
def test_what_the_kernel_drops_is_counted() -> None:
    """On lo, where each packet passes twice: what leaves from the port, and what comes to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        port = sender.getsockname()[1]
        large, small = Source("lo", port), Source(None, port, room=1)
        for _ in range(100):
            sender.sendto(b"x" * 500, ("127.0.0.1", port))
        found = [packet for _ in range(2) for packet in large.receive()]
        assert [packet.is_out for packet in found].count(True) == 100 and len(found) == 200
        assert {next(datagrams(packet)).message for packet in found} == {b"x" * 500}
        few = sum(1 for _ in small.receive())
        assert small.look() == 200 - few > 0 and small.look() == 200 - few and large.look() == 0
        with pytest.raises(Failure, match="nowhere cannot be captured: no interface"):
            Source("nowhere", None)
        large.close()
        small.close()


def known() -> Owners:
    owners = Owners()
    owners.learn([Peer(ALICE, endpoint=f"{THERE}:{PORT}", allowed_ips=["10.0.0.0/24"], name="Alice"),
                  Peer(BOB, endpoint=f"[fe80::1%eth0]:{PORT}", allowed_ips=["10.0.0.7/32", "fd00::/64"])])
    return owners


def test_whose_a_packet_is() -> None:
    owners = known()
    inside = struct.pack("!BBHHHBBH", 0x45, 0, 20, 0, 0, 64, 1, 0)
    for address, owner in ((b"\x0a\0\0\x05", ALICE), (b"\x0a\0\0\x07", BOB), (b"\x0a\x09\0\0", None)):
        assert owners.inner(Packet(1, True, inside + bytes(4) + address, "wg0")) == owner
        assert owners.inner(Packet(1, False, inside + address + bytes(4), "wg0")) == owner
    assert owners.comment(ALICE) == f"peer {ALICE} (Alice)" and owners.comment(BOB) == f"peer {BOB}"
    assert owners.comment(None) == ""


def test_a_session_s_index_says_more_than_the_place_it_came_from() -> None:
    owners = known()
    assert owners.outer(outer(data(32), by=ELSEWHERE)) is None
    assert owners.outer(outer(response(7, 1), by=THERE)) == ALICE  # from outside: nothing is learned
    assert owners.outer(outer(data(32), by=ELSEWHERE)) is None
    assert owners.outer(outer(response(7, 1), to=THERE)) == ALICE  # ours: index 7 is Alice's session
    assert owners.outer(outer(data(32), by=ELSEWHERE)) == ALICE
    assert addresses(outer(data(32), by=ELSEWHERE))[1] == (socket.inet_aton(ELSEWHERE), PORT)


def test_an_initiation_is_held_until_its_answer_and_no_longer_than_its_time() -> None:
    assembly = Assembly(known())
    asking, before = outer(initiation(9), by=THERE), outer(data(32), to=THERE)
    assembly.take(before, True, 0)
    assembly.take(asking, True, 0)
    assert [held.packet for held in assembly.ready(0.1)] == [before]
    assert assembly.until() == HOLD
    assembly.take(outer(response(5, 9), to=THERE), True, 0.2)
    assert [held.owner for held in assembly.ready(0.2)] == [ALICE, ALICE]
    assembly.take(outer(initiation(10), by=ELSEWHERE), True, 1)
    assert assembly.wants and not list(assembly.ready(1.9))
    assert [held.owner for held in assembly.ready(2)] == [None]


def test_a_place_that_is_learned_later_is_found_in_what_is_held() -> None:
    owners = known()
    assembly = Assembly(owners)
    assembly.take(outer(initiation(9), by=ELSEWHERE), True, 0)
    assembly.take(outer(response(5, 9), to=ELSEWHERE), True, 0)
    assert not list(assembly.ready(0.5))
    owners.learn([Peer(ALICE, endpoint=f"{ELSEWHERE}:{PORT}")])
    assembly.look_again()
    assert [held.owner for held in assembly.ready(0.5)] == [ALICE, ALICE]


def test_a_flood_of_strangers_is_not_held_without_end() -> None:
    assembly = Assembly(known())
    for number in range(MOST + 10):
        assembly.take(outer(initiation(number), by=ELSEWHERE), True, 0)
    assert len(list(assembly.ready(0))) == 10


def block(peer: str, *more: str) -> str:
    return "\n".join([f"LOCAL_STATIC_PRIVATE_KEY = {BOB}", f"REMOTE_STATIC_PUBLIC_KEY = {peer}", *more, ""])


def test_of_the_key_log_what_comes_from_now_on_of_that_peer(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(block(ALICE))
    everybody, alice = KeyLog(str(path), None), KeyLog(str(path), ALICE)
    with path.open("a") as file:
        file.write(block(BOB) + block(ALICE, "PRESHARED_KEY = x") + "LOCAL_STATIC")
    assert everybody.read().decode() == block(BOB) + block(ALICE, "PRESHARED_KEY = x")
    assert alice.read().decode() == block(ALICE, "PRESHARED_KEY = x")
    assert everybody.read() == alice.read() == b""
    everybody.close()
    alice.close()


@pytest.mark.parametrize("case", ["missing", "a link", "a fifo"])
def test_a_key_log_that_is_none(tmp_path: Path, case: str) -> None:
    path = tmp_path / "keys"
    if case == "a link":
        (tmp_path / "other").touch()
        path.symlink_to(tmp_path / "other")
    elif case == "a fifo":
        os.mkfifo(path)
    with pytest.raises(Failure, match=f"the key log {path} cannot be read"):
        KeyLog(str(path), None)


def test_a_file_ends_with_a_whole_block_when_it_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    output = Output(str(path), has_keys=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = pcapng.section("test")
    output.write(first)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(first) + 10, before[1]))
    try:
        with pytest.raises(Failure, match=f"{path} could not be written: File too large. Raise the limit"):
            output.write(first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    output.close()
    assert path.read_bytes() == first


@pytest.mark.parametrize("case", ["others may read it", "a link"])
def test_no_keys_where_others_read(tmp_path: Path, case: str) -> None:
    path = tmp_path / "capture"
    (tmp_path / "other").touch(0o600)
    if case == "a link":
        path.symlink_to(tmp_path / "other")
    else:
        path.touch()
        path.chmod(0o640)
    with pytest.raises(Failure):
        Output(str(path), has_keys=True)
    Output(str(path), has_keys=False).close()
