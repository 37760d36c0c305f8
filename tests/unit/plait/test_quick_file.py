"""What reading a wg-quick file says of it, without an interface."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from plait.quick.quick_file import WARNINGS, read

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 20)]


def said(place: Path, capsys: pytest.CaptureFixture[str], *peers: tuple[int, str]) -> list[str]:
    """Lines on stderr about a file; of each peer which key it has, and its AllowedIPs."""
    file = place / "wg0.conf"
    sections = [f"[Peer]\nPublicKey = {KEYS[key]}\nAllowedIPs = {ips}\n" for key, ips in peers]
    file.write_text("[Interface]\n" + "".join(sections))
    file.chmod(0o600)
    read(str(file))
    return [line.removeprefix(f"Warning: {file}:") for line in capsys.readouterr().err.splitlines()]


def test_a_prefix_of_two_peers_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(tmp_path, capsys, (0, "10.0.0.2/32, fd00::2"), (1, "10.0.0.3"), (2, "FD00:0::2/128"))
    assert lines == [
        "8: fd00::2/128 stands in line 2's [Peer] too, which does not get it. "
        "Mend it: give one of them another"
    ]


def test_prefixes_within_prefixes_and_of_one_peer_are_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    within = (0, "0.0.0.0/0, 10.0.0.2"), (1, "10.0.0.0/24"), (2, "10.0.0.3, 10.0.0.3")
    assert said(tmp_path, capsys, *within) == []
    assert said(tmp_path, capsys, (0, "10.0.0.2, -10.0.0.2"), (1, "10.0.0.2"), (2, "-10.0.0.2")) == []


def test_of_many_some_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(tmp_path, capsys, *((key, "10.0.0.2") for key in range(WARNINGS + 4)))
    assert len(lines) == WARNINGS + 1 and lines[-1] == " and 3 more such AllowedIPs"
