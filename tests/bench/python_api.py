"""What `import plait` costs among many peers: `python -m tests.bench python-api`, as root.

One control process with 500,000 peers on demand and a provider in Python, without receivers and consumers.
Printed are the time to add peers, to ask for one and for all counters, with the CPU time of control's thread;
the CPU of control while nothing happens; and the memory of both segments.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import click

import plait
from plait import Key, Peer, plaitd_client
from tests.support.control_harness import ControlProcess, Interface
from tests.support.provider import PROVIDER
from tests.support.waiting import until
from workers.settings import Settings

PEERS, STEP = 500_000, 100_000
ONE = 1000  # askings for one peer
ALL = 5  # for all counters
IDLE_SECONDS = 20


def peer(number: int, rules: dict[str, Any]) -> Peer:
    address = IPv4Network((0x0A000000 + number, 32))
    return Peer(Key(number.to_bytes(32, "big")), [address], on_demand=True, idle_after=86_400, **rules)


def cpu_ms(pid: int) -> float:
    """Of a process's first thread so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def measured(pid: int, work: Callable[[], object]) -> tuple[float, float]:
    """ms that it takes, and ms of control's CPU."""
    cpu, began = cpu_ms(pid), time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3, cpu_ms(pid) - cpu


def memory(interface: Interface) -> int:
    """Bytes of both segments that have pages."""
    return sum(os.fstat(fd).st_blocks * 512 for fd in (interface.data_fd, interface.vault_fd))


@click.command()
@click.option("--quotas", is_flag=True, help="Each peer has a quota and a time at which it ends.")
def python_api(quotas: bool) -> None:
    """Measure what Python's API costs among 500,000 peers."""
    ends = datetime.now(UTC) + timedelta(days=30)
    rules: dict[str, Any] = {"quota": 10**11, "expires": ends} if quotas else {}
    settings = Settings(receivers=1, consumers=1, cores=(0,), max_peers=1 << 19)
    with Interface("pythonapi", settings) as interface, ControlProcess(interface) as control:
        pid, wg, empty = control.process.pid, plait.attach(interface.name), memory(interface)
        wg.configure(private_key=Key.generate())
        provider = subprocess.Popen([sys.executable, "-P", "-c", PROVIDER, str(interface.path), "refuse"])
        try:
            for first in range(1, PEERS + 1, STEP):
                some = [peer(number, rules) for number in range(first, first + STEP)]
                wall, cpu = measured(pid, lambda some=some: wg.add(*some))
                print(f"{STEP} peers added to {first - 1}: {wall / 1e3:.2f} s, control {cpu / 1e3:.2f} s")
            print(f"memory: {(memory(interface) - empty) / PEERS:.0f} bytes a peer")
            keys = [peer(number * 487 % PEERS + 1, {}).public_key for number in range(ONE)]
            wall, cpu = measured(pid, lambda: [wg.peer(key) for key in keys])
            print(f"one peer: {wall / ONE:.2f} ms, control {cpu / ONE:.2f} ms (mean of {ONE})")
            asked = [measured(pid, wg.counters) for _ in range(ALL)]
            walls, cpus = zip(*asked, strict=True)
            assert len(wg.counters()) == PEERS
            print(f"counters of {PEERS}: {statistics.median(walls):.0f} ms, control "
                  f"{statistics.median(cpus):.0f} ms (median of {ALL})")
            until(lambda: plaitd_client.engine(interface.name)["on_demand"]["providers"], "a provider")
            cpu = cpu_ms(pid)
            time.sleep(IDLE_SECONDS)
            print(f"nothing happens: {(cpu_ms(pid) - cpu) / IDLE_SECONDS / 10:.2f} % of a core")
        finally:
            provider.kill()
            provider.wait()
