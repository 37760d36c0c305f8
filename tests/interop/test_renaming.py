"""`ip link set wg0 name vpn7`: the socket file and every process follow, and the tunnel goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import PLAIT, Engine, Host, Lab, search_path
from plait.watch.processes import process_stat
from tests.support.tunnel import Tunnel, check_words, eventually, two_hosts

pytestmark = pytest.mark.network

SETTINGS = (
    "receivers = 1\nconsumers = 1\nmax_receivers = 2\nmax_consumers = 2\nmax_peers = 64\nsmall_slots = 64\n"
    "train_slots = 1\n"
)
WORKERS = ("consumer 0", "control", "receiver 0", "supervisor")


def titles(host: Host) -> list[str]:
    found = []
    for row in host.usage():
        try:
            found.append(Path(f"/proc/{row.pid}/cmdline").read_bytes().split(b"\0")[0].decode())
        except FileNotFoundError:
            continue
    return sorted(title for title in found if title.startswith("plait: "))


def files(host: Host) -> list[str]:
    return sorted(os.listdir(host.root / "run/wireguard"))


def rename(engine: Engine, name: str) -> None:
    """Down, since not every kernel renames an interface that is up."""
    before, host = engine.interface, engine.host
    host.ip(f"link set {before} down", f"link set {before} name {name}", f"link set {name} up")
    engine.interface = name


def follows(engine: Engine) -> None:
    """Wait until everything is called as the interface is."""
    eventually(lambda: files(engine.host) == [f"{engine.interface}.sock"])
    eventually(lambda: titles(engine.host) == [f"plait: {engine.interface} {each}" for each in WORKERS])


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Tunnel]:
    with Lab() as lab:
        made = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS)
        assert made.initiator.echo(made.responder.address4) == 3
        yield made
        made.check()


def test_everything_follows_there_and_back(tunnel: Tunnel) -> None:
    one, two = tunnel.sides
    host, engine = one.host, one.engine
    before = one.handshake()
    for name in ("vpn7", "wg0", "x" * 15, "wg+=_.-", "wg0"):
        rename(engine, name)
        follows(engine)
        assert one.handshake() >= before and engine.wg("show", "interfaces") == f"{name}\n"
        assert engine.wg("show", name, "listen-port") == "51820\n"
        assert host.run(["plait", "show", "interfaces"]).stdout == f"{name}\n"
        assert f"the interface is called {name} from now on" in engine.process.output()
        host.ip(f"address replace 10.0.0.1/24 dev {name}", f"route replace 10.0.0.2/32 dev {name}")
        assert one.echo(two.address4) == 3
    rename(engine, "vpn7")
    follows(engine)
    # What starts later has the name as well, and what changes goes on.
    control = next(row.pid for row in host.usage() if title_of(row.pid) == "plait: vpn7 control")
    os.kill(control, signal.SIGKILL)
    eventually(lambda: "plait: vpn7 control" in titles(host))
    assert host.run(["plait", "scale", "vpn7", "+1"]).stdout == "vpn7: receivers 1 -> 2, consumers 1 -> 2\n"
    assert "plait: vpn7 receiver 1" in titles(host)
    assert "every process runs" in host.run(["plait", "upgrade", "vpn7"], timeout=150).stdout
    eventually(lambda: titles(host)[0] == "plait: vpn7 consumer 0" and len(titles(host)) == 6)
    assert files(host) == ["vpn7.sock"]
    rename(engine, "wg0")
    eventually(lambda: files(host) == ["wg0.sock"])


def title_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except FileNotFoundError:
        return ""


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One of its own, for tests that end it."""
    with Lab() as lab:
        made = lab.host("own").engine("wg0", settings=SETTINGS)
        eventually(lambda: "wg0 is ready" in made.process.output())
        yield made
        check_words(made.process)


def test_the_new_file_is_what_ends_it(engine: Engine) -> None:
    rename(engine, "vpn7")
    follows(engine)
    (engine.host.root / "run/wireguard/wg0.sock").touch()  # somebody else's, and none of its business
    engine.socket_path.unlink()
    assert engine.process.wait() == 0
    assert "the socket file /var/run/wireguard/vpn7.sock was deleted" in engine.process.output()
    assert files(engine.host) == ["wg0.sock"]


def test_its_end_leaves_no_file(engine: Engine) -> None:
    rename(engine, "vpn7")
    follows(engine)
    engine.host.ip("link delete vpn7")
    assert engine.process.wait() == 0
    assert files(engine.host) == [] and titles(engine.host) == []


@pytest.mark.parametrize("who", ["control", "supervisor"])
def test_killed_while_the_file_is_renamed(engine: Engine, who: str) -> None:
    """The supervisor is stopped, so that control has asked and not been answered."""
    host = engine.host
    pids = {title_of(row.pid): row.pid for row in host.usage()}
    supervisor, control = pids["plait: wg0 supervisor"], pids["plait: wg0 control"]
    os.kill(supervisor, signal.SIGSTOP)
    waiting = engine.process.session  # nsenter, which stops when its program does, and goes on before it
    eventually(lambda: process_stat(waiting)[1][0] == "T")
    try:
        rename(engine, "vpn7")
        # Control answers, so it has seen what the kernel told before; the first time it may not have.
        for _ in range(2):
            assert Engine(host, "wg0", engine.process).uapi("get=1\n\n").endswith("errno=0\n\n")
        if who == "control":
            os.kill(control, signal.SIGKILL)
        else:  # when the file stands at both places: as if between the supervisor's two steps
            os.link(host.root / "run/wireguard/wg0.sock", host.root / "run/wireguard/vpn7.sock")
            os.kill(supervisor, signal.SIGKILL)
    finally:
        os.kill(waiting, signal.SIGCONT)
    if who == "control":
        follows(engine)
        assert engine.wg("show", "interfaces") == "vpn7\n"
    else:
        eventually(lambda: files(host) == [] and titles(host) == [])
        eventually(lambda: " vpn7: " not in host.run(["ip", "-o", "link"]).stdout)


def test_a_name_whose_socket_exists(engine: Engine) -> None:
    """That of an engine that runs, here in another network with the same /run, stays; a stale one goes."""
    host = engine.host
    command = ["unshare", "--net", "plaitd", "-f", "vpn7"]
    other = host.popen(command, environment={"PLAIT_CONFIG": "/run/wg0.toml"})
    eventually(lambda: "vpn7 is ready" in other.output())
    rename(engine, "vpn7")
    words = (
        "the socket file stays /var/run/wireguard/wg0.sock, though the interface is called vpn7 now: a "
        "running engine listens at /var/run/wireguard/vpn7.sock; rename the interface again when that one "
        "has ended"
    )
    eventually(lambda: words in engine.process.output())
    assert files(host) == ["vpn7.sock", "wg0.sock"]
    eventually(lambda: titles(host).count("plait: vpn7 control") == 2)
    assert host.run(["wg", "show", "wg0", "peers"]).stdout == ""
    other.signal(signal.SIGKILL)
    other.wait()
    eventually(lambda: files(host) == ["wg0.sock"])
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(host.root / "run/wireguard/vpn8.sock"))
    rename(engine, "vpn8")
    follows(engine)
    assert engine.wg("show", "interfaces") == "vpn8\n"


def test_names_of_another_namespace_mean_nothing(engine: Engine) -> None:
    """Moved and renamed on the way, as containers do: the file stays as it was called at home."""
    host = engine.host
    keeper = host.popen(["unshare", "--net", "sleep", "600"])
    home, away = (Path(f"/proc/{pid}/ns/net") for pid in (host.pid, keeper.pid))
    eventually(lambda: away.readlink() != home.readlink())

    def ip(pid: int, *arguments: str) -> None:
        command = ["nsenter", "-t", str(pid), "-n", "ip", "link", "set", *arguments]
        subprocess.run(command, check=True, env={**os.environ, "PATH": search_path()})

    ip(host.pid, "wg0", "netns", str(keeper.pid), "name", "eth7")
    ip(keeper.pid, "eth7", "up")
    eventually(lambda: '"interface_up"' in engine.uapi("events=0\n\n"))
    assert files(host) == ["wg0.sock"]
    ip(keeper.pid, "eth7", "netns", str(host.pid), "name", "vpn7")
    engine.interface = "vpn7"
    follows(engine)
