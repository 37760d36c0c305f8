"""What a container of Plait runs (configs/container/run), with what Docker leaves it: NET_ADMIN alone, a root
that cannot be written, 64 MiB of /dev/shm, 64 KiB of locked memory. An image needs a container engine."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab, Process, keypair, search_path
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "configs/container"
DOCKERFILE = (PLACE / "Dockerfile").read_text()
SHM_BYTES = 64 << 20
LIMITED = ["prlimit", "--memlock=65536", "setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all",
           "--no-new-privs"]  # fmt: skip
FILE = """
[Interface]
PrivateKey = {}
Address = 10.0.0.1/24
ListenPort = 51820
[Peer]
PublicKey = {}
AllowedIPs = 10.9.0.0/24
"""


@pytest.fixture
def container() -> Iterator[tuple[Host, Process]]:
    with Lab() as lab:
        host = lab.host("a", shm_bytes=SHM_BYTES)
        (private, _), (_, public) = keypair(), keypair()
        host.run(["sh", "-c", "mkdir -p /etc/wireguard && mount -t tmpfs lab /etc/wireguard"])
        host.run(["sh", "-c", "umask 077; cat > /etc/wireguard/wg0.conf"], text=FILE.format(private, public))
        host.run(["mount", "-o", "remount,bind,ro", "/"])
        environment = {"PATH": search_path()}
        running = host.popen([*LIMITED, str(PLACE / "run"), "wg0"], environment=environment)
        until(lambda: is_up(host) or running.poll() is not None, "wg0 is up")
        assert running.poll() is None, running.output()
        yield host, running


def is_up(host: Host) -> bool:
    """The last step of `plait up` is done: routes."""
    return "wg0" in host.run(["ip", "route", "show", "10.9.0.0/24"]).stdout


@pytest.mark.network
def test_a_container_ends_its_interface_with_itself(container: tuple[Host, Process]) -> None:
    host, running = container
    assert "10.0.0.1/24" in host.run(["ip", "address", "show", "wg0"]).stdout
    assert "wg0" in running.output() and "Traceback" not in running.output()
    words = re.search(r'HEALTHCHECK .*"sh", "-c", "(.+)"\]', DOCKERFILE)
    assert words
    host.run([*LIMITED, "sh", "-c", words[1]], environment={"PATH": search_path()})
    running.signal(signal.SIGTERM)
    assert running.wait() == 0, running.output()
    assert "wg0" not in host.run(["ip", "link"]).stdout


@pytest.mark.network
def test_a_container_ends_when_its_engine_does(container: tuple[Host, Process]) -> None:
    host, running = container
    host.run(["ip", "link", "delete", "wg0"])
    assert running.wait() == 1
    assert "the engine of wg0 has ended" in running.output()


def test_what_the_image_copies_is_there() -> None:
    copied = re.findall(r"^COPY (?:--chmod=\d+ )?(?!--from)(\S+) \S+$", DOCKERFILE, re.M)
    assert copied and all((ROOT / name).exists() for name in copied)
    assert (PLACE / "run").stat().st_mode & 0o111
