"""What a run found: counters and histograms of all processes put together, rates, times and limits.

Histograms arrive as bucket counts of plait/load/generator.h and are kept as HdrHistogram, so that other
tools can read what `--json` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np

from plait.load.arrivals import Arrived

LONGEST_NS = 1 << 40
DIGITS = 3
# enum load_histogram, and what stands before the percentiles of each in the names of metrics.
HISTOGRAMS = (
    "response",
    "handshake",
    "round_trip",
    "response_departed",
    "handshake_departed",
    "round_trip_departed",
    "recovery",
    "gap",
    "confirmed_at",
)
PREFIXES = {
    **{name: f"{name}_" for name in HISTOGRAMS[:-1]},
    "round_trip": "",
    "round_trip_departed": "departed_",
}
PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0))
MORE_PERCENTILES = (("p75", 75.0), ("p95", 95.0), ("p99.99", 99.99))
TIMES = (*(name for name, _ in (*PERCENTILES, *MORE_PERCENTILES)), "min", "mean")
MOST = 0.95  # of the handshakes: until then their rate counts, for one lost datagram costs 5 s
# Messages that an honest gateway never causes.
WRONG = (
    "bad_message",
    "bad_index",
    "bad_response",
    "bad_cookie",
    "bad_tag",
    "repeated",
    "wrong_peer",
    "strange",
    "strangers_answered",
)
GARBAGE = (
    "mac1",
    "stranger",
    "short",
    "random",
    "tag",
    "replayed_data",
    "replayed_initiation",
    "timestamp",
)

Counts = Mapping[str, int]


@cache
def counter_names() -> tuple[str, ...]:
    """The counters of enum load_counter, in order, in small letters without their prefix."""
    from plait.load._generator import ffi

    elements = ffi.typeof("enum load_counter").elements
    return tuple(elements[i].removeprefix("LOAD_").lower() for i in range(len(elements) - 1))


@cache
def bucket_middles(histogram: str = "round_trip") -> np.ndarray[Any, np.dtype[np.int64]]:
    """The middle of each bucket of one of HISTOGRAMS in ns."""
    from plait.load._generator import lib

    middle = lib.load_recovery_bucket_middle if histogram == "recovery" else lib.load_bucket_middle
    return np.array([middle(i) for i in range(lib.LOAD_BUCKETS)], dtype=np.int64)


def quantile(buckets: np.ndarray[Any, Any], share: float) -> float | None:
    """Seconds that a share of what was measured did not exceed; None when nothing was."""
    total = int(buckets.sum())
    if not total:
        return None
    at = int(np.searchsorted(np.cumsum(buckets), max(1, np.ceil(share * total))))
    return float(bucket_middles()[at]) / 1e9


def times(buckets: np.ndarray[Any, Any], histogram: str = "round_trip") -> dict[str, float]:
    """Percentiles, least and mean in seconds, empty when nothing was measured."""
    total = int(buckets.sum())
    if not total:
        return {}
    summed, middles = np.cumsum(buckets), bucket_middles(histogram)
    found = {}
    for name, percent in (*PERCENTILES, *MORE_PERCENTILES):
        at = int(np.searchsorted(summed, max(1, np.ceil(total * percent / 100))))
        found[name] = float(middles[at]) / 1e9
    found["min"] = float(middles[np.flatnonzero(buckets)[0]]) / 1e9
    found["mean"] = float((buckets * middles).sum()) / total / 1e9
    return found


def encoded(buckets: np.ndarray[Any, Any], histogram: str = "round_trip") -> str:
    """The histogram in HdrHistogram's own interchange format (base64), values in ns."""
    from hdrh.histogram import HdrHistogram

    made = HdrHistogram(1, LONGEST_NS, DIGITS)
    for at in np.flatnonzero(buckets):
        made.record_value(max(1, int(bucket_middles(histogram)[at])), int(buckets[at]))
    return str(made.encode().decode())


@dataclass
class PhaseResult:
    """One phase, of all processes. seconds: the longest that any of them took, drain left out."""

    name: str
    counters: dict[str, int]
    histograms: np.ndarray[Any, Any]  # one row of buckets for each of HISTOGRAMS
    lag_most: float = 0.0  # seconds
    seconds: float = 0.0
    cpu_shares: Sequence[float] = field(default_factory=list)  # of each process's core
    began: float = 0.0  # seconds since 1970
    is_finished: bool = True  # False: the run ended in it
    gap_most: float = 0.0  # seconds: the longest that no peer of a process got an answer
    confirmed_last: float = 0.0  # seconds of the phase
    arrived: Arrived | None = None  # at the gateway's host, as far as that is known
    populations: dict[str, PhaseResult] = field(default_factory=dict)  # those that have names

    def rate(self, counter: str) -> float:
        """Of a counter, a second."""
        return self.counters[counter] / self.seconds if self.seconds else 0.0

    def times(self, name: str) -> np.ndarray[Any, Any]:
        """The buckets of one of HISTOGRAMS."""
        row: np.ndarray[Any, Any] = self.histograms[HISTOGRAMS.index(name)]
        return row

    def as_json(self) -> dict[str, Any]:
        """The phase for --json."""
        found = parties(self)
        return {
            "name": self.name,
            "began": round(self.began, 6),
            "finished": self.is_finished,
            "seconds": self.seconds,
            "confirmed_last": self.confirmed_last,
            "longest_gap": self.gap_most,
            **self._found(),
            "arrived": None if self.arrived is None else asdict(self.arrived),
            "populations": {
                name: {
                    "seconds": each.seconds,
                    "confirmed_last": each.confirmed_last,
                    "longest_gap": each.gap_most,
                    "lag_most": each.lag_most,
                    **each._found(),
                }
                for name, each in self.populations.items()
            },
            "parties": [{"party": each.party, "text": each.text} for each in found],
            "generator": {**cost(self), "lag_most": self.lag_most, "limits": limits(self)},
        }


    def _found(self) -> dict[str, Any]:
        """What a phase and each of its populations have."""
        return {
            "counters": self.counters,
            "events": events(self.counters),
            "times": {
                name: {"count": int(row.sum()), **times(row, name), "hdr": encoded(row, name)}
                for name, row in zip(HISTOGRAMS, self.histograms, strict=True)
                if row.any()
            },
            "metrics": metrics([self]),
        }


def places(phases: Sequence[PhaseResult]) -> dict[str, PhaseResult]:
    """Phases by name, and their populations as PHASE/POPULATION."""
    found = {}
    for phase in phases:
        found[phase.name] = phase
        found |= {f"{phase.name}/{name}": each for name, each in phase.populations.items()}
    return found


def summed(phases: Sequence[PhaseResult]) -> dict[str, int]:
    """The counters of several phases together."""
    return {name: sum(phase.counters[name] for phase in phases) for name in counter_names()}


def events(counters: Counts) -> dict[str, dict[str, Any]]:
    """What became of all that was due at a rate: in time, late and not sent are all of it. because: of the
    events that were not sent, for each cause."""

    def account(due: str, late: Sequence[str], because: dict[str, str]) -> dict[str, Any]:
        causes = {cause: counters[name] for cause, name in because.items()}
        late_ones, not_sent = sum(counters[name] for name in late), sum(causes.values())
        in_time = max(0, counters[due] - late_ones - not_sent)
        return {
            "due": counters[due],
            "in_time": in_time,
            "late": late_ones,
            "not_sent": not_sent,
            "because": causes,
        }

    handshakes = {
        "generator": "handshakes_not_sent",
        "waiting": "handshakes_not_begun_waiting",
        "few_peers": "handshakes_not_begun_few",
    }
    echoes = {"generator": "echoes_not_sent", "no_session": "unsent", "refused": "echoes_refused"}
    oneway = {"generator": "oneway_not_sent", "no_session": "oneway_idle", "refused": "oneway_refused"}
    others = {"generator": "others_not_sent", "no_session": "others_idle"}
    late = ("handshakes_late", "handshakes_late_waiting", "handshakes_late_few")
    return {
        "echoes": account("echoes_due", ["echoes_late"], echoes),
        "handshakes": account("handshakes_due", late, handshakes),
        "oneway": account("oneway_due", ["oneway_late"], oneway),
        "others": account("others_due", ["others_late"], others),
    }


def sent(counters: Counts) -> int:
    """The echoes that left."""
    return counters["asked"] - counters["unsent"] - counters["echoes_refused"]


def lost(counters: Counts) -> float | None:
    """Share of the echoes due that were not answered, whether they left or not."""
    due = counters["asked"] + counters["echoes_not_sent"]
    return 1 - counters["answered"] / due if due else None


def lost_of_sent(counters: Counts) -> float | None:
    """Share of the echoes that left and were not answered."""
    left = sent(counters)
    return 1 - counters["answered"] / left if left else None


def lost_there(phases: Sequence[PhaseResult]) -> float | None:
    """Share of the inner packets that left and did not come out at the gateway's host; None: not known, also
    when more came than was sent."""
    left = sum(phase.counters["inner_packets"] for phase in phases)
    if not left or any(_more_than_sent(phase) is not False for phase in phases):
        return None
    return 1 - sum(phase.arrived.packets for phase in phases if phase.arrived is not None) / left


def _more_than_sent(phase: PhaseResult) -> bool | None:
    """Whether more came to that host: of an earlier phase, or of others. None: not known."""
    if phase.arrived is None:
        return None
    counters = phase.counters
    echoes = counters["inner_packets"] - counters["oneway"] + counters["oneway_refused"]
    return phase.arrived.echoes > echoes or phase.arrived.oneway > counters["oneway"]


def handshake_loss(counters: Counts) -> float | None:
    """Share of the handshakes due that were not confirmed, whether they began or not."""
    due = counters["initiations"] + events(counters)["handshakes"]["not_sent"]
    return 1 - counters["handshakes"] / due if due else None


GENERATOR_LATE = ("echoes_late", "handshakes_late", "oneway_late", "others_late")
GENERATOR_NOT_SENT = ("echoes_not_sent", "handshakes_not_sent", "oneway_not_sent", "others_not_sent")


def metrics(phases: Sequence[PhaseResult]) -> dict[str, float | None]:
    """Everything that --require can ask, of one phase or of several together."""
    counters = summed(phases)
    rows = np.sum([phase.histograms for phase in phases], axis=0)
    found: dict[str, float | None] = {
        "loss": lost(counters),
        "sent_loss": lost_of_sent(counters),
        "handshake_loss": handshake_loss(counters),
        "sent_handshake_loss": handshake_loss({**counters, "handshakes_not_sent": 0}),
    }
    for name, row in zip(HISTOGRAMS, rows, strict=True):
        if name in PREFIXES:
            found |= {PREFIXES[name] + key: value for key, value in times(row, name).items()}

    def per_second(amount: float, busy: list[PhaseResult]) -> float | None:
        seconds = sum(phase.seconds for phase in busy)
        return amount / seconds if seconds else None

    shaking = [phase for phase in phases if phase.counters["initiations"]]
    talking = [phase for phase in phases if phase.counters["asked"]]
    flowing = [phase for phase in phases if phase.counters["asked"] or phase.counters["oneway"]]
    found["longest_gap"] = max(phase.gap_most for phase in phases) if talking else None
    accounts = events(counters).values()
    found["not_sent"] = sum(account["not_sent"] for account in accounts)
    found["late"] = sum(account["late"] for account in accounts)
    found["generator_not_sent"] = sum(counters[name] for name in GENERATOR_NOT_SENT)
    found["generator_late"] = sum(counters[name] for name in GENERATOR_LATE)
    found["generator_lag"] = max(phase.lag_most for phase in phases)
    found["handshakes"] = counters["handshakes"]
    found["handshakes/s"] = handshake_rate(shaking, MOST)
    found["handshakes_last/s"] = handshake_rate(shaking, 1.0)
    found["answers/s"] = per_second(counters["answered"], talking)
    inner = counters["inner_out"] + counters["inner_in"] + counters["oneway_out"]
    found["gbit/s"] = per_second(inner * 8e-9, flowing)
    oneway = counters["oneway"] - counters["oneway_refused"]
    found["oneway"] = oneway
    found["oneway/s"] = per_second(oneway, [each for each in phases if each.counters["oneway"]])
    numbers = counters["numbered"] + counters["numbers_missing"]
    found["back_loss"] = counters["numbers_missing"] / numbers if numbers else None
    found["there_loss"] = lost_there(phases)
    found["strangers"] = counters["strangers_begun"]
    for name in ("retries", "recovered", "cookies", "garbage_answers"):
        found[name] = counters[name]
    # Levels: of the last phase.
    found["sessions"] = phases[-1].counters["sessions_held"]
    found["unrecovered"] = phases[-1].counters["unrecovered"]
    found["wrong"] = sum(counters[name] for name in WRONG)
    return found


def handshake_rate(phases: Sequence[PhaseResult], share: float) -> float | None:
    """Handshakes a second until that share of all that were confirmed were: what the phase lasted longer, or
    what a lost datagram held up, is no rate of the gateway's."""
    done, seconds = 0, 0.0
    for phase in phases:
        confirmed = phase.counters["handshakes"]
        most = int(np.ceil(share * confirmed))
        at = phase.confirmed_last if most == confirmed else quantile(phase.times("confirmed_at"), share)
        done, seconds = done + most, seconds + (at or 0.0)
    return done / seconds if seconds else 0.0 if phases else None


def as_sent(found: Mapping[str, float | None]) -> dict[str, float | None]:
    """metrics(), as they would be if the generator had done nothing late and left nothing out: times from
    departure, loss of what left. Where these meet a requirement, the gateway is not to blame."""
    view = dict(found)
    for name in ("response", "handshake", "round_trip"):
        for key in TIMES:
            view[PREFIXES[name] + key] = found.get(PREFIXES[f"{name}_departed"] + key)
    for name in ("loss", "handshake_loss"):
        view[name] = found.get(f"sent_{name}")
    for name in ("not_sent", "late"):
        view[name] = (found.get(name) or 0) - (found.get(f"generator_{name}") or 0)
    view |= {"generator_not_sent": 0, "generator_late": 0, "generator_lag": 0.0}
    return view


def is_limit(phases: Sequence[Counts]) -> bool:
    """Whether the generator itself left out what was due, or lost what came. phases: the counters of each."""
    return any(counters[name] for counters in phases for name in (*GENERATOR_NOT_SENT, "own_drops"))


def cost(phase: PhaseResult) -> dict[str, float]:
    """The generator's own CPU: in all, of a handshake's cryptography, of a datagram's everything else."""
    counters = phase.counters
    datagrams = counters["datagrams_out"] + counters["datagrams_in"]
    if not phase.cpu_shares:
        return {}  # no process has told
    found = {"cpu_seconds": counters["cpu_ns"] / 1e9, "cpu_share": max(phase.cpu_shares)}
    if counters["responses"]:
        found["us_per_handshake"] = counters["handshake_ns"] / counters["responses"] / 1e3
    if datagrams:
        # Two clocks: of next to nothing the difference may be below it.
        found["us_per_datagram"] = max(counters["cpu_ns"] - counters["handshake_ns"], 0) / datagrams / 1e3
    return found


@dataclass(frozen=True)
class Party:
    """Who bounded what was measured, or kept it from being measured: generator, gateway, profile, keys, host
    or network; and how."""

    party: str
    text: str


def heard(counters: Counts) -> int:
    """Datagrams that only the gateway can have sent."""
    return sum(
        counters[name]
        for name in ("responses", "cookies", "answered", "answered_after", "keepalives_back", "inner_other")
    )


def parties(phase: PhaseResult) -> list[Party]:
    """Whose doing it was, where what was measured is not the gateway's speed alone."""
    counters = phase.counters
    return [
        *(Party("generator", text) for text in limits(phase)),
        *(Party("host", text) for text in _refused(counters)),
        *_silence(counters),
        *_too_much(counters),
        *_unseen(phase),
    ]


def limits(phase: PhaseResult) -> list[str]:
    """Where the generator itself, and not the gateway, bounded what was measured."""
    counters, found = phase.counters, []
    if max(phase.cpu_shares, default=0.0) > 0.95:
        found.append("a process used its whole core: the generator is the limit, give it more --cores")
    missing, late = (
        sum(counters[name] for name in names) for names in (GENERATOR_NOT_SENT, GENERATOR_LATE)
    )
    if missing:
        due = sum(account["due"] for account in events(counters).values())
        found.append(
            f"{missing:,} of {due:,} events never left: the generator stood still or was too slow "
            "(they count as lost, and in the times as long as they waited)"
        )
    if late:
        found.append(
            f"{late:,} event{'' if late == 1 else 's'} left more than 10 ms late, the latest "
            f"{phase.lag_most * 1e3:.0f} ms (times count from when they were due; those from departure stand "
            "beside them)"
        )
    if counters["own_drops"]:
        found.append(f"{counters['own_drops']:,} datagrams were lost in the generator's own sockets")
    # Stock is laid in for the plan; what a gateway's silence costs in retries is not the generator's doing.
    unprepared = counters["unprepared"] - counters["retries"] - counters["renewals"]
    if unprepared > 0:
        found.append(f"{unprepared:,} ephemerals were made while the clock ran")
    return found


def _refused(counters: Counts) -> list[str]:
    found = []
    if counters["send_refused"]:
        found.append(f"the kernel refused to send {counters['send_refused']:,} datagrams")
    return found


def _silence(counters: Counts) -> list[Party]:
    """Why nothing, or nothing of use, came back."""
    found, came = [], counters["datagrams_in"]
    if counters["unreachable"]:
        text = (
            f"{counters['unreachable']:,} ICMP errors came back: no program listens at the target, or no way "
            "leads there"
        )
        found.append(Party("network", text))
    if counters["bad_response"] and not counters["responses"]:
        text = (
            f"{counters['bad_response']:,} responses came and none opened: the preshared keys of both sides "
            "differ (--psk here, PresharedKey there)"
        )
        found.append(Party("keys", text))
    elif came and not heard(counters):
        found.append(Party("gateway", f"{came:,} datagrams came back, and none was an answer of WireGuard"))
    elif counters["answered"] or (counters["answered_after"] and not sent(counters)):
        pass  # its host has the inner address; what it did not answer is loss
    elif counters["answered_after"]:
        text = (
            f"it answered {counters['answered_after']:,} echoes of an earlier phase meanwhile, and none of "
            "this one's: it is behind, so give the phase before a longer drain or a lower rate"
        )
        found.append(Party("gateway", text))
    elif counters["responses"] and counters["unconfirmed"] and not counters["handshakes"]:
        text = (
            f"it answered {counters['responses']:,} handshakes and none of the echoes after them: its host "
            "lacks the inner address (the first of `inner`), or ignores echoes"
        )
        found.append(Party("gateway", text))
    elif sent(counters) and heard(counters):
        text = f"it is there, and answered none of {sent(counters):,} echoes: has its host the inner address?"
        found.append(Party("gateway", text))
    return found


def _unseen(phase: PhaseResult) -> list[Party]:
    """Why nobody knows what came of packets that want no answer."""
    oneway = phase.counters["oneway"] - phase.counters["oneway_refused"]
    if not oneway:
        return []
    if phase.arrived is None:
        text = (
            f"whether {oneway:,} one-way packets arrived is not known: only the gateway's host can tell "
            "(--gateway-pid, or a lab)"
        )
        return [Party("host", text)]
    if _more_than_sent(phase):
        text = (
            "more inner packets came to the gateway's host than this phase sent, so what was lost on the way "
            "there is not known: some of an earlier phase came late, or others ping that host"
        )
        return [Party("host", text)]
    return []


def _too_much(counters: Counts) -> list[Party]:
    """What was asked for and could not be."""
    found = []
    waiting = counters["handshakes_late_waiting"] + counters["handshakes_not_begun_waiting"]
    few = counters["handshakes_late_few"] + counters["handshakes_not_begun_few"]
    if waiting:
        text = (
            f"{waiting:,} handshakes began late or never, because every peer still waited for the gateway, "
            "or every place of `outstanding` was taken"
        )
        found.append(Party("gateway", text))
    if few:
        text = (
            f"{few:,} handshakes began late or never, because the peers are too few for the rate: each may "
            "begin one in 25 ms"
        )
        found.append(Party("profile", text))
    if without := counters["unsent"] + counters["oneway_idle"]:
        text = f"{without:,} packets were due of peers without a session"
        found.append(Party("gateway" if counters["initiations"] else "profile", text))
    if idle := counters["others_idle"]:
        text = (
            f"{idle:,} keepalives, moves or garbage messages were due and had nothing to leave with: no "
            "session, or no answered message to replay"
        )
        found.append(Party("profile", text))
    if counters["unrecovered"]:
        text = f"{counters['unrecovered']:,} peers were still without an answer at the end"
        found.append(Party("gateway", text))
    return found
