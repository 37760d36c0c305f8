"""Does anybody answer? A gateway that says nothing, and a run in which nothing came back: who is to blame."""

from __future__ import annotations

from collections.abc import Callable

from plait.failure import Failure
from plait.load import result as load_result
from plait.load.key_derivation import gateway_address
from plait.load.process_orders import inner_networks
from plait.load.profile import Phase, Profile, Share
from plait.load.progress import Look, Run

WORD_AFTER = 5.0  # seconds of silence that are told


class NobodyAnswersError(Exception):
    """The gateway says nothing while handshakes wait for it."""


class Silence:
    """How long nothing that only the gateway can say has come while handshakes or echoes wait. A run of a
    known length bears that, once it has heard something at all."""

    def __init__(self, profile: Profile, say: Callable[[str], None]) -> None:
        self.profile, self.say = profile, say
        self.since = 0.0  # as Look.at
        self.phase, self.heard, self.was_heard, self.is_told = -1, 0, False, False

    def check(self, look: Look, has_end: bool) -> None:
        """Says once that it lasts; NobodyAnswersError when that is too long. has_end: the phase says how
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
            raise NobodyAnswersError
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
        if any(share.table.confirm for share in handshakes_of(run.profile, plan))
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


def handshakes_of(profile: Profile, phase: Phase) -> list[Share]:
    """The handshakes of a phase, of each population that has some."""
    shares = [profile.shares(phase, part) for part in profile.parts()]
    return [each["handshakes"] for each in shares if "handshakes" in each]
