"""`plait bench`: what the engine costs on this machine. Only click is imported before a command runs."""

from __future__ import annotations

import click

from plait.handoff_option import HandoffChoice
from plait.later import Later

LATER = {
    "floods": "plait.bench.floods:floods_command",
    "handshakes": "plait.bench.handshakes:handshakes",
    "one-peer": "plait.bench.one_peer:one_peer",
}
# Of plait/bench/figures.py.
FIGURE_NAMES = ("tcp1", "tcp4", "udp64", "ping", "pingtcp", "pingpeer", "flood", "memory")
AEAD_ROUNDS = 7

EXAMPLES = """\b
Examples:
  plait bench tunnel
  plait bench tunnel --list
  plait bench tunnel --vs wireguard-go@latest --vs gotatun
  plait bench tunnel --vs 'wireguard-go -f {iface}' --seconds 2 --runs 1
  plait bench tunnel --handoff inline --handoff pipeline --only tcp1 --only ping
  plait bench aead
  plait bench scale
  plait bench one-peer --vs wireguard-go@latest
  plait bench peers --peers 500000
"""


@click.group(cls=Later, later=LATER, epilog=EXAMPLES,
             short_help="Measure the engine, or parts of it, on this machine.")  # fmt: skip
def bench() -> None:
    """Measure the engine, or parts of it, on this machine."""


@bench.command("tunnel", short_help="The whole tunnel beside other engines and the bare cable.")
@click.option(
    "--vs",
    "others",
    multiple=True,
    metavar="NAME[@VERSION]|COMMAND",
    help="Another engine: of --list, or as it is started: 'wireguard-go -f {iface}'. May be given again.",
)
@click.option(
    "--list", "list_only", is_flag=True, help="Instead: the engines known by name, and how to get each."
)
@click.option(
    "--handoff",
    "handoffs",
    multiple=True,
    type=HandoffChoice(),
    help="Plait in this mode; several are compared with each other. Default: its default.",
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=5,
    show_default=True,
    help="Of each stream, ping, flood and confirmed rate.",
)
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option(
    "--only", multiple=True, type=click.Choice(FIGURE_NAMES), help="This figure; may be given again."
)
@click.option("--json", "json_file", metavar="FILE", help="Write the result there as JSON; - is stdout.")
@click.option("--plot", metavar="DIR", help="Write a plot of each figure there (needs matplotlib).")
def tunnel_command(
    others: tuple[str, ...],
    list_only: bool,
    handoffs: tuple[str, ...],
    seconds: int,
    runs: int,
    only: tuple[str, ...],
    json_file: str | None,
    plot: str | None,
) -> None:
    """Compare Plait with other engines in the same lab: two network namespaces, a cable, MTU 1420.

    TCP with 1 and 4 streams each way, CPU, UDP packets of 64 bytes, ping, a second peer, a program beside a
    flood, memory; medians, spreads, ratios; beside wireguard-go@latest the bars that Plait must clear.
    Needs root. It touches nothing outside its own namespaces, and cleans up however it ends.
    """
    from plait.bench import tunnel

    if list_only:
        tunnel.show_competitors(json_file)
        return
    tunnel.run(
        others=others,
        handoffs=list(dict.fromkeys(handoffs)),
        seconds=seconds,
        runs=runs,
        only=only,
        json_file=json_file,
        plot=plot,
    )


@bench.command("aead", short_help="Sealing and opening a packet, by provider and size.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=AEAD_ROUNDS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def aead_command(rounds: int, as_json: bool) -> None:
    """Measure ChaCha20-Poly1305 as the engine calls it: nanoseconds a packet of 64 to 8,920 bytes."""
    from plait.bench import aead

    aead.run(rounds, as_json=as_json)


@bench.command("scale", short_help="Receivers x consumers, from 1 to the number of cores.")
@click.option("--seconds", type=click.IntRange(1, 600), default=3, show_default=True, help="Of each stream.")
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def scale_command(seconds: int, runs: int, as_json: bool) -> None:
    """Measure one gateway with 1, 2, … receivers and consumers, and as many clients as there are cores.

    Clients and iperf3 run on the cores that a step leaves over. Needs root; it touches nothing outside
    its own namespaces.
    """
    from plait.bench import scale

    scale.run(seconds=seconds, runs=runs, as_json=as_json)


@bench.command("peers", short_help="What many configured peers cost: bytes, times, a tunnel beside them.")
@click.option("--peers", type=click.IntRange(1000, 1_000_000), default=100_000, show_default=True)
@click.option(
    "--vs",
    "others",
    multiple=True,
    metavar="NAME[@VERSION]|COMMAND",
    help="Another engine, as of `plait bench tunnel`, with at most 65,535 of the peers. May be given again.",
)
@click.option(
    "--growth",
    metavar="FILE.svg",
    help="Instead: plot bytes and time from 1 to 2^20 peers (needs matplotlib).",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def peers_command(peers: int, others: tuple[str, ...], growth: str | None, as_json: bool) -> None:
    """Configure many peers beside a tunnel in use: bytes a peer, set and get, idle CPU, ping, TCP, lookups.

    Needs root, and about 1 GB of memory for 500,000 peers. It touches nothing outside its own namespaces.
    """
    if growth is not None:
        from plait.bench import growth as grown

        grown.run(growth, as_json)
        return
    from plait.bench import peers as measured

    measured.run(peers=peers, others=others, as_json=as_json)
