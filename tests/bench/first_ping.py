"""The first ping of a client whom the gateway does not know: `python -m tests.bench first-ping`, as root.

Clients of Debian's wireguard-go, one after the other, each with a key of its own; a provider in Python that
takes so long for each key. A ping's time has the whole of it: both ends' handshake and the lookup.
"""

from __future__ import annotations

import statistics
import sys

import click

from plait.lab.namespaces import WIREGUARD_GO, Lab, Peer, keypair
from tests.support.waiting import until

PORT = 51820
PROVIDER = """
import asyncio, sys, plait
from ipaddress import ip_network
async def main():
    async with plait.aio.attach("wg0") as wg:
        @wg.provider()
        async def lookup(key, source):
            await asyncio.sleep(float(sys.argv[1]))
            return plait.Peer(key, [ip_network("10.7.0.2/32")], on_demand=True)
        await wg.serve_forever()
asyncio.run(main())
"""


@click.command()
@click.option("--count", default=100, show_default=True)
@click.option("--lookup", default=0.05, show_default=True, help="Seconds that the provider takes.")
def first_ping(count: int, lookup: float) -> None:
    """Ping once from so many clients."""
    with Lab() as lab:
        gateway, client = lab.add_hosts(["gateway", "client"])
        link, (private, public), engine = lab.link(gateway, client), keypair(), gateway.engine()
        engine.configure(private, [], ["10.7.0.1/24"], PORT)
        gateway.popen([sys.executable, "-P", "-c", PROVIDER, str(lookup)])
        until(lambda: engine.report()["on_demand"]["providers"], "a provider")
        times: list[float] = []
        for _ in range(count):
            other = client.engine("wg0", WIREGUARD_GO)
            peer = Peer(public, ["10.7.0.1/32"], link.endpoint(gateway, PORT))
            other.configure(keypair()[0], [peer], ["10.7.0.2/32"])
            times += client.ping("10.7.0.1", 1).times
            other.stop()
        counters = engine.counters()
    print(f"{len(times)} of {count} first pings were answered, in {min(times):.0f} to {max(times):.0f} ms, "
          f"median {statistics.median(times):.0f}")  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in counters.items()
                    if value and name.startswith(("hs_", "unknown_"))))  # fmt: skip
