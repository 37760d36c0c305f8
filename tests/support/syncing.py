"""A gateway whose engine follows a store, and a host for its clients."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from plait import uapi_client
from plait.lab.namespaces import WIREGUARD_GO, Engine, Lab, Peer, Process, keypair
from tests.support.waiting import until

PORT = 51820
PLAIT = (sys.executable, "-m", "plait")
LISTEN = "127.0.0.1:9587"
SCRAPE = f"import urllib.request; print(urllib.request.urlopen('http://{LISTEN}/metrics').read().decode())"


class Gateway:
    """host gateway   wg0 -- plaitd -- eth0 ---- eth0 -- wireguard-go -- c0   host client"""

    url = ""  # of the store
    environment: Mapping[str, str] = {}

    def __init__(self, lab: Lab) -> None:
        self.host, self.client = lab.add_hosts(["gateway", "client"])
        self.link = lab.link(self.host, self.client)
        self.private, self.public = keypair()
        self.engine = self.started()
        self.addresses = (f"10.7.{number >> 8}.{number & 255}" for number in itertools.count(2))

    def started(self) -> Engine:
        engine = self.host.engine()
        engine.configure(self.private, [], ["10.7.0.1/16"], PORT)
        return engine

    def reset(self) -> None:
        """No peers, nothing remembered."""
        self.engine.uapi("set=1\nreplace_peers=true\n\n")
        shutil.rmtree(self.host.root / "run/plait/sync", ignore_errors=True)

    def peers(self) -> dict[str, uapi_client.Peer]:
        """By public key."""
        told = uapi_client.get(str(self.engine.socket_path)).peers
        return {peer.public_key: peer for peer in told}

    def sync(self, *options: str, url: str = "", check: bool = True) -> tuple[int, str, str]:
        """Run it to its end: exit code, stdout, stderr."""
        command = [*PLAIT, "sync", "wg0", url or self.url, *options]
        done = self.host.run(command, environment=self.environment, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.returncode, done.stdout, done.stderr

    @contextmanager
    def syncing(self, *options: str) -> Iterator[Process]:
        """One that follows."""
        command = [*PLAIT, "sync", "wg0", self.url, "--listen", LISTEN, *options]
        process = self.host.popen(command, environment=self.environment)
        try:
            until(lambda: "follows" in process.output() or process.poll() is not None, "it follows")
            assert process.poll() is None, process.output()
            yield process
        finally:
            process.close()

    def metrics(self) -> dict[str, float]:
        """What a sync tells of itself."""
        lines = self.host.run([sys.executable, "-c", SCRAPE]).stdout.splitlines()
        told = (line.partition("{")[::2] for line in lines if line.startswith("plait_sync"))
        return {name: float(rest.split()[-1]) for name, rest in told}

    @contextmanager
    def client_engine(self, private: str, address: str) -> Iterator[Engine]:
        """A client of Debian's wireguard-go."""
        engine = self.client.engine("c0", WIREGUARD_GO)
        peer = Peer(self.public, ["10.7.0.1/32"], self.link.endpoint(self.host, PORT))
        engine.configure(private, [peer], [f"{address}/32"])
        try:
            yield engine
        finally:
            engine.stop()
