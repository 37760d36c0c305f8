"""A load run: processes of plait/load/process.py, one a core, led through the phases together.

Each process has a share of the peers and that share of every rate (process_orders.py). They meet before each
phase: the command gives all of them one moment of CLOCK_BOOTTIME to begin at. While a phase runs, what
they count is read where they count it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from plait.failure import Failure
from plait.load import result as load_result
from plait.load import target as load_target
from plait.load.abort import AbortedError, AbortWatch
from plait.load.answers import NobodyAnswersError, Silence, handshakes_of
from plait.load.arrivals import Arrivals, Count
from plait.load.key_derivation import Keys, inner_network, seed_bytes
from plait.load.load_process import STOP_AND_DRAIN, STOP_AT_ONCE, LoadProcess, ProcessEndedError
from plait.load.process_orders import SECOND, gateway_key, orders_of, parts_here, processes_most
from plait.load.profile import Profile
from plait.load.progress import Look, Run, Screen
from plait.load.result import PhaseResult
from plait.load.series import between
from plait.load.stop import Stop

TICK = 0.25  # seconds between two looks at the counters
BETWEEN_SECONDS = 1.0  # of machines that keep step, beside the drain: for what one of them does late
ENDING_SECONDS = 5.0  # for a load process to end a phase, beside its drain
AHEAD_NS = 5_000_000  # a phase begins so long after all are told
ROUND_TRIP = load_result.HISTOGRAMS.index("round_trip")


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


class _StopAskedError(Exception):
    """A signal asked for it."""


EARLY_ENDS = (_StopAskedError, NobodyAnswersError, AbortedError, ProcessEndedError)  # what ends a run early


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
    arrivals: Count | None = None,
) -> Run:
    """Run a profile against its target, which is checked first. A signal that `stop` heard ends it early,
    results kept, and so do a gateway that says nothing (check_answered tells), a condition of abort_on
    (run.aborted) and a load process that ended (run.failure).

    span: the peers that this machine simulates, of all that the profile has; each rate and count is shared
    accordingly. start_at: when the first phase begins, seconds since 1970. pilot: leads from phase to phase.
    spare: ephemerals to prepare beyond those that the phases ask for. arrivals: what the gateway's host has
    counted until now.
    """
    stop = stop or Stop()
    span = span or range(profile.peers)
    if start_at is not None:
        check_in_step(profile)
    address, port = load_target.parse(profile.target)
    load_target.check(address, owned)
    sources = load_target.sources(profile.sources, address)
    for part in profile.parts():
        inner_network(part.inner, profile.peers)
    keys = Keys(seed_bytes(profile.seed))
    most = max(processes_most(profile, here, part) for part, here in parts_here(profile, span))
    run = Run(profile, cores[:most], span)
    setup = {
        "seed": keys.seed.hex(),
        "gateway_key": gateway_key(profile, keys).hex(),
        "target": address.packed.hex(),
        "family": 10 if address.version == 6 else 2,
        "port": port,
        "sources": sources.count,
        "source": sources.first.packed.hex() if sources.first else "",
        "ports": profile.ports,
        "psk": int(profile.psk),
        "retry": int(profile.retry * SECOND),
        "retry_jitter": SECOND // 3,
        "silence": int(profile.silence * SECOND),
    }
    with ExitStack() as stack:
        processes = [LoadProcess(orders, stack) for orders in orders_of(run, setup, spare)]
        try:
            _lead(run, processes, screen, stop, start_at, pilot, Arrivals(arrivals))
        except EARLY_ENDS as why:
            _end_early(run, processes, screen, stop, why)
    return run


def _end_early(run: Run, processes: list[LoadProcess], screen: Screen, stop: Stop, why: Exception) -> None:
    """Say why; what is in flight may still be answered while the phase drains, then its result is kept."""
    run.stopped, run.gave_up = True, isinstance(why, NobodyAnswersError)
    run.signal = stop.signal.name if stop.signal is not None else None
    run.failure = why.args[0] if isinstance(why, ProcessEndedError) else None
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


def _keep(
    run: Run,
    number: int,
    processes: list[LoadProcess],
    screen: Screen,
    *,
    is_finished: bool,
    arrivals: Arrivals | None = None,
) -> None:
    """The result of the phase under way."""
    phase = _result(run, number, processes, is_finished=is_finished)
    if arrivals is not None:
        plan = run.profile.phase[number]
        answered = phase.counters["answered"]
        if all(share.table.confirm for share in handshakes_of(run.profile, plan)):
            answered += phase.counters["handshakes"]
        phase.arrived = arrivals.of_phase(phase.counters, answered, plan.drain)
    run.phases.append(phase)
    run.under_way = None
    screen.finished(run, run.phases[-1])


def _wait(
    processes: list[LoadProcess], stop: Stop, done: Callable[[LoadProcess], bool], each: Callable[[], None]
) -> None:
    """Until all processes are done, with a call of each() every TICK. Raises what EARLY_ENDS names."""
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
    processes: list[LoadProcess],
    screen: Screen,
    stop: Stop,
    start_at: float | None = None,
    pilot: Lead | None = None,
    arrivals: Arrivals | None = None,
) -> None:
    """Preparation, then phase after phase."""
    _prepare(run, processes, screen, stop)
    if arrivals is not None:
        arrivals.begin()
    start = now_ns() + AHEAD_NS
    if start_at is not None:
        screen.say(f"all is prepared; the first phase begins in {max(0.0, start_at - time.time()):.1f} s")
        start = _start(run, processes, stop, start_at)
    run.began = (start + wall_ahead_ns()) / SECOND
    planned = start
    silence = Silence(run.profile, screen.say)
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
        _keep(run, number, processes, screen, is_finished=True, arrivals=arrivals)


def _start(run: Run, processes: list[LoadProcess], stop: Stop, start_at: float) -> int:
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


def _prepare(run: Run, processes: list[LoadProcess], screen: Screen, stop: Stop) -> None:
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


def _told(run: Run, number: int, processes: list[LoadProcess], pilot: Lead) -> bool:
    """What the pilot wants of a phase, told to the processes; False: the run is over."""
    if (wanted := pilot(run, number)) is None:
        return False
    rate, seconds = wanted
    for process in processes:
        process.area.scale[number] = rate
        process.area.length[number] = int(seconds * SECOND)
    return True


def _look(processes: list[LoadProcess], number: int, begin: int, start: int) -> Look:
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


def _result(run: Run, number: int, processes: list[LoadProcess], *, is_finished: bool) -> PhaseResult:
    """What a phase came to, of all processes, and of those of each population."""
    whole = _measured(run, number, processes, is_finished=is_finished)
    for population in run.profile.population:
        own = [process for process in processes if process.population == population.name]
        if own:
            whole.populations[population.name] = _measured(run, number, own, is_finished=is_finished)
    return whole


def _measured(run: Run, number: int, processes: list[LoadProcess], *, is_finished: bool) -> PhaseResult:
    names = load_result.counter_names()
    tallies = [process.tally(number) for process in processes]
    counters = np.sum([counted for counted, _, _ in tallies], axis=0)
    wall, cpu = names.index("wall_ns"), names.index("cpu_ns")
    phase = run.profile.phase[number]
    # A process that was killed has told no time: the others', or how long the phase was seen to last.
    walls = [int(counted[wall]) for counted, _, _ in tallies]
    seen = max((point.end for point in run.series.points if point.phase == number), default=run.phase_begin)
    # Of a core that several processes share, all of them.
    longest, shares = max(walls), dict[int, float]()
    for process, (counted, _, _) in zip(processes, tallies, strict=True):
        if 100 * int(counted[wall]) > longest:  # the others had nothing to do
            shares[process.core] = shares.get(process.core, 0.0) + int(counted[cpu]) / int(counted[wall])
    return PhaseResult(
        name=phase.name,
        counters=dict(zip(names, map(int, counters), strict=True)),
        histograms=np.sum([rows for _, rows, _ in tallies], axis=0),
        lag_most=max(lag for _, _, lag in tallies) / SECOND,
        seconds=longest / SECOND or min(seen - run.phase_begin, phase.length()),
        cpu_shares=list(shares.values()),
        began=run.began + run.phase_begin,
        is_finished=is_finished,
        gap_most=max(process.area.tallies[number].gap_most for process in processes) / SECOND,
        confirmed_last=max(process.area.tallies[number].confirmed_last for process in processes) / SECOND,
    )


def default_cores() -> list[int]:
    """The last core that this process may use: the others are left to the gateway."""
    return sorted(os.sched_getaffinity(0))[-1:]
