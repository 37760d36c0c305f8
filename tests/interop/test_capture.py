"""`plait capture` on both ends of a tunnel, read back by tshark, which runs it as an extcap as well.

    initiator 10.200.1.1 ──── 10.200.1.2 responder
     wg0 10.0.0.1                 wg0 10.0.0.2
"""

from __future__ import annotations

import re
import signal
import stat
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.capture.pcapng import SECRETS_WIREGUARD
from plait.lab.namespaces import PLAIT, Lab, Process, keypair
from tests.support.tunnel import Side, Tunnel, transfer_each_way, two_hosts
from tests.support.waiting import until

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
SECRETS, SECTION, PACKET = 10, 0x0A0D0D0A, 6  # types of blocks
OUTER = struct.pack("=I", 1)  # the second interface
FIELDS = ("frame.interface_name", "frame.comment", "frame.len", "frame.packet_flags_direction", "wg.type",
          "icmp.type")  # fmt: skip
IN, OUT = "0x00000001", "0x00000002"


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Tunnel]:
    """No handshake yet; both engines keep a key log."""
    with Lab() as lab:
        yield two_hosts(lab, PLAIT, PLAIT, psk=True, environment={"PLAIT_KEYLOG": "/run/keys"})


@pytest.fixture(scope="module")
def files(tunnel: Tunnel) -> list[bytes]:
    """What both ends captured, with --keys, of the same: a handshake, echoes, TCP both ways."""
    captures = [capture(side, "--keys") for side in tunnel.sides]
    assert tunnel.initiator.echo(tunnel.responder.address4, 3) == 3
    transfer_each_way(tunnel.initiator, tunnel.responder, 1_000_000)
    return [ended(side, process) for side, process in zip(tunnel.sides, captures, strict=True)]


def capture(side: Side, *options: str, environment: dict[str, str] | None = None) -> Process:
    """A capture into /run/capture of the side's host, which has begun."""
    target = side.host.root / "run/capture"
    target.unlink(missing_ok=True)
    command = ["plait", "capture", "wg0", "-w", "/run/capture", *options]
    process = side.host.popen(command, environment=environment)
    until(lambda: process.poll() is not None or (target.exists() and target.stat().st_size), "a capture")
    assert process.poll() is None, process.output()
    return process


def ended(side: Side, process: Process, number: int = signal.SIGINT) -> bytes:
    """The file behind a signal."""
    process.signal(number)
    assert process.wait() == 0, process.output()
    return (side.host.root / "run/capture").read_bytes()


def blocks(content: bytes) -> list[tuple[int, bytes]]:
    """Type and body of each block; the file ends with a whole one."""
    found = []
    while content:
        kind, size = struct.unpack_from("=II", content)
        assert len(content) >= size and content[size - 4 : size] == struct.pack("=I", size)
        found.append((kind, content[8 : size - 4]))
        content = content[size:]
    return found


def dissected(content: bytes, *options: str) -> list[dict[str, str]]:
    """tshark's fields of each packet, wg before what is inside it."""
    command = ["tshark", "-r", "-", *options, "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]
    for field in FIELDS:
        command += ["-e", field]
    done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=True)
    rows = [line.split("|") for line in done.stdout.decode().splitlines()]
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def is_handshake(kind: int, body: bytes) -> bool:
    """Whether a block is an outer packet over IPv4 with an initiation."""
    return kind == PACKET and body[:4] == OUTER and body[20 + 28 : 20 + 32] == b"\1\0\0\0"


@pytest.mark.parametrize("end", [0, 1], ids=["initiator", "responder"])
def test_inner_and_outer_packets_with_peer_and_keys(tunnel: Tunnel, files: list[bytes], end: int) -> None:
    peer = f"peer {tunnel.sides[1 - end].public_key}"
    packets = dissected(files[end])
    assert {row["frame.comment"] for row in packets if row["icmp.type"] or row["wg.type"]} == {peer}
    echoes = Counter((row["frame.interface_name"], row["frame.packet_flags_direction"], row["icmp.type"])
                     for row in packets if row["icmp.type"])  # fmt: skip
    there, back = (OUT, IN) if end == 0 else (IN, OUT)
    # Those of `any` are inside a WireGuard message: opened with the keys that the file itself has.
    expected = [(name, *each) for name in ("wg0", "any") for each in ((there, "8"), (back, "0"))]
    assert echoes == dict.fromkeys(expected, 3)
    outer = [row for row in packets if row["frame.interface_name"] == "any"]
    assert {row["wg.type"] for row in outer} == {"1", "2", "4"}
    assert all(int(row["frame.len"]) <= 1500 for row in outer), "a train that was not cut"
    assert len(outer) > 1000


def test_the_keys_are_those_of_the_log_and_stand_before_their_handshake(files: list[bytes]) -> None:
    for content in files:
        found = blocks(content)
        first = next(number for number, (kind, body) in enumerate(found) if is_handshake(kind, body))
        secret = next(body for kind, body in found[:first] if kind == SECRETS)
        assert struct.unpack_from("=I", secret) == (SECRETS_WIREGUARD,)
        assert secret[8:].startswith(b"LOCAL_STATIC_PRIVATE_KEY = ") and b"\nPRESHARED_KEY = " in secret


def test_without_the_option_no_key_is_written(tunnel: Tunnel) -> None:
    side = tunnel.responder
    process = capture(side, environment={"PLAIT_KEYLOG": "/run/keys"})
    tunnel.initiator.engine.wg("set", "wg0", "private-key", "/dev/stdin", text=tunnel.initiator.private_key)
    assert tunnel.initiator.echo(side.address4, 2) == 2
    content = ended(side, process, signal.SIGTERM)
    assert SECRETS not in {kind for kind, _ in blocks(content)}
    for key in (side.private_key, tunnel.initiator.private_key):
        assert key.encode() not in content
    said = side.host.run(["plait", "show", "--engine", "wg0"]).stdout
    assert "key log: the keys of every handshake go to /run/keys" in said
    assert stat.S_IMODE((side.host.root / "run/capture").stat().st_mode) == 0o600
    inner, outer = re.findall(r"(\d+) inner and (\d+) outer packets of wg0 were written", process.output())[0]
    assert int(inner) >= 4 and int(outer) >= 4


def test_a_peer_that_moves_keeps_its_packets_and_another_gets_none(tunnel: Tunnel) -> None:
    side, other = tunnel.responder, keypair()[1]
    side.engine.wg("set", "wg0", "peer", other, "allowed-ips", "10.9.9.9/32")
    mine = capture(side, "--peer", tunnel.initiator.public_key)
    assert tunnel.initiator.echo(side.address4, 1) == 1
    tunnel.initiator.engine.wg("set", "wg0", "listen-port", "40404")
    assert tunnel.initiator.echo(side.address4, 3) == 3
    content = ended(side, mine)
    packets = dissected(content, "-d", "udp.port==40404,wg")
    moved = [row for row in packets if row["frame.interface_name"] == "any" and row["wg.type"] == "4"]
    assert len(moved) >= 8 and {row["frame.packet_flags_direction"] for row in moved} == {IN, OUT}
    theirs = capture(side, "--peer", other)
    assert tunnel.initiator.echo(side.address4, 1) == 1
    assert PACKET not in {kind for kind, _ in blocks(ended(side, theirs))}
    side.engine.wg("set", "wg0", "peer", other, "remove")


def test_a_reader_that_goes_away_ends_it(tunnel: Tunnel) -> None:
    host = tunnel.responder.host
    script = "plait capture wg0 | head -c 4 | od -An -tx4; echo ${PIPESTATUS[0]}"
    assert host.run(["bash", "-c", script]).stdout.split() == ["0a0d0d0a", "0"]


REFUSALS = {
    "no keys": (["--keys", "-w", "/run/open"], "no keys are written to /run/open: its mode is 0644"),
    "a key": (["--peer", "rubbish"], "`rubbish` is no peer here: no peer has that name, or a public key"),
    "a peer": (["--peer", keypair()[1]], "no peer of this public key is configured"),
    "a place": (["-w", "/nowhere/file"], "/nowhere/file could not be written: No such file or directory"),
    "no space": (["-w", "/dev/full"], "/dev/full could not be written: No space left on device. Free some"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_says_what_why_and_the_next_step(tunnel: Tunnel, case: str) -> None:
    options, words = REFUSALS[case]
    place = tunnel.responder.host.root / "run/open"
    place.write_text("as it was")
    place.chmod(0o644)
    done = tunnel.responder.host.run(["plait", "capture", "wg0", *options], check=False)
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert place.read_text() == "as it was"


def test_the_end_of_the_interface_and_an_engine_without_a_key_log() -> None:
    with Lab() as lab:
        host = lab.host("one")
        engine = host.engine("wg0")
        engine.configure(keypair()[0], [], ["10.0.0.1/24"], 51820)
        done = host.run(["plait", "capture", "wg0", "--keys"], check=False)
        assert done.returncode == 1 and "its engine keeps no key log. Start it with one" in done.stderr
        assert "key log" not in host.run(["plait", "show", "--engine", "wg0"]).stdout
        process = host.popen(["plait", "capture", "wg0", "-w", "/run/capture"])
        target = host.root / "run/capture"
        until(lambda: process.poll() is not None or (target.exists() and target.stat().st_size), "a capture")
        host.ip("link set lo up", "link delete wg0")
        with host.socket() as stranger:  # outer packets go on

            def has_ended() -> bool:
                stranger.sendto(b"x", ("127.0.0.1", 51820))
                return process.poll() is not None

            until(has_ended, "the end of the capture")
        assert process.wait() == 0
        assert "the interface is gone: the capture of wg0 ends" in process.output()
        assert [kind for kind, _ in blocks(target.read_bytes())][:3] == [SECTION, 1, 1]


def test_wireshark_lists_the_interfaces_and_captures(tunnel: Tunnel) -> None:
    side = tunnel.responder
    (folder,) = Path("/usr/lib").glob("*/wireshark/extcap")
    side.host.run(["mount", "--bind", str(ROOT / "configs/wireshark"), str(folder)])  # in its own mounts
    settings = ["-o", f"extcap.plait_wg0.peer:{tunnel.initiator.public_key}"]
    command = ["tshark", "-i", "plait-wg0", "-l", *settings, "-c", "8", "-T", "fields",
               "-e", "frame.interface_name", "-e", "frame.comment"]  # fmt: skip
    process = side.host.popen(command)
    until(lambda: process.poll() is not None or tunnel.initiator.echo(side.address4, 1, 1) < 0, "8 packets")
    assert process.wait() == 0, process.output()
    assert "Capturing on 'Plait: inner and outer packets of wg0: plait-wg0'" in process.output()
    assert "Error" not in process.output()
    rows = set(re.findall(r"^(wg0|any)\t(.*)$", process.output(), re.M))
    assert rows == {(name, f"peer {tunnel.initiator.public_key}") for name in ("wg0", "any")}
