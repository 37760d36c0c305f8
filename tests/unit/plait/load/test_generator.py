"""Load processes against a gateway of plain Python: what either side counts must agree."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.failure import Failure
from plait.load import document as load_json
from plait.load import profile as load_profile
from plait.load import result as load_result
from plait.load import run as load_run
from plait.load import screen as load_screen
from plait.load import thresholds as load_thresholds
from plait.load.answers import check_answered
from plait.load.arrivals import Count
from plait.load.plots import over_time
from plait.load.progress import Look, Run, Screen
from plait.watch.processes import children
from tests.support.waiting import PATIENCE, until
from tests.unit.plait.load.gateway import Gateway

SEED = "tests"
IP4, IP6 = "10.64.0.0/10", "fd64::/64"
STORM: dict[str, Any] = {"name": "storm", "handshakes": {"outstanding": 4}, "drain": 20}


def run_against(
    gateway: Gateway,
    phases: list[dict[str, Any]],
    processes: int = 1,
    screen: Screen | None = None,
    span: range | None = None,
    arrivals: Count | None = None,
    **top: Any,
) -> Run:
    """Run phases with a peer for each of the gateway's. A drain ends when all is answered: its default here
    is long, for machines that are busy."""
    profile = load_profile.of_options(
        {
            "phase": [{"drain": 20, **phase} for phase in phases],
            "peers": len(gateway.numbers),
            "target": gateway.target,
            "seed": SEED,
            "psk": gateway.psk,
            **top,
        }
    )
    cores = (load_run.default_cores() * processes)[:processes]
    return load_run.execute(profile, cores, [], screen or Screen(), span=span, arrivals=arrivals)


def wrong(run: Run) -> dict[str, int]:
    """What the generator found wrong, all phases together."""
    found = {name: sum(phase.counters[name] for phase in run.phases) for name in load_result.WRONG}
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize(("psk", "inner"), [(False, IP4), (True, IP4), (False, IP6)])
def test_each_peer_gets_its_session_and_its_answers(psk: bool, inner: str) -> None:
    """Two processes, several addresses and ports; every bit of an echo is checked by the gateway."""
    steady = {"name": "steady", "seconds": 0.6, "traffic": {"rate": 400, "bytes": 333}}
    with Gateway(SEED, 12, psk) as gateway:
        run = run_against(
            gateway, [STORM, steady], processes=2, sources="127.1.0.1+3", ports=2, inner=inner
        )
    storm, traffic = (phase.counters for phase in run.phases)
    assert wrong(run) == {}
    assert (storm["initiations"], storm["handshakes"], storm["unprepared"]) == (12, 12, 0)
    assert gateway.seen["initiations"] == 12
    asked = traffic["asked"]
    assert traffic["echoes_due"] == 240 == asked + traffic["echoes_not_sent"]
    assert asked == traffic["answered"] == gateway.seen["echoes"] - 12 > 0
    assert traffic["inner_out"] == asked * 333 == traffic["inner_in"]
    assert gateway.seen["bytes"] == 333
    assert {address for address, _ in gateway.sources} == {"127.1.0.1", "127.1.0.2", "127.1.0.3"}
    assert len({port for _, port in gateway.sources}) >= 2
    assert gateway.seen["datagrams"] == sum(phase.counters["datagrams_out"] for phase in run.phases)
    assert run.phases[1].histograms[2].sum() == 240  # what never left is in it, as long as it waited


def test_two_clocks_are_read_together() -> None:
    """Of five readings the tightest counts: in the others the machine did something else in between."""
    walls = iter([900, 1_050, 1_500, 3_000, 9_000])
    boots = iter([0, 800, 800, 860, 860, 1_300, 1_300, 2_900, 2_900, 8_000])
    assert load_run.wall_ahead_ns(lambda: next(boots), lambda: next(walls)) == 1_050 - 830


def test_a_gateway_that_never_answers_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """The command itself: results so far, one sentence, exit code 1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = "{}:{}".format(*silent.getsockname())
        for more in ([], ["--require", "handshake_loss<1%"]):
            done = subprocess.run(
                [sys.executable, "-m", "plait", "load", "run", "--peers", "3", "--rate", "10",
                 "--give-up", "0.5", "--target", target, "--json", str(tmp_path / "run.json"), *more],
                capture_output=True, text=True, check=False, timeout=PATIENCE,
            )  # fmt: skip
            assert done.returncode == 1 and "Nobody answered in storm." in done.stdout, done.stderr
            last = done.stderr.splitlines()[-1]
            assert last.startswith(f"plait: nobody answers at {target}: 3 handshakes were begun, and no ")
            found = json.loads((tmp_path / "run.json").read_text())
            assert found["stopped_early"] and [phase["name"] for phase in found["phases"]] == ["storm"]
        # So is a phase that says its seconds, as long as nothing was heard; a shorter one is told.
        for seconds in (60, 0.3):
            phase = {"name": "storm", "seconds": seconds, "drain": 0, "handshakes": {"outstanding": 3}}
            given = {"phase": [phase], "peers": 3, "target": target, "give_up": 0.5}
            run = load_run.execute(
                load_profile.of_options(given), load_run.default_cores(), [], Screen()
            )
            assert run.gave_up == (seconds == 60)
            with pytest.raises(Failure, match="no datagram came back"):
                check_answered(run)


def test_a_gateway_that_falls_silent_ends_a_phase_without_an_end() -> None:
    again = {"name": "again", "handshakes": {"outstanding": 2, "count": 100}}
    lasting = {"name": "lasting", "seconds": 1.5, "drain": 0, "handshakes": {"rate": 10}}
    for second, gives_up in ((again, True), (lasting, False)):
        with Gateway(SEED, 4) as gateway:

            class Ending(Screen):
                def look(self, run: Run, look: Look, before: Look | None) -> None:
                    if look.phase == 0 and look.counters["handshakes"] == 4:
                        gateway.deaf = True

            run = run_against(gateway, [STORM, second], screen=Ending(), give_up=0.5)
        assert run.gave_up == gives_up and len(run.phases) == 2
        assert run.phases[0].counters["handshakes"] == 4
        if gives_up:
            with pytest.raises(Failure, match="it answered at first"):
                check_answered(run)
        else:
            check_answered(run)


def test_what_is_lost_repeated_forged_and_misled_is_counted() -> None:
    with Gateway(SEED, 5) as gateway:
        run_phase = {"name": "bad", "seconds": 0.5, "traffic": {"rate": 600}, "drain": 2}
        gateway.drop_every, gateway.repeat_every, gateway.forge_every, gateway.wrong_every = 7, 11, 13, 17
        run = run_against(gateway, [{**STORM, "handshakes": {"outstanding": 4, "confirm": False}}, run_phase])
    bad, seen = run.phases[1].counters, gateway.seen
    assert bad["asked"] == seen["echoes"] == 300
    assert bad["bad_tag"] >= seen["forged"] > 10  # a repetition of a forged one is forged, too
    assert bad["bad_tag"] + bad["repeated"] == seen["forged"] + seen["repeated"] and seen["repeated"] > 10
    both = sum(n % 13 == 0 and n % 17 == 0 for n in range(1, 301))
    assert bad["wrong_peer"] + both >= seen["wrong"] > 10
    lost = {n for n in range(1, 301) if n % 7 == 0 or n % 13 == 0 or n % 17 == 0}
    assert bad["answered"] == 300 - len(lost)
    assert load_result.metrics([run.phases[1]])["loss"] == pytest.approx(len(lost) / 300)


def test_cookies_are_honoured_at_the_retry() -> None:
    """The first initiation of each peer meets a cookie, the next one shows it; never before the retry."""
    with Gateway(SEED, 6) as gateway:
        gateway.want_cookies = True
        run = run_against(gateway, [STORM], retry=0.3)
    counters, seen = run.phases[0].counters, gateway.seen
    assert counters["cookies"] == seen["cookies"] == 6
    assert counters["cookies_honoured"] == counters["retries"] == seen["with mac2"] == 6
    assert counters["handshakes"] == 6 and wrong(run) == {}
    assert load_result.metrics(run.phases)["response_p50"] >= 0.3


def test_a_deaf_gateway_is_loss_not_an_error() -> None:
    with Gateway(SEED, 3) as gateway:
        gateway.deaf = True
        phase = {
            "name": "storm",
            "seconds": 1.2,
            "handshakes": {"rate": 10},
            "drain": 0.1,
            "garbage": {"replayed_initiation": 200, "replayed_data": 200},
        }
        traffic = {"name": "steady", "seconds": 0.2, "traffic": {"rate": 100}, "drain": 0.1}
        run = run_against(gateway, [phase, traffic], retry=0.2)
    counters = run.phases[0].counters
    assert counters["handshakes"] == counters["responses"] == 0
    # What was never answered may never have arrived: a second copy of it would be no replay.
    assert counters["garbage_replayed_initiation"] == counters["garbage_replayed_data"] == 0
    assert counters["unanswered"] == counters["initiations"] > 0
    assert counters["retries"] > 0
    assert gateway.seen["initiations"] == counters["initiations"] + counters["retries"]
    assert run.phases[1].counters["unsent"] == run.phases[1].counters["asked"] == 20
    thresholds = [
        load_thresholds.parse(text) for text in ("handshake_loss<0.1%", "steady:loss<100%", "p99<1s")
    ]
    assert [verdict["holds"] for verdict in load_json.judge(run, thresholds)] == [False, False, False]
    assert "Nobody answered in storm." in load_screen.notes(run)


def test_garbage_is_garbage_and_replays_are_replays() -> None:
    kinds = ("mac1", "stranger", "short", "random", "tag", "replayed_data", "replayed_initiation")
    garbage = dict.fromkeys(kinds, 60)
    with Gateway(SEED, 5) as gateway:
        run = run_against(
            gateway,
            [
                {
                    "name": "warm",
                    "seconds": 0.3,
                    "handshakes": {"rate": 30},
                    "traffic": {"rate": 200},
                },
                {"name": "dirt", "seconds": 0.7, "traffic": {"rate": 200}, "garbage": garbage},
            ],
        )
    sent = {kind: sum(phase.counters[f"garbage_{kind}"] for phase in run.phases) for kind in kinds}
    seen = gateway.seen
    assert wrong(run) == {}
    assert min(sent.values()) >= 20 and sent["mac1"] == 42
    assert seen["mac1"] == sent["mac1"]
    assert seen["strangers"] == sent["stranger"]
    assert seen["wrong tag"] == sent["tag"]
    assert seen["replayed data"] == sent["replayed_data"]
    assert seen["replayed initiations"] == sent["replayed_initiation"]
    assert seen["malformed"] == sent["short"] + sent["random"]
    dirt = run.phases[1].counters
    assert dirt["garbage_answers"] == dirt["garbage_cookies"] == 0
    assert dirt["asked"] == dirt["answered"] == 140


def test_peers_roam_and_keep_alive() -> None:
    phase = {
        "name": "walk",
        "seconds": 0.6,
        "traffic": {"rate": 200},
        "roaming": {"rate": 100},
        "keepalives": {"every": 0.1},
    }
    with Gateway(SEED, 5) as gateway:
        run = run_against(gateway, [STORM, phase], sources="127.1.0.1+2", ports=3)
    walk = run.phases[1].counters
    assert walk["roamed"] == 60
    assert walk["keepalives"] == gateway.seen["keepalives"] == 60 + 30
    assert walk["answered"] == walk["asked"] == 120
    assert [len(places) for places in gateway.visited.values()] == [6] * 5  # each peer was everywhere


def test_closed_loop_of_echoes_asks_again_after_an_answer() -> None:
    with Gateway(SEED, 4) as gateway:
        run = run_against(gateway, [STORM, {"name": "loop", "seconds": 0.5, "traffic": {"outstanding": 2}}])
    loop = run.phases[1].counters
    assert loop["asked"] == loop["answered"] > 20
    assert loop["echoes_due"] == loop["echoes_late"] == loop["echoes_not_sent"] == 0


class Stopping(Screen):
    """Stops the load processes for half a second at the first look at them."""

    stopped = False

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        if look.phase == 1 and not self.stopped:
            self.stopped = True
            processes = list(children(os.getpid()))
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in processes:
                    os.kill(pid, number)
                time.sleep(0.5 if number == signal.SIGSTOP else 0)


def test_times_count_from_when_an_echo_was_due() -> None:
    """A generator that stood still for half a second shows in the times of what was due meanwhile."""
    steady = {"name": "steady", "seconds": 2, "traffic": {"rate": 200}, "drain": 20}
    with Gateway(SEED, 4) as gateway:
        run = run_against(gateway, [STORM, steady], screen=Stopping())
    found = load_result.metrics([run.phases[1]])
    assert found["loss"] == 0 and gateway.seen["echoes"] == 404
    assert found["max"] >= 0.4
    assert found["p90"] > 0.05  # 100 of 400 waited for it
    assert run.phases[1].counters["echoes_late"] >= 60
    assert any("late" in line for line in load_result.limits(run.phases[1]))
    # From departure the generator's own delay is left out, and so is it from what the gateway is blamed for.
    assert found["departed_p90"] < found["p90"] and found["generator_late"] == found["late"] >= 60
    assert load_result.as_sent(found)["p90"] == found["departed_p90"]


def test_what_a_gateway_may_say_by_itself_is_not_wrong() -> None:
    """It begins handshakes and its host pings: both are counted, and neither is an answer."""
    with Gateway(SEED, 3) as gateway:
        gateway.chats = True
        run = run_against(gateway, [STORM, {"name": "talk", "seconds": 0.3, "traffic": {"rate": 100}}])
    counters = load_result.summed(run.phases)
    assert wrong(run) == {}
    assert counters["gateway_initiations"] == counters["inner_other"] == gateway.seen["chats"] == 33
    assert counters["answered"] == 30


def test_an_answer_that_100_others_overtake_is_neither_repeated_nor_lost() -> None:
    with Gateway(SEED, 1) as gateway:
        gateway.holds = 101
        talk_phase = {"name": "talk", "seconds": 0.5, "traffic": {"rate": 400}, "drain": 9}
        run = run_against(gateway, [STORM, talk_phase])
    talk = run.phases[1].counters
    assert talk["asked"] == talk["answered"] == 200 and talk["repeated"] == talk["too_old"] == 0
    assert gateway.held is not None and wrong(run) == {}


def test_handshakes_a_second_are_counted_until_they_were_confirmed() -> None:
    """Not over what the phase lasts longer, and not held up by the one whose initiation was lost."""
    phase = {"name": "storm", "seconds": 2.5, "handshakes": {"outstanding": 20}}
    with Gateway(SEED, 20) as gateway:
        gateway.loses = 1
        run = run_against(gateway, [phase], retry=1)
    (storm,) = run.phases
    found = load_result.metrics([storm])
    assert storm.counters["handshakes"] == 20 and storm.counters["retries"] == 1
    # The gateway's own clock: 19 of 20 answers, and then the last.
    for name, count in (("handshakes/s", 19), ("handshakes_last/s", 20)):
        before, after = (at - storm.began for at in gateway.confirmed[count - 1])
        rate = found[name]
        assert rate is not None and count / after * 0.99 <= rate <= count / before * 1.01, name
    assert found["handshakes_last/s"] <= 20  # it came a second later


@pytest.mark.parametrize("arrival", ["even", "poisson"])
def test_echoes_are_due_evenly_or_at_random(arrival: str) -> None:
    """The gaps between them: all alike, or as scattered as they are long (Poisson), in two processes."""
    steady = {"name": "steady", "seconds": 2, "traffic": {"rate": 400, "arrival": arrival}, "drain": 20}
    with Gateway(SEED, 4) as gateway:
        run = run_against(gateway, [{**STORM, "drain": 20}, steady], processes=2)
    due = np.sort(np.array(gateway.dues[4:], dtype=np.int64)) / 1e9
    gaps = np.diff(due)
    asked = run.phases[1].counters["asked"]
    assert asked == run.phases[1].counters["answered"] == len(due)
    assert gaps.mean() == pytest.approx(1 / 400, rel=0.2)
    if arrival == "even":
        assert asked == 800 and gaps.std() < 0.05 * gaps.mean()
    else:
        assert 600 < asked < 1000 and 0.7 < gaps.std() / gaps.mean() < 1.3


def test_echoes_have_the_sizes_of_a_mix() -> None:
    mix = {"64": 7, "594": 4, "1420": 1}
    steady = {"name": "steady", "seconds": 2, "traffic": {"rate": 600, "mix": mix}, "drain": 20}
    with Gateway(SEED, 4) as gateway:
        run = run_against(gateway, [{**STORM, "handshakes": {"outstanding": 4, "confirm": False}}, steady])
    counters, sizes = run.phases[1].counters, gateway.sizes
    assert (
        set(sizes) == {64, 594, 1420} and counters["asked"] == counters["answered"] == sizes.total() == 1200
    )
    assert counters["inner_out"] == counters["inner_in"] == sum(size * n for size, n in sizes.items())
    for size, weight in mix.items():  # seven standard deviations of 1200 draws
        share = weight / 12
        assert abs(sizes[int(size)] - 1200 * share) < 7 * (1200 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(("inner", "sizes"), [(IP4, (64, 1420)), (IP6, (80, 1420))])
def test_one_way_packets_go_at_their_rate_and_want_no_answer(inner: str, sizes: tuple[int, int]) -> None:
    """Beside echoes, of which none is lost by that; each is right in every bit."""
    oneway = {"rate": 500, "mix": {str(sizes[0]): 1, str(sizes[1]): 1}, "peers": 3, "arrival": "poisson"}
    steady = {"name": "steady", "seconds": 1, "traffic": {"rate": 100}, "oneway": oneway}
    with Gateway(SEED, 6) as gateway:
        telling = Telling()
        run = run_against(gateway, [STORM, steady], screen=telling, inner=inner)
        until(lambda: gateway.seen["oneway"] >= run.phases[1].counters["oneway"], "the last packets")
    counters = run.phases[1].counters
    assert wrong(run) == {} and counters["inner_other"] == 0
    assert counters["oneway"] == gateway.seen["oneway"] == gateway.oneway_sizes.total() > 0
    assert counters["oneway_out"] == sum(size * n for size, n in gateway.oneway_sizes.items())
    assert set(gateway.oneway_sizes) == set(sizes) and gateway.oneway_by == {0, 1, 2}
    assert counters["asked"] == counters["answered"] == 100 - counters["echoes_not_sent"]
    assert counters["inner_packets"] == counters["asked"] + counters["oneway"]
    account = load_result.events(counters)["oneway"]
    assert account["due"] == account["in_time"] + account["late"] + account["not_sent"]
    assert counters["oneway"] == account["due"] - account["not_sent"]
    found = load_result.metrics(run.phases)
    assert found["oneway"] == counters["oneway"] and found["sent_loss"] == 0
    # What is told while it runs, and of each moment afterwards.
    assert any(facts.get("one-way", "0/s") != "0/s" for facts in telling.told)
    series = load_json.document(run, [])["series"]
    for name in ("oneway", "oneway_out"):
        total = sum(entry[name] * (entry["at"] - entry["from"]) for entry in series)
        assert total == pytest.approx(counters[name], rel=0.02), name
    assert "One-way packets, a second" in "".join(over_time(series, [], "p"))


class Telling(Screen):
    """Keeps what a screen would show."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        self.told.append(dict(load_screen.facts(run, look, before)))


def test_one_way_packets_need_a_session() -> None:
    with Gateway(SEED, 2) as gateway:
        gateway.deaf = True
        phase = {"name": "a", "seconds": 0.5, "handshakes": {"rate": 5}, "oneway": {"rate": 100}}
        run = run_against(gateway, [{**phase, "drain": 0.1}])
    counters = run.phases[0].counters
    assert counters["oneway"] == gateway.seen["oneway"] == 0
    account = load_result.events(counters)["oneway"]
    assert account["due"] == 50 == account["because"]["no_session"] + account["because"]["generator"]
    said = [each.text for each in load_result.parties(run.phases[0])]
    assert any("packets were due of peers without a session" in text for text in said)


def test_what_was_lost_on_the_way_back_shows_in_the_gateways_numbers() -> None:
    """And what was lost on the way there does not; nothing is counted in two phases."""
    phases = [{"name": name, "seconds": 0.5, "traffic": {"rate": 200}, "drain": 0.5} for name in ("a", "b")]
    with Gateway(SEED, 4) as gateway:
        gateway.loses_back, gateway.drop_every = 10, 7
        run = run_against(gateway, [{**STORM, "handshakes": {"outstanding": 4, "confirm": False}}, *phases])
    missing = sum(phase.counters["numbers_missing"] for phase in run.phases)
    lost_back, dropped = gateway.seen["lost back"], gateway.seen["dropped"]
    # The last of a session shows only when something comes after it.
    assert lost_back - 4 <= missing <= lost_back > 0
    echoes = load_result.summed(run.phases)
    assert echoes["asked"] - echoes["answered"] == lost_back + dropped
    assert load_result.metrics(run.phases)["back_loss"] == missing / (missing + echoes["numbered"])


def test_numbers_of_sessions_that_were_replaced_are_counted_as_well() -> None:
    wave = {"rate": 4, "confirm": False}
    phase = {"name": "a", "seconds": 1.5, "handshakes": wave, "traffic": {"rate": 300}}
    with Gateway(SEED, 1) as gateway:
        gateway.loses_back = 8
        run = run_against(gateway, [{**phase, "drain": 0.5}])
    counters, lost = run.phases[0].counters, gateway.seen["lost back"]
    # The last of each session shows only when something comes after it.
    assert lost - counters["responses"] <= counters["numbers_missing"] <= lost > 0


def test_rekey_wave_replaces_sessions_while_data_flows() -> None:
    wave = {"name": "wave", "seconds": 0.8, "handshakes": {"within": 0.5}, "traffic": {"rate": 300}}
    with Gateway(SEED, 10) as gateway:
        run = run_against(gateway, [STORM, wave])
    counters = run.phases[1].counters
    assert counters["handshakes"] == counters["initiations"] == 10
    assert counters["asked"] == counters["answered"] == 240
    assert len(gateway.sessions) == 20 and wrong(run) == {}
