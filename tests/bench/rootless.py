"""A tunnel without root beside the same with root: `python -m tests.bench rootless`, as root.

    client  plait exec / plait up ── eth0 ──── eth0 ── wg0 (Debian's wireguard-go)  server

One TCP stream of iperf3 each way, by turns: by `plait exec` as a user without any capability, and by
`plait up` as root, with the same file.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from itertools import count

import click

from plait.lab.namespaces import WIREGUARD_GO, Host, Lab
from tests.support.rootless import CONF, PLAIT, SERVER, Scene
from tests.support.unprivileged import UNPRIVILEGED

INSIDE = "import time\nprint('up', flush=True)\ntime.sleep(86400)"
ROOTS_FILE = "/run/root/wg0.conf"


def gbit(host: Host, command: list[str]) -> float:
    """Gbit/s that arrive, by iperf3's own account."""
    told = json.loads(host.run(command, check=False, timeout=120).stdout)
    if "error" in told:
        raise click.ClickException(f"`{' '.join(command)}`: {told['error']}")
    return float(told["end"]["sum_received"]["bits_per_second"]) / 1e9


@click.command()
@click.option("--seconds", default=5, show_default=True, help="Of each stream.")
@click.option("--runs", default=5, show_default=True)
def rootless(seconds: int, runs: int) -> None:
    """Hold `plait exec` against the same tunnel of root's."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    ports = count(5201)
    with Lab() as lab:
        scene = Scene(lab, INSIDE, WIREGUARD_GO)
        host = scene.client
        roots = host.root / ROOTS_FILE.lstrip("/")
        roots.parent.mkdir()
        roots.write_text("\n".join(line for line in scene.text.splitlines() if not line.startswith("DNS")))
        roots.chmod(0o600)
        for run in range(runs):
            for way in (("exec", "root") if run % 2 == 0 else ("root", "exec")):
                if way == "root":
                    host.run([PLAIT, "up", ROOTS_FILE])
                before = [*UNPRIVILEGED, PLAIT, "exec", CONF, "--"] if way == "exec" else []
                for direction, option in (("out", []), ("in", ["-R"])):
                    # One server for each stream: the end of a stream is lost where its tunnel ends with it.
                    port = next(ports)
                    server = scene.server.popen(["iperf3", "-s", "-1", "-p", str(port)])
                    scene.server.wait_listening(port, server)
                    stream = ["iperf3", "-c", SERVER, "-p", str(port), "-t", str(seconds), "-J", *option]
                    found[way, direction].append(gbit(host, [*before, *stream]))
                if way == "root":
                    host.run([PLAIT, "down", ROOTS_FILE])
    for direction in ("out", "in"):
        exec_, root = (statistics.median(found[way, direction]) for way in ("exec", "root"))
        print(f"{direction}: exec {exec_:.2f} Gbit/s, root {root:.2f}, ratio {exec_ / root:.2f}")
