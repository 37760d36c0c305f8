"""`plait routes`, `plait drain` and `plait doctor --ready`, with a BIRD and an FRR that announce the routes.

    host client                             host gateway                          host router
    wireguard-go, many of -- eth0 ---- eth0 -- plaitd, plait routes, -- eth1 ---- eth0 -- BIRD
                                               BIRD or FRR
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from plait.keys import decode
from plait.lab.namespaces import WIREGUARD_GO, Engine, Host, Lab, Link, Peer, Process, keypair, search_path
from plait.lab.routing import bird, of_gateway
from tests.support.needed import needed
from tests.support.syncing import PLAIT
from tests.support.tunnel import Clock
from tests.support.waiting import until

pytestmark = pytest.mark.network

PORT = 51820
ANYCAST = "198.51.100.1/32"
FRR = Path("/usr/lib/frr")
ROUTER = """
router id {here};
protocol device {{ }}
protocol bfd {{ }}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
template bgp site {{
    local as 64513; bfd on; connect delay time 1; connect retry time 1; error wait time 1, 1;
}}
protocol bgp site4 from site {{
    source address {here};
    neighbor {there} as 64512; ipv4 {{ import all; export none; }};
}}
protocol bgp other4 from site {{
    source address {here_other};
    neighbor {other} as 64512; ipv4 {{ import all; export none; }};
}}
protocol bgp site6 from site {{
    source address {here6};
    neighbor {there6} as 64512; ipv6 {{ import all; export none; }};
}}
"""


class Client:
    """An interface of wireguard-go, which begins a handshake at once."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.scene = scene
        self.addresses = [f"10.7.0.{number}", f"fd07::{number:x}"]
        self.prefixes = {f"10.7.0.{number}/32", f"fd07::{number:x}/128"}
        private, self.public = keypair()
        scene.engine.wg("set", "wg0", "peer", self.public, "allowed-ips", ",".join(self.prefixes))
        self.engine = scene.client.engine(f"wg{number}", WIREGUARD_GO)
        lines = f"[Interface]\nPrivateKey = {private}\n"
        self.engine.wg("setconf", f"wg{number}", "/dev/stdin", text=lines)
        self.choose(scene.outer.endpoint(scene.gateway, PORT))

    def choose(self, endpoint: str) -> None:
        """Another gateway, without a session."""
        name = self.engine.interface
        self.engine.wg("set", name, "peer", self.scene.public, "remove")
        server = Peer(self.scene.public, ["10.0.0.0/8", "fd00::/8"], endpoint)
        self.engine.wg("addconf", name, "/dev/stdin", text=server.section())

    def connect(self) -> None:
        """Up, with a packet to send."""
        name = self.engine.interface
        self.scene.client.ip(
            f"link set {name} up",
            f"address replace {self.addresses[0]}/32 dev {name}",
            f"address replace {self.addresses[1]}/128 dev {name} nodad",
            f"route replace 10.200.2.0/24 dev {name}", f"route replace fd00:200:2::/64 dev {name}",
            f"route replace 10.7.0.1/32 dev {name}",
        )  # fmt: skip
        self.scene.client.popen(["ping", "-c", "1", "-W", "1", "-I", name, "10.7.0.1"])


class Scene:
    """A gateway, its clients and its router."""

    def __init__(self, lab: Lab) -> None:
        names = ["gateway", "client", "router", "other"]
        self.gateway, self.client, self.router, self.other = lab.add_hosts(names)
        self.outer = lab.link(self.gateway, self.client)
        self.inner = lab.link(self.gateway, self.router)
        self.outer_other = lab.link(self.other, self.client)
        self.inner_other = lab.link(self.other, self.router)
        self.gateway.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        self.clock = Clock(self.gateway)
        self.private, self.public = keypair()
        self.engine = self.started()
        self.clients = [Client(self, number) for number in range(2, 16)]

    def started(self) -> Engine:
        engine = self.gateway.engine(environment={"PLAIT_CLOCK": Clock.PATH})
        engine.configure(self.private, [], ["10.7.0.1/24", "fd07::1/64"], PORT)
        return engine

    @contextmanager
    def routes(self, *options: str, host: Host | None = None) -> Iterator[Process]:
        """`plait routes`, until the end of the test."""
        process = (host or self.gateway).popen([*PLAIT, "routes", "wg0", *options])
        try:
            until(lambda: "connected peers" in process.output() or process.poll() is not None, "it follows")
            assert process.poll() is None, process.output()
            yield process
        finally:
            process.close()

    def installed(self, host: Host | None = None, *, what: Sequence[str] = ("proto", "151")) -> set[str]:
        """Prefixes that the gateway's kernel has a route for."""
        found = set()
        for family, most in (("-4", 32), ("-6", 128)):
            show = ["ip", family, "-j", "route", "show", *what]
            done = (host or self.gateway).run(show, check=False)  # a table that was never used is none
            told = [entry["dst"] for entry in json.loads(done.stdout or "[]")] if not done.returncode else []
            found |= {each if "/" in each else f"{each}/{most}" for each in told}
        return found

    def heard(self) -> set[str]:
        """Prefixes that the router has a route for, by BGP."""
        return self.installed(self.router, what=("proto", "bird"))

    def way(self, client: Client) -> str:
        """The gateway by which the router reaches a client; empty where there is none."""
        told = json.loads(self.router.run(["ip", "-j", "route", "show", client.addresses[0]]).stdout)
        return str(told[0]["gateway"]) if told else ""

    def metrics(self, client: Client) -> list[int]:
        """Of the routes to a client."""
        told = json.loads(self.gateway.run(["ip", "-j", "route", "show", client.addresses[0]]).stdout)
        return [entry["metric"] for entry in told]

    def ready(self) -> tuple[int, dict[str, str]]:
        """Exit code of `plait doctor --ready`, and what is missing."""
        done = self.gateway.run([*PLAIT, "doctor", "--ready", "wg0", "--json"], check=False)
        told = json.loads(done.stdout)
        return done.returncode, {each["name"]: each["found"] for each in told if each["mend"]}

    def sent(self, client: Client) -> int:
        """Bytes to it."""
        told = [line.split("\t") for line in self.engine.wg("show", "wg0", "transfer").splitlines()]
        return next(int(sent) for public, _, sent in told if public == client.public)

    def remove(self, client: Client) -> None:
        self.engine.wg("set", "wg0", "peer", client.public, "remove")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab)


@pytest.fixture(scope="module")
def router(scene: Scene) -> Process:
    """BIRD at the router."""
    needed("bird2", is_there=shutil.which("bird", path=search_path()) is not None)
    sides = {"here": scene.router, "there": scene.gateway}
    values = {name: scene.inner.address(host) for name, host in sides.items()}
    values |= {f"{name}6": scene.inner.address(host, 6) for name, host in sides.items()}
    values["here_other"] = scene.inner_other.address(scene.router)
    values["other"] = scene.inner_other.address(scene.other)
    return bird(scene.router, ROUTER.format(**values))


def announcing(gateway: Host, link: Link, router: Host) -> Process:
    """BIRD at a gateway, by the example."""
    return bird(gateway, of_gateway("bird.conf", link, gateway, router))


def announced_and_withdrawn(scene: Scene, client: Client) -> None:
    """The router has a client's routes while it is connected, and reaches it."""
    client.connect()
    until(lambda: client.prefixes <= scene.installed(), "the gateway has routes to its client")
    until(lambda: client.prefixes <= scene.heard(), "the router has")
    for address in client.addresses:
        assert scene.router.ping(address, 1, wait=30).received == 1
    # The gateway owes an answer to the last echo. It is due first, so that it begins no other session.
    sent = scene.sent(client)
    scene.clock.step(20)
    until(lambda: scene.sent(client) > sent, "a keepalive")
    scene.clock.step(165)
    until(lambda: not client.prefixes & scene.installed(), "no route behind the session")
    until(lambda: not client.prefixes & scene.heard(), "and none at the router")


def test_bird_announces_who_is_connected(scene: Scene, router: Process) -> None:
    gateway = announcing(scene.gateway, scene.inner, scene.router)
    with scene.routes("--while-ready", ANYCAST) as process:
        assert scene.installed() == {ANYCAST}
        announced_and_withdrawn(scene, scene.clients[0])
        until(lambda: ANYCAST in scene.heard(), "the gateway's own address stays")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        until(lambda: ANYCAST not in scene.heard(), "until the routes are taken away")
    assert gateway.poll() is None, gateway.output()
    gateway.stop()


def test_frr_announces_who_is_connected(scene: Scene, router: Process) -> None:
    needed("frr", is_there=(FRR / "bgpd").exists())
    place = scene.gateway.root / "run/frr"
    place.mkdir()
    shutil.chown(place, "frr", "frr")
    common = ["--vty_socket", "/run/frr", "-z", "/run/frr/zserv.api"]
    daemons = []
    for name in ("zebra", "bgpd"):
        (place / f"{name}.conf").touch()
        files = ["-A", "127.0.0.1", "-f", f"/run/frr/{name}.conf", "-i", f"/run/frr/{name}.pid"]
        daemons.append(scene.gateway.popen([str(FRR / name), *common, *files]))
        until((place / f"{name}.vty").exists, f"{name} takes commands")
    (place / "frr.conf").write_text(of_gateway("frr.conf", scene.inner, scene.gateway, scene.router))
    said = scene.gateway.run(["vtysh", "--vty_socket", "/run/frr", "-f", "/run/frr/frr.conf"])
    assert "Unknown command" not in said.stdout + said.stderr
    with scene.routes():
        announced_and_withdrawn(scene, scene.clients[1])
    for daemon in daemons:
        assert daemon.poll() is None, daemon.output()
        daemon.stop()


def test_what_a_killed_one_left_is_taken_over_or_swept(scene: Scene) -> None:
    here, gone = scene.clients[2:4]
    with scene.routes() as process:
        for client in (here, gone):
            client.connect()
        until(lambda: here.prefixes | gone.prefixes <= scene.installed(), "both have routes")
        process.signal(signal.SIGKILL)
        process.wait()
    assert here.prefixes | gone.prefixes <= scene.installed()
    scene.remove(gone)
    stale, of_others = "10.7.0.77/32", "10.7.0.78/32"
    scene.gateway.ip(
        f"route add {stale} dev wg0 proto 151", f"route add {stale} dev wg0 proto 151 table 77",
        f"route add {of_others} dev eth1 proto 151 metric 9", f"route add {of_others} dev wg0 proto static",
    )  # fmt: skip
    with scene.routes() as process:
        assert not scene.installed() & {stale, *gone.prefixes} and here.prefixes <= scene.installed()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert scene.installed() == {of_others}  # of another interface
    assert scene.installed(what=["table", "77"]) == {stale}
    assert of_others in scene.installed(what=["proto", "static"])
    scene.gateway.ip(
        f"route del {of_others} dev eth1", f"route del {of_others} dev wg0", "route flush table 77"
    )


def test_a_second_one_for_the_same_routes_is_refused(scene: Scene) -> None:
    client = scene.clients[2]
    client.connect()
    with scene.routes():
        until(lambda: client.prefixes <= scene.installed(), "the first one keeps routes")
        done = scene.gateway.run([*PLAIT, "routes", "wg0"], check=False)
        assert done.returncode == 1
        assert "another `plait routes wg0` keeps those of table 254" in done.stderr
        assert client.prefixes <= scene.installed(), "the refused one takes nothing away"
        with scene.routes("--table", "77"):
            until(lambda: client.prefixes <= scene.installed(what=["table", "77"]), "another table's")
    with scene.routes():
        pass  # the lock went with its holder


def test_another_program_s_route_is_left_and_named(scene: Scene) -> None:
    client = scene.clients[4]
    (foreign, *_) = sorted(client.prefixes)
    scene.gateway.ip(f"route add {foreign} dev wg0 proto static")
    client.connect()
    with scene.routes() as process:
        said = f"{foreign} is one: another program has set a route to the same"
        until(lambda: said in process.output(), "it is said")
        assert client.prefixes <= scene.installed()
    assert foreign in scene.installed(what=["proto", "static"])
    scene.gateway.ip(f"route del {foreign} dev wg0")


def await_way(scene: Scene, client: Client, gateway: str) -> None:
    until(lambda: scene.way(client) == gateway, f"the way to the client goes by {gateway}")


def test_packets_go_where_the_newest_session_is(scene: Scene, router: Process) -> None:
    """A client goes to another gateway; its session at the first one lasts on."""
    client = scene.clients[6]
    Clock(scene.other).step(86400)
    engine = scene.other.engine(environment={"PLAIT_CLOCK": Clock.PATH})
    peer = Peer(client.public, sorted(client.prefixes))
    engine.configure(scene.private, [], ["10.7.0.1/24", "fd07::1/64"], PORT)
    engine.wg("addconf", "wg0", "/dev/stdin", text=peer.section())
    hosts = {scene.gateway: scene.inner, scene.other: scene.inner_other}
    daemons = [announcing(host, link, scene.router) for host, link in hosts.items()]
    with scene.routes(), scene.routes(host=scene.other):
        for host, outer in ((scene.gateway, scene.outer), (scene.other, scene.outer_other)):
            client.choose(outer.endpoint(host, PORT))
            client.connect()
            await_way(scene, client, hosts[host].address(host))
        assert client.prefixes <= scene.installed()
        assert client.prefixes <= scene.installed(scene.other)
    for daemon in daemons:
        assert daemon.poll() is None, daemon.output()
        daemon.stop()


def test_a_drained_gateway_withdraws_first_and_serves_on(scene: Scene) -> None:
    client = scene.clients[5]
    client.connect()
    with scene.routes("--while-ready", ANYCAST):
        until(lambda: client.prefixes | {ANYCAST} <= scene.installed(), "it is announced")
        assert scene.ready() == (0, {})
        draining = scene.gateway.popen([*PLAIT, "drain", "wg0", "--grace", "3600"])
        until(lambda: not scene.installed(), "nothing is announced")
        assert scene.ready() == (1, {"drain": "it is about to be stopped"})
        assert scene.client.ping("10.7.0.1", 2, wait=30).received == 2
        assert draining.poll() is None and not scene.installed()
        scene.gateway.run([*PLAIT, "drain", "wg0", "--undo"])
        assert draining.wait() == 1 and "took the drain back" in draining.output()
        until(lambda: client.prefixes | {ANYCAST} <= scene.installed(), "it is announced again")
    # Nobody keeps routes: what was left is withdrawn by the drain itself.
    assert client.prefixes <= scene.installed()
    said = scene.gateway.run([*PLAIT, "drain", "wg0", "--grace", "0"]).stderr
    assert "wg0 may be stopped" in said and not scene.installed()
    with scene.routes():
        assert not scene.installed()
    scene.gateway.run([*PLAIT, "drain", "wg0", "--undo"])


def test_what_a_gateway_lacks_for_its_clients(scene: Scene) -> None:
    scene.gateway.ip("link set wg0 down")
    assert scene.ready() == (1, {"interface": "down"})
    scene.gateway.ip("link set wg0 up")
    state = scene.gateway.root / "run/plait/sync/wg0.state"
    state.parent.mkdir(parents=True)
    state.write_text("plait sync 1\n=another 7\n@9 1\n")
    assert scene.ready()[1].keys() == {"peers"}
    state.unlink()
    done = scene.gateway.run([*PLAIT, "doctor", "--ready", "none"], check=False)
    assert done.returncode == 1 and "nobody listens" in done.stdout
    done = scene.gateway.run([*PLAIT, "routes", "none"], check=False)
    assert done.returncode == 1 and "Start one: plait up" in done.stderr
    done = scene.gateway.run([*PLAIT, "routes", "wg0", "--while-ready", "10.0.0.1/8"], check=False)
    assert done.returncode == 1 and "'10.0.0.1/8' is no prefix" in done.stderr


def test_many_at_once_have_their_routes(scene: Scene) -> None:
    """More sessions begin than events are told."""
    some = scene.clients[7:]
    with scene.routes():
        for client in some:
            client.connect()
        wanted = set().union(*(client.prefixes for client in some))
        until(lambda: wanted <= scene.installed(), "a route for each of them")
        scene.remove(some[0])
        until(lambda: not some[0].prefixes & scene.installed(), "none for a peer that is none any more")
        scene.engine.uapi(f"set=1\npublic_key={decode(some[1].public).hex()}\nplait_expires=1\n\n")
        until(lambda: not some[1].prefixes & scene.installed(), "none for a peer whose time is over")
        assert wanted - some[0].prefixes - some[1].prefixes <= scene.installed()
        before = scene.metrics(some[-1])
        scene.clock.step(2)
        # Down: the kernel takes them, and all sessions end. Up: one is new.
        scene.gateway.ip("link set wg0 down")
        until(lambda: not scene.installed(), "no routes through what is down")
        scene.gateway.ip("link set wg0 up")
        assert scene.gateway.ping(some[-1].addresses[0], 1, wait=30).received == 1
        until(lambda: scene.installed() == some[-1].prefixes, "who has a session has his routes again")
        assert scene.metrics(some[-1]) < before


def test_routes_follow_an_engine_that_is_started_again(scene: Scene) -> None:
    """The last test here: its engine has no peers any more."""
    with scene.routes("--while-ready", ANYCAST) as process:
        until(lambda: ANYCAST in scene.installed(), "it is announced")
        scene.engine.stop()
        until(lambda: "nobody listens" in process.output(), "it says that the engine is gone")
        assert not scene.installed()
        scene.engine = scene.started()
        until(lambda: scene.installed() == {ANYCAST}, "what is ready again is announced again")
