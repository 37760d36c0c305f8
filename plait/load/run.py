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
from functools import partial
from typing import Any

import numpy as np

from plait.failure import Failure
from plait.load import result as load_result
from plait.load import target as load_target
from plait.load.abort import AbortedError, AbortWatch
from plait.load.arrivals import Arrived, Count, of_process
from plait.load.key_derivation import (
    Group,
    Keys,
    Network,
    gateway_address,
    inner_network,
    seed_bytes,
)
from plait.load.profile import BYTES, Packets, Part, Phase, Profile, Share, ephemerals, handshake_count
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
        self.population, self.core = str(orders["population"]), int(orders["core"])
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
        if any(share.table.confirm for share in _handshakes(run.profile, plan))
    )
    echoes = load_result.sent(counters) + counters["unconfirmed"]
    if not counters["responses"] or not echoes or confirmed or counters["answered"]:
        return
    addresses = "; ".join(
        f"ip address add {gateway_address(network)}/{network.prefixlen} dev wg0"
        for network in inner_networks(run.profile)
    )
    raise Failure(
        f"no echo comes back from {run.profile.target}",
        f"{counters['responses']:,} handshakes were answered, and none of {echoes:,} echoes in the tunnel",
        f"Has its host the inner address ({addresses}), does it know the peers' AllowedIPs, and does it "
        "answer echoes "
        "(net.ipv4.icmp_echo_ignore_all)?",
    )


def _handshakes(profile: Profile, phase: Phase) -> list[Share]:
    """The handshakes of a phase, of each population that has some."""
    shares = [profile.shares(phase, part) for part in profile.parts()]
    return [each["handshakes"] for each in shares if "handshakes" in each]


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
    most = max(processes_most(profile, here, part) for part, here in _parts_here(profile, span))
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
        processes = [Process(orders, stack) for orders in _orders(run, setup, spare)]
        try:
            _lead(run, processes, screen, stop, start_at, pilot, Arrivals(arrivals))
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


def arrivals(pid: int | None, *, is_here: bool = True) -> Count | None:
    """The counts of the namespace of a process, by default of this one when the gateway is_here: it mostly
    has its interface here too then. Failure when they cannot be read."""
    if pid is None and not is_here:
        return None
    count = partial(of_process, pid or "self")
    if pid is not None and count() is None:
        why, mend = "there is no such process, or /proc is not to be read", "Give a process of its host."
        raise Failure(f"cannot use --gateway-pid {pid}", why, mend)
    return count


class Arrivals:
    """What arrived in each phase. The counts are believed when they have moved by at least the echoes that
    were answered, and never again when they once have not: then they are another host's."""

    def __init__(self, count: Count | None) -> None:
        self.count = count
        self.before: Arrived | None = None
        self.is_theirs = False

    def begin(self) -> None:
        """Nothing has been sent yet."""
        self.before = self.count() if self.count is not None else None

    def of_phase(self, phase: PhaseResult, answered: int, seconds: float) -> Arrived | None:
        """Since the phase before, in which so many echoes were answered; waits for one-way packets that may
        still come, so many seconds at most. None: not known."""
        if self.count is None or self.before is None:
            return None
        until, counters = time.monotonic() + seconds, phase.counters
        while (now := self.count()) is not None:
            found = now.since(self.before)
            if answered:
                self.is_theirs = found.echoes >= answered
            # The phase has waited for its echoes.
            may_come = counters["oneway"] and found.packets < counters["inner_packets"]
            if not (self.is_theirs and may_come) or time.monotonic() >= until:
                break
            time.sleep(0.01)
        self.before = now
        if now is None or (answered and not self.is_theirs):
            self.count = None
        return found if self.is_theirs and now is not None else None


def _keep(
    run: Run,
    number: int,
    processes: list[Process],
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
        if all(share.table.confirm for share in _handshakes(run.profile, plan)):
            answered += phase.counters["handshakes"]
        phase.arrived = arrivals.of_phase(phase, answered, plan.drain)
    run.phases.append(phase)
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


def inner_networks(profile: Profile) -> list[Network]:
    """The networks inside: the gateway's host has the first address of each."""
    inners = dict.fromkeys(part.inner for part in profile.parts() if part.known != "nobody")
    return [inner_network(inner, profile.peers) for inner in inners]


def known_to(profile: Profile, who: str) -> list[Group]:
    """The peers that the gateway, or its provider, knows, with their networks."""
    return [
        (part.span, inner_network(part.inner, profile.peers))
        for part in profile.parts()
        if part.known == who
    ]


def _parts_here(profile: Profile, span: range) -> Iterator[tuple[Part, range]]:
    """The populations that have peers on this machine, and which."""
    for part in profile.parts():
        here = range(max(part.span.start, span.start), min(part.span.stop, span.stop))
        if here:
            yield part, here


def _orders(run: Run, setup: dict[str, Any], spare: int) -> Iterator[dict[str, Any]]:
    """What each process is told: of each population there is one on each core."""
    from plait.load._generator import lib

    run.bytes_per_peer = lib.load_bytes_per_peer()
    usable = sorted(os.sched_getaffinity(0))  # for preparation: the gateway has nothing to do then
    plans = [
        (part, here, number, count)
        for part, here in _parts_here(run.profile, run.span)
        for count in [min(len(run.cores), processes_most(run.profile, here, part))]
        for number in range(count)
    ]
    for at, (part, here, number, count) in enumerate(plans):
        core = run.cores[number]
        first = here.start + len(here) * number // count
        after = here.start + len(here) * (number + 1) // count
        stock = _ephemerals(run.profile, part, after - first)
        stock += -int(-spare * (after - first) / run.profile.peers // 1)
        network = inner_network(part.inner, run.profile.peers)
        yield {
            "number": at,
            "population": part.name,
            "core": core,
            "setup": {
                **setup,
                "first_peer": first,
                "peers": after - first,
                "inner_family": 10 if network.version == 6 else 2,
                "inner_base": network.network_address.packed.hex(),
                "strangers": int(part.known == "nobody"),
            },
            "ephemerals": min(stock, 1 << 20),
            "helpers": sorted({core, *usable[at :: len(plans)]}),
            "cache": secrets_directory(),
            "phases": [
                phase_orders(run.profile, phase, place, first, after, number / count, part)
                for place, phase in enumerate(run.profile.phase)
            ],
        }


def _ephemerals(profile: Profile, part: Part, peers: int) -> int:
    """How many handshakes so many peers of a population may begin, as far as the plan says."""
    stock = 0
    for phase in profile.phase:
        share = profile.shares(phase, part).get("handshakes")
        if share is not None:
            stock += -int(-ephemerals(share.table, phase.length(), share.peers) * peers / share.peers // 1)
    return stock


def phase_orders(
    profile: Profile,
    phase: Phase,
    number: int,
    first: int,
    after: int,
    stagger: float,
    part: Part | None = None,
) -> dict[str, Any]:
    """struct load_phase for the process that has peers first to after, of one population."""
    part = part or profile.parts()[0]
    shares = profile.shares(phase, part)

    def of(key: str, whole: int) -> int:
        """This process's part of a whole number of a table: all parts together are the whole."""
        share = shares[key]
        return whole * (after - share.first) // share.peers - whole * (first - share.first) // share.peers

    def ramp(key: str, rate: float | list[float] | None) -> list[float]:
        ends = rate if isinstance(rate, list) else [rate or 0.0] * 2
        return [end * (after - first) / shares[key].peers for end in ends]

    def sizes(packets: Packets | None) -> dict[str, Any]:
        listed, up_to = packets.sizes() if packets is not None else ([], [])
        one = packets.bytes if packets is not None else None
        return {"bytes": one or BYTES, "mix": len(listed), "mix_bytes": listed, "mix_share": up_to}

    tables = {key: share.table for key, share in shares.items()}
    handshakes, traffic, oneway = (tables.get(key) for key in ("handshakes", "traffic", "oneway"))
    # Without seconds it lasts until the handshakes are over: those who have none are over at once.
    length = phase.length() if shares or phase.seconds is not None else 0
    orders: dict[str, Any] = {
        "number": number,
        "length": int(length * SECOND),
        "drain": int(phase.drain * SECOND),
        "stagger": stagger,
        "until_done": int(phase.seconds is None),
        "patience": SECOND,
        "traffic_peers": after - first,
        "oneway_peers": after - first,
        "echo": sizes(traffic),
        "oneway": sizes(oneway),
    }
    if handshakes is not None:
        peers = shares["handshakes"].peers
        rate = peers / handshakes.within if handshakes.within else handshakes.rate
        places = handshakes.outstanding
        orders |= {
            "handshakes": of("handshakes", handshake_count(handshakes, peers)),
            "outstanding": max(1, of("handshakes", places)) if places else 0,
            "handshake_rate": ramp("handshakes", rate),
            "patience": int(handshakes.patience * SECOND),
            "confirm": int(handshakes.confirm),
            "handshakes_random": int(handshakes.arrival == "poisson"),
        }
    if traffic is not None:
        orders |= {
            "traffic_rate": ramp("traffic", traffic.rate),
            "traffic_outstanding": min(of("traffic", traffic.outstanding or 0), after - first),
            "traffic_peers": max(1, of("traffic", traffic.peers or shares["traffic"].peers)),
            "traffic_random": int(traffic.arrival == "poisson"),
        }
    if oneway is not None:
        orders |= {
            "oneway_rate": ramp("oneway", oneway.rate),
            "oneway_peers": max(1, of("oneway", oneway.peers or shares["oneway"].peers)),
            "oneway_random": int(oneway.arrival == "poisson"),
        }
    if "keepalives" in tables:
        orders["keepalive_rate"] = (after - first) / tables["keepalives"].every
    if "roaming" in tables:
        (orders["roam_rate"], _) = ramp("roaming", tables["roaming"].rate)
    if "garbage" in tables:
        orders["garbage_rate"] = [ramp("garbage", getattr(tables["garbage"], kind))[0] for kind in GARBAGE]
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
    arrivals: Arrivals | None = None,
) -> None:
    """Preparation, then phase after phase."""
    _prepare(run, processes, screen, stop)
    if arrivals is not None:
        arrivals.begin()
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
        _keep(run, number, processes, screen, is_finished=True, arrivals=arrivals)


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


def processes_most(profile: Profile, span: range, part: Part | None = None) -> int:
    """More processes of a population would be some that have nothing to do, or more in flight than the
    profile says."""
    part, most = part or profile.parts()[0], [len(span)]
    for phase in profile.phase:
        for share in profile.shares(phase, part).values():
            wanted = [getattr(share.table, name, None) for name in ("outstanding", "peers")]
            most += [max(1, one * len(part.span) // share.peers) for one in wanted if one]
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
    """What a phase came to, of all processes, and of those of each population."""
    whole = _measured(run, number, processes, is_finished=is_finished)
    for population in run.profile.population:
        own = [process for process in processes if process.population == population.name]
        if own:
            whole.populations[population.name] = _measured(run, number, own, is_finished=is_finished)
    return whole


def _measured(run: Run, number: int, processes: list[Process], *, is_finished: bool) -> PhaseResult:
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
