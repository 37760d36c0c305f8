"""The shapes of what plaitd tells of itself, as far as commands read them.

control/engine_report.py, control/busiest.py and control/events.py make these and explain each field. More
fields than these may be there: a newer engine's report is shown by an older command.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

import msgspec

Direction = Literal["inbound", "outbound"]
Time = Annotated[float, msgspec.Meta(ge=0, lt=253402214400)]  # seconds since 1970, up to the year 9999

COUNTERS: Final = (
    "udp_received", "udp_sent", "tun_received", "tun_sent", "lost_wakes", "slots_starved",
    "hs_initiation_accepted", "hs_response_accepted",
)  # fmt: skip


class Flows(TypedDict):
    udp_received: int
    udp_sent: int
    tun_received: int
    tun_sent: int


class Process(TypedDict):
    role: str
    number: int
    pid: int
    cpu: int | None
    state: str
    asleep: bool
    incarnation: int
    beat_ms: float | None
    packets: Flows


class Queue(TypedDict):
    waiting: int
    peers: int
    longest: int


class Pool(TypedDict):
    receiver: int
    direction: Direction
    home: int
    mine: int
    queued: int
    in_hand: int
    small_slots: int
    small_out: int
    train_slots: int
    train_out: int


class BytesPerPeer(TypedDict):
    idle: dict[str, float]
    session: dict[str, float]


class Gateway(TypedDict):
    """What stands in the receiver indices."""

    number: int
    bits: int


class DeadGateway(TypedDict):
    """A neighbour whose clients are begun with when they knock."""

    number: int
    sessions: int
    seconds: float


class Engine(TypedDict):
    """The answer to get_engine."""

    aead: str
    gateway: NotRequired[Gateway | None]  # an older engine tells none
    version: NotRequired[str]
    layout: NotRequired[str]
    commit: NotRequired[str]
    peers: int
    connected: NotRequired[int]  # an older engine tells none
    rules: NotRequired[dict[str, int]]  # likewise
    dead_gateways: NotRequired[list[DeadGateway]]  # likewise
    processes: list[Process]
    queues: dict[Direction, Queue]
    tokens: dict[str, int]
    pools: list[Pool]
    longest_turn_ms: NotRequired[float]
    bytes_per_peer: NotRequired[BytesPerPeer]  # an older engine tells none
    counters: dict[str, int]
    kernel_drops: NotRequired[dict[str, int | None]]
    key_log: NotRequired[str | None]  # an older engine does not tell


class Refusal(TypedDict):
    what: str
    why: str
    next: str


class Neighbour(TypedDict):
    """The answer to neighbour."""

    refused: Refusal | None
    sessions: NotRequired[int]


class Numbers(TypedDict):
    receivers: int
    consumers: int


class Change(TypedDict):
    """What became of an upgrade or of other numbers (workers/supervisor/changes.py)."""

    refused: Refusal | None
    program: NotRequired[str]
    says: NotRequired[str]
    version: NotRequired[str]
    layout: NotRequired[str]
    commit: NotRequired[str]
    before: NotRequired[Numbers]
    after: NotRequired[Numbers]


class BusiestPeer(TypedDict):
    public_key: str
    name: NotRequired[str]  # an older engine tells none
    endpoint: str | None
    allowed_ips: list[str]
    allowed_ips_more: int
    latest_handshake: int
    rx_bytes: int
    tx_bytes: int
    rx_rate: float
    tx_rate: float
    waiting_in: int
    waiting_out: int


class Busiest(TypedDict):
    """The answer to get_busiest."""

    interval_ms: float | None
    active: int
    rx_rate: float
    tx_rate: float
    peers: list[BusiestPeer]


class Told(TypedDict):
    """An event."""

    life: int
    number: int
    time: Time
    event: str
    more: NotRequired[int]
    peer: NotRequired[str]
    claimed_key: NotRequired[str]
    public_key: NotRequired[str]
    endpoint: NotRequired[str]
    was: NotRequired[str]
    source: NotRequired[str]


def decode(text: str | bytes, shape: type) -> dict[str, Any]:
    """The object that the JSON text is, with all its fields. ValueError when its shape is another."""
    try:
        found = msgspec.json.decode(text)
        msgspec.convert(found, shape)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if shape is Engine:
        for name in COUNTERS:
            if name not in found["counters"]:
                raise ValueError(f"Object missing required field `{name}` - at `$.counters`")
    answer: dict[str, Any] = found
    return answer
