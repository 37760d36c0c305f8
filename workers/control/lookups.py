"""Lookups: initiations of keys that are no peer's are parked while a provider is asked about them.

What an unknown initiation passes, the cheap before the dear:

    mac1, cookie, limiter   as every message (handshakes.py)
    the static key opens    responder.py: from here on the key is known, and that it is nobody's
    a provider serves       or one did until lately, and is waited for: a restart of it, or of control, must
                            not cost each client its 5 s until it tries again. Else it is refused
    not refused lately      refusals.py
    the timestamp opens     one X25519 more. Only the owner of that key can have made it, so it is its own or
                            a replay of one: nobody can make up questions about others' keys
    room                    PARKED of them; a later one of the same key takes the place of the earlier
    window, bucket          a question waits for both, and its initiation meanwhile

An initiation is parked with its sender and the address that it came to for PARKED_TIME at most. When a `set`
adds its peer, it is taken once more, as if it had just come. Each ends in one HS_ counter: of its answer, or
HS_UNKNOWN_PEER when it is refused, grows too old or another took its place; it counts as wasted work then,
not while it is parked. Parked ones stand in the vault (parking.py), so that a control that comes after a kill
goes on with them: it answers those that are peers by now, and asks about the others once more.

Peers that are evicted (eviction.py) are offered to the provider as questions of their own; an initiation of
one is parked until it is gone. What their greatest timestamps were is remembered for a while, and a peer on
demand that has none may not begin with an initiation older than FLOOR, the engine, or the latest peer that
a control before this one took away; one that was parked before is judged by what the control knew that
parked it.

A provider is a client of the configuration socket (provider.py). The first that came serves, the others stand
by. A question stays open until its provider answers, so that one that hangs is asked no more than its window.
"""

from __future__ import annotations

import errno
import logging
from base64 import b64encode
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import tai64n, uapi
from workers._workers import ffi, lib
from workers.attempts import Step
from workers.control.endpoints import Endpoint
from workers.control.events import Event, Events
from workers.control.parking import Parked, Parking
from workers.control.provider import SILENT, Answer, Provider, Question, Wrong
from workers.control.refusals import Refusals
from workers.control.vault import PARKED_MOST

if TYPE_CHECKING:
    from workers._workers import counter
    from workers.control.vault import Vault

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
PARKED_TIME: Final = 5 * SECOND  # then its sender tries again
QUESTIONS_A_SECOND: Final = 1000
QUESTIONS_AT_ONCE: Final = 250
PROVIDERS: Final = 8
FLOOR: Final = 300 * SECOND
REMEMBERED: Final = 4096  # timestamps of evicted peers
A_TURN: Final = 64  # questions, or ends of parked ones
PARKED: Final = -1  # instead of a counter: the message has not ended
BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # seconds, of the histogram


class Lookups:
    """Of one interface. `now` is ns of Pace.now.

    find: the row of a key, or None. count: adds to a counter.
    """

    def __init__(
        self,
        vault: Vault,
        events: Events,
        find: Callable[[bytes], int | None],
        count: Callable[[counter, int], None],
        now: Callable[[], int],
        wall: Callable[[], int],
    ) -> None:
        self.vault = vault
        self.events = events
        self.find = find
        self.count = count
        self.now = now
        self.wall = wall
        if not vault.forgotten:
            vault.note_forgotten(wall())  # the engine starts: another one may have been there before it
        self.start = min(vault.forgotten, wall())
        self.leaving: set[bytes] = set()  # keys of peers that were offered
        self.offered: deque[tuple[bytes, bool]] = deque()  # those that are answered: are they taken?
        self.recent: OrderedDict[bytes, bytes] = OrderedDict()  # timestamps of the latest evictions, by key
        self.least = tai64n.ZERO  # the greatest timestamp that was forgotten
        self.refusals = Refusals()
        self.providers: list[Provider] = []  # the first serves
        self.expected_until = 0  # ns; a provider that went is waited for
        self.parked: OrderedDict[bytes, Parked] = OrderedDict()  # by key, the oldest first
        self.asked: dict[bytes, Question] = {}  # by key
        self.unasked: OrderedDict[bytes, None] = OrderedDict()  # keys of those that wait to be asked about
        self.added: list[bytes] = []  # parked, and a set that is not over yet has added the peer
        self.are_many_added = False  # it has added more than were named
        self.ready: deque[bytes] = deque()  # parked, and now a peer
        self.wasted = 0  # that ended in nothing, until somebody takes them
        self.parking = Parking(vault)
        self.vouched: dict[bytes, bytes] = {}  # by key, timestamps that the control before knew to be later
        self.vouched_until = 0  # ns; none of those is answered any more
        self.number = 0
        self.next_free = 0  # ns; when the bucket is full again
        self.holds: counter = lib.UNKNOWN_BUCKET  # what the first of the unasked waits for
        self.seconds = [0] * (len(BOUNDS) + 1)
        self.seconds_sum = 0.0

    # -- an initiation ------------------------------------------------------------------------

    @property
    def serving(self) -> Provider | None:
        return self.providers[0] if self.providers else None

    @property
    def is_crowded(self) -> bool:
        """So many are parked that senders must prove their addresses."""
        return len(self.parked) >= PARKED_MOST // 2

    def wants(self, key: bytes, now: int) -> bool:
        """Whether the timestamp of an initiation with this key, which is nobody's, is to be opened."""
        if key in self.leaving:
            return True
        if not self.providers and now >= self.expected_until:
            self.count(lib.UNKNOWN_NO_PROVIDER, 1)
            return False
        if self.refusals.has(key, now):
            self.count(lib.UNKNOWN_CACHED, 1)
            return False
        return True

    def park(self, key: bytes, timestamp: bytes, cell: Any, now: int) -> int:
        """It is authentic. Returns PARKED, or the counter in which it ends."""
        before = self.parked.get(key)
        if before is not None:
            if timestamp <= before.timestamp:
                return lib.HS_TIMESTAMP_REPLAYED
            self._end(key)
        is_later = timestamp > self._greatest(key)
        parked = self.parking.put(key, timestamp, cell, now, is_later=is_later)
        if parked is None:
            self.count(self.holds if self.unasked else lib.UNKNOWN_WINDOW, 1)
            return lib.HS_UNKNOWN_PEER
        self.parked[key] = parked
        if key not in self.asked and key not in self.leaving:
            self.unasked[key] = None
        return PARKED

    def _end(self, key: bytes, event: Event | None = None, outcome: counter | None = None) -> None:
        """A parked one leads to nothing."""
        parked = self.parked.pop(key)
        sender = self._sender(parked) if event is not None and self.events.has_token(event) else None
        self.unasked.pop(key, None)
        self.wasted += 1
        self.parking.leave(parked.place)  # first: a kill in between leaves it in hand, and none ends twice
        if outcome is not None:
            self.count(outcome, 1)
        self.count(lib.HS_UNKNOWN_PEER, 1)
        if event is not None:
            self.events.emit(event, None, sender, key=key)

    def _sender(self, parked: Parked) -> Endpoint | None:
        cell = self.parking.cell(parked.place)
        return Endpoint.unpack(bytes(ffi.buffer(ffi.addressof(cell[0], "from"))))

    def _greatest(self, key: bytes) -> bytes:
        """What an initiation of this key must be later than, if nothing but this control knows of it."""
        row = self.find(key)
        known = self.recent.get(key, tai64n.ZERO) if row is None else self.vault.timestamp_seen(row)
        return known if any(known) else self.floor()

    def drop(self) -> None:
        """Our key is another one: nobody can answer them."""
        for key in list(self.parked):
            self._end(key)
        self.ready.clear()
        self.added = []

    def recover(self) -> None:
        """At the start: what the control before this one had parked waits on, to be asked about once more.
        Its provider has yet to connect again."""
        if self.vault.has_provider:
            self.expected_until = self.now() + PARKED_TIME
        self.vouched_until = self.now() + PARKED_TIME
        with self.vault.attempts.trying(Step.PARKED):
            for place in self.parking.places():
                key, parked = self.parking.read(place)
                self.parked[key] = parked
                if self.parking.is_later(place):
                    self.vouched[key] = parked.timestamp
                if self.find(key) is None:
                    self.unasked[key] = None
                else:
                    self.ready.append(key)

    def give_up(self, place: int) -> None:
        """Before `recover`: control died of what is at that place (plus one) of the parking; 0: of all."""
        for each in self.parking.places():
            if place in (0, each + 1):
                self.parking.leave(each)
                self.count(lib.HS_UNKNOWN_PEER, 1)

    def vouches(self, key: bytes, timestamp: bytes) -> bool:
        """Whether the control before this one parked that initiation, and knew that none of its key was
        accepted that is as late."""
        return self.vouched.get(key) == timestamp

    # -- once a turn --------------------------------------------------------------------------

    def step(self, now: int) -> None:
        """Ask, and end what is too old."""
        self._expire(now)
        if self.vouched and now >= self.vouched_until:
            self.vouched = {}
        provider = self.serving
        if provider is None:
            return
        if provider.open and not provider.is_over and now - provider.heard >= SILENT:
            oldest = next(iter(provider.open.values()))
            if now - oldest.asked >= SILENT:
                why = f"{len(provider.open)} questions are open, and for 30 s none was answered"
                self._wrong(provider, Wrong("the connection ends", why, "answer each question"), errno.ETIME)
                return
        for _ in range(A_TURN):
            if not self.unasked:
                return
            if provider.room <= 0:
                self.holds = lib.UNKNOWN_WINDOW
                return
            if self.next_free > now + (QUESTIONS_AT_ONCE - 1) * (SECOND // QUESTIONS_A_SECOND):
                self.holds = lib.UNKNOWN_BUCKET
                return
            key = self.unasked.popitem(last=False)[0]
            before = self.vault.attempts.note(Step.ASKING, self.parked[key].place + 1)
            self._ask(provider, key, now)
            self.vault.attempts.over(before)

    def _ask(self, provider: Provider, key: bytes, now: int) -> None:
        self.next_free = max(self.next_free, now) + SECOND // QUESTIONS_A_SECOND
        self.number += 1
        self.asked[key] = provider.open[self.number] = Question(self.number, key, now)
        parked = self.parked[key]
        sender = self._sender(parked)
        provider.tell("unknown_peer", {
            "id": self.number,
            "public_key": b64encode(key).decode(),
            "source": "" if sender is None else str(uapi.Endpoint(sender.address, sender.port)),
            "age_ms": (now - parked.arrived) // 1_000_000,
        })  # fmt: skip
        self.count(lib.UNKNOWN_ASKED, 1)

    def _expire(self, now: int) -> None:
        for _ in range(A_TURN):
            key, parked = next(iter(self.parked.items()), (b"", None))
            if parked is None or parked.arrived + PARKED_TIME > now:
                return
            if key in self.asked or key in self.leaving:
                outcome, event = lib.UNKNOWN_TIMEOUT, Event.LOOKUP_UNANSWERED
            elif self.providers:
                outcome, event = self.holds, Event.LOOKUP_HELD_BACK
            else:
                outcome, event = lib.UNKNOWN_NO_PROVIDER, Event.UNKNOWN_PEER
            self._end(key, event, outcome)

    def due_in(self, now: int) -> float | None:
        """Seconds until `step` has something to do; None: not before something comes."""
        if not self.parked:
            return None
        due = next(iter(self.parked.values())).arrived + PARKED_TIME
        if self.unasked and self.providers and self.providers[0].room > 0:
            due = min(due, self.next_free - (QUESTIONS_AT_ONCE - 1) * (SECOND // QUESTIONS_A_SECOND))
        return max(due - now, 0) / SECOND

    # -- a set --------------------------------------------------------------------------------

    def peers_added(self, keys: Iterable[bytes] | None) -> None:
        """A set adds peers with these keys (None: too many to name), which are not whole before its end."""
        if keys is None:
            self.are_many_added = True
            for key in [key for key in self.recent if self.find(key) is not None]:
                self._bring_back(key)
                del self.recent[key]  # it stands in the row now
            return
        for key in keys:
            self._bring_back(key)
            self.refusals.remove(key)
            if key in self.parked:
                self.added.append(key)

    def _bring_back(self, key: bytes) -> None:
        """A peer is there again whose timestamp is remembered; the set may have brought a later one."""
        stamp, row = self.recent.get(key), self.find(key)
        if stamp is not None and row is not None and stamp > self.vault.timestamp_seen(row):
            self.vault.store_timestamps_seen(np.array([row], np.uint32), np.frombuffer(stamp, np.uint8)[None])

    def set_is_over(self) -> None:
        """Peers that it added are whole: their initiations are answered."""
        keys = list(self.parked) if self.are_many_added else self.added
        self.ready.extend(key for key in keys if key not in self.leaving and self.find(key) is not None)
        self.added, self.are_many_added = [], False

    def take_ready(self, cells: Any, most: int, now: int) -> int:
        """Initiations to be taken once more, into the first of these cells; how many."""
        taken = 0
        while self.ready and taken < most:
            key = self.ready.popleft()
            parked = self.parked.get(key)
            if parked is None or parked.arrived + PARKED_TIME <= now:  # `step` ends those
                continue
            if self.find(key) is None:  # taken away again: parked once more, it would be younger than it is
                self._end(key)
                continue
            ffi.memmove(cells + taken, self.parking.cell(parked.place), ffi.sizeof("struct mailbox_cell"))
            del self.parked[key]
            self.unasked.pop(key, None)
            self.parking.leave(parked.place)
            taken += 1
        if taken:
            self.count(lib.UNKNOWN_ANSWERED, taken)
        return taken

    # -- evictions ----------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether a provider serves that can be told of a peer more."""
        return bool(self.providers) and self.providers[0].room > 0

    def is_parked(self, key: bytes) -> bool:
        return key in self.parked

    def offer(self, key: bytes, now: int, details: dict[str, object]) -> None:
        """A peer is idle; whether it is taken comes in `offered`. Until `left` it is leaving."""
        self.number += 1
        self.leaving.add(key)
        self.providers[0].open[self.number] = Question(self.number, key, now, is_eviction=True)
        told = {"id": self.number, "public_key": b64encode(key).decode()}
        self.providers[0].tell("evicted", told | details)

    def left(self, key: bytes, is_gone: bool) -> None:
        """It is gone, or stays; what it sent meanwhile goes on."""
        self.leaving.discard(key)
        if key not in self.parked:
            return
        if is_gone:
            self.unasked[key] = None
        else:
            self.ready.append(key)

    def remember(self, key: bytes, stamp: bytes) -> None:
        """The greatest timestamp of a peer on demand that is being taken away."""
        self.vault.note_forgotten(self.wall())
        self.recent.pop(key, None)
        self.recent[key] = stamp
        parked = self.parked.get(key)
        if parked is not None:
            self.parking.note_later(parked.place, is_later=parked.timestamp > stamp)
            self.vouched.pop(key, None)
        if len(self.recent) > REMEMBERED:
            forgotten = self.recent.popitem(last=False)[1]
            # One clock that is ahead must not shut others out.
            self.least = max(self.least, min(forgotten, tai64n.stamp(self.wall())))

    def floor(self) -> bytes:
        """What the first initiation of a peer on demand must be later than."""
        return max(tai64n.stamp(max(self.wall() - FLOOR, self.start, 0)), self.least)

    # -- providers ----------------------------------------------------------------------------

    def end_if_overdue(self, now: int) -> None:
        """Once a second. A peer that is leaving is shut out: no provider may let it wait for long."""
        provider = self.serving
        if provider is None or provider.is_over:
            return
        if any(each.is_eviction and now - each.asked >= SILENT for each in provider.open.values()):
            why = "an `evicted` was not answered for 30 s"
            self._wrong(provider, Wrong("the connection ends", why, "answer each `evicted`"), errno.ETIME)

    def join(self, window: int) -> Provider | None:
        """A client wants to be asked; None when too many do."""
        if len(self.providers) >= PROVIDERS:
            return None
        provider = Provider(window, self.now())
        self.providers.append(provider)
        self.vault.note_provider(True)
        provider.tell("serving", int(provider is self.serving))
        if provider is self.serving:
            self.events.emit(Event.PROVIDER_SERVES)
        return provider

    def leave(self, provider: Provider) -> None:
        """The client is gone. What it did not answer is asked of the next one, if it is parked still."""
        if provider not in self.providers:
            return
        was_serving = provider is self.serving
        self.providers.remove(provider)
        for question in provider.open.values():
            if question.is_eviction:
                self.offered.append((question.key, False))
            elif self.asked.get(question.key) is question:
                del self.asked[question.key]
                if question.key in self.parked:
                    self.unasked[question.key] = None
        if not was_serving:
            return
        reason = f"its connection ended, {len(provider.open)} questions open"
        self.events.emit(Event.PROVIDER_GONE, reason=reason)
        if self.serving is None:
            self.vault.note_provider(False)
            self.expected_until = self.now() + PARKED_TIME
        else:
            self.serving.tell("serving", 1)
            self.events.emit(Event.PROVIDER_SERVES)

    def heard(self, provider: Provider, data: bytes) -> None:
        """A client answers."""
        now = provider.heard = self.now()
        if provider.is_over:
            return
        try:
            for answer in provider.feed(data):
                self._answered(provider, answer, now)
                if provider.is_over:
                    return
        except Wrong as wrong:
            self._wrong(provider, wrong, errno.EPROTO)

    def _wrong(self, provider: Provider, wrong: Wrong, code: int) -> None:
        provider.end(wrong, code)
        log.error("a provider of peers is closed: %s", wrong)
        self.events.emit(Event.PROVIDER_WRONG, reason=wrong.why, mend=wrong.next)

    def _answered(self, provider: Provider, answer: Answer, now: int) -> None:
        question = provider.open.pop(answer.number, None)
        if question is None:
            why = f"no question {answer.number} is open; it was answered before, or never asked"
            wrong = Wrong("an answer is refused", why, "answer each question once, with its own id")
            provider.wrong_answers += 1
            if provider.wrong_answers > provider.window:
                self._wrong(provider, wrong, errno.EPROTO)
                return
            provider.refuse(wrong)
            self.events.emit(Event.PROVIDER_WRONG, reason=wrong.why, mend=wrong.next)
            return
        if question.is_eviction:
            self.offered.append((question.key, answer.ttl is None))
            return
        if self.asked.get(question.key) is question:
            del self.asked[question.key]
        seconds = (now - question.asked) / SECOND
        self.seconds[bisect_left(BOUNDS, seconds)] += 1
        self.seconds_sum += seconds
        if answer.ttl is not None or self.find(question.key) is None:
            self._refused(question.key, answer.ttl or 0, now)

    def _refused(self, key: bytes, ttl: int, now: int) -> None:
        """Or done without a set: it is no peer. A refusal that is not to be remembered has no ttl."""
        if self.find(key) is not None:
            return
        if ttl:
            self.refusals.add(key, ttl, now)
        if key in self.parked:
            self._end(key, Event.LOOKUP_REFUSED, lib.UNKNOWN_REFUSED)

    # -- looking ------------------------------------------------------------------------------

    def report(self, now: int) -> dict[str, Any]:
        """For `get_engine` (workers/control/engine_report.py)."""
        return {
            "providers": len(self.providers),
            "parked": len(self.parked),
            "asked": len(self.asked),
            "refused": self.refusals.count(now),
            "seconds": {"bounds": list(BOUNDS), "counts": self.seconds, "sum": round(self.seconds_sum, 6)},
        }
