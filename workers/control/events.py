"""Events: refusals by cause and milestones, which control keeps and sends to whoever asks.

Events are rate-limited by cause, so that a flood neither costs CPU nor evicts other events: each cause has
a token bucket (5 at once, then one a second), asked before anything is made of the arguments. Suppressed
events are counted, and one line "and N more" follows some seconds later. Events that anybody on the network
can bring about are remembered apart from those of peers and administrators: 500 lines each, in memory alone.
A follower may want the begin and end of each session: it is given those that the bucket suppressed as well.

A line is what the configuration socket sends, `event={JSON}`:

    life     which life of the control process, from 1
    number   counts up within a life; later lines have greater ones
    time     seconds since 1970 by the wall clock, to the millisecond
    event    an Event
    more     how many others of this kind the bucket suppressed, with no other detail
    peer     public key in base64, when the cryptography says that it is this peer; `name`, where it has one
    claimed_key   likewise, but only claimed
    endpoint address:port of a peer; `was`: where it was before
    source   address:port that stood on the packet; anybody can write any address there
    message, tries, count, reason, mend    as plait/watch/event_words.py and docs/events.md use them
    worker   control, receiver 0, … (of news of the supervisor, news.py, with times of their own):
             cause (killed, ended, stuck), repaired (words), incarnation, away and pause (seconds)
    receivers, consumers     how many run now

No secret is ever in it: keys here are public ones.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from engine import uapi

if TYPE_CHECKING:
    from workers.control.endpoints import Endpoint

SECOND: Final = 1_000_000_000
BURST: Final = 5
PERIOD: Final = SECOND  # between two events of one cause when they do not end
SLOW_PERIOD: Final = 10 * SECOND  # likewise, of those that are counts of packets
MORE_AFTER: Final = 3 * SECOND  # from the first suppressed event to the line that counts them
REMEMBERED: Final = 500  # of either kind
UNREAD: Final = 4 * REMEMBERED  # lines that a follower may leave unread before it is dropped
UNREAD_SESSIONS: Final = 16_384  # likewise, of one who wants each session: about 4 MB
_PIECE: Final = 100  # lines that are sent at once


class Event(StrEnum):
    """Every event."""

    # a handshake message was refused; nobody proved who sent it
    MESSAGE_LENGTH = "message_length"
    MAC1_WRONG = "mac1_wrong"
    NO_KEY_TO_ANSWER = "no_key_to_answer"
    ARRIVED_WHILE_DOWN = "arrived_while_down"
    UNDER_LOAD = "under_load"
    COOKIE_ASKED = "cookie_asked"
    RATE_LIMITED = "rate_limited"
    LOW_ORDER = "low_order"
    INITIATION_TAG = "initiation_tag"
    UNKNOWN_PEER = "unknown_peer"
    LOOKUP_REFUSED = "lookup_refused"
    LOOKUP_UNANSWERED = "lookup_unanswered"
    LOOKUP_HELD_BACK = "lookup_held_back"
    TIMESTAMP_REPLAYED = "timestamp_replayed"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    INITIATION_FLOOD = "initiation_flood"
    RAN_OUT = "ran_out"
    NO_ROOM_TO_ANSWER = "no_room_to_answer"
    RESPONSE_UNKNOWN = "response_unknown"
    RESPONSE_TAG = "response_tag"
    COOKIE_UNEXPECTED = "cookie_unexpected"
    COOKIE_TAG = "cookie_tag"
    # packets, seen once a second in the counters
    MAILBOX_FULL = "mailbox_full"
    PACKETS_OF_NO_SESSION = "packets_of_no_session"
    PACKETS_DAMAGED = "packets_damaged"
    PACKETS_NO_PEER = "packets_no_peer"
    PACKETS_NO_ENDPOINT = "packets_no_endpoint"
    PACKETS_WRONG_SOURCE = "packets_wrong_source"
    PACKETS_NOT_SENT = "packets_not_sent"
    PACKETS_LOOPED = "packets_looped"
    # we cannot begin a handshake, or it comes to nothing
    NO_PRIVATE_KEY = "no_private_key"
    NO_ENDPOINT = "no_endpoint"
    PEER_KEY_USELESS = "peer_key_useless"
    NO_ROOM_TO_BEGIN = "no_room_to_begin"
    NO_ROOM = "no_room"
    SET_REFUSED = "set_refused"
    SEND_FAILED = "send_failed"
    UNANSWERED = "unanswered"
    GIVEN_UP = "given_up"
    UNCONFIRMED = "unconfirmed"
    # a gateway of the same key died
    GATEWAY_DEAD = "gateway_dead"
    # who is asked about unknown keys
    PROVIDER_GONE = "provider_gone"
    PROVIDER_WRONG = "provider_wrong"
    # a process of the engine ended, and nobody had asked it to
    WORKER_DIED = "worker_died"
    WORKER_NOT_REPLACED = "worker_not_replaced"
    # what control died of three times is not tried again
    SET_GIVEN_UP = "set_given_up"
    PEER_LEFT_OUT = "peer_left_out"
    STEP_GIVEN_UP = "step_given_up"
    # milestones
    HANDSHAKE_BEGUN = "handshake_begun"
    HANDSHAKE_ANSWERED = "handshake_answered"
    HANDSHAKE_COMPLETE = "handshake_complete"
    KNOCKED = "knocked"
    GATEWAY_BACK = "gateway_back"
    COOKIE_RECEIVED = "cookie_received"
    ENDPOINT_MOVED = "endpoint_moved"
    KEYS_EXPIRED = "keys_expired"
    KEYS_ZEROED = "keys_zeroed"
    PROVIDER_SERVES = "provider_serves"
    PEER_ADDED = "peer_added"
    PEER_EVICTED = "peer_evicted"
    PEER_RAN_OUT = "peer_ran_out"
    PEER_RENEWED = "peer_renewed"
    PEER_REMOVED = "peer_removed"
    PRIVATE_KEY_CHANGED = "private_key_changed"
    PRIVATE_KEY_REMOVED = "private_key_removed"
    LISTEN_PORT_CHANGED = "listen_port_changed"
    INTERFACE_UP = "interface_up"
    INTERFACE_DOWN = "interface_down"
    WORKER_REPLACED = "worker_replaced"
    NUMBERS_CHANGED = "numbers_changed"
    UPGRADED = "upgraded"
    STARTED = "started"
    RESTARTED = "restarted"
    ENDING = "ending"


_ALL = tuple(Event)
REFUSALS: Final = frozenset(_ALL[: _ALL.index(Event.MAILBOX_FULL)])
COUNTS: Final = frozenset(_ALL[_ALL.index(Event.MAILBOX_FULL) : _ALL.index(Event.NO_PRIVATE_KEY)])
FAILURES: Final = frozenset(_ALL[_ALL.index(Event.NO_PRIVATE_KEY) : _ALL.index(Event.HANDSHAKE_BEGUN)])
SESSIONS: Final = frozenset({Event.HANDSHAKE_COMPLETE, Event.KEYS_EXPIRED, Event.KEYS_ZEROED})
# What anybody can bring about who can send us a packet.
ANYBODYS: Final = REFUSALS | {
    Event.MAILBOX_FULL, Event.PACKETS_OF_NO_SESSION, Event.PACKETS_DAMAGED, Event.KNOCKED,
}  # fmt: skip


class Bucket:
    """One cause: a token bucket in one word (when it will be full again), and what it suppressed."""

    __slots__ = ("full_at", "period", "since", "suppressed")

    def __init__(self, period: int) -> None:
        self.period = period
        self.full_at = 0
        self.suppressed = 0
        self.since = 0  # when the first of those came

    def has_token(self, now: int) -> bool:
        return self.full_at <= now + (BURST - 1) * self.period

    def take(self, now: int) -> None:
        self.full_at = max(self.full_at, now) + self.period


class Follower:
    """One who follows: an iterator over pieces of lines that never ends, b"" when nothing waits.

    wants_sessions: it is given each event of SESSIONS. Its lines are those of the memory of events, not
    copies. When more than UNREAD wait (UNREAD_SESSIONS), all are dropped and `is_lost` is set.
    """

    def __init__(self, lines: list[bytes], wants_sessions: bool = False) -> None:
        self.unread = deque(lines)
        self.wants_sessions = wants_sessions
        self.is_lost = False

    def __iter__(self) -> Follower:
        return self

    def __next__(self) -> bytes:
        count = min(len(self.unread), _PIECE)
        return b"".join(self.unread.popleft() for _ in range(count))

    def give(self, line: bytes) -> None:
        if self.is_lost:
            return
        if len(self.unread) >= (UNREAD_SESSIONS if self.wants_sessions else UNREAD):
            self.is_lost = True
            self.unread.clear()
        else:
            self.unread.append(line)


class Events:
    """The events of one life of control.

    public_key, name: of a peer's row. now, wall: clocks in ns. Nothing is made of a row or an endpoint before
    its cause's bucket gave a token.
    """

    def __init__(
        self,
        public_key: Callable[[int], bytes],
        name: Callable[[int], str],
        now: Callable[[], int],
        wall: Callable[[], int],
        life: int = 1,
    ) -> None:
        self._public_key = public_key
        self._name = name
        self._now = now
        self._wall = wall
        self._life = life
        self._number = 0
        self._buckets = {event: Bucket(SLOW_PERIOD if event in COUNTS else PERIOD) for event in Event}
        self._suppressing: set[Event] = set()
        self._anybodys: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self._others: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self.followers: set[Follower] = set()

    # -- emitting -----------------------------------------------------------------------------

    def emit(
        self,
        event: Event,
        row: int | None = None,
        place: Endpoint | Callable[[], Endpoint | None] | None = None,
        *,
        key: bytes | None = None,
        message: int = 0,
        was: Endpoint | None = None,
        tries: int = 0,
        count: int = 0,
        reason: str = "",
        mend: str = "",
    ) -> None:
        """It happened. place: endpoint of the peer, or what stood on a packet that is refused; or what
        finds it, called only if the event is kept.

        key: a public key that is no row's (claimed by whom we refuse, or our own). message: a type, 1 to 3.
        """
        is_suppressed = not self.take_token(event)
        if is_suppressed and not self._is_wanted(event):
            return
        fields: dict[str, Any] = {}
        if row is not None:
            fields["peer"] = _base64(self._public_key(row))
            if name := self._name(row):
                fields["name"] = name
        if key is not None:
            fields["claimed_key" if event in REFUSALS else "public_key"] = _base64(key)
        if callable(place):
            place = place()
        if place is not None:
            fields["source" if event in REFUSALS or event is Event.KNOCKED else "endpoint"] = _text(place)
        if was is not None:
            fields["was"] = _text(was)
        if message:
            fields["message"] = _MESSAGES[message]
        if tries:
            fields["tries"] = tries
        if count:
            fields["count"] = count
        if reason:
            fields["reason"] = reason
        if mend:
            fields["mend"] = mend
        self._keep(event, fields, is_suppressed=is_suppressed)

    def emit_news(self, news: dict[str, Any]) -> None:
        """The supervisor says that it happened some time ago (news.py). Unknown events are skipped."""
        fields = dict(news)
        try:
            event, at = Event(fields.pop("event")), int(fields.pop("at"))
        except ValueError:
            return
        if self.take_token(event):
            self._keep(event, fields, at)

    def emit_each(
        self, event: Event, rows: list[int], place: Callable[[int], Endpoint | None], **more: Any
    ) -> None:
        """It happened to each of these, in turn; place finds a row's endpoint."""
        for at, row in enumerate(rows):
            if not self.has_token(event) and not self._is_wanted(event):
                self.suppress(event, len(rows) - at)
                return
            self.emit(event, row, place(row), **more)

    def _is_wanted(self, event: Event) -> bool:
        """Whether a follower wants it even when it is suppressed."""
        return event in SESSIONS and any(follower.wants_sessions for follower in self.followers)

    def suppress(self, event: Event, count: int) -> None:
        """It happened so many times more, without a token or in excess of a few lines: only counted."""
        bucket = self._buckets[event]
        if not bucket.suppressed and count:
            bucket.since = self._now()
            self._suppressing.add(event)
        bucket.suppressed += count

    def take_token(self, event: Event) -> bool:
        """Whether it is kept; else it is counted."""
        bucket, now = self._buckets[event], self._now()
        if not bucket.has_token(now):
            self.suppress(event, 1)
            return False
        bucket.take(now)
        return True

    def has_token(self, event: Event) -> bool:
        """Whether `emit` would keep it now; for counts, which may grow until it would."""
        return self._buckets[event].has_token(self._now())

    def emit_suppressed(self) -> None:
        """Once a second: lines that count what buckets suppressed."""
        if not self._suppressing:
            return
        now = self._now()
        for event in [e for e in self._suppressing if self._buckets[e].since + MORE_AFTER <= now]:
            bucket = self._buckets[event]
            self._suppressing.discard(event)
            self._keep(event, {"more": bucket.suppressed})
            bucket.suppressed = 0

    def _keep(
        self, event: Event, fields: dict[str, Any], at: int | None = None, is_suppressed: bool = False
    ) -> None:
        """at: ns by the wall clock, when it was not now. is_suppressed: it is for those who want it alone."""
        self._number += 1
        when = self._wall() if at is None else at
        head = {"life": self._life, "number": self._number, "time": when // 1_000_000 / 1000}
        line = b"event=%s\n" % json.dumps({**head, "event": event, **fields}).encode("ascii")
        if not is_suppressed:
            (self._anybodys if event in ANYBODYS else self._others).append((self._number, line))
        for follower in self.followers:
            is_told_each = follower.wants_sessions and event in SESSIONS
            if ("more" not in fields) if is_told_each else (not is_suppressed):
                follower.give(line)

    # -- asking -------------------------------------------------------------------------------

    def remembered(self) -> list[bytes]:
        """The lines that are still known, oldest first."""
        return [line for _, line in sorted([*self._anybodys, *self._others])]

    def follow(self, wants_sessions: bool = False) -> Follower:
        """What is remembered, then whatever comes, until `leave`."""
        follower = Follower(self.remembered(), wants_sessions)
        self.followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        self.followers.discard(follower)


_MESSAGES = {1: "initiation", 2: "response", 3: "cookie reply"}


def _base64(key: bytes) -> str:
    return b64encode(key).decode("ascii")


def _text(place: Endpoint) -> str:
    return str(uapi.Endpoint(place.address, place.port, str(place.scope) if place.scope else ""))
