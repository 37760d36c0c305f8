"""`plait show --engine`: the inside of running engines as tables.

The engine tells it over its configuration socket: the operation `get_engine=1` is answered by one
line `engine=JSON`, then `errno=0` and an empty line (control/engine_report.py has the JSON's shape). CPU
and memory of its processes are read from /proc here.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from plait import plaitd_client
from plait.standard_streams import terminal_width
from plait.watch import engines, installed
from plait.watch.processes import cpu_seconds, is_realtime, process_stat, pss_bytes
from plait.watch.terminal import is_coloured

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PROCESSES = (
    "core: that it is bound to, - for any. RT: runs before ordinary processes now. "
    "starts: 1 when it never had to be replaced. "
    "turn: ms since the latest; who sleeps takes none. CPU: time used. PSS: memory, shared pages divided."
)
WIDTH = 10_000  # columns of what is no terminal: more than any table has


def run(interface: str | None, *, as_json: bool) -> None:
    """Print the report of one interface or of all."""
    told = engines.ask(engines.names(interface), plaitd_client.engine)
    if as_json:
        json.dump({name: _whole(report) for name, report in told}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    from rich.markup import escape

    printer = console()
    for name, report in told:
        provider = escape(report["aead"])
        gateway = report.get("gateway")
        numbered = "   [bold]gateway[/bold]: {number} in {bits} bits".format(**gateway) if gateway else ""
        printer.print(f"[bold]interface[/bold]: {escape(name)}   [bold]AEAD[/bold]: {provider}{numbered}")
        if "version" in report:  # an older engine tells none
            which = "{version} (memory layout {layout}, commit {commit})".format(**report)
            printer.print(f"[bold]plaitd[/bold]: {escape(which)}")
        if differs := installed.difference(report):
            words = f"{differs}; {installed.mend(name, report)}"
            printer.print(f"[bold]plaitd[/bold]: {escape(words)}", soft_wrap=True)
        for dead in report.get("dead_gateways", []):
            words = "{number} since {seconds:.0f} s; {sessions} sessions that it had are known".format(**dead)
            printer.print(f"[bold]dead gateway[/bold]: {words}")
        if path := report.get("key_log"):
            words = f"the keys of every handshake go to {path}; whoever reads it can read the traffic"
            printer.print(f"[bold red]key log[/bold red]: {escape(words)}", soft_wrap=True)
        for each in report.get("broken_promises", []):
            words = f"does not hold here: {each['promise'] or each['name']}: {each['why']}; {each['mend']}"
            printer.print(f"[bold]promise[/bold]: {escape(words)}", soft_wrap=True)
        for made in tables(with_usage(report)):
            printer.print(made)


def _whole(report: dict[str, Any]) -> dict[str, Any]:
    return {**with_usage(report), "differs": installed.difference(report)}


def with_usage(report: dict[str, Any]) -> dict[str, Any]:
    """The report with cpu_seconds, pss_bytes and realtime (it runs before ordinary processes now) of each
    process, None where /proc does not tell."""
    for process in report["processes"]:
        process["cpu_seconds"] = process["pss_bytes"] = process["realtime"] = None
        with contextlib.suppress(OSError, IndexError, ValueError):
            _, fields = process_stat(process["pid"])
            process["cpu_seconds"], process["realtime"] = cpu_seconds(fields), is_realtime(fields)
            process["pss_bytes"] = pss_bytes(process["pid"])
    return report


def tables(report: dict[str, Any]) -> list[Table]:
    """The report as tables: processes, queues, slots, bytes, counters."""
    return [_processes(report), _queues(report), _slots(report), _bytes(report), _counters(report)]


def console() -> Console:
    """Standard output for tables, with bold heads where `plait show` would have colours.

    On a terminal it is as wide as that; elsewhere nothing is cut.
    """
    from rich.console import Console

    width = terminal_width() or WIDTH
    return Console(highlight=False, width=width, color_system="auto" if is_coloured() else None)


def table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    """A table whose first columns are flush left and whose others are flush right.

    Where the console is too narrow, it is printed in parts: each has the first columns and some others.
    """
    from plait.watch.parted_table import PartedTable

    return PartedTable(title, left, right)


def mebibytes(count: int | None) -> str:
    """Bytes for a table."""
    return "-" if count is None else f"{count / 2**20:.1f}"


def _processes(report: dict[str, Any]) -> Table:
    made = table(
        "Processes",
        ("process", "state"),
        ("pid", "core", "RT", "starts", "turn ms", "CPU s", "PSS MiB"),
    )
    made.caption, made.caption_justify = PROCESSES, "left"
    for process in report["processes"]:
        numbered = process["role"] in ("receiver", "consumer")
        asleep = process["state"] == "running" and process["asleep"]
        made.add_row(
            f"{process['role']} {process['number']}" if numbered else process["role"],
            "asleep" if asleep else process["state"],
            str(process["pid"]),
            "-" if process["cpu"] is None else str(process["cpu"]),
            {True: "yes", False: "no", None: "-"}[process["realtime"]],
            str(process["incarnation"]),
            "-" if process["beat_ms"] is None else f"{process['beat_ms']:.0f}",
            "-" if process["cpu_seconds"] is None else f"{process['cpu_seconds']:.2f}",
            mebibytes(process["pss_bytes"]),
        )
    return made


def _queues(report: dict[str, Any]) -> Table:
    # An older engine does not tell how many are connected.
    connected = f", {report['connected']} connected" if "connected" in report else ""
    title = f"Queues of {report['peers']} peer{'' if report['peers'] == 1 else 's'}{connected}"
    made = table(title, ("direction",), ("packets waiting", "of so many peers", "longest queue"))
    for direction, queue in report["queues"].items():
        made.add_row(direction, str(queue["waiting"]), str(queue["peers"]), str(queue["longest"]))
    tokens = ", ".join(f"{count} {name}" for name, count in report["tokens"].items())
    made.caption, made.caption_justify = f"peers by token (who may work at their queue): {tokens}", "left"
    return made


def _slots(report: dict[str, Any]) -> Table:
    made = table(
        "Packet buffers (slots) in use, and descriptors of packets by where they are",
        ("receiver",),
        ("small", "trains", "at receiver", "queued", "in work", "free"),
    )
    for pool in report["pools"]:
        made.add_row(
            f"{pool['receiver']} {pool['direction']}",
            f"{pool['small_out']} of {pool['small_slots']}",
            f"{pool['train_out']} of {pool['train_slots']}",
            *(str(pool[key]) for key in ("mine", "queued", "in_hand", "home")),
        )
    return made


def _bytes(report: dict[str, Any]) -> Table:
    made = table("Bytes of shared memory", ("part",), ("for an idle peer", "more with a session"))
    columns = report.get("bytes_per_peer", {"idle": {}, "session": {}})  # an older engine tells none
    for name, count in columns["idle"].items():
        made.add_row(name, f"{count:,.1f}", "")
    for name, count in columns["session"].items():
        made.add_row(name, "", f"{count:,.1f}")
    made.add_row("sum", *(f"{sum(columns[kind].values()):,.1f}" for kind in ("idle", "session")))
    return made


def _counters(report: dict[str, Any]) -> Table:
    made = table("Packets by what became of them (causes never met are left out)", ("cause",), ("packets",))
    counters = report["counters"]
    for name in sorted(counters, key=lambda name: (name.startswith("drop_"), name.startswith("hs_"))):
        if counters[name]:
            made.add_row(name, str(counters[name]))
    for where, count in report.get("kernel_drops", {}).items():  # an older engine tells none
        if count:
            made.add_row(f"drop_kernel_{where}", str(count))
    return made
