"""Two load generators and one: `python -m tests.bench merged-load`, as root.

    one ───┐
    other ─┤ a wire with a delay ─ gateway, plaitd
    whole ─┘

By turns: `one` and `other` have half of the peers each and their results are merged; `whole` has all of them.
Counts must be the same. Percentiles are of the same peers, rates and way, so they should be: the delay is
that of a network, beside which it is of little weight that two generators share the core of one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import click

from plait.lab.namespaces import Host, Lab
from plait.lab.wire import Wire
from plait.load import merge as load_merge
from plait.load import profile as load_profile
from plait.load.key_derivation import Keys, gateway_address, seed_bytes, setconf_text
from plait.load.process_orders import inner_networks, known_to

PORT = 51820
COUNTED = "initiations", "handshakes", "asked", "answered"
PERCENTILES = "p50", "p99"
PREPARED_SECONDS = 4.0  # after the start, when all generators begin
PROFILE, RESULT = "run/merged.toml", "run/result.json"
TEXT = """
peers = {peers}
seed = "merged"
[[phase]]
name = "sessions"
seconds = 3
handshakes = {{ rate = {each}, count = {peers} }}
[[phase]]
name = "echoes"
seconds = {seconds}
traffic = {{ rate = {rate}, bytes = 64 }}
"""


def generate(address: str, places: Sequence[tuple[Host, str]]) -> dict[str, Any]:
    """One run of generators that begin together, (host, its peers), at this address: the merged result."""
    start = time.time() + PREPARED_SECONDS
    running = []
    for host, peers in places:
        words = ["--target", f"{address}:{PORT}", "--i-own-this-target", address]
        words += ["--peers-range", peers, "--start-at", f"{start:.3f}", "--json", f"/{RESULT}"]
        running.append(host.popen(["plait", "load", "run", f"/{PROFILE}", *words]))
    for process in running:
        assert process.wait() in (0, 98), process.output()[-2000:]  # 98: it was too slow at times
    documents = [json.loads((host.root / RESULT).read_text()) for host, _ in places]
    return documents[0] if len(documents) == 1 else load_merge.merged(documents)


@click.command()
@click.option("--runs", default=5, show_default=True)
@click.option("--peers", default=200, show_default=True)
@click.option("--rate", default=500, show_default=True, help="Echoes a second.")
@click.option("--seconds", default=10, show_default=True, help="Of echoes, each run.")
@click.option("--delay", default=0.02, show_default=True, help="Seconds on the way, each way.")
def merged_load(runs: int, peers: int, rate: int, seconds: int, delay: float) -> None:
    """Run two generators and one by turns."""
    with Lab() as lab:
        gateway, *hosts = lab.add_hosts(["gateway", "one", "other", "whole"])
        wire = Wire(lab)
        address = wire.join(gateway).link.address(gateway)
        for host in hosts:
            wire.join(host)
        wire.set(0, delay)
        text = TEXT.format(peers=peers, each=peers, rate=rate, seconds=seconds)
        for host in hosts:
            (host.root / PROFILE).write_text(text)
        profile = load_profile.parse(text, PROFILE)
        keys, (network,) = Keys(seed_bytes(profile.seed)), inner_networks(profile)
        engine = gateway.engine("wg0")
        inner = f"{gateway_address(network)}/{network.prefixlen}"
        engine.configure(b64encode(keys.gateway()[0]).decode(), [], [inner], PORT)
        with (gateway.root / "run/peers.conf").open("w") as file:
            file.writelines(setconf_text(keys, known_to(profile, "gateway"), port=None, psk=profile.psk))
        gateway.run(["wg", "addconf", "wg0", "/run/peers.conf"])
        halves = f"0-{peers // 2 - 1}", f"{peers // 2}-{peers - 1}"
        pair = list(zip(hosts, halves, strict=False))
        ratios: dict[str, list[float]] = {name: [] for name in PERCENTILES}
        same = True
        for number in range(runs):
            two = generate(address, pair)
            one = generate(address, [(hosts[-1], f"0-{peers - 1}")])
            line = []
            for ours, theirs in zip(two["phases"], one["phases"], strict=True):
                counts = [[phase["counters"][name] for name in COUNTED] for phase in (ours, theirs)]
                same &= counts[0] == counts[1]
                line.append(f"{ours['name']} {counts[0]} and {counts[1]}")
            figures = [made["phases"][-1]["metrics"] for made in (two, one)]
            for name in PERCENTILES:
                ratios[name].append(figures[0][name] / figures[1][name])
                line.append(f"{name} {figures[0][name] * 1e6:.0f} and {figures[1][name] * 1e6:.0f} us")
            print(f"run {number + 1}, two generators merged and one: " + "; ".join(line), flush=True)
    for name, found in ratios.items():
        print(f"{name}, merged to one: median {statistics.median(found):.3f} x, "
              f"{min(found):.3f} to {max(found):.3f}")  # fmt: skip
    print(f"{', '.join(COUNTED)}: " + ("the same in each run" if same else "not the same"))
    sys.exit(0 if same else 99)
