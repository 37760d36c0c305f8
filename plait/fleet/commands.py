"""`plait fleet`: many gateways on this machine alone."""

from __future__ import annotations

import sys

import click


@click.group(short_help="Try many gateways, on this machine alone.")
def fleet() -> None:
    """Gateways that share one address, one private key and one store of peers: `plait sync`, `plait routes`
    and `gateway = N` together. docs/fleet.md says how to set them up."""


@fleet.command(short_help="Run three gateways and kill one, on this machine alone.")
@click.option("--clients", type=click.IntRange(1, 5000), default=200, show_default=True)
@click.option("--store", type=click.Choice(("postgresql", "nats")), default="postgresql", show_default=True,
              help="What holds the peers.")  # fmt: skip
@click.option("--svg", metavar="FILE", help="Draw what happened over time.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON.")
def demo(clients: int, store: str, svg: str | None, as_json: bool) -> None:
    """Three gateways, a router (nftables, BIRD), a store and simulated clients, in network namespaces of
    their own. The gateway with most clients is killed with SIGKILL; its clients find the other two. Then a
    table: gaps, handshakes, routes, and how far `plait sync` is behind.

    \b
    Examples:
      plait fleet demo
      plait fleet demo --clients 1000 --svg timeline.svg
      plait fleet demo --store nats --json

    Needs root, and Debian's bird2, nftables, wireguard-tools, and postgresql or nats-server. It touches
    nothing outside its own namespaces, and leaves nothing behind however it ends. It takes about 30 s. Exit
    code 1 when anything is wrong: a client that did not come back, peers that are not those of the store.
    """
    from plait.fleet import demo

    sys.exit(demo.run(clients=clients, store=store, svg=svg, as_json=as_json))
