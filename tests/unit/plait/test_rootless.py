"""`plait exec` and its kin, as far as no namespace is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plait.keys import private_key, public_key
from plait.rootless.box import Sandbox
from plait.rootless.proxy import Place, Proxy, forward, place
from plait.rootless.words import failure_of

KEY = private_key()
FILE = f"""[Interface]
PrivateKey = {KEY}
Address = 10.9.0.2/24
[Peer]
PublicKey = {public_key(KEY.encode())}
AllowedIPs = """


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "wgx.conf"
    made.write_text(FILE + "10.0.0.0/8\n")
    made.chmod(0o600)
    return made


@pytest.mark.parametrize(
    ("allowed", "routes"),
    [
        ("10.0.0.0/8, -10.1.0.0/16", {"10.0.0.0/8"}),
        ("10.1.0.0/16, 10.2.0.0/16, -10.1.0.0/16", {"10.2.0.0/16"}),
        ("-10.1.0.0/16, +10.1.0.0/16", {"10.1.0.0/16"}),
        ("-10.1.0.0/16", set()),
    ],
)
def test_a_removed_prefix_has_no_route(allowed: str, routes: set[str], file: Path) -> None:
    file.write_text(FILE + allowed + "\n")
    lines: list[str] = Sandbox(str(file))._orders()["ip"]
    assert {line.split()[2] for line in lines if line.startswith("route ")} == routes


def test_a_host_of_too_many_characters_is_not_asked_for(file: Path) -> None:
    """A question of more than a pipe takes in one piece would run into another one."""
    proxy = Proxy(Sandbox(str(file)))
    assert asyncio.run(proxy._addresses("a" * 254)) == []
    with pytest.raises(OSError):  # there is nobody to ask
        asyncio.run(proxy._addresses("a" * 253))


def test_a_refused_namespace_has_the_kernel_s_name() -> None:
    for step, kind in (("network", "network"), ("mount", "mount"), ("fork", "pid")):
        assert f"another {kind} namespace" in failure_of({"failed": step, "errno": 28, "words": ""}).why


def test_where_a_port_listens_when_its_wish_does_not_say() -> None:
    there = Place("h", 80)
    assert place("1080") == Place("127.0.0.1", 1080)
    assert forward("8:h:80") == (Place("127.0.0.1", 8), there)
    assert forward("8:h:80", "0.0.0.0") == (Place("0.0.0.0", 8), there)
    assert forward("10.9.0.2:8:h:80", "0.0.0.0") == (Place("10.9.0.2", 8), there)
