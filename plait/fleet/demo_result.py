"""What `plait fleet demo` found, and its tables. All times are in seconds; `at` counts from the kill."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.table import Table

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass
class Times:
    """Of so many things, the time that each took."""

    count: int = 0
    quantiles: dict[str, float] = field(default_factory=dict)  # of QUANTILES; empty when there were none


def times(values: Iterable[float]) -> Times:
    """Their quantiles: the least value that so large a share does not exceed."""
    ordered = sorted(values)
    if not ordered:
        return Times()
    at = {name: max(0, math.ceil(share * len(ordered)) - 1) for name, share in QUANTILES.items()}
    return Times(len(ordered), {name: round(ordered[place], 3) for name, place in at.items()})


@dataclass
class GatewayResult:
    """One of the gateways. clients: that the router sends there. handshakes: accepted. unknown: messages that
    came for a session that is not here."""

    number: int
    is_killed: bool
    clients_before: int
    clients_after: int
    handshakes_before: int
    handshakes_after: int
    unknown_before: int
    unknown_after: int


@dataclass
class Echoes:
    """Of all clients, a second, around this time."""

    at: float
    asked: float
    answered: float


@dataclass
class Clients:
    """Which gateway the router sends how many clients to, from this time on."""

    at: float
    gateways: dict[int, int]


@dataclass
class Lag:
    """Of a change in the store, written at that time: until this gateway had it in force."""

    at: float
    gateway: int
    seconds: float


@dataclass
class Timeline:
    """What happened when."""

    echoes: list[Echoes] = field(default_factory=list)
    clients: list[Clients] = field(default_factory=list)
    lags: list[Lag] = field(default_factory=list)


@dataclass
class Result:
    """Everything.

    gaps: of each client the longest time without an answer. renewals: of the clients that began a handshake
    since they heard nothing, from the first echo without an answer to the next answer. moved: clients of the
    killed gateway that have a session at another one. withdrawn, rerouted: from the kill until the router had
    no route to each of them by the killed gateway, and until it had one by another.
    """

    clients: int
    store: str
    killed: int = 0
    gateways: list[GatewayResult] = field(default_factory=list)
    moved: int = 0
    handshakes: int = 0
    changes: int = 0
    gaps: Times = field(default_factory=Times)
    renewals: Times = field(default_factory=Times)
    withdrawn: Times = field(default_factory=Times)
    rerouted: Times = field(default_factory=Times)
    sync_lag: Times = field(default_factory=Times)
    timeline: Timeline = field(default_factory=Timeline)
    wrong: list[str] = field(default_factory=list)


def show(result: Result) -> None:
    """The tables, on stdout."""
    from plait.watch.engine import console

    printer = console()
    for made in tables(result):
        printer.print(made)


def tables(result: Result) -> list[Table]:
    """Times, and each gateway before and after."""
    from plait.watch.engine import table

    killed = f"gateway {result.killed}"
    spans = table(f"Seconds ({killed} was killed with kill -9)", ("what",), ("of", *QUANTILES))
    for what, found in (
        ("longest gap of each client", result.gaps),
        (f"silence of the clients of {killed}", result.renewals),
        ("kill to route withdrawn", result.withdrawn),
        ("kill to route by another gateway", result.rerouted),
        ("change in the store to in force", result.sync_lag),
    ):
        cells = (f"{found.quantiles[name]:.2f}" if found.quantiles else "-" for name in QUANTILES)
        spans.add_row(what, str(found.count), *cells)
    gateways = table(
        f"Gateways, before the kill and after it ({result.clients} clients)", ("gateway",),
        ("clients", "after", "handshakes", "after", "strays", "after"),
    )  # fmt: skip
    for each in result.gateways:
        after = (each.clients_after, each.handshakes_after, each.unknown_after)
        before = (each.clients_before, each.handshakes_before, each.unknown_before)
        pairs = zip(before, ("---" if each.is_killed else after), strict=True)
        name = f"{each.number}, killed" if each.is_killed else str(each.number)
        gateways.add_row(name, *(str(cell) for pair in pairs for cell in pair))
    gateways.caption = "strays: messages of sessions that another gateway has, or had"
    gateways.caption_justify = "left"
    return [spans, gateways]
