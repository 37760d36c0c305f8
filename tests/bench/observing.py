"""What it costs control to be watched: `python -m tests.bench.observing`, as root.

Control's own parts on a segment of 500,000 peers, without traffic. CPU time of this thread in ms, the
median of some askings: of `get_engine=1`, and of `get_busiest=200` for so many peers that sent or received.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from engine import timers
from tests.support.control_harness import Interface, Parts
from workers._workers import lib
from workers.control import engine_report
from workers.control.busiest import SECOND, Busiest
from workers.settings import Settings

PEERS = 500_000
ASKINGS = 9


def cpu_ms(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1e3


def main() -> None:
    settings = Settings(receivers=2, consumers=2, cores=(0, 1), max_peers=1 << 19)
    with Interface("observing", settings) as interface:
        parts = Parts(interface)
        parts.memory.ensure_rows(PEERS)
        parts.memory.device.rows_used = PEERS
        parts.memory.rows["state"][:PEERS] = 1
        reports = [
            cpu_ms(lambda: json.dumps(engine_report.report(interface.segment, 1, PEERS, "")))
            for _ in range(ASKINGS)
        ]
        print(f"get_engine: {statistics.median(reports):.1f} ms")
        for active in (0, 1000, 50_000, PEERS):
            ask_busiest(parts, active)
        parts.close()


def ask_busiest(parts: Parts, active: int) -> None:
    busiest, now = Busiest(parts.memory, parts.peers.count_allowed), 1000 * SECOND
    first = cpu_ms(lambda: busiest.sample(now))
    rows = np.arange(active) * (PEERS // max(active, 1))
    later = []
    for _ in range(ASKINGS):
        now += SECOND
        parts.memory.columns[lib.LAST_AUTHENTICATED, rows] = timers.tick(now)
        for row in rows:
            parts.segment.rows[int(row)].rx_bytes += 1000

        def ask(at: int = now) -> str:
            busiest.sample(at)
            peers = [(row, parts.configuration._record(row)) for row in busiest.rows(200)]
            return json.dumps(busiest.report(peers))

        later.append(cpu_ms(ask))
    print(f"get_busiest=200, {active} active: first {first:.1f} ms, then {statistics.median(later):.1f} ms")


if __name__ == "__main__":
    main()
