"""What a long load run takes of memory: `python -m tests.robustness.soak.load_memory --minutes 120`, as root.

Echoes of a real engine's peers through the tunnel, one load process, each interval to a file. Once a second
the memory of the command and of its load process that no file stands behind (Pss_Anon and Pss_Shmem: pages
of files are shared with whatever else runs) is read. What it was after a tenth of the run is held against
what it is at the end. Exit code 99 when it grew by more than GROWS_MOST.
"""

from __future__ import annotations

import json
import re
import sys
import time
from base64 import b64encode
from itertools import pairwise

import click

from plait.lab.namespaces import Lab, Process, read_proc
from plait.load import profile as load_profile
from plait.load.key_derivation import Keys, gateway_address, seed_bytes, setconf_text
from plait.load.process_orders import inner_networks, known_to

PORT = 51820
MIB = 1 << 20
GROWS_MOST = 5 * MIB
PROFILE, PEERS, RESULT, SERIES = "run/long.toml", "run/peers.conf", "run/long.json", "run/long.ndjson"
TEXT = """
peers = {peers}
seed = "{seed}"
target = "{target}"
[[phase]]
name = "sessions"
handshakes = {{ outstanding = 8 }}
[[phase]]
name = "echoes"
seconds = {seconds}
traffic = {{ rate = {rate}, bytes = 64 }}
"""


def taken(command: Process) -> int:
    """Bytes that the command and its load processes have without a file. 0: one of them has ended."""
    whole = 0
    children = (read_proc(command.pid, f"task/{command.pid}/children") or "").split()
    for pid in (command.pid, *map(int, children)):
        found = re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", read_proc(pid, "smaps_rollup") or "", re.M)
        if not found:
            return 0
        whole += sum(map(int, found)) << 10
    return whole if children else 0


def watch(command: Process, begin: float, seconds: float) -> list[tuple[float, int]]:
    """(how far the run is, bytes) each second until the command ends."""
    seen = []
    while command.poll() is None:
        far = (time.monotonic() - begin) / seconds
        if (bytes_now := taken(command)) and far < 1:
            seen.append((far, bytes_now))
        time.sleep(1)
    return seen


@click.command()
@click.option("--minutes", default=120.0, show_default=True)
@click.option("--peers", default=50, show_default=True)
@click.option("--rate", default=200, show_default=True, help="Echoes a second.")
def main(minutes: float, peers: int, rate: int) -> None:
    """Run for so long."""
    with Lab() as lab:
        gateway, client = lab.add_hosts(["gateway", "load"])
        link = lab.link(gateway, client)
        target = link.endpoint(gateway, PORT)
        text = TEXT.format(peers=peers, rate=rate, seconds=60 * minutes, target=target, seed="long")
        (client.root / PROFILE).write_text(text)
        profile = load_profile.parse(text, PROFILE)
        keys = Keys(seed_bytes(profile.seed))
        (network,) = inner_networks(profile)
        engine = gateway.engine("wg0")
        inner = f"{gateway_address(network)}/{network.prefixlen}"
        engine.configure(b64encode(keys.gateway()[0]).decode(), [], [inner], PORT)
        with (gateway.root / PEERS).open("w") as file:
            file.writelines(setconf_text(keys, known_to(profile, "gateway"), port=None, psk=profile.psk))
        gateway.run(["wg", "addconf", "wg0", f"/{PEERS}"])
        words = ["plait", "load", "run", f"/{PROFILE}", "--json", f"/{RESULT}", "--out", f"ndjson=/{SERIES}"]
        command = client.popen([*words, "--i-own-this-target", link.address(gateway)])
        seen = watch(command, time.monotonic(), 60 * minutes)
        assert command.wait() in (0, 98), command.output()[-2000:]  # 98: it was too slow at times
        result = json.loads((client.root / RESULT).read_text())
    echoes = result["phases"][-1]["counters"]
    tenth, end = next(bytes_now for far, bytes_now in seen if far >= 0.1), seen[-1][1]
    most = max(now for _, now in seen)
    step = max(after[1] - before[1] for before, after in pairwise(seen))
    print(f"{minutes:g} min, {echoes['answered']} of {echoes['asked']} echoes were answered: "
          f"{tenth / MIB:.1f} MiB after a tenth, {end / MIB:.1f} MiB at the end, {most / MIB:.1f} at most; "
          f"the greatest step in a second {step / MIB:.2f} MiB")  # fmt: skip
    grown = end - tenth
    if grown > GROWS_MOST:
        print(f"grew by {grown / MIB:.1f} MiB: at most {GROWS_MOST / MIB:g} are right")
    sys.exit(99 if grown > GROWS_MOST else 0)


if __name__ == "__main__":
    main(prog_name="python -m tests.robustness.soak.load_memory")
