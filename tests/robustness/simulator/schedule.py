"""Plans: what happens to two engines in a simulation, drawn from a seed.

A plan is a row of chapters, each with its weather, its traffic and what goes wrong, and then a calm
finale, in which traffic must come through again within RECOVERY. In lives with `leaps`, boottimes leap
by minutes and hours amid traffic, as behind a suspend or a pause of a virtual machine.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from engine import timers

from .reference import SECOND
from .watch import Broken
from .world import Settings, Side, Tally, Weather, World

HOUR = 3600 * SECOND
LEAPS = [seconds * SECOND for seconds in (4, 11, 16, 65, 125, 185, 545, 600, 1900, 5 * 3600)]
FINALE = 240 * SECOND
# A side that holds a session that the other lost hears nothing for 15 s, and may by then have answered a
# handshake, which holds back its own for 5 s; a handshake in vain may come before.
RECOVERY = 40 * SECOND


def settings_of(random: Random) -> Settings:
    """Keys, keepalives, clocks."""
    return Settings(
        keepalive=(random.choice([0, 0, 0, 1, 5, 25, 25, 3600]), random.choice([0, 0, 0, 10, 25, 60])),
        psk=random.random() < 0.5,
        jitter=(random.randint(0, timers.JITTER), random.randint(0, timers.JITTER)),
        boot=(random.randrange(1, 10**15), random.choice([1, SECOND, 10**14])),
        wall=tuple(1_700_000_000 * SECOND + random.randrange(-HOUR, HOUR) for _ in range(2)),  # type: ignore[arg-type]
    )


def weather_of(random: Random) -> Weather:
    """From clear to a blackout."""
    kind = random.choice(["clear", "clear", "lossy", "bad", "shuffled", "hostile", "slow", "dark"])
    weather = Weather(delay=random.choice([10**6, 10**7, 10**8]))
    if kind == "lossy":
        weather.loss = random.random() * 0.4
    elif kind == "bad":
        weather.loss, weather.duplicated, weather.spread = 0.7, 0.2, 2 * SECOND
    elif kind == "shuffled":
        weather.duplicated, weather.spread = 0.3, SECOND // 2
    elif kind == "hostile":
        weather.altered, weather.recorded, weather.duplicated = 0.2, 0.3, 0.2
    elif kind == "slow":
        weather.delay, weather.spread = random.choice([3, 6, 9]) * SECOND, SECOND
    elif kind == "dark":
        weather.loss = 1.0
    return weather


class Plan:
    """The life that a seed stands for; `run` lives it and returns the tally, or raises Broken."""

    def __init__(
        self, seed: int, length: int, boot: tuple[int, int] | None = None, leaps: bool = False
    ) -> None:
        self.seed, self.length, self.leaps = seed, length, leaps
        self.random = Random(f"plan {seed}")
        settings = settings_of(self.random)
        self.world = World(seed, settings if boot is None else replace(settings, boot=boot))
        self.world.on_delivery = self._delivered
        self.answers: set[int] = set()  # packets that the other side answers

    def run(self) -> Tally:
        with self.world as world:
            try:
                while world.time < self.length:
                    self._chapter()
                self._finale()
            except Broken as error:
                at = world.time / SECOND
                raise Broken(f"seed {self.seed}, {at:.3f} s into it: {error} ({world.settings})") from None
            return world.tally

    # -- chapters -----------------------------------------------------------------------------

    def _chapter(self) -> None:
        """Some minutes of one kind."""
        world, random = self.world, self.random
        begin = world.time
        end = begin + random.choice([20, 60, 130, 200, 400, 700]) * SECOND + random.randrange(SECOND)
        world.weather = [weather_of(random), weather_of(random)]
        if random.random() < 0.5:
            world.weather[1] = world.weather[0]
        self._traffic(begin, end)
        for _ in range(random.choice([0, 0, 1, 2])):
            world.at(random.randrange(begin, end), self._accident(random))
        for _ in range(random.choice([0, 1, 3]) if self.leaps else 0):
            sides = random.choice([world.sides[:1], world.sides[1:], world.sides])
            self._leap_at(random.randrange(begin, end), sides, random.choice(LEAPS))
        world.run(end)
        self._check()

    def _traffic(self, begin: int, end: int) -> None:
        random = self.random
        pattern = random.choice(["idle", "one-way", "one-way", "ping-pong", "bulk", "sparse", "both"])
        number = random.randrange(2)
        if pattern == "bulk":
            time = begin + random.randrange(20 * SECOND)
            self._send_at(time, number, 70)
            for _ in range(random.randrange(1, 60)):
                time += random.randrange(SECOND // 2)
                self._send_at(time, number, random.choice([2, 8]))
        elif pattern == "sparse":
            for _ in range(random.randrange(1, 6)):
                self._send_at(random.randrange(begin, end), random.randrange(2))
        elif pattern != "idle":
            step = random.choice([SECOND // 5, SECOND, 3 * SECOND, 12 * SECOND, 30 * SECOND])
            time, last = begin, min(end, begin + 200 * step)
            while time < last:
                self._send_at(time, number, is_ping=pattern == "ping-pong")
                if pattern == "both":
                    self._send_at(time + step // 3, 1 - number)
                time += step

    def _send_at(self, time: int, number: int, count: int = 1, is_ping: bool = False) -> None:
        def send() -> None:
            if self.world.sides[number].asleep:
                return
            first = next(self.world.numbers)
            if is_ping:
                self.answers |= set(range(first + 1, first + 1 + count))
            self.world.send(number, count)

        self.world.at(time, send)

    def _delivered(self, side: Side, packet: int) -> None:
        if packet in self.answers:
            self.answers.discard(packet)
            self.world.at(self.world.time + 1000, lambda: self._answer(side))

    def _answer(self, side: Side) -> None:
        if not side.asleep:
            self.world.send(side.number)

    def _accident(self, random: Random) -> object:
        side = self.world.sides[random.randrange(2)]
        kind = random.choice(["control", "control", "engine", "reboot", "sleep", "clock"])
        if kind == "control":
            return lambda: None if side.asleep else side.restart_control()
        if kind == "sleep":
            seconds = random.choice([1, 12, 100, 190, 600])
            return lambda: self._sleep(side, seconds * SECOND)
        if kind == "clock":
            return lambda: self._step_clock(side, random.choice([-HOUR, -SECOND, HOUR]))
        shift = random.randrange(-2 * SECOND, 30 * SECOND)
        if kind == "reboot":
            shift = random.choice([shift, shift, HOUR])

        def restart() -> None:
            if side.asleep:
                return
            if kind == "reboot":
                side.boot = random.randrange(1, SECOND) - self.world.time
            side.wall += shift
            side.restart()

        return restart

    def _leap_at(self, time: int, sides: list[Side], leap: int) -> None:
        """Their clocks leap, all in one moment."""

        for side in sides:
            self.world.at(time, lambda side=side: side.leap(leap))  # type: ignore[misc]

    def _step_clock(self, side: Side, shift: int) -> None:
        """Someone sets the wall clock."""
        side.wall += shift
        side.engine.wall += shift

    def _sleep(self, side: Side, duration: int) -> None:
        """The host is suspended: its clocks go on, nothing else does."""
        if side.asleep:
            return
        side.asleep = True

        def wake() -> None:
            side.asleep = False
            side.armed = None
            side.look()
            side._arm()

        self.world.at(self.world.time + duration, wake)

    # -- the end ------------------------------------------------------------------------------

    def _finale(self) -> None:
        """Good weather, and both sides talk: everything that is sent after RECOVERY arrives at once."""
        world = self.world
        while any(side.asleep for side in world.sides):
            world.run(world.time + SECOND)
        world.run(world.time + 20 * SECOND)  # what is under way has arrived, but for recordings
        world.weather = [Weather(), Weather()]
        begin = world.time
        step = self.random.choice([5, 9, 14]) * SECOND
        for time in range(begin, begin + FINALE, step):
            for number in range(2):
                world.at(time + number * step // 2, lambda number=number: world.send(number))  # type: ignore[misc]
        world.run(begin + FINALE + 2 * SECOND)
        late = [
            packet
            for packet, sent in world.sent_at.items()
            if sent >= begin + RECOVERY and world.tally.latest.get(packet, sent + HOUR) > sent + SECOND
        ]
        if late:
            raise Broken(f"{len(late)} packets did not come through once the link was good again")
        self._check()

    def _check(self) -> None:
        for side in self.world.sides:
            faults = side.engine.faults()
            if faults:
                raise Broken(f"the segment of {side.name}: {faults}")


def live(seed: int, length: int, boot: tuple[int, int] | None = None, leaps: bool = False) -> Tally:
    """One whole simulation of `length` ns and its finale. boot: both boottimes at its beginning."""
    return Plan(seed, length, boot, leaps).run()
