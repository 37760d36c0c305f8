"""Who is to blame when a run finds little: gateway, keys, network, profile or the generator itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from plait.failure import Failure
from plait.load import profile as load_profile
from plait.load import result as load_result
from plait.load import run as load_run
from plait.load.abort import AT_THE_END, AbortedError, AbortWatch
from plait.load.progress import Run, Screen
from plait.load.result import PhaseResult
from tests.support.waiting import PATIENCE
from tests.unit.plait.load.gateway import Gateway

SEED = "tests"


def run_phases(target: str, peers: int, *phases: dict[str, object], **top: object) -> Run:
    given = {"phase": list(phases), "peers": peers, "target": target, "seed": SEED, **top}
    made = load_profile.of_options(given)
    return load_run.execute(made, load_run.default_cores(), [], Screen())


def named(run: Run) -> dict[str, str]:
    """Party and text of what bounded the run."""
    return {each.party: each.text for phase in run.phases for each in load_result.parties(phase)}


def command(target: str, directory: Path, *options: str) -> tuple[int, str]:
    """Exit code and stderr of `plait load run` with three peers."""
    done = subprocess.run(
        [sys.executable, "-m", "plait", "load", "run", "--target", target, "--seed", SEED,
         "--peers", "3", "--json", str(directory / "run.json"), *options],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_peers_that_wait_for_the_gateway_are_the_gateways_doing() -> None:
    """Due handshakes that found no peer free: accounted for, and not the generator's limit."""
    phase = {"name": "h", "seconds": 1, "handshakes": {"rate": 100}, "drain": 0.1}
    with Gateway(SEED, 5) as gateway:
        gateway.deaf = True
        run = run_phases(gateway.target, 5, phase)
    counters = run.phases[0].counters
    account = load_result.events(counters)["handshakes"]
    assert account["due"] == 100 and counters["initiations"] == 5
    assert account["because"] == {"generator": 0, "waiting": 95, "few_peers": 0}
    found = load_result.metrics(run.phases)
    assert found["handshake_loss"] == 1 and found["not_sent"] == 95 and found["generator_not_sent"] == 0
    assert "every peer still waited for the gateway" in named(run)["gateway"]
    assert not load_result.is_limit([counters])
    # Their times go in as well: they are those of a gateway that does not answer.
    assert run.phases[0].times("response").sum() == 95


def test_handshakes_that_a_closed_loop_had_no_time_for_are_due() -> None:
    """Both places wait for the gateway until the end: what never began is no less of its doing."""
    phase = {"name": "h", "seconds": 0.5, "handshakes": {"outstanding": 2, "count": 9}, "drain": 0}
    with Gateway(SEED, 5) as gateway:
        gateway.deaf = True
        run = run_phases(gateway.target, 5, phase)
    counters = run.phases[0].counters
    account = load_result.events(counters)["handshakes"]
    assert counters["initiations"] == 2 and account["due"] == account["not_sent"] == 7
    assert account["because"] == {"generator": 0, "waiting": 7, "few_peers": 0}
    assert load_result.handshake_loss({**counters, "handshakes": 2}) == pytest.approx(7 / 9)
    assert "7 handshakes began late or never" in named(run)["gateway"]
    assert not load_result.is_limit([counters])


def test_too_few_peers_for_a_rate_are_refused() -> None:
    """Each begins one in 25 ms; the profile alone tells."""
    for way in ({"rate": 2000}, {"rate": [1, 2000]}, {"within": 0.001}):
        with pytest.raises(Failure, match="10 peers begin at most 400 handshakes a second") as refused:
            load_profile.of_options({"peers": 10, "phase": [{"name": "h", "seconds": 1, "handshakes": way}]})
        assert "50 peers or more" in str(refused.value) or "within" in way


def test_retries_of_a_silent_gateway_are_no_limit_of_the_generator() -> None:
    """They use up the ephemerals that were laid in; nobody could have laid in more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = "{}:{}".format(*silent.getsockname())
        phase = {"name": "h", "seconds": 1, "handshakes": {"outstanding": 3}, "drain": 0}
        run = run_phases(target, 3, phase, retry=0.02)
    counters = run.phases[0].counters
    assert counters["unprepared"] > 0 and counters["retries"] > 0
    assert not any("ephemerals" in text for text in load_result.limits(run.phases[0]))


def test_a_preshared_key_on_one_side_is_named(tmp_path: Path) -> None:
    with Gateway(SEED, 3, psk=True) as gateway:
        code, words = command(gateway.target, tmp_path, "--give-up", "1", "--set", "retry=0.2")
    assert code == 1
    last = words.splitlines()[-1]
    assert "responses came back, and none opened" in last and "--psk" in last
    # Responses that do not open are no answers: the silence lasts while they come.
    assert '"end": "gave_up"' in (tmp_path / "run.json").read_text()


def test_a_gateway_without_its_inner_address_is_named(tmp_path: Path) -> None:
    """It answers handshakes and no echo: that is no run."""
    with Gateway(SEED, 3) as gateway:
        gateway.mute = True
        code, words = command(gateway.target, tmp_path, "--rate", "50", "--seconds", "0.2")
    assert code == 1
    last = words.splitlines()[-1]
    assert "no echo comes back" in last and "ip address add 10.64.0.1/10" in last


@pytest.mark.parametrize(
    ("counted", "text"),
    [
        ({"answered": 106}, ""),
        ({"answered_after": 29}, "29 echoes of an earlier phase meanwhile, and none of this one's: it is"),
        ({}, "it answered 62 handshakes and none of the echoes after them"),
        ({"unconfirmed": 0}, "it is there, and answered none of 800 echoes"),
    ],
)
def test_a_host_that_answered_an_echo_has_its_inner_address(counted: dict[str, int], text: str) -> None:
    """A gateway that falls behind confirms no handshake in time: that says nothing about addresses."""
    names = load_result.counter_names()
    storm = {"initiations": 200, "responses": 62, "unconfirmed": 62, "asked": 800, "datagrams_in": 312}
    rows = np.zeros((len(load_result.HISTOGRAMS), 8448), dtype=np.uint64)
    phase = PhaseResult("wave", {**dict.fromkeys(names, 0), **storm, **counted}, rows)
    found = [each.text for each in load_result.parties(phase) if each.party == "gateway"]
    assert len(found) == bool(text) and text in "".join(found)


def test_a_target_where_nobody_listens_is_told_after_5_s_and_named(tmp_path: Path) -> None:
    """The ICMP error says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        target = "{}:{}".format(*gone.getsockname())
    code, words = command(target, tmp_path, "--give-up", "6")
    assert code == 1
    told = f"load: nobody has answered at {target} for 5 s, and no program listens there"
    assert told in words and "after 6 s the run ends" in words
    assert "no program listens at that port (ICMP)" in words.splitlines()[-1]


def test_what_is_no_answer_of_wireguard_is_said_to_be_none(tmp_path: Path) -> None:
    """A program that answers with something else."""
    with Gateway(SEED, 3) as gateway:
        gateway.parrots = True
        code, words = command(gateway.target, tmp_path, "--give-up", "1")
    assert code == 1 and "none of them is an answer of WireGuard" in words.splitlines()[-1]


def test_abort_on_ends_a_run_whose_gateway_has_fallen_silent(tmp_path: Path) -> None:
    """In its first seconds, of a phase of a day; what was found is kept."""
    profile = tmp_path / "profile.toml"
    profile.write_text(
        """
        [[phase]]
        name = "storm"
        handshakes = { outstanding = 3, confirm = false }
        [[phase]]
        name = "steady"
        seconds = 86400
        traffic = { rate = 50 }
        """
    )
    with Gateway(SEED, 3) as gateway:
        gateway.mute = True
        code, words = command(gateway.target, tmp_path, str(profile), "--abort-on", "steady:loss>50%")
    assert code == 99
    assert "ended early: steady:loss>50% held over the last" in words and "100%" in words
    assert '"stopped_early": true' in (tmp_path / "run.json").read_text()


def test_abort_on_judges_the_last_seconds_and_not_what_is_on_its_way() -> None:
    """50 s of answers hide nothing; an echo of the last second is not lost yet."""
    names = load_result.counter_names()

    def at(asked: int, answered: int) -> PhaseResult:
        counters = {**dict.fromkeys(names, 0), "asked": asked, "answered": answered}
        rows = np.zeros((len(load_result.HISTOGRAMS), 8448), dtype=np.uint64)
        return PhaseResult("steady", counters, rows)

    watch = AbortWatch(["loss>10%"])
    for tick in range(4 * 50):  # of a quarter of a second: all answered, half a second later
        watch.check(tick / 4, lambda tick=tick: at(25 * tick, max(0, 25 * tick - 50)))  # type: ignore[misc]
    with pytest.raises(AbortedError, match="held over the last 5 s"):
        for tick in range(4 * 50, 4 * 54):
            watch.check(tick / 4, lambda tick=tick: at(25 * tick, 25 * 4 * 50 - 50))  # type: ignore[misc]
    AbortWatch(["other:loss>10%"]).check(10, lambda: at(1000, 0))


def shaken(handshakes: int, last: float, wall_ns: int = 0) -> PhaseResult:
    """A phase with so many handshakes, the last of them confirmed at that second."""
    names = load_result.counter_names()
    counters = {**dict.fromkeys(names, 0), "initiations": handshakes, "handshakes": handshakes}
    rows = np.zeros((len(load_result.HISTOGRAMS), 8448), dtype=np.uint64)
    return PhaseResult("storm", {**counters, "wall_ns": wall_ns}, rows, confirmed_last=last)


@pytest.mark.parametrize("metric", ["handshakes/s", "handshakes_last/s"])
def test_abort_on_knows_the_rate_of_the_last_seconds(metric: str) -> None:
    """A hundred a second from the tenth second on; then no more."""
    watch = AbortWatch([f"{metric}>110"])
    slow = AbortWatch([f"{metric}<90"])
    for tick in range(4 * 20, 4 * 60):
        found = shaken(25 * tick, tick / 4)
        watch.check(tick / 4, lambda found=found: found)  # type: ignore[misc]
        slow.check(tick / 4, lambda found=found: found)  # type: ignore[misc]
    with pytest.raises(AbortedError, match="held over the last 5 s"):
        for tick in range(4 * 60, 4 * 64):
            slow.check(tick / 4, lambda: shaken(6000, 60))


def test_abort_on_judges_no_drain() -> None:
    watch = AbortWatch(["handshakes/s<90"])
    for tick in range(4 * 20):
        watch.check(tick / 4, lambda tick=tick: shaken(25 * tick, tick / 4))  # type: ignore[misc]
    for tick in range(4 * 20, 4 * 30):
        watch.check(tick / 4, lambda: shaken(2000, 20, wall_ns=20_000_000_000))


@pytest.mark.parametrize("metric", [*AT_THE_END, "gap_p50", "gap_max"])
def test_abort_on_refuses_what_is_known_only_at_the_end(metric: str) -> None:
    text = f"{metric}>1s" if metric.startswith("gap_") else f"{metric}>1"
    with pytest.raises(Failure, match=f"{metric} is known only when a phase is over") as refused:
        AbortWatch([text])
    words = str(refused.value)
    assert words.startswith(f"cannot use --abort-on '{text}': ") and "--require" in words
