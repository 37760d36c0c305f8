"""Events as typed values: one class for what a program would handle in one way, with the engine's word in it.

docs/events.md lists the engine's words; KINDS says which class each has. An engine newer than this program
may tell words that are not there: these are an Event with `kind` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from plait.api.values import Endpoint, Key, public
from plait.watch.events import filled
from workers.control.events import COUNTS, REFUSALS
from workers.control.events import Event as Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What an engine told. `str()` is a sentence: what happened, why, what to do next."""

    interface: str
    time: datetime
    """UTC, to the millisecond."""
    kind: str
    """The engine's word for it (docs/events.md)."""
    name: str = ""
    """Of the peer that it is about, where that has one."""
    told: dict[str, Any] = field(repr=False, compare=False)
    """All that the engine told, as it was told."""

    def __str__(self) -> str:
        words = filled(self.interface, self.told)
        return f"{words.what}: {words.why}; {words.next}" if words.why else words.what


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeRefused(Event):
    """Somebody sent a handshake message that is not accepted."""

    cause: str
    """The kind: `mac1_wrong`, `unknown_peer`, `timestamp_replayed`, …"""
    source: Endpoint | None = None
    """What stood on the packet; anybody can write any address there."""
    message: str = ""
    peer: Key | None = None
    """Proven."""
    claimed_key: Key | None = None
    """Not proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderLoad(Event):
    """More handshake messages come than can be answered; senders are asked to prove their addresses."""

    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketsDropped(Event):
    """Packets were dropped, `count` of them since the last such event."""

    cause: str
    count: int = 0
    peer: Key | None = None
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeFailed(Event):
    """A handshake of ours cannot begin, or comes to nothing."""

    cause: str
    peer: Key | None = None
    endpoint: Endpoint | None = None
    tries: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRefused(Event):
    """A change was refused whole."""

    cause: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied(Event):
    """A process of the engine ended; another takes its place."""

    worker: str = ""
    cause: str = ""
    """`killed` by a signal, `ended` by itself, or `stuck`."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNotReplaced(Event):
    """A process did not come back so far; it is tried again after `pause` seconds."""

    worker: str = ""
    reason: str = ""
    pause: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReplaced(Event):
    """A process works again, after `away` seconds."""

    worker: str = ""
    incarnation: int = 0
    away: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp(Event):
    """The control process died of something `tries` times, and does not try it again."""

    cause: str
    tries: int = 0
    reason: str = ""
    peer: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfPeer(Event):
    """Something that concerns one peer."""

    peer: Key | None = None
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeBegan(OfPeer):
    """An initiation was sent, or a peer's was answered: `kind` says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBegan(OfPeer):
    """A handshake is complete and its session confirmed: packets flow."""

    reason: str = ""
    """Who began it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(OfPeer):
    """Keys are too old (`keys_expired`, after 180 s) or were wiped (`keys_zeroed`, after 540 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieReceived(OfPeer):
    """The peer is under load, and asked for a proof of our address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointMoved(OfPeer):
    """The peer was heard from another address."""

    was: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAdded(OfPeer):
    """By configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRemoved(OfPeer):
    """By configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKnocked(OfPeer):
    """A client of a dead gateway seems to have sent data; it is sent an initiation there."""

    source: Endpoint | None = None
    """Where it came from, which is unproven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourChanged(Event):
    """A gateway of the same key, whose number is the reason, is dead or back; count: sessions that it had."""

    reason: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEvicted(OfPeer):
    """A peer on demand was idle, and went back to its provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRanOut(OfPeer):
    """A peer used up its quota, or its time is over: it was cut off."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRenewed(OfPeer):
    """A peer that had run out got another quota or expiry, and may talk again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderServes(Event):
    """A program is asked about unknown peers from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFailed(Event):
    """Who is asked about unknown peers went away, or said what has no meaning: `kind` says which."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKeyChanged(Event):
    """The private key was set, or removed: `public_key` is None then."""

    public_key: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenPortChanged(Event):
    """By configuration."""

    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceUp(Event):
    """The interface is administratively up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceDown(Event):
    """The interface is administratively down; all sessions ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersChanged(Event):
    """So many processes carry packets now."""

    receivers: int = 0
    consumers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStarted(Event):
    """The engine started, was upgraded, or its control process was restarted: `kind` says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEnding(Event):
    """The engine ends."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed(Event):
    """So many more events of this kind happened and were not told (docs/events.md, of a flood)."""

    more: int = 0


_FAILED = (
    Kind.NO_PRIVATE_KEY, Kind.NO_ENDPOINT, Kind.PEER_KEY_USELESS, Kind.NO_ROOM_TO_BEGIN, Kind.SEND_FAILED,
    Kind.UNANSWERED, Kind.GIVEN_UP, Kind.UNCONFIRMED,
)  # fmt: skip
KINDS: Final[dict[str, type[Event]]] = {
    **dict.fromkeys(REFUSALS, HandshakeRefused),
    **dict.fromkeys(COUNTS, PacketsDropped),
    **dict.fromkeys(_FAILED, HandshakeFailed),
    Kind.UNDER_LOAD: UnderLoad,
    Kind.NO_ROOM: ConfigurationRefused,
    Kind.SET_REFUSED: ConfigurationRefused,
    Kind.WORKER_DIED: WorkerDied,
    Kind.WORKER_NOT_REPLACED: WorkerNotReplaced,
    Kind.WORKER_REPLACED: WorkerReplaced,
    Kind.SET_GIVEN_UP: GivenUp,
    Kind.PEER_LEFT_OUT: GivenUp,
    Kind.STEP_GIVEN_UP: GivenUp,
    Kind.HANDSHAKE_BEGUN: HandshakeBegan,
    Kind.HANDSHAKE_ANSWERED: HandshakeBegan,
    Kind.HANDSHAKE_COMPLETE: SessionBegan,
    Kind.KEYS_EXPIRED: SessionEnded,
    Kind.KEYS_ZEROED: SessionEnded,
    Kind.KNOCKED: ClientKnocked,
    Kind.GATEWAY_DEAD: NeighbourChanged,
    Kind.GATEWAY_BACK: NeighbourChanged,
    Kind.COOKIE_RECEIVED: CookieReceived,
    Kind.ENDPOINT_MOVED: EndpointMoved,
    Kind.PEER_ADDED: PeerAdded,
    Kind.PEER_REMOVED: PeerRemoved,
    Kind.PEER_EVICTED: PeerEvicted,
    Kind.PEER_RAN_OUT: PeerRanOut,
    Kind.PEER_RENEWED: PeerRenewed,
    Kind.PROVIDER_SERVES: ProviderServes,
    Kind.PROVIDER_GONE: ProviderFailed,
    Kind.PROVIDER_WRONG: ProviderFailed,
    Kind.PRIVATE_KEY_CHANGED: PrivateKeyChanged,
    Kind.PRIVATE_KEY_REMOVED: PrivateKeyChanged,
    Kind.LISTEN_PORT_CHANGED: ListenPortChanged,
    Kind.INTERFACE_UP: InterfaceUp,
    Kind.INTERFACE_DOWN: InterfaceDown,
    Kind.NUMBERS_CHANGED: WorkersChanged,
    Kind.UPGRADED: EngineStarted,
    Kind.STARTED: EngineStarted,
    Kind.RESTARTED: EngineStarted,
    Kind.ENDING: EngineEnding,
}
_KEYS = ("peer", "claimed_key", "public_key")
_PLACES = ("endpoint", "was", "source")
_ELSEWHERE = {"port": "count"}  # a field that the engine calls by another name


def event_of(interface: str, told: dict[str, Any]) -> Event:
    """The event that an engine told of (workers/control/events.py)."""
    kind = told["event"]
    made = Suppressed if "more" in told else KINDS.get(kind, Event)
    values: dict[str, Any] = {
        "interface": interface, "time": datetime.fromtimestamp(told["time"], UTC), "kind": kind, "told": told,
    }  # fmt: skip
    for each in fields(made):
        name = _ELSEWHERE.get(each.name, each.name)
        if each.name in values:
            continue
        if each.name == "cause":
            values["cause"] = told.get("cause", kind)
        elif name in told:
            values[each.name] = _value(name, told[name])
    return made(**values)


def _value(name: str, value: Any) -> Any:
    if name in _KEYS:
        return public(Key(value))
    return Endpoint.parse(value) if name in _PLACES else value
