"""A gateway that takes another one for dead, a good peer, and somebody who forges knocks.

    host forger ── cable ──┐
    host good   ── cable ──┴─ host gateway: plaitd, gateway 1 of 16, which was told of gateway 2's sessions
"""

from __future__ import annotations

import json
import os
import struct
import sys
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from plait import plaitd_client
from plait.lab.namespaces import Lab, Peer, Process, keypair
from tests.support.knock_forger import DEAD, index_of
from tests.support.waiting import until

PORT = 51820
GATEWAY, GOOD = "10.202.0.1", "10.202.0.2"
SOURCES = ("10.203.0.1", "10.203.0.2", "10.203.0.3")  # the forger's
CLOSED = 9  # of the forger: where peers are known to be, and nobody is
LEASE = 10  # seconds for which the engine believes it
FORGER = Path(__file__).with_name("knock_forger.py")


@dataclass
class Forged:
    """What the forger tells."""

    sent: int
    seconds: float  # from before the first message to behind the last initiation
    initiations: dict[str, int]  # by source


class KnockedGateway:
    """peers: of the dead gateway; every other one of them has an endpoint here."""

    def __init__(self, lab: Lab, peers: int) -> None:
        self.gateway, self.good, self.forger = lab.add_hosts(["gateway", "good", "forger"])
        to_good, to_forger = (lab.link(self.gateway, host) for host in (self.good, self.forger))
        interface = to_forger.interface(self.forger)
        self.forger.ip(*(f"address add {source}/32 dev {interface}" for source in SOURCES))
        self.gateway.ip(*(f"route add {source} via {to_forger.address(self.forger)}" for source in SOURCES))
        self.address = to_forger.address(self.gateway)
        self.engine = self.gateway.engine(settings="gateway = 1\n")
        (private, self.public), (good_private, good_public) = keypair(), keypair()
        self.keys = [os.urandom(32) for _ in range(peers)]
        endpoint = to_forger.endpoint(self.forger, CLOSED)
        away = [
            Peer(b64encode(key).decode(), [f"10.204.{at >> 8}.{at & 255}/32"], endpoint * (at % 2))
            for at, key in enumerate(self.keys)
        ]
        peer = Peer(good_public, [f"{GOOD}/32"])
        self.engine.configure(private, [peer, *away], [f"{GATEWAY}/24"], PORT)
        back = Peer(self.public, [f"{GATEWAY}/32"], to_good.endpoint(self.gateway, PORT))
        self.good.engine().configure(good_private, [back], [f"{GOOD}/24"], PORT)

    def tell(self) -> None:
        """The other gateway is dead, for LEASE from now on."""
        rows = b"".join(struct.pack("<I", index_of(at)) + key for at, key in enumerate(self.keys))
        plaitd_client.tell_of_neighbour(str(self.engine.socket_path), DEAD, LEASE, rows)

    def forge(self, sessions: int, rate: int, seconds: float) -> Process:
        """Begin to. sessions: how many the forger knows an index of."""
        words = [self.address, PORT, b64decode(self.public).hex(), sessions, rate, seconds, *SOURCES]
        return self.forger.popen([sys.executable, str(FORGER), *map(str, words)])

    def forged(self, forger: Process) -> Forged:
        """Its end; until then the other gateway is dead."""

        def has_ended() -> bool:
            self.tell()
            return forger.poll() is not None

        until(has_ended, "the forger ends")
        return Forged(**json.loads(forger.output()))
