"""What `plait top` shows: rates, as differences between two askings of one engine.

Bytes and their rates come from the engine (control/busiest.py), which alone can compare all peers; packets,
drops, handshakes and CPU are compared here. `Watch.take` gives a picture, ready for json.dumps:

    {"interface": "wg0", "time": 1764000000.0, "interval": 1.0, "aead": "libipsec-mb AVX512",
     "peers": 2, "connected": 2, "active": 1,      connected: null where the engine is older
     "rates": {"rx_bytes": 0.0, "tx_bytes": 0.0, "udp_received": 0.0, "udp_sent": 0.0, "tun_received": 0.0,
               "tun_sent": 0.0, "handshakes": 0.0, "drops": 0.0},
     "processes": [{"role": "receiver", "number": 0, "pid": 4711, "core": 0, "realtime": true,
                    "state": "running", "restarts": 0, "cpu_percent": 12.5, "pss_bytes": 9000000,
                    "rates": {"udp_received": 0.0, …}}, …],
     "queues": …, as in the engine's report,
     "slots": {"inbound": {"small": [used, all], "train": [used, all]}, "outbound": …},
     "drops": [{"cause": "no_peer", "total": 7, "rate": 0.5}, …],       those ever met, most first; also
                           kernel_tun and kernel_udp: what the kernel dropped before the engine could read it
     "handshakes": [{"outcome": "response_accepted", "total": 1, "rate": 0.0}, …],      likewise
     "lost_wakes": 0, "slots_starved": 0,
     "busiest": […]}                               peers as the engine tells them

Rates are per second, null in a first picture and across a restart of the engine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from plait import plaitd_client, uapi_client
from plait.watch.processes import cpu_seconds, is_realtime, process_stat, pss_bytes

BUSIEST = 200  # peers that are asked for: what sorting and filtering work on
PSS_SECONDS = 5.0  # between two readings of memory: the kernel walks page tables for it
HANDSHAKES = ("hs_initiation_accepted", "hs_response_accepted")
FLOWS = ("udp_received", "udp_sent", "tun_received", "tun_sent")


class Watch:
    """One engine, asked again and again."""

    def __init__(self, interface: str, peers: int = BUSIEST) -> None:
        self.interface = interface
        self.peers = peers
        self._before: dict[str, Any] | None = None
        self._pss: dict[int, int | None] = {}
        self._pss_at = float("-inf")

    def take(self, patience: float = uapi_client.TIMEOUT) -> dict[str, Any]:
        """Ask, and compare with the asking before. Failure when the engine does not answer.

        patience: seconds for each of two answers.
        """
        report = plaitd_client.engine(self.interface, patience)
        busiest = plaitd_client.busiest(self.interface, self.peers, patience)
        report["at"] = time.monotonic()
        self._read_processes(report)
        before, self._before = self._before, report
        return picture(self.interface, report, busiest, before)

    def _read_processes(self, report: dict[str, Any]) -> None:
        pids = [process["pid"] for process in report["processes"]]
        if report["at"] - self._pss_at >= PSS_SECONDS or set(pids) != set(self._pss):
            self._pss_at = report["at"]
            self._pss = {pid: _pss(pid) for pid in pids}
        for process in report["processes"]:
            process["cpu_seconds"] = process["realtime"] = None
            process["pss_bytes"] = self._pss[process["pid"]]
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = process_stat(process["pid"])[1]
                process["cpu_seconds"], process["realtime"] = cpu_seconds(fields), is_realtime(fields)


def _pss(pid: int) -> int | None:
    try:
        return pss_bytes(pid)
    except (OSError, ValueError):
        return None  # it has ended, or its memory is not ours to look at


def picture(
    interface: str, report: dict[str, Any], busiest: dict[str, Any], before: dict[str, Any] | None
) -> dict[str, Any]:
    """The picture of two reports; each with `at`, seconds of a steady clock, and its processes' usage."""
    counters, old = _counters(report), _counters(before) if before else {}
    if any(counters[name] < old.get(name, 0) for name in counters):
        before, old = None, {}  # another engine of the same name
    seconds = report["at"] - before["at"] if before else 0.0

    def rate(now: float, then: float) -> float | None:
        return round(max(now - then, 0) / seconds, 1) if seconds > 0 else None

    def rate_of(*names: str) -> float | None:
        return rate(sum(counters[name] for name in names), sum(old.get(name, 0) for name in names))

    def met(prefix: str, word: str) -> list[dict[str, Any]]:
        names = [name for name in counters if name.startswith(prefix) and counters[name]]
        found: list[dict[str, Any]] = [
            {word: name.removeprefix(prefix), "total": counters[name], "rate": rate_of(name)}
            for name in names
        ]
        return sorted(found, key=lambda each: (-(each["rate"] or 0), -each["total"]))

    drops = [name for name in counters if name.startswith("drop_")]
    old_processes = {p["pid"]: p for p in before["processes"]} if before else {}
    measured = busiest["interval_ms"] is not None
    return {
        "interface": interface,
        "time": round(time.time(), 3),
        "interval": round(seconds, 3) if seconds > 0 else None,
        "aead": report["aead"],
        "peers": report["peers"],
        "connected": report.get("connected"),  # an older engine tells none
        "active": busiest["active"],
        "rates": {
            "rx_bytes": busiest["rx_rate"] if measured else None,
            "tx_bytes": busiest["tx_rate"] if measured else None,
            **{name: rate_of(name) for name in FLOWS},
            "handshakes": rate_of(*HANDSHAKES),
            "drops": rate_of(*drops),
        },
        "processes": [
            _process(each, old_processes.get(each["pid"]), seconds) for each in report["processes"]
        ],
        "queues": report["queues"],
        "slots": _slots(report["pools"]),
        "drops": met("drop_", "cause"),
        "handshakes": met("hs_", "outcome"),
        "on_demand": _on_demand(report, rate_of),
        "lost_wakes": counters["lost_wakes"],
        "slots_starved": counters["slots_starved"],
        "busiest": busiest["peers"],
    }


def _on_demand(
    report: dict[str, Any], rate_of: Callable[..., float | None]
) -> dict[str, Any] | None:
    """Unknown keys and questions about them; None where nobody was ever asked."""
    told = report.get("on_demand")  # an older engine tells none
    if told is None or not (told["providers"] or report["counters"]["unknown_asked"]):
        return None
    return {
        "providers": told["providers"],
        "parked": told["parked"],
        "asked": rate_of("unknown_asked"),
        "answered": rate_of("unknown_answered"),
        "refused": rate_of("unknown_refused", "unknown_cached"),
    }


def _counters(report: dict[str, Any]) -> dict[str, int]:
    """Those of the engine, and what the kernel dropped, as if the engine had."""
    drops = report.get("kernel_drops", {})  # an older engine tells none
    return {**report["counters"], **{f"drop_kernel_{where}": count or 0 for where, count in drops.items()}}


def _process(now: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    cpu = None
    if before and None not in (now["cpu_seconds"], before["cpu_seconds"]) and seconds > 0:
        cpu = round(100 * (now["cpu_seconds"] - before["cpu_seconds"]) / seconds, 1)
    rates = {
        name: round(max(now["packets"][name] - before["packets"][name], 0) / seconds, 1)
        if before and seconds > 0
        else None
        for name in FLOWS
    }
    return {
        "role": now["role"],
        "number": now["number"],
        "pid": now["pid"],
        "core": now["cpu"],
        "realtime": now["realtime"],
        "state": now["state"],
        "restarts": max(now["incarnation"] - 1, 0),
        "cpu_percent": cpu,
        "pss_bytes": now["pss_bytes"],
        "rates": rates,
    }


def _slots(pools: list[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    slots: dict[str, dict[str, list[int]]] = {}
    for pool in pools:
        sums = slots.setdefault(pool["direction"], {"small": [0, 0], "train": [0, 0]})
        for size, (used, all_) in sums.items():
            sums[size] = [used + pool[f"{size}_out"], all_ + pool[f"{size}_slots"]]
    return slots
