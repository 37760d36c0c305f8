"""The key log: Wireshark's dissector opens what was captured, and without being asked nothing is written.

    initiator 10.200.1.1 ──── 10.200.1.2 responder
     wg0 10.0.0.1                 wg0 10.0.0.2
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

import plait
from engine import noise
from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab, descriptors, read_proc
from plait.watch.processes import GONE
from tests.support.tunnel import Side, two_hosts
from tests.support.wire import Wire
from workers.control.keylog import WARNING, KeyLog, open_keylog
from workers.failure import Exit, Failure

KEY, PEER, EPHEMERAL, PSK = (bytes([i]) * 32 for i in range(1, 5))


def block(*keys: tuple[str, bytes]) -> str:
    return "".join(f"{name} = {b64encode(key).decode()}\n" for name, key in keys)


def test_a_block_for_each_handshake(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for psk in (PSK, noise.NO_PSK):  # opened twice: the second one appends
        keylog = open_keylog({"PLAIT_KEYLOG": str(path)})
        assert keylog is not None
        keylog.write(KEY, PEER, EPHEMERAL, psk)
        keylog.close()
    first = block(("LOCAL_STATIC_PRIVATE_KEY", KEY), ("REMOTE_STATIC_PUBLIC_KEY", PEER),
                  ("LOCAL_EPHEMERAL_PRIVATE_KEY", EPHEMERAL))
    assert path.read_text() == first + block(("PRESHARED_KEY", PSK)) + first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_the_variable_there_is_none() -> None:
    assert open_keylog({}) is None
    assert open_keylog({"PLAIT_KEYLOG": ""}) is None


PLACES = ["readable by the group", "readable by all", "a link", "a directory", "a fifo"]


@pytest.mark.parametrize("case", PLACES)
def test_no_place_for_keys(tmp_path: Path, case: str) -> None:
    path = tmp_path / "keys"
    if case == "a link":
        (tmp_path / "other").touch(0o600)
        path.symlink_to(tmp_path / "other")
    elif case == "a directory":
        path.mkdir(0o700)
    elif case == "a fifo":
        os.mkfifo(path, 0o600)
    else:
        path.touch()
        path.chmod(0o640 if "group" in case else 0o604)
    with pytest.raises(Failure, match=f"cannot write the key log {path}") as caught:
        open_keylog({"PLAIT_KEYLOG": str(path)})
    assert caught.value.code == Exit.USAGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the file is given to another user")
def test_the_file_of_another_user_is_no_place_for_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    os.chown(path, 12345, -1)
    with pytest.raises(Failure, match="it belongs to user 12345"):
        open_keylog({"PLAIT_KEYLOG": str(path)})


def test_a_full_disk_costs_the_log_its_keys_not_the_handshake(caplog: pytest.LogCaptureFixture) -> None:
    keylog = KeyLog(os.open("/dev/full", os.O_WRONLY), "/dev/full")
    with caplog.at_level(logging.ERROR):
        keylog.write(KEY, PEER, EPHEMERAL, PSK)
    keylog.close()
    assert "No space left on device" in caplog.text
    assert b64encode(EPHEMERAL).decode() not in caplog.text


def regular_files(side: Side) -> set[str]:
    """Paths of the files that the engine's processes hold open for writing."""
    found = set()
    for process in side.engine.processes():
        for fd, path in descriptors(process.pid).items():
            with contextlib.suppress(*GONE):  # closed meanwhile, by one that is starting
                info = read_proc(process.pid, f"fdinfo/{fd}") or "flags: 0"
                mode = int(info.split("flags:")[1].split()[0], 8) & os.O_ACCMODE
                if mode and stat.S_ISREG(os.stat(f"/proc/{process.pid}/fd/{fd}").st_mode):
                    found.add(path)
    return found


@pytest.mark.network
@pytest.mark.parametrize("pair", ["plait-go", "go-plait", "plait-plait"])
def test_tshark_decodes_a_captured_session(pair: str, tmp_path: Path) -> None:
    """Each Plait side keeps a key log; either one alone opens everything, whichever role it has."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    commands = [PLAIT if name == "plait" else WIREGUARD_GO for name in pair.split("-")]
    with Lab() as lab:
        tunnel = two_hosts(lab, *commands, psk=True, environment={"PLAIT_KEYLOG": "/run/keys"})
        with Wire(tunnel.initiator.host, tunnel.link.interface(tunnel.initiator.host)) as wire:
            assert tunnel.initiator.echo(tunnel.responder.address4, 3) == 3
            assert tunnel.initiator.echo(tunnel.responder.address6, 2) == 2
            wire.drain()
        capture = tmp_path / "session.pcap"
        wire.save(capture)
        for side, command in zip(tunnel.sides, commands, strict=True):
            if command is not PLAIT:
                continue
            path = side.host.root / "run/keys"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            keys = tmp_path / side.host.name
            keys.write_bytes(path.read_bytes())
            assert decoded(capture, keys) == {"8,": 3, "0,": 3, ",128": 2, ",129": 2}
            assert WARNING.format("/run/keys") in side.engine.process.output()
            assert regular_files(side) >= {"/run/keys"}
        (tmp_path / "nothing").touch()
        assert decoded(capture, tmp_path / "nothing") == {}
        tunnel.check()


def decoded(capture: Path, keys: Path) -> dict[str, int]:
    """Types of ICMP and of ICMPv6 echo messages that tshark finds inside, with their numbers."""
    command = ["tshark", "-r", str(capture), "-o", f"wg.keylog_file:{keys}", "-Y", "wg and (icmp or icmpv6)",
               "-T", "fields", "-E", "separator=,", "-e", "icmp.type", "-e", "icmpv6.type"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in done.stdout.split() if line in ("8,", "0,", ",128", ",129")]
    return {line: lines.count(line) for line in lines}


@pytest.mark.network
def test_without_the_variable_no_key_is_written_anywhere() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, psk=True)
        assert tunnel.initiator.echo(tunnel.responder.address4, 1) == 1
        for side in tunnel.sides:
            files = {path for path in regular_files(side) if not path.startswith(("/dev/shm/", "/tmp/#"))}
            assert files == set()
            secret = b64decode(side.private_key)
            for path in (side.host.root / "run").rglob("*"):
                if path.is_file():
                    content = path.read_bytes()
                    assert secret not in content and side.private_key.encode() not in content
            assert "KEY LOG" not in side.engine.process.output()
        tunnel.check()


@pytest.mark.network
def test_a_bad_place_is_told_before_the_engine_starts() -> None:
    with Lab() as lab:
        host = lab.host("one")
        (host.root / "run/keys").touch()
        (host.root / "run/keys").chmod(0o644)
        with pytest.raises(plait.Failure, match="its mode is 0644: others may read keys"):
            host.engine("wg0", environment={"PLAIT_KEYLOG": "/run/keys"})


@pytest.mark.network
def test_in_the_background_the_terminal_is_warned() -> None:
    with Lab() as lab:
        host = lab.host("one")
        done = host.run(["plaitd", "wg0"], environment={"PLAIT_KEYLOG": "/run/keys"})
        assert WARNING.format("/run/keys") in done.stderr
