"""The hosts of `plait fleet demo`, and what runs in them.

      host clients   sources 10.99.0.1+N, simulated by the load generator
           |
      host router    nftables steers by the index; BIRD hears which gateway has which client, and who is ready
       |  |  |  |
       |  |  |  host store   PostgreSQL, or NATS
       |  |  |
      hosts 1, 2, 3   plaitd wg0 (gateway = 1, 2, 3; one private key; 198.51.100.1 on lo), `plait sync`,
                      `plait routes`, BIRD by configs/routing/bird.conf

The router has a table for each gateway: the shared address, for as long as that gateway announces it. A
message whose gateway is gone finds no route there, and goes on by the table of all that are ready.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from plait import plaitd_client
from plait.failure import Failure
from plait.fleet.demo_clients import profile_of
from plait.fleet.demo_routes import COMMAND, RouterRoutes
from plait.keys import encode
from plait.lab import routing
from plait.lab.namespaces import Engine, Host, Lab, Link, Process
from plait.lab.nats_server import NatsServer
from plait.lab.postgresql import PostgreSQL
from plait.load.key_derivation import Keys, gateway_address, inner_network, peer_address, seed_bytes

GATEWAYS: Final = (1, 2, 3)
INTERFACE: Final = "wg0"
PORT: Final = 51820
ANYCAST: Final = "198.51.100.1"
SOURCES: Final = "10.99.0.0/16"
FIRST_SOURCE: Final = "10.99.0.1"
INNER: Final = "10.64.0.0/10"
LAB: Final = "10.200.0.0/16"  # of all cables
READY: Final = 100  # the table of all gateways that are ready; gateway N alone has table N
PLAIT: Final = (sys.executable, "-m", "plait")
BESIDE: Final = ("plait sync", "plait routes", "bird")  # what runs at a gateway beside its engine
FORWARD: Final = """
echo 1 > /proc/sys/net/ipv4/ip_forward
for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done
"""

ROUTER: Final = """
router id {address};
log stderr all;
protocol device {{ }}
protocol bfd {{ }}
ipv4 table ready;
protocol kernel {{ ipv4 {{ export where net != {anycast}/32; }}; }}
protocol kernel {{ kernel table {ready}; merge paths on; ipv4 {{ table ready; export all; }}; }}
template bgp site {{
    local as 64513; bfd on; connect delay time 1; connect retry time 1; error wait time 1, 1;
}}
"""
ROUTER_OF_GATEWAY: Final = """
ipv4 table gateway{number};
protocol bgp from{number} from site {{
    source address {here}; neighbor {there} as 64512;
    ipv4 {{ table gateway{number}; import all; export none; }};
}}
protocol kernel {{
    kernel table {number};
    ipv4 {{ table gateway{number}; export where net = {anycast}/32; }};
}}
protocol pipe {{
    table gateway{number}; peer table master4; import none; export where net != {anycast}/32;
}}
protocol pipe {{ table gateway{number}; peer table ready; import none; export where net = {anycast}/32; }}
"""
# As in docs/fleet.md.
STEERING: Final = """
table ip steering {{
  chain steer {{ type filter hook prerouting priority mangle;
    ip daddr {anycast} udp dport {port} jump by_index
  }}
  chain by_index {{
    @th,64,8 {{ 3, 4 }} meta mark set @th,96,8 & 15 map {{ {marks} }}
    @th,64,8 2 meta mark set @th,128,8 & 15 map {{ {marks} }}
    @th,64,8 1 meta mark set jhash ip saddr . udp sport mod {count} seed 0x7 offset 1
  }}
}}
"""


class Server(Protocol):
    """A store's server: PostgreSQL, or NATS."""

    process: Process | None

    @property
    def url(self) -> str: ...
    def credentials(self, host: Host) -> dict[str, str]: ...
    def prepare(self) -> None: ...
    def add(self, rows: list[tuple[str, str]]) -> None: ...
    def close(self) -> None: ...


SERVERS: Final[dict[str, Callable[[Host, str], Server]]] = {"postgresql": PostgreSQL, "nats": NatsServer}


@dataclass
class Gateway:
    """A gateway, and what runs there by name."""

    number: int
    host: Host
    link: Link  # to the router
    engine: Engine
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of its cable to the router."""
        return self.link.address(self.host)

    @property
    def socket(self) -> str:
        """Of its engine."""
        return str(self.engine.socket_path)

    def handshakes(self) -> dict[bytes, int]:
        """The latest handshake of each peer that had one, in ns since 1970."""
        return {key: at for key, at in plaitd_client.handshakes(self.socket) if at}


class Scene:
    """All of it. It is made in the order of its methods."""

    def __init__(self, lab: Lab, store: str, clients: int) -> None:
        """Hosts and cables; engines and the store's server begin to start."""
        self.seed = secrets.token_hex(16)
        self.keys = Keys(seed_bytes(self.seed))
        self.network = inner_network(INNER, clients)
        self.clients = {public: self.inner(number) for number, (public, _) in
                        enumerate(self.keys.publics(range(clients)))}  # fmt: skip
        names = ["clients", "router", "store", *(f"gateway {number}" for number in GATEWAYS)]
        self.client, self.router, self.store, *hosts = lab.add_hosts(names)
        self.outer = lab.link(self.router, self.client)
        self.side = lab.link(self.router, self.store)
        links = [lab.link(self.router, host) for host in hosts]
        self.kind = store
        self.server = SERVERS[store](self.store, self.side.address(self.store))
        self.gateways = [
            Gateway(number, host, link, host.engine(INTERFACE, settings=settings(number), wait=False))
            for number, host, link in zip(GATEWAYS, hosts, links, strict=True)
        ]
        self.routes = RouterRoutes()
        self._told = 0  # bytes of the monitor's output

    def inner(self, number: int) -> str:
        """The address of client `number` in the tunnel."""
        return str(peer_address(self.network, number))

    def connect_hosts(self) -> None:
        """Addresses, routes and steering."""
        self.client.ip(
            f"route add local {SOURCES} dev lo", f"route add default via {self.outer.address(self.router)}"
        )
        self.store.ip(f"route add default via {self.side.address(self.router)}")
        self.router.run(["sh", "-ec", FORWARD])
        rules = [f"rule add fwmark {each.number} table {each.number} priority {100 + each.number}"
                 for each in self.gateways]  # fmt: skip
        rules += [f"rule add to {ANYCAST} table {READY} priority 200"]
        self.router.ip(f"route add {SOURCES} via {self.outer.address(self.client)}", *rules)
        for each in self.gateways:
            router = each.link.address(self.router)
            each.host.ip(
                f"address add {ANYCAST}/32 dev lo", f"route add {LAB} via {router}",
                f"route add {SOURCES} via {router} src {ANYCAST}",
            )  # fmt: skip
        marks = ", ".join(f"{number} : {number}" for number in GATEWAYS)
        text = STEERING.format(anycast=ANYCAST, port=PORT, marks=marks, count=len(GATEWAYS))
        self.router.run(["nft", "-f", "-"], text=text)
        self.monitor = self.router.popen(COMMAND, environment={"TZ": "UTC"})
        text = ROUTER.format(address=self.outer.address(self.router), anycast=ANYCAST, ready=READY)
        for each in self.gateways:
            text += ROUTER_OF_GATEWAY.format(
                number=each.number, here=each.link.address(self.router), there=each.address, anycast=ANYCAST
            )
        self.router_bird = routing.bird(self.router, text)

    def fill_store(self) -> None:
        """The server runs, and has all clients."""
        self.server.prepare()
        self.server.add([(encode(key), f"{address}/32") for key, address in self.clients.items()])

    def start_gateway(self, gateway: Gateway) -> None:
        """Its engine with key and address, and what stands beside it."""
        gateway.engine.wait_ready()
        private, _ = self.keys.gateway()
        address = f"{gateway_address(self.network)}/{self.network.prefixlen}"
        gateway.engine.configure(encode(private), [], [address], PORT)
        gateway.processes = {"plaitd": gateway.engine.process}
        for name in BESIDE:
            self.start_beside(gateway, name)

    def start_beside(self, gateway: Gateway, name: str) -> None:
        """One of BESIDE at a gateway, for the first time or again."""
        commands = {
            "plait sync": ["sync", INTERFACE, self.server.url],
            "plait routes": ["routes", INTERFACE, "--while-ready", f"{ANYCAST}/32"],
        }
        if name == "bird":
            text = routing.of_gateway("bird.conf", gateway.link, gateway.host, self.router)
            process = routing.bird(gateway.host, text)
        else:
            environment = self.server.credentials(gateway.host)
            process = gateway.host.popen([*PLAIT, *commands[name]], environment=environment)
        gateway.processes[name] = process

    def start_clients(self) -> Process:
        """The load generator."""
        profile = profile_of(
            len(self.clients), f"{ANYCAST}:{PORT}", f"{FIRST_SOURCE}+{len(self.clients)}", self.seed
        )
        (self.client.root / "run/profile.json").write_bytes(msgspec.json.encode(profile))
        files = ["/run/profile.json", "/run/found.json"]
        command = [sys.executable, "-m", "plait.fleet.demo_clients", *files, ANYCAST]
        self.load = self.client.popen(command)
        return self.load

    def look_at_router(self) -> None:
        """Learn what its kernel was told since the last look."""
        text, self._told = self.monitor.output_since(self._told)
        self.routes.feed(text)

    def ready(self) -> list[int]:
        """The gateways that the router sends to."""
        return [number for number in GATEWAYS if ANYCAST in self.routes.via.get(str(number), {})]

    def check(self) -> None:
        """Failure when something has ended that should run."""
        for where, name, process in self._running():
            if process.poll() is not None:
                said = " ".join(process.output().strip().splitlines()[-3:]) or "(nothing)"
                why = f"exit code {process.poll()}"
                raise Failure(f"{name} of {where} ended", why, f"It said: {said}")

    def _running(self) -> Iterator[tuple[str, str, Process]]:
        yield "the router", "bird", self.router_bird
        yield "the router", "ip monitor", self.monitor
        if self.server.process is not None:
            yield "the store", self.kind, self.server.process
        for gateway in self.gateways:
            for name, process in gateway.processes.items():
                yield f"gateway {gateway.number}", name, process


def settings(number: int) -> str:
    """A gateway's own settings. What all gateways have besides their number stands here."""
    return f"gateway = {number}\nreceivers = 1\nconsumers = 1\n"
