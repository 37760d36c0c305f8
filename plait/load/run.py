"""A load run: processes of plait/load/process.py, one a core, led through the phases together.

Each process has a contiguous share of the peers and that share of every rate. They meet before each
phase: the command gives all of them one moment of CLOCK_BOOTTIME to begin at. While a phase runs, what
they count is read where they count it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.failure import Failure
from plait.load import result as load_result
from plait.load import target as load_target
from plait.load.abort import AbortedError, AbortWatch
from plait.load.key_derivation import Keys, gateway_address, inner_network, seed_bytes
from plait.load.profile import BYTES, Phase, Profile
from plait.load.result import GARBAGE, PhaseResult
from plait.load.secrets_file import directory as secrets_directory
from plait.load.series import Series, between
from plait.load.stop import Stop, deaf_children

WORKER = [sys.executable, "-m", "plait.load.process"]
TICK = 0.25  # seconds between two looks at the counters
STOP_AND_DRAIN, STOP_AT_ONCE = 1, 2  # load_area.stop
BETWEEN_SECONDS = 1.0  # of machines that keep step, beside the drain: for what one of them does late
ENDING_SECONDS = 5.0  # for a load process to end a phase, beside its drain
WORD_AFTER = 5.0  # seconds of silence that are told
AHEAD_NS = 5_000_000  # a phase begins so long after all are told
SECOND = 1_000_000_000
ROUND_TRIP = load_result.HISTOGRAMS.index("round_trip")


@dataclass(frozen=True)
class Look:
    """The counters at one moment, of the phase that runs."""

    at: float  # seconds since the run's first phase began
    phase: int
    elapsed: float  # seconds of the phase
    counters: dict[str, int]
    round_trip: np.ndarray[Any, Any]
    sessions: int
    outstanding: int


@dataclass
class Run:
    """Everything that a run found."""

    profile: Profile
    cores: list[int]
    span: range  # numbers of the peers that are simulated here
    phases: list[PhaseResult] = field(default_factory=list)
    series: Series = field(default_factory=Series)
    began: float = field(default_factory=time.time)  # seconds since 1970
    prepared_seconds: float = 0.0
    static_static: int = 0  # secrets computed before the clock started
    ephemerals: int = 0
    bytes_per_peer: int = 0
    under_way: int | None = None  # the phase that has begun and is not among `phases`
    phase_begin: float = 0.0  # when the latest phase began: seconds since the first did
    stopped: bool = False  # before its end
    gave_up: bool = False  # so, because the gateway said nothing for profile.give_up seconds
    aborted: str | None = None  # so, because of an --abort-on: which, and what was found
    failure: Failure | None = None  # so, because a load process ended
    signal: str | None = None  # so, by it

    @property
    def end(self) -> str:
        """How it ended: finished, stopped, gave_up, aborted or failed; running before that."""
        if self.signal is not None:
            return "stopped"
        if self.stopped:
            return "gave_up" if self.gave_up else "aborted" if self.aborted is not None else "failed"
        return "finished" if len(self.phases) == len(self.profile.phase) else "running"


class Screen:
    """Who is told what goes on; each method may be overridden."""

    def preparing(self, done: int, total: int) -> None:
        """Secrets computed before the clock starts."""

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        """Every TICK while a phase runs; before: the last look at the same phase."""

    def finished(self, run: Run, phase: PhaseResult) -> None:
        """A phase is over, or was ended early; it is the last of run.phases."""

    def say(self, text: str) -> None:
        """Something that one should know at once."""


class Process:
    """One load process and the memory it counts in."""

    def __init__(self, orders: dict[str, Any], stack: ExitStack) -> None:
        from plait.load._generator import ffi
        from shm.segment import SegmentError, create_plain

        try:
            self.segment = create_plain(ffi.sizeof("struct load_area"), "load")
            stack.callback(self.segment.close)
            self.segment.ensure(0, self.segment.bytes)
        except SegmentError as error:
            raise Failure(error.what, error.why, error.next) from error
        self.area = ffi.cast("struct load_area *", self.segment.address)
        with deaf_children():
            self._popen = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(self.segment.fd,)
            )
        self._phases, self.peers = len(orders["phases"]), int(orders["setup"]["peers"])
        stack.callback(self.end)
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({**orders, "area": self.segment.fd}).encode() + b"\n")
        self._popen.stdin.close()

    def check(self) -> None:
        """_ProcessEndedError when the process ended before its time."""
        code = self._popen.poll()
        if code is not None and (code or self.area.finished < self._phases):
            assert self._popen.stderr is not None
            words = self._popen.stderr.read().decode(errors="replace").strip().splitlines()
            why = words[-1] if words else f"exit code {code}"
            failure = Failure("a load process ended", why, "Look at this host's memory and limits.")
            raise _ProcessEndedError(failure)

    def is_over(self, phase: int) -> bool:
        """Whether nothing more will be counted for a phase."""
        return self.area.finished > phase or self._popen.poll() is not None

    def tally(self, phase: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
        """Counters, histograms and greatest lag (ns) of one phase as they are now: copies."""
        from plait.load._generator import ffi, lib

        tally = self.area.tallies[phase]
        counters = np.frombuffer(ffi.buffer(tally.counters), dtype=np.uint64)[: lib.LOAD_COUNTERS]
        rows = np.frombuffer(ffi.buffer(tally.histograms), dtype=np.uint64)
        return (
            counters.copy(),
            rows.reshape(lib.LOAD_HISTOGRAMS, lib.LOAD_BUCKETS).copy(),
            int(tally.lag_most),
        )

    def end(self) -> None:
        """Stop it, by force when it does not heed the word."""
        self.area.stop = STOP_AT_ONCE
        try:
            self._popen.wait(3)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        assert self._popen.stderr is not None
        self._popen.stderr.close()


def now_ns() -> int:
    """The clock of the load processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_ahead_ns(clock: Callable[[], int] = now_ns, wall: Callable[[], int] = time.time_ns) -> int:
    """How far the wall clock is ahead of now_ns(). Of five readings that of the shortest time counts: in the
    others something came between the two clocks."""
    readings = []
    for _ in range(5):
        before, between_them, after = clock(), wall(), clock()
        readings.append((after - before, between_them - (before + after) // 2))
    return min(readings)[1]


class _EarlyEndError(Exception):
    """The run ends before its time."""


class _StopAskedError(_EarlyEndError):
    """A signal asked for it."""


class _NobodyAnswersError(_EarlyEndError):
    """The gateway says nothing while handshakes wait for it."""


class _ProcessEndedError(_EarlyEndError):
    """A load process is gone; args[0]: the Failure that says why."""


class _Silence:
    """How long nothing that only the gateway can say has come while handshakes or echoes wait. A run of a
    known length bears that, once it has heard something at all."""

    def __init__(self, profile: Profile, say: Callable[[str], None]) -> None:
        self.profile, self.say = profile, say
        self.since = 0.0  # as Look.at
        self.phase, self.heard, self.was_heard, self.is_told = -1, 0, False, False

    def check(self, look: Look, has_end: bool) -> None:
        """Says once that it lasts; _NobodyAnswersError when that is too long. has_end: the phase says how
        many seconds it lasts."""
        if look.phase != self.phase:
            self.phase, self.heard, self.since = look.phase, 0, look.at - look.elapsed
        counters = look.counters
        heard = load_result.heard(counters)
        waits = look.outstanding or load_result.sent(counters) > counters["answered"]
        if heard > self.heard or not waits:
            if self.is_told and heard > self.heard:
                self.say(f"answers again, after {look.at - self.since:.0f} s")
            self.since, self.is_told = look.at, False
        self.was_heard = self.was_heard or heard > 0
        self.heard = heard
        bears = not look.outstanding or (self.was_heard and has_end)
        if look.at - self.since >= self.profile.give_up and not bears:
            raise _NobodyAnswersError
        if look.at - self.since >= WORD_AFTER and not self.is_told:
            self.is_told = True
            end = "" if bears else f"; after {self.profile.give_up:g} s the run ends"
            words = f"nobody has answered at {self.profile.target} for {WORD_AFTER:g} s"
            self.say(f"{words}{_hint(counters)}{end}")


def _hint(counters: load_result.Counts) -> str:
    """What came instead of an answer."""
    if counters["bad_response"]:
        return f", {counters['bad_response']:,} responses did not open"
    if counters["unreachable"]:
        return ", and no program listens there (ICMP port or host unreachable)"
    return f", {counters['datagrams_in']:,} other datagrams came" if counters["datagrams_in"] else ""


def check_answered(run: Run) -> None:
    """Failure when the run was given up, or nothing came back in all of it, or nothing through the tunnel."""
    counters = load_result.summed(run.phases)
    begun, heard = counters["initiations"], load_result.heard(counters)
    if not run.gave_up and (heard or not begun):
        _check_tunnel(run, counters)
        return
    seconds = f"{run.profile.give_up:g} s" if run.gave_up else f"{sum(p.seconds for p in run.phases):.1f} s"
    why = f"{begun:,} handshakes were begun, and no datagram came back in {seconds}"
    mend = (
        "Is the gateway there, is its public key the one given, and does it know these peers? "
        "`plait load config` writes what it must be configured with. --give-up SECONDS waits longer."
    )
    if heard:
        why = f"it answered at first, and then, while handshakes waited, sent nothing for {seconds}"
    elif counters["bad_response"]:
        why = f"{counters['bad_response']:,} responses came back, and none opened"
        mend = "Preshared keys must be the same on both sides: --psk here, PresharedKey there, of one seed."
    elif counters["datagrams_in"]:
        why = f"{counters['datagrams_in']:,} datagrams came back, and none of them is an answer of WireGuard"
        mend = "Is the target's port the gateway's? `wg show` prints it."
    elif counters["unreachable"]:
        why += "; its host says that no program listens at that port (ICMP)"
    raise Failure(f"nobody answers at {run.profile.target}", why, mend)


def _check_tunnel(run: Run, counters: load_result.Counts) -> None:
    """Failure when handshakes were answered, and no echo ever."""
    confirmed = sum(
        phase.counters["handshakes"]
        for phase, plan in zip(run.phases, run.profile.phase, strict=False)
        if plan.handshakes is not None and plan.handshakes.confirm
    )
    echoes = load_result.sent(counters) + counters["unconfirmed"]
    if not counters["responses"] or not echoes or confirmed or counters["answered"]:
        return
    gateway = gateway_address(inner_network(run.profile.inner, run.profile.peers))
    raise Failure(
        f"no echo comes back from {run.profile.target}",
        f"{counters['responses']:,} handshakes were answered, and none of {echoes:,} echoes in the tunnel",
        f"Has its host the inner address (ip address add {gateway}/{run.profile.inner.partition('/')[2]} "
        "dev wg0), does it know the peers' AllowedIPs, and does it answer echoes "
        "(net.ipv4.icmp_echo_ignore_all)?",
    )


# Before each phase: rate (the profile's is multiplied by it; 0: as it is) and seconds; None: the run is over.
Lead = Callable[[Run, int], tuple[float, float] | None]


def execute(
    profile: Profile,
    cores: list[int],
    owned: list[str],
    screen: Screen,
    stop: Stop | None = None,
    *,
    span: range | None = None,
    start_at: float | None = None,
    pilot: Lead | None = None,
    spare: int = 0,
) -> Run:
    """Run a profile against its target, which is checked first. A signal that `stop` heard ends it early,
    results kept, and so do a gateway that says nothing (check_answered tells), a condition of abort_on
    (run.aborted) and a load process that ended (run.failure).

    span: the peers that this machine simulates, of all that the profile has; each rate and count is shared
    accordingly. start_at: when the first phase begins, seconds since 1970. pilot: leads from phase to phase.
    spare: ephemerals to prepare beyond those that the phases ask for.
    """
    stop = stop or Stop()
    span = span or range(profile.peers)
    if start_at is not None:
        check_in_step(profile)
    address, port = load_target.parse(profile.target)
    load_target.check(address, owned)
    sources = load_target.sources(profile.sources, address)
    network = inner_network(profile.inner, profile.peers)
    keys = Keys(seed_bytes(profile.seed))
    run = Run(profile, cores[: processes_most(profile, span)], span)
    setup = {
        "seed": keys.seed.hex(),
        "gateway_key": gateway_key(profile, keys).hex(),
        "target": address.packed.hex(),
        "family": 10 if address.version == 6 else 2,
        "port": port,
        "inner_base": int(network.network_address),
        "sources": sources.count,
        "source": sources.first.packed.hex() if sources.first else "",
        "ports": profile.ports,
        "psk": int(profile.psk),
        "retry": int(profile.retry * SECOND),
        "retry_jitter": SECOND // 3,
        "silence": int(profile.silence * SECOND),
    }
    with ExitStack() as stack:
        processes = [Process(orders, stack) for orders in _orders(run, setup, spare)]
        try:
            _lead(run, processes, screen, stop, start_at, pilot)
        except (_EarlyEndError, AbortedError) as why:
            _end_early(run, processes, screen, stop, why)
    return run


def _end_early(run: Run, processes: list[Process], screen: Screen, stop: Stop, why: Exception) -> None:
    """Say why; what is in flight may still be answered while the phase drains, then its result is kept."""
    run.stopped, run.gave_up = True, isinstance(why, _NobodyAnswersError)
    run.signal = stop.signal.name if stop.signal is not None else None
    run.failure = why.args[0] if isinstance(why, _ProcessEndedError) else None
    run.aborted = str(why) if isinstance(why, AbortedError) else None
    number = run.under_way
    for process in processes:
        process.area.stop = STOP_AT_ONCE if run.gave_up or number is None else STOP_AND_DRAIN
    if number is None:
        return
    until = time.monotonic() + run.profile.phase[number].drain + ENDING_SECONDS
    while time.monotonic() < until and not all(process.is_over(number) for process in processes):
        if stop.is_urgent:
            for process in processes:
                process.area.stop = STOP_AT_ONCE
        time.sleep(0.005)
    _keep(run, number, processes, screen, is_finished=False)


def _keep(run: Run, number: int, processes: list[Process], screen: Screen, *, is_finished: bool) -> None:
    """The result of the phase under way."""
    run.phases.append(_result(run, number, processes, is_finished=is_finished))
    run.under_way = None
    screen.finished(run, run.phases[-1])


def gateway_key(profile: Profile, keys: Keys) -> bytes:
    """The gateway's public key: the profile's, or the seed's own."""
    from plait.keys import decode

    if profile.public_key is None:
        return keys.gateway()[1]
    try:
        return decode(profile.public_key)
    except ValueError as error:
        mend = "Give the gateway's public key as `wg show` prints it."
        raise Failure("cannot use public_key", str(error), mend) from error


def _orders(run: Run, setup: dict[str, Any], spare: int) -> Iterator[dict[str, Any]]:
    """What each process is told."""
    from plait.load._generator import lib

    run.bytes_per_peer = lib.load_bytes_per_peer()
    peers, count = run.profile.peers, len(run.cores)
    usable = sorted(os.sched_getaffinity(0))  # for preparation: the gateway has nothing to do then
    ephemerals = spare + sum(phase.ephemerals(peers) for phase in run.profile.phase)
    for number, core in enumerate(run.cores):
        first = run.span.start + len(run.span) * number // count
        after = run.span.start + len(run.span) * (number + 1) // count
        share = (after - first) / peers
        stock = min(-int(-ephemerals * share // 1), 1 << 20)
        yield {
            "number": number,
            "core": core,
            "setup": {**setup, "first_peer": first, "peers": after - first},
            "ephemerals": stock,
            "helpers": sorted({core, *usable[number::count]}),
            "cache": secrets_directory(),
            "phases": [
                phase_orders(run.profile, phase, at, first, after, number / count)
                for at, phase in enumerate(run.profile.phase)
            ],
        }


def phase_orders(
    profile: Profile, phase: Phase, number: int, first: int, after: int, stagger: float
) -> dict[str, Any]:
    """struct load_phase for the process that has peers first to after."""
    share = (after - first) / profile.peers

    def part(whole: int) -> int:
        """This process's part of a whole number: all parts together are the whole."""
        return whole * after // profile.peers - whole * first // profile.peers

    def ramp(rate: float | list[float] | None) -> list[float]:
        ends = rate if isinstance(rate, list) else [rate or 0.0] * 2
        return [end * share for end in ends]

    handshakes, traffic, garbage = phase.handshakes, phase.traffic, phase.garbage
    orders: dict[str, Any] = {
        "number": number,
        "length": int(phase.length() * SECOND),
        "drain": int(phase.drain * SECOND),
        "stagger": stagger,
        "until_done": int(phase.seconds is None),
        "patience": SECOND,
        "traffic_peers": after - first,
        "inner_bytes": BYTES,
    }
    if handshakes is not None:
        rate = profile.peers / handshakes.within if handshakes.within else handshakes.rate
        orders |= {
            "handshakes": part(phase.handshake_count(profile.peers)),
            "outstanding": max(1, part(handshakes.outstanding)) if handshakes.outstanding else 0,
            "handshake_rate": ramp(rate),
            "patience": int(handshakes.patience * SECOND),
            "confirm": int(handshakes.confirm),
            "handshakes_random": int(handshakes.arrival == "poisson"),
        }
    if traffic is not None:
        orders |= {
            "traffic_rate": ramp(traffic.rate),
            "traffic_outstanding": min(part(traffic.outstanding or 0), after - first),
            "traffic_peers": max(1, part(traffic.peers or profile.peers)),
            "inner_bytes": traffic.bytes or BYTES,
            "traffic_random": int(traffic.arrival == "poisson"),
        }
        sizes, shares = traffic.sizes()
        orders |= {"mix": len(sizes), "mix_bytes": sizes, "mix_share": shares}
    if phase.keepalives is not None:
        orders["keepalive_rate"] = (after - first) / phase.keepalives.every
    if phase.roaming is not None:
        orders["roam_rate"] = phase.roaming.rate * share
    if garbage is not None:
        orders["garbage_rate"] = [getattr(garbage, kind) * share for kind in GARBAGE]
    return orders


def _wait(
    processes: list[Process], stop: Stop, done: Callable[[Process], bool], each: Callable[[], None]
) -> None:
    """Until all processes are done, with a call of each() every TICK. Raises _EarlyEndError."""
    late = time.monotonic()
    while not all(done(process) for process in processes):
        if stop.signal is not None:
            raise _StopAskedError
        for process in processes:
            process.check()
        time.sleep(0.01)
        if time.monotonic() - late >= TICK:
            late = time.monotonic()
            each()


def _lead(
    run: Run,
    processes: list[Process],
    screen: Screen,
    stop: Stop,
    start_at: float | None = None,
    pilot: Lead | None = None,
) -> None:
    """Preparation, then phase after phase."""
    _prepare(run, processes, screen, stop)
    start = now_ns() + AHEAD_NS
    if start_at is not None:
        start = _start(run, processes, stop, start_at)
    run.began = (start + wall_ahead_ns()) / SECOND
    planned = start
    silence = _Silence(run.profile, screen.say)
    abort = AbortWatch(run.profile.abort_on)
    for number in range(len(run.profile.phase)):
        _wait(processes, stop, lambda process, number=number: process.area.prepared > number, lambda: None)  # type: ignore[misc]
        if stop.signal is not None:
            raise _StopAskedError
        if pilot is not None and not _told(run, number, processes, pilot):
            break
        begin = now_ns() + AHEAD_NS
        if start_at is not None:
            begin = max(begin, planned)
            phase = run.profile.phase[number]
            planned += int((phase.length() + phase.drain + BETWEEN_SECONDS) * SECOND)
        run.under_way = number
        for process in processes:
            process.area.begin[number] = begin
        before: list[Look | None] = [None]

        def look(number: int = number, begin: int = begin, before: list[Look | None] = before) -> None:
            seen = _look(processes, number, begin, start)
            run.series.add(between(before[0], seen))
            screen.look(run, seen, before[0])
            before[0] = seen
            silence.check(seen, run.profile.phase[number].seconds is not None)
            abort.check(seen.elapsed, lambda: _result(run, number, processes, is_finished=False))

        run.phase_begin = (begin - start) / SECOND
        _wait(processes, stop, lambda process, number=number: process.area.finished > number, look)  # type: ignore[misc]
        look()
        _keep(run, number, processes, screen, is_finished=True)


def _start(run: Run, processes: list[Process], stop: Stop, start_at: float) -> int:
    """When the first phase begins, as now_ns(): at start_at. The processes are told shortly before."""
    if (late := time.time() - start_at) > 0:
        why = f"when all was prepared, after {run.prepared_seconds:.1f} s, it was {late:.1f} s past it"
        raise Failure("cannot start at that time", why, "Give a later one.")
    _wait(processes, stop, lambda _: time.time() >= start_at - 0.1, lambda: None)
    return int(start_at * SECOND) - wall_ahead_ns()


def check_in_step(profile: Profile) -> None:
    """Failure when machines that begin together would not go on together."""
    for phase in profile.phase[:-1]:
        if phase.seconds is None:
            why = f"phase {phase.name} ends when its handshakes are over, on each machine at another time"
            raise Failure(
                "cannot start at one time", why, f"Give it seconds: --set phase.{phase.name}.seconds=30"
            )


def processes_most(profile: Profile, span: range) -> int:
    """More processes would be some that have nothing to do, or more in flight than the profile says."""
    most = [len(span)]
    for phase in profile.phase:
        if phase.handshakes is not None:
            most.append(phase.handshakes.outstanding or len(span))
        if phase.traffic is not None:
            most += [phase.traffic.outstanding or len(span), phase.traffic.peers or len(span)]
    return min(most)


def _prepare(run: Run, processes: list[Process], screen: Screen, stop: Stop) -> None:
    """Secrets before the clock starts; of a preparation that was ended early, what was done is known."""
    began = time.monotonic()

    def preparing() -> None:
        screen.preparing(
            sum(process.area.steps for process in processes),
            sum(process.area.steps_all for process in processes),
        )

    try:
        _wait(processes, stop, lambda process: process.area.prepared >= 1, preparing)
    finally:
        run.prepared_seconds = time.monotonic() - began
        run.static_static = sum(min(process.area.steps, process.peers) for process in processes)
        run.ephemerals = sum(max(process.area.steps - process.peers, 0) for process in processes)


def _told(run: Run, number: int, processes: list[Process], pilot: Lead) -> bool:
    """What the pilot wants of a phase, told to the processes; False: the run is over."""
    if (wanted := pilot(run, number)) is None:
        return False
    rate, seconds = wanted
    for process in processes:
        process.area.scale[number] = rate
        process.area.length[number] = int(seconds * SECOND)
    return True


def _look(processes: list[Process], number: int, begin: int, start: int) -> Look:
    names = load_result.counter_names()
    tallies = [process.tally(number) for process in processes]
    counters = np.sum([counted for counted, _, _ in tallies], axis=0)
    now = now_ns()
    return Look(
        at=(now - start) / SECOND,
        phase=number,
        elapsed=(now - begin) / SECOND,
        counters=dict(zip(names, map(int, counters), strict=True)),
        round_trip=np.sum([rows[ROUND_TRIP] for _, rows, _ in tallies], axis=0),
        sessions=sum(process.area.sessions for process in processes),
        outstanding=sum(process.area.outstanding for process in processes),
    )


def _result(run: Run, number: int, processes: list[Process], *, is_finished: bool) -> PhaseResult:
    names = load_result.counter_names()
    tallies = [process.tally(number) for process in processes]
    counters = np.sum([counted for counted, _, _ in tallies], axis=0)
    wall, cpu = names.index("wall_ns"), names.index("cpu_ns")
    phase = run.profile.phase[number]
    # A process that was killed has told no time: the others', or how long the phase was seen to last.
    walls = [int(counted[wall]) for counted, _, _ in tallies]
    seen = max((point.end for point in run.series.points if point.phase == number), default=run.phase_begin)
    return PhaseResult(
        name=phase.name,
        counters=dict(zip(names, map(int, counters), strict=True)),
        histograms=np.sum([rows for _, rows, _ in tallies], axis=0),
        lag_most=max(lag for _, _, lag in tallies) / SECOND,
        seconds=max(walls) / SECOND or min(seen - run.phase_begin, phase.length()),
        cpu_shares=[int(counted[cpu]) / counted[wall] for counted, _, _ in tallies if counted[wall]],
        began=run.began + run.phase_begin,
        is_finished=is_finished,
        gap_most=max(process.area.tallies[number].gap_most for process in processes) / SECOND,
        confirmed_last=max(process.area.tallies[number].confirmed_last for process in processes) / SECOND,
    )


def default_cores() -> list[int]:
    """The last core that this process may use: the others are left to the gateway."""
    return sorted(os.sched_getaffinity(0))[-1:]
