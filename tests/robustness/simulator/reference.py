"""A peer as the kernel module has it (noise.c, timers.c, send.c, receive.c), plainly: what an engine must do.

It is told what the engine is given (inner packets, datagrams, the clock) and says what the engine
must send and deliver, which sessions it must hold, and which timers must fire, to the tick. Where Plait
differs on purpose, a comment begins with "Plait:".

Times are ns of the engine's boottime; deadlines of timers are ticks. Jitter is the same at every draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.timers import Action

# The protocol's numbers, written anew: a wrong one in the engine shows.
INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
SECOND = 1_000_000_000
TICK = 1 << 24
LAP = 1 << 32  # ticks
STAGED = 128
WINDOW = 8128
ATTEMPTS = 18
REKEY_SENT, REKEY_RECEIVED, REJECT, REKEY_TIMEOUT = 120 * SECOND, 165 * SECOND, 180 * SECOND, 5 * SECOND


def ticks(seconds: int) -> int:
    """Rounded up."""
    return -(-seconds * SECOND // TICK)


def tick_of(now: int) -> int:
    """Rounded down; the first two are one."""
    return max(1, now // TICK)


def noted(tick: int) -> int:
    """As a column has it: two ticks of each lap of 2^32 are called by the one behind them."""
    return tick + {LAP - 1: 2, 0: 1}.get(tick % LAP, 0)


RETRY, PASSIVE, SILENCE, ZERO = ticks(5), ticks(10), ticks(15), ticks(540)
EXPIRE = ticks(180) + 1  # the session's birth is up to a tick later than its stamp


@dataclass
class Datagram:
    """What a datagram on the link is, as the simulator knows without opening it."""

    kind: int
    data: bytes = b""
    sender_index: int = 0
    receiver_index: int = 0
    counter: int = 0
    number: int | None = None  # of the inner packet; None for a keepalive
    stamp: bytes = b""
    intact: bool = True


@dataclass(eq=False)
class Session:
    """A keypair."""

    birth: int
    initiator: bool
    local: int
    remote: int
    sent: int = 0
    seen: set[int] = field(default_factory=set)
    top: int = 0
    asked: bool = False

    def is_older(self, now: int, age: int) -> bool:
        return self.birth + age <= now

    def is_good(self, now: int) -> bool:
        return not self.is_older(now, REJECT)

    def accepts(self, counter: int) -> bool:
        """Marks the counter as seen; False when it was, or is too old to tell."""
        position = counter + 1
        if position + WINDOW < self.top or position in self.seen:
            return False
        self.seen.add(position)
        self.top = max(self.top, position)
        return True


class Reference:
    """One engine's end of the tunnel."""

    def __init__(self, keepalive: int, jitter: int) -> None:
        self.jitter = jitter
        self.interval = ticks(keepalive)
        self.current: Session | None = None
        self.previous: Session | None = None
        self.next: Session | None = None
        self.staged: list[int] = []
        self.has_new_packets = False  # since a handshake was last wanted
        self.in_progress: Datagram | None = None
        self.stamp_seen = b""
        self.initiation_taken: int | None = None  # ms
        self.handshake_sent: int | None = None
        self.attempts = 0
        self.retransmit: int | None = None
        self.new_handshake: int | None = None
        self.keepalive: int | None = None
        self.needs_another = False
        self.persistent: int | None = None
        self.zero: int | None = None
        self.expire: int | None = None
        self.started_in_vain: int | None = None  # when new handshake last fired and nothing was heard since
        self.owed_in_vain: int | None = (
            None  # when the passive keepalive last fired and nothing was sent since
        )
        self.sent: list[Datagram] = []
        self.delivered: list[int] = []
        self.fired = Action(0)

    # -- what happens -------------------------------------------------------------------------

    def configured(self, now: int) -> None:
        """The peer was added while the interface is up."""
        if self.interval:
            self.persistent = noted(tick_of(now)) + self.interval
            self._send_keepalive(now)

    def control_restarted(self) -> None:
        """Plait: a handshake in progress lives in control's memory alone; its retries go on."""
        self.in_progress = None

    def take_packets(self, numbers: list[int], now: int) -> None:
        """Inner packets from the host."""
        self.staged += numbers
        self.has_new_packets = True
        self._look_at_staged(now)

    def take_data(self, datagrams: list[Datagram], now: int) -> None:
        """Data messages, one batch."""
        sessions = [s for s in (self.current, self.previous, self.next) if s]
        found = [(d, next((s for s in sessions if s.local == d.receiver_index), None)) for d in datagrams]
        is_authentic = has_data = False
        for datagram, session in found:
            if not datagram.intact or session is None or not session.is_good(now):
                continue
            if not session.accepts(datagram.counter):
                continue
            is_authentic = True
            if session is self.next:
                self.current, self.previous, self.next = self.next, self.current, None
                self._handshake_complete()
                self.in_progress = None
            if datagram.number is not None:
                has_data = True
                self.delivered.append(datagram.number)
        if not is_authentic:
            return
        self._authenticated_received(now)
        if has_data:
            self._data_received(now)
        current = self.current
        if (
            current
            and current.initiator
            and not current.asked
            and current.is_good(now)
            and current.is_older(now, REKEY_RECEIVED)
        ):
            current.asked = True
            self._want(now)
        self._look_at_staged(now)

    def take_initiation(self, datagram: Datagram, now: int) -> None:
        if not datagram.intact or datagram.stamp <= self.stamp_seen:
            return
        if self.initiation_taken is not None and now // 10**6 - self.initiation_taken < 20:
            return
        self.stamp_seen, self.initiation_taken = datagram.stamp, now // 10**6
        self.next = Session(now, False, 0, datagram.sender_index)
        self.previous = None
        self._drop_expired(now)
        self._session_derived(now)
        self._authenticated_received(now)
        self._authenticated_sent(now)
        self.handshake_sent = noted(tick_of(now))
        self.sent.append(Datagram(RESPONSE, receiver_index=datagram.sender_index))
        self._look_at_staged(now)

    def take_response(self, datagram: Datagram, now: int) -> None:
        ours = self.in_progress
        if not datagram.intact or ours is None or datagram.receiver_index != ours.sender_index:
            return
        self.in_progress = None
        session = Session(now, True, datagram.receiver_index, datagram.sender_index)
        self.previous = self.next or self.current
        self.current, self.next = session, None
        self._drop_expired(now)
        self._session_derived(now)
        self._handshake_complete()
        self._authenticated_received(now)
        if not self._look_at_staged(now):
            self._send_keepalive(now)

    def look(self, now: int, seen: Action) -> None:
        """The timers. seen: what the engine did, for where it may be early."""
        tick = tick_of(now)
        while True:
            fired = self._fire(tick, seen & ~self.fired)
            self.fired |= fired
            if not fired:
                return
            if fired & Action.GIVE_UP:
                self.staged.clear()
                self.in_progress = None
            if fired & Action.EXPIRE_KEYS:
                self._drop_expired(now)
            if fired & Action.ZERO_KEYS:
                self.current = self.previous = self.next = None
                self.in_progress = None
            if fired & (Action.RETRY_HANDSHAKE | Action.START_HANDSHAKE) and self._may_send_handshake(tick):
                self._initiate(now)
            if fired & Action.SEND_KEEPALIVE:
                self.attempts = 0
                self._send_keepalive(now)
            elif not fired & Action.GIVE_UP:
                self._look_at_staged(now)

    def next_deadline(self) -> int | None:
        """The earliest tick at which a timer fires."""
        pending = (
            self.retransmit,
            self.new_handshake,
            self.keepalive,
            self.persistent,
            self.zero,
            self.expire,
        )
        return min((noted(t) for t in pending if t is not None), default=None)

    def outcome(self) -> tuple[list[Datagram], list[int], Action]:
        """What was to be sent, delivered and fired since the last call."""
        result = self.sent, self.delivered, self.fired
        self.sent, self.delivered, self.fired = [], [], Action(0)
        return result

    # -- sending ------------------------------------------------------------------------------

    def _look_at_staged(self, now: int) -> bool:
        """Send what waits, or ask for a handshake; True when something was sent."""
        if not self.staged:
            return False
        current = self.current
        if current is None or not current.is_good(now):
            del self.staged[:-STAGED]
            self._want(now)
            return False
        for number in self.staged:
            self._seal(current, number)
        self.staged.clear()
        self._authenticated_sent(now)
        if self.new_handshake is None:
            self.new_handshake = noted(tick_of(now)) + SILENCE + self.jitter
        self._keep_fresh(current, now)
        return True

    def _send_keepalive(self, now: int) -> None:
        current = self.current
        if self.staged and self._look_at_staged(now):
            return
        if current is None or not current.is_good(now):
            # Plait: no empty packet is staged; an initiator confirms with a keepalive anyway.
            self._want(now)
            return
        self._seal(current, None)
        self._authenticated_sent(now)
        self._keep_fresh(current, now)

    def _seal(self, session: Session, number: int | None) -> None:
        self.sent.append(Datagram(DATA, receiver_index=session.remote, counter=session.sent, number=number))
        session.sent += 1

    def _keep_fresh(self, current: Session, now: int) -> None:
        if current.initiator and current.is_older(now, REKEY_SENT):
            self._want(now)

    # -- handshakes ---------------------------------------------------------------------------

    def _may_send_handshake(self, tick: int) -> bool:
        return self.handshake_sent is None or self.handshake_sent + RETRY <= tick

    def _want(self, now: int) -> None:
        current = self.current
        if current and not current.is_older(now, REKEY_TIMEOUT):
            return
        is_new, self.has_new_packets = self.has_new_packets, False
        is_retrying = self.retransmit is not None
        if is_new or not is_retrying:
            self.attempts = 0
        if not self._may_send_handshake(tick_of(now)):
            # Plait: the wish is kept until the 5 s are over. In the kernel it is dropped.
            if not is_retrying:
                assert self.handshake_sent is not None
                self.retransmit = self.handshake_sent + RETRY
        elif is_new or not is_retrying:
            self._initiate(now)

    def _initiate(self, now: int) -> None:
        self.in_progress = Datagram(INITIATION)
        self.sent.append(self.in_progress)
        self.handshake_sent = noted(tick_of(now))
        self.retransmit = tick_of(now) + RETRY + self.jitter
        self._authenticated_sent(now)

    def _handshake_complete(self) -> None:
        self.retransmit = None
        self.attempts = 0

    def _session_derived(self, now: int) -> None:
        self.zero = tick_of(now) + ZERO
        self.expire = tick_of(now) + EXPIRE

    def _drop_expired(self, now: int) -> None:
        """Plait: also when a session begins; in the kernel only 540 s after the last one began."""
        held = [s if s and s.is_good(now) else None for s in (self.current, self.previous, self.next)]
        self.current, self.previous, self.next = held

    # -- timers -------------------------------------------------------------------------------

    def _authenticated_sent(self, now: int) -> None:
        self.keepalive = self.owed_in_vain = None
        self.needs_another = False
        self._traversal(now)

    def _authenticated_received(self, now: int) -> None:
        self.new_handshake = self.started_in_vain = None
        self._traversal(now)

    def _traversal(self, now: int) -> None:
        if self.interval:
            self.persistent = noted(tick_of(now)) + self.interval

    def _data_received(self, now: int) -> None:
        if self.keepalive is None:
            self.keepalive = noted(tick_of(now)) + PASSIVE
        else:
            self.needs_another = True

    def _fire(self, tick: int, seen: Action) -> Action:
        fired = Action(0)
        if _is_due(self.retransmit, tick):
            if self.attempts > ATTEMPTS:
                self.retransmit = self.keepalive = None
                if self.zero is None:
                    self.zero = tick + ZERO
                fired |= Action.GIVE_UP
            else:
                self.attempts += 1
                self.retransmit = tick + RETRY + self.jitter
                fired |= Action.RETRY_HANDSHAKE
        if _is_due(self.zero, tick):
            self.zero = None
            fired |= Action.ZERO_KEYS
        if _is_due(self.expire, tick):
            self.expire = None
            fired |= Action.EXPIRE_KEYS
        # Plait: after a new handshake in vain the next may come a period after it, not after the data.
        period = SILENCE + self.jitter
        is_early = bool(seen & Action.START_HANDSHAKE) and self.new_handshake is not None
        if _is_due(self.new_handshake, tick) or (is_early and _is_past(self.started_in_vain, period, tick)):
            self.new_handshake = None
            self.started_in_vain = tick
            self.attempts = 0
            fired |= Action.START_HANDSHAKE
        # Plait: likewise after a passive keepalive that could not be sent.
        is_early = bool(seen & Action.SEND_KEEPALIVE) and self.keepalive is not None
        if _is_due(self.keepalive, tick) or (is_early and _is_past(self.owed_in_vain, PASSIVE, tick)):
            self.keepalive = tick + PASSIVE if self.needs_another else None
            self.needs_another = False
            self.owed_in_vain = tick
            fired |= Action.SEND_KEEPALIVE
        if _is_due(self.persistent, tick):
            self.persistent = tick + self.interval
            fired |= Action.SEND_KEEPALIVE
        return fired


def _is_due(deadline: int | None, tick: int) -> bool:
    return deadline is not None and noted(deadline) <= tick


def _is_past(last: int | None, period: int, tick: int) -> bool:
    return last is not None and last + period <= tick
