"""The JSON of a load run and of a lab, version 2: its shape, which docs/load-schema.json is printed from.

A reader takes what it knows: a later version of Plait may add fields, and then says so here. What it takes
away or gives another meaning makes another VERSION. Added since: `populations` and `arrived` of a phase,
events `oneway`, the last three fields of an `Interval`. Times in seconds, rates a second, shares of 1; a time
of day is ISO 8601 with its offset. `null` is "not measured"; 0 is a measured nothing.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import msgspec

VERSION = 2

End = Literal["running", "finished", "stopped", "gave_up", "aborted", "failed"]


Moment = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class Plait(msgspec.Struct):
    """Which Plait it was, as `plait --version` says."""

    version: str
    layout: str
    commit: str


class Machine(msgspec.Struct):
    """A machine that sent. peers: numbers of its first and its last simulated peer."""

    host: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    python: str
    plait: Plait
    cores: list[int]
    peers: tuple[int, int]
    began: Moment


class Gateway(msgspec.Struct):
    """Who was measured. version: what a lab's engine says, or what `--tag gateway=` was given."""

    address: str
    version: str | None


class Precomputed(msgspec.Struct):
    """What was computed before the clock started."""

    seconds: float
    ephemerals: int
    static_static: int


class Generator(msgspec.Struct, omit_defaults=True):
    """What the generator itself used and where it was the limit. What was not measured is left out."""

    lag_most: float
    limits: list[str]
    cpu_seconds: float | None = None
    cpu_share: float | None = None
    us_per_handshake: float | None = None
    us_per_datagram: float | None = None


class Account(msgspec.Struct):
    """What became of events that were due at a rate: in_time, late and not_sent are all of them. because:
    of those that were not sent, for each cause."""

    due: int
    in_time: int
    late: int
    not_sent: int
    because: dict[str, int]


class Party(msgspec.Struct):
    """Who bounded what was measured (generator, gateway, profile, keys, host, network), and how."""

    party: str
    text: str


class Population(msgspec.Struct):
    """What the peers of one population found in a phase; each field as the phase's. lag_most: the latest that
    anything left, by the generator's doing."""

    seconds: float
    confirmed_last: float
    longest_gap: float
    lag_most: float
    counters: dict[str, int]
    events: dict[str, Account]
    times: dict[str, dict[str, float | str]]
    metrics: dict[str, float | None]


class Arrived(msgspec.Struct):
    """ICMP messages that the gateway's host counted: echo requests, and one-way packets."""

    echoes: int
    oneway: int


class Phase(msgspec.Struct):
    """One phase. began: seconds since 1970. finished: false when the run ended in it, its figures are those
    until then.

    confirmed_last: seconds of the phase until its last handshake was confirmed. longest_gap: seconds in
    which echoes were out and no peer of a load process got an answer. events: of `echoes`, `handshakes`,
    `oneway` and `others`. populations: where the profile names some. arrived: null where
    nobody knows.

    times: `response`, `handshake` and `round_trip` from when an event was due; the same with `_departed` from
    when it left; `recovery` and `gap` of each peer; `confirmed_at` in the phase. Of each `count`, quantiles,
    `min`, `mean` and `hdr`, the HdrHistogram of nanoseconds in its interchange format (base64); what was not
    measured is left out.
    """

    name: str
    began: float
    finished: bool
    seconds: float
    confirmed_last: float
    longest_gap: float
    counters: dict[str, int]
    events: dict[str, Account]
    times: dict[str, dict[str, float | str]]
    metrics: dict[str, float | None]
    parties: list[Party]
    generator: Generator
    populations: dict[str, Population] = {}
    arrived: Arrived | None = None


class Total(msgspec.Struct):
    """All phases together."""

    metrics: dict[str, float | None]


class Requirement(msgspec.Struct):
    """What --require asked. found: null when nothing was measured, which does not hold. blame: of one that
    does not hold, `generator` when it would, had all that was due left in time."""

    text: str
    holds: bool
    found: float | None
    blame: str | None


class Interval(msgspec.Struct, rename={"begin": "from"}):
    """What happened between two moments of a phase: rates, and percentiles of the interval's round trips."""

    begin: float
    at: float
    phase: str
    sessions: int
    outstanding: int
    initiations: float
    handshakes: float
    cookies: float
    asked: float
    answered: float
    datagrams_out: float
    datagrams_in: float
    inner_out: float
    inner_in: float
    round_trip: dict[str, float]
    oneway: float = 0.0
    oneway_out: float = 0.0
    strangers_begun: float = 0.0


class Run(msgspec.Struct):
    """What `plait load run --json` and `plait load merge` write. plait_load: the version of this schema."""

    plait_load: Literal[2]
    command: list[str]
    began: Moment
    ended: Moment
    end: End
    why: str | None
    stopped_early: bool
    machines: list[Machine]
    gateway: Gateway
    tags: dict[str, str]
    bytes_per_peer: int
    precomputed: Precomputed
    profile: dict[str, Any]
    phases: list[Phase]
    total: Total
    requirements: list[Requirement]
    series: list[Interval]


class LabEngine(msgspec.Struct):
    """An engine of a lab. version: what the program says; null when it says none."""

    name: str
    command: str
    version: str | None


class LabGateway(msgspec.Struct):
    """What an engine used. ended: when it ended by itself, and with what, seconds after the run began."""

    configure_seconds: float
    cpu_seconds: float | None
    pss_bytes_idle: int
    pss_bytes_after: int | None
    ended: str | None


class LabTurn(msgspec.Struct):
    """An engine's turn. failed: why there is no run, or none to its end."""

    name: str
    engine: str
    round: int
    gateway: LabGateway | None
    run: Run | None
    failed: str | None


class LabRequirement(Requirement):
    """A requirement, held against one turn."""

    name: str
    round: int


class LabRun(msgspec.Struct):
    """What `plait load run --lab … --json` writes. plait_load_lab: the version of this schema."""

    plait_load_lab: Literal[2]
    command: list[str]
    began: Moment
    ended: Moment
    end: End
    why: str | None
    tags: dict[str, str]
    profile: dict[str, Any]
    rounds: int
    engines: list[LabEngine]
    turns: list[LabTurn]
    requirements: list[LabRequirement]


def json_schema() -> dict[str, Any]:
    """JSON Schema of both documents."""
    made, components = msgspec.json.schema_components([Run, LabRun], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"plait load, version {VERSION}",
        "description": " ".join((__doc__ or "").partition("\n\n")[2].split()),
        "anyOf": list(made),
        "$defs": dict(sorted(components.items())),
    }
