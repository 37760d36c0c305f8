"""The result of `plait bench tunnel` for people: figures, ratios, verdicts, and how to read them."""

from __future__ import annotations

from typing import Any

from plait.bench.comparison import RUNS_OF_A_VERDICT, SECONDS_OF_A_VERDICT
from plait.bench.competitors import NEWEST
from plait.bench.neighbours import FLOOD_RATE, LINE

SIDE_BY_SIDE = 3  # implementations in one table of medians


def show(result: dict[str, Any]) -> None:
    """Print the tables on stdout."""
    from plait.watch.engine import console

    printer = console()
    for made in tables(result):
        printer.print(made)
    printer.print("\n".join(notes(result)), markup=False)


def tables(result: dict[str, Any]) -> list[Any]:
    """As rich tables: medians and spreads; ratios, if there is something to compare; verdicts, likewise."""
    names = [(one["title"], one["name"]) for one in result["implementations"]]
    made = [_figures(result, names[at : at + SIDE_BY_SIDE]) for at in range(0, len(names), SIDE_BY_SIDE)]
    if result["ratios"]:
        made.append(_ratios(result))
    if result["verdicts"]:
        made.append(_verdicts(result))
    return made


def _figures(result: dict[str, Any], names: list[tuple[str, str]]) -> Any:
    from plait.watch.engine import table

    columns = tuple(column for _, name in names for column in (name, "min..max"))
    made = table("Medians", ("figure", "unit"), columns)
    for figure in result["figures"]:
        cells: list[str] = []
        for title, _ in names:
            cells += _cells(figure["found"].get(title), figure["decimals"])
        made.add_row(figure["title"], figure["unit"], *cells)
    return made


def show_competitors(rows: list[dict[str, str]]) -> None:
    """Print the engines known by name."""
    from plait.watch.engine import console, table

    made = table("Engines that --vs knows by name", ("--vs", "version", "found at", "how to get it"), ())
    for row in rows:
        made.add_row(row["name"], row["version"] or "-", row["path"] or "-", row["get"])
    console().print(made)


def _cells(found: dict[str, Any] | None, decimals: int) -> tuple[str, str]:
    if found is None:
        return "-", ""
    form = f",.{decimals}f"
    return format(found["median"], form), f"{found['min']:{form}}..{found['max']:{form}}"


def _ratios(result: dict[str, Any]) -> Any:
    from plait.watch.engine import table

    names = {one["title"]: one["name"] for one in result["implementations"]}
    pairs = list(dict.fromkeys((row["one"], row["other"]) for row in result["ratios"]))
    by_place = {(row["metric"], row["one"], row["other"]): row["ratio"] for row in result["ratios"]}
    columns = tuple(f"{one} / {names[other]}" for one, other in pairs)
    made = table("Ratios of medians", ("figure", "better is"), columns)
    for figure in result["figures"]:
        cells = [by_place.get((figure["key"], *pair)) for pair in pairs]
        if any(cell is not None for cell in cells):
            made.add_row(figure["title"], figure["better"], *(_ratio(cell) for cell in cells))
    return made


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} x" if value >= 10 else f"{value:.2f} x" if value >= 0.1 else f"{value:.3f} x"


def _verdicts(result: dict[str, Any]) -> Any:
    from plait.watch.engine import table

    rivals = [one["name"] for one in result["implementations"] if one["title"] == NEWEST]
    made = table(f"Required beside {rivals[0]}", ("figure", "engine"), ("wanted", "found", ""))
    for verdict in result["verdicts"]:
        word = {True: "pass", False: "MISS", None: f"open ({verdict['why']})"}[verdict["passed"]]
        made.add_row(
            verdict["title"], verdict["implementation"], verdict["wanted"], _ratio(verdict["found"]), word
        )
    return made


def notes(result: dict[str, Any]) -> list[str]:
    """What the figures are, for a reader who has the tables alone."""
    runs, seconds, machine = result["runs"], result["seconds"], result["machine"]
    plural = "s" * (runs != 1)
    lines = [
        f"Medians of {runs} run{plural} on {machine['cores']} cores, Linux {machine['kernel']}. In each run",
        "every figure is measured for one implementation after the other. Engines, iperf3 and ping share",
        "the machine: only ratios within one table count.",
        f"TCP: iperf3, {seconds} s a stream after a warm-up, bits that its receiver counts.",
        "CPU: all processes of both engines; iperf3, and what sends and counts datagrams, are not in it.",
        "UDP: the highest rate at which at most 1 % is lost, by short trials and a longer one; what is",
        "due goes out each millisecond. At the slowest's rate: where all engines do the same work.",
        "Ping: every 10 ms; medians of the runs' averages. The second peer has a cable of its own to b.",
        f"Flood: {FLOOD_RATE:,} UDP packets a second without payload, a line of {LINE // 10**6} Mbit/s,",
        "sealed by a simulated peer of b. Kept: of the work that a program on all cores, with normal",
        "priority, does beside the idle tunnel. PSS: memory, shared pages divided.",
        "plait (MODE) is its default hand-off; plait MODE was started with that one.",
    ]
    if result["sender_was_the_limit"]:
        names = ", ".join(result["sender_was_the_limit"])
        lines.append(f"UDP of {names}: the sender could do no more here; the rate borne may be higher.")
    if machine["load_at_start"] > machine["cores"] / 2:
        load = f"load {machine['load_at_start']}"
        lines.append(f"Other work was running ({load}): figures are worse than they could be.")
    if any(verdict["passed"] is None for verdict in result["verdicts"]):
        least = f"--runs {RUNS_OF_A_VERDICT} --seconds {SECONDS_OF_A_VERDICT}"
        lines.append(f"Open: a verdict needs the figure of both, and {least} or more.")
    return lines
