"""Two engines, a link between them, and one clock: what happens, in order of time.

Each side is an engine of shipped code (engine.py), the reference that says what it must do
(reference.py), and the invariants (watch.py). Whatever an engine does is compared at once, so that a
difference is reported where it arises.
"""

from __future__ import annotations

import gc
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from engine import messages, noise, tai64n
from engine.timers import Action

from .engine import Engine, KeyState
from .reference import COOKIE, DATA, INITIATION, RESPONSE, SECOND, TICK, Datagram, Reference, Session, tick_of
from .watch import Broken, Watch, Wire

BATCH = 64


@dataclass
class Weather:
    """How the link treats datagrams in one direction. Probabilities, and ns."""

    loss: float = 0.0
    duplicated: float = 0.0
    altered: float = 0.0
    recorded: float = 0.0  # comes again much later, as an attacker replays it
    delay: int = SECOND // 100
    spread: int = 0  # reordering: delay + 0..spread


@dataclass
class Settings:
    """What does not change in a simulation."""

    keepalive: tuple[int, int] = (0, 0)  # seconds
    psk: bool = False
    jitter: tuple[int, int] = (0, 0)  # ticks
    boot: tuple[int, int] = (10 * SECOND, 10**6 * SECOND)
    wall: tuple[int, int] = (1_700_000_000 * SECOND, 1_700_000_000 * SECOND)


@dataclass
class Tally:
    """What there was of everything, so that a test can see that it was not nothing."""

    datagrams: int = 0
    sessions: int = 0
    delivered: int = 0
    fired: dict[Action, int] = field(default_factory=dict)
    latest: dict[int, int] = field(default_factory=dict)  # when a packet was delivered
    log: list[tuple[float, str, int, bool]] = field(default_factory=list)  # sent: seconds, by, type, is data


class Side:
    """One end: engine, reference and watch, through restarts."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number, self.name = world, number, "ab"[number]
        self.boot, self.wall = world.settings.boot[number], world.settings.wall[number]
        self.asleep = False
        self.armed: int | None = None
        self.begin()

    def begin(self) -> None:
        """A first or new life of the engine, configured."""
        world, settings = self.world, self.world.settings
        addresses = ("10.0.0.1", "10.0.0.2") if self.number == 0 else ("10.0.0.2", "10.0.0.1")
        self.engine = Engine(world.random, settings.jitter[self.number], addresses)
        self.engine.boot, self.engine.wall = self.boot, self.wall
        self.reference = Reference(settings.keepalive[self.number], settings.jitter[self.number])
        self.watch = Watch(self.name, self.engine, world.wire)
        self.engine.start_control(world.time)
        self.engine.configure(world.configuration(self), world.time)
        self.watch.given()
        self.reference.configured(self.now)
        self.compare([])

    @property
    def now(self) -> int:
        return self.boot + self.world.time

    # -- what happens -------------------------------------------------------------------------

    def look(self) -> None:
        """Timers, if any are due by the engine's or the reference's account."""
        if self.asleep:
            return
        wake, deadline = self.engine.wake_at(), self.reference.next_deadline()
        if (wake is not None and wake <= self.now) or (
            deadline is not None and deadline <= tick_of(self.now)
        ):
            self.compare([])

    def send(self, numbers: list[int]) -> None:
        """The host sends inner packets."""
        if self.asleep:
            return
        self.look()
        self.watch.given()
        self.reference.take_packets(numbers, self.now)
        self.compare([], packets=numbers)

    def receive(self, datagrams: list[Datagram]) -> None:
        """The link delivers data messages, or one handshake message."""
        if self.asleep:
            return
        self.look()
        self.watch.given()
        kind = datagrams[0].kind
        if kind == DATA:
            self.reference.take_data(datagrams, self.now)
        elif kind == INITIATION:
            self.reference.take_initiation(datagrams[0], self.now)
        elif kind == RESPONSE:
            self.reference.take_response(datagrams[0], self.now)
        self.compare(datagrams)

    def leap(self, duration: int) -> None:
        """The clocks of this side go on by so many ns at once."""
        self.boot += duration
        self.wall += duration
        self.engine.boot, self.engine.wall = self.boot, self.wall
        if not self.asleep:
            self.armed = None
            self.look()
            self._arm()

    def restart_control(self) -> None:
        self.engine.kill_control()
        self.engine.start_control(self.world.time)
        self.reference.control_restarted()
        self.compare([])

    def restart(self) -> None:
        """The engine ends and begins anew: nothing is kept, the vault neither."""
        self.engine.close()
        self.begin()

    # -- the comparison -----------------------------------------------------------------------

    def compare(self, datagrams: list[Datagram], packets: list[int] | None = None) -> None:
        """Let the engine act, and hold what it did against the reference."""
        world, now = self.world, self.now
        outcome = self.engine.settle(world.time, packets or [], [d.data for d in datagrams])
        seen = Action(0)
        for action in outcome.actions:
            seen |= action
        self.reference.look(now, seen)
        sent, delivered, fired = self.reference.outcome()
        if fired != seen:
            raise Broken(f"{self.name} fired {seen!r}, the kernel {fired!r}")
        if outcome.delivered != delivered:
            raise Broken(f"{self.name} delivered {outcome.delivered}, the kernel {delivered}")
        sent = self._match(outcome.sent, sent)
        self.watch.after(now, outcome, sent, datagrams)
        self._compare_keys()
        world.tally.datagrams += len(sent)
        if world.is_logging:
            world.tally.log += [(world.time / SECOND, self.name, d.kind, d.number is not None) for d in sent]
        world.tally.sessions += sum(d.kind == RESPONSE for d in sent)
        for action in outcome.actions:
            world.tally.fired[action] = world.tally.fired.get(action, 0) + 1
        for number in delivered:
            world.tally.delivered += 1
            world.tally.latest[number] = world.time
        self._arm()
        world.carry(self, sent)
        for number in delivered:
            world.on_delivery(self, number)

    def _match(self, actual: list[bytes], expected: list[Datagram]) -> list[Datagram]:
        """What was sent is what was to be sent: `expected`, now with its bytes, in the order sent."""
        if not actual and not expected:
            return []
        parsed = [_parse(data) for data in actual]
        known = {}
        for kind in (INITIATION, RESPONSE, COOKIE, DATA):
            ours = sorted((d for d in parsed if d.kind == kind), key=_place)
            theirs = sorted((d for d in expected if d.kind == kind), key=_place)
            if [_place(d) for d in ours] != [_place(d) for d in theirs]:
                raise Broken(
                    f"{self.name} sent {[_place(d) for d in ours]} of type {kind}, "
                    f"the kernel {[_place(d) for d in theirs]}"
                )
            for mine, wanted in zip(ours, theirs, strict=True):
                wanted.data, wanted.sender_index = mine.data, mine.sender_index
                if kind == DATA and (wanted.number is None) != (len(mine.data) == 32):
                    raise Broken(f"{self.name} sent {len(mine.data)} bytes for packet {wanted.number}")
                if kind == INITIATION:
                    wanted.stamp = self._stamp()
                if kind == RESPONSE and self.reference.next is not None:
                    self.reference.next.local = mine.sender_index
                known[mine.data] = wanted
        return [known[data] for data in actual]

    def _stamp(self) -> bytes:
        """The stamp in the initiation: the wall clock's, or a tick after the last."""
        stamp = self.engine.timestamp_sent()
        expected = tai64n.stamp(self.wall + self.world.time)
        if stamp != expected and not (self.watch.stamp and expected <= self.watch.stamp < stamp):
            raise Broken(f"{self.name} sent the timestamp {stamp.hex()}, its clock says {expected.hex()}")
        return stamp

    def _compare_keys(self) -> None:
        held = [self.reference.current, self.reference.previous, self.reference.next]
        wanted = [None if s is None else _session_place(s) for s in held]
        actual = [None if k is None else _key_place(k) for k in self.engine.held()]
        if actual != wanted:
            raise Broken(f"{self.name} holds the sessions {actual}, the kernel {wanted}")

    def _arm(self) -> None:
        """Come back when the engine or the reference has something to do."""
        deadline = self.reference.next_deadline()
        times = [self.engine.wake_at(), None if deadline is None else deadline * TICK]
        wake = min((t for t in times if t is not None), default=None)
        if wake is None:
            self.armed = None
            return
        due = max(wake - self.boot, self.world.time + 1)
        if self.armed is None or due < self.armed or self.armed <= self.world.time:
            self.armed = due
            self.world.at(due, self._rung)

    def _rung(self) -> None:
        if self.armed is not None and self.armed <= self.world.time:
            self.armed = None
            self.look()
            if self.armed is None and not self.asleep:
                self._arm()


class World:
    """The simulation. Use as a context manager; `at` plans what happens, `run` makes it happen."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.random = Random(seed)
        self.settings = settings
        self.wire = Wire()
        self.tally = Tally()
        self.is_logging = False
        self.time = 0
        self.order = itertools.count()
        self.numbers = itertools.count()
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.weather = [Weather(), Weather()]  # from a, from b
        self.on_delivery: Callable[[Side, int], None] = lambda side, number: None
        self.sent_at: dict[int, int] = {}
        self.keys = [noise.clamp(bytes(self.random.randbytes(32))) for _ in range(2)]
        self.preshared = self.random.randbytes(32)

    def __enter__(self) -> World:
        self.sides = []
        for number in range(2):
            self.sides.append(Side(self, number))
        return self

    def __exit__(self, *_: object) -> None:
        for side in self.sides:
            side.engine.close()
        gc.collect()  # parts of control refer to each other, and to the mapping

    def configuration(self, side: Side) -> str:
        """The set that a side begins with."""
        other = noise.Identity(self.keys[1 - side.number]).public_key
        lines = [
            "set=1",
            f"private_key={self.keys[side.number].hex()}",
            f"public_key={other.hex()}",
            f"endpoint=127.0.0.1:{side.engine.link.getsockname()[1]}",
            f"persistent_keepalive_interval={self.settings.keepalive[side.number]}",
            f"allowed_ip=10.0.0.{2 - side.number}/32",
        ]
        if self.settings.psk:
            lines.append(f"preshared_key={self.preshared.hex()}")
        return "\n".join(lines) + "\n\n"

    def at(self, time: int, what: Callable[[], None]) -> None:
        """Plan something for a time, now or later."""
        heapq.heappush(self.events, (max(time, self.time), next(self.order), what))

    def run(self, until: int) -> None:
        """Everything up to that time."""
        while self.events and self.events[0][0] <= until:
            self.time, _, what = heapq.heappop(self.events)
            what()
        self.time = until

    def send(self, number: int, count: int = 1) -> list[int]:
        """The host behind side `number` sends packets; returns their numbers."""
        numbers = [next(self.numbers) for _ in range(count)]
        for packet in numbers:
            self.sent_at[packet] = self.time
        self.sides[number].send(numbers)
        return numbers

    def carry(self, side: Side, datagrams: list[Datagram]) -> None:
        """The link takes datagrams of this side."""
        weather, number, random = self.weather[side.number], 1 - side.number, self.random
        trains: dict[int, list[Datagram]] = {}  # by when they arrive
        for datagram in datagrams:
            copies = []
            if random.random() >= weather.loss:
                copies.append(datagram)
            if random.random() < weather.duplicated:
                copies.append(datagram)
            if random.random() < weather.altered:
                copies.append(_altered(datagram, random))
            for copy in copies:
                due = self.time + weather.delay + (random.randrange(weather.spread) if weather.spread else 0)
                train = trains.get(due)
                if train is None or len(train) == BATCH or copy.kind != DATA or train[0].kind != DATA:
                    train = trains[due] = []
                    self._deliver_at(due, number, train)
                train.append(copy)
            if random.random() < weather.recorded:
                self._deliver_at(self.time + random.randrange(1, 900) * SECOND, number, [datagram])

    def _deliver_at(self, time: int, number: int, datagrams: list[Datagram]) -> None:
        self.at(time, lambda: self.sides[number].receive(datagrams))


def _parse(data: bytes) -> Datagram:
    kind = messages.message_type(data)
    if kind == INITIATION:
        return Datagram(kind, data, sender_index=messages.Initiation.unpack(data).sender_index)
    if kind == RESPONSE:
        response = messages.Response.unpack(data)
        return Datagram(kind, data, response.sender_index, response.receiver_index)
    if kind == COOKIE:
        return Datagram(kind, data)
    header = messages.Data.unpack(data)
    return Datagram(kind, data, receiver_index=header.receiver_index, counter=header.counter)


def _place(datagram: Datagram) -> tuple[int, int]:
    return datagram.receiver_index, datagram.counter


def _altered(datagram: Datagram, random: Random) -> Datagram:
    """One bit is another one; not in mac2, which nobody reads without load."""
    data = bytearray(datagram.data)
    data[random.randrange(len(data) - (0 if datagram.kind == DATA else 16))] ^= 1 << random.randrange(8)
    copy = Datagram(**{**datagram.__dict__, "data": bytes(data)})
    copy.intact = False
    return copy


def _session_place(session: Session) -> tuple[int, bool, int, int]:
    return session.birth, session.initiator, session.local, session.remote


def _key_place(key: KeyState) -> tuple[int, bool, int, int]:
    return key.birth, key.is_initiator, key.local_index, key.remote_index
