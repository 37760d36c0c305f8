"""`plait load run --lab COMMAND`: the same profile against engines in namespaces, in turns.

      host load                               host gateway
    plait load run                          the engine: wg0 10.64.0.1/10
     |  sources 10.99.0.1+N on lo            |
    eth0 10.200.1.1 -------- a cable ------ eth0 10.200.1.2

The sources are one local route of the load's host and one route of the gateway's, so that the
neighbour table has two entries however many they are. Each turn has a lab of its own.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import thresholds as load_thresholds
from plait.load.key_derivation import Keys, gateway_address, inner_network, seed_bytes, setconf_text
from plait.load.profile import Profile

INTERFACE = "wg0"
PORT = 51820
SOURCES = "10.99.0.0/16"
FIRST_SOURCE = "10.99.0.1"
SOURCES_MOST = 1000
PORTS = 4  # of each process: peers that share an address differ in it
CONFIGURE_TIMEOUT = 600.0


def run(
    profile: Profile,
    engines: Sequence[str],
    rounds: int,
    cores: list[int] | None,
    gateway_cores: list[int] | None,
    require: Sequence[str],
    json_file: str | None,
) -> int:
    """Run it against each engine `rounds` times, in turns; print medians side by side. The exit code."""
    lacks = lab.missing("wg", *(shlex.split(engine)[0] for engine in engines))
    if lacks:
        raise Failure(f"no lab: {lacks[0].what}", lacks[0].why, lacks[0].next_step)
    thresholds = [load_thresholds.parse(text) for text in require]
    load_thresholds.check_phases(thresholds, [phase.name for phase in profile.phase])
    turns: list[dict[str, Any]] = []
    for number in range(rounds):
        for engine in engines:
            print(f"load: round {number + 1} of {rounds}: {engine}", file=sys.stderr, flush=True)
            try:
                found = one_turn(profile, engine, cores, gateway_cores)
            except lab.LabError as error:
                raise Failure(error.what, error.why, error.next_step) from error
            turns.append({"engine": engine, "round": number, **found})
    if json_file != "-":
        show(profile, engines, turns)
    if json_file is not None:
        load_json.write(json_file, {"plait_load_lab": load_json.VERSION, "turns": turns})
    wrong = [line for turn in turns for line in judge(turn, thresholds)]
    for line in wrong:
        print(f"plait: load: {line}", file=sys.stderr)
    return load_thresholds.EXIT_CODE if wrong else 0


def judge(turn: dict[str, Any], thresholds: Sequence[load_thresholds.Threshold]) -> Iterator[str]:
    """The requirements that a turn does not meet, in words."""
    by_name = {phase["name"]: phase["metrics"] for phase in turn["run"]["phases"]}
    for threshold in thresholds:
        measured = turn["run"]["total"]["metrics"] if threshold.phase is None else by_name[threshold.phase]
        if not threshold.holds(measured):
            found = load_thresholds.in_its_unit(threshold.text, measured.get(threshold.metric))
            yield f"{turn['engine']}: required {threshold.text}, found {found}"


def one_turn(
    profile: Profile, command: str, cores: list[int] | None, gateway_cores: list[int] | None
) -> dict[str, Any]:
    """A lab with that engine, the profile run against it: the run's JSON and what the gateway used."""
    words = shlex.split(command)
    if gateway_cores:
        words = ["taskset", "-c", ",".join(map(str, gateway_cores)), *words]
    with Lab() as laboratory:
        load_host, gateway = laboratory.add_hosts(["load", "gateway"])
        cable = laboratory.link(load_host, gateway)
        load_host.ip(f"route add local {SOURCES} dev lo")
        gateway.ip(f"route add {SOURCES} via {cable.address(load_host)}")
        engine = gateway.engine(INTERFACE, words)
        seconds = configure(engine, profile)
        before, idle = used(engine)
        profile = msgspec.structs.replace(
            profile,
            target=cable.endpoint(gateway, PORT),
            public_key=None,
            sources=profile.sources or f"{FIRST_SOURCE}+{min(SOURCES_MOST, profile.peers)}",
            ports=PORTS if profile.ports == 1 else profile.ports,
            require=(),
        )
        found = run_inside(load_host, profile, cores, cable.address(gateway))
        after, busy = used(engine)
        if engine.process.poll() is not None:
            raise Failure(f"`{command}` ended", engine.process.output()[-2000:], "It did not bear the load.")
        gateway_found = {
            "configure_seconds": seconds,
            "cpu_seconds": after - before,
            "pss_bytes_idle": idle,
            "pss_bytes_after": busy,
        }
        return {"gateway": gateway_found, "run": found}


def used(engine: Engine) -> tuple[float, int]:
    """CPU seconds and PSS of the engine's processes."""
    processes = engine.processes()
    return sum(each.cpu_seconds for each in processes), sum(each.pss_bytes for each in processes)


def configure(engine: Engine, profile: Profile) -> float:
    """The profile's peers by `wg setconf`, the inner address, up. Seconds that setconf took."""
    network = inner_network(profile.inner, profile.peers)
    keys = Keys(seed_bytes(profile.seed))
    path = engine.host.root / "run/load.conf"
    with path.open("w") as file:
        file.writelines(setconf_text(keys, profile.peers, network, port=PORT, psk=profile.psk))
    engine.uapi("get=1\n\n", CONFIGURE_TIMEOUT)  # it listens before it is there: that is no part of a set
    began = time.monotonic()
    engine.host.run(["wg", "setconf", INTERFACE, "/run/load.conf"], timeout=CONFIGURE_TIMEOUT)
    seconds = time.monotonic() - began
    engine.host.ip(
        f"link set {INTERFACE} mtu 1420 up",
        f"address add {gateway_address(network)}/{network.prefixlen} dev {INTERFACE}",
    )
    return seconds


def run_inside(host: Host, profile: Profile, cores: list[int] | None, target: str) -> dict[str, Any]:
    """The command itself in the load's host, its words passed on as they come."""
    with tempfile.TemporaryDirectory(prefix="plait-load-") as directory:
        given, found = Path(directory) / "profile.json", Path(directory) / "run.json"
        given.write_bytes(msgspec.json.encode(profile))
        arguments = [
            sys.executable,
            "-m",
            "plait.load.lab_run",
            str(given),
            str(found),
            target,
            json.dumps(cores),
        ]
        process = host.popen(arguments)
        shown = 0
        with contextlib.ExitStack() as stack:
            stack.callback(process.close)
            while process.poll() is None:
                time.sleep(0.2)
                words = process.output()
                sys.stderr.write(words[shown:])
                sys.stderr.flush()
                shown = len(words)
            words = process.output()
            sys.stderr.write(words[shown:])
            if process.wait() or not found.exists():
                why = words.strip().splitlines()[-1] if words.strip() else "it said nothing"
                raise Failure("the load of a lab failed", why, "Its words stand above.")
        made: dict[str, Any] = json.loads(found.read_text())
        return made


def show(profile: Profile, engines: Sequence[str], turns: Sequence[dict[str, Any]]) -> None:
    """Medians of the turns side by side, the first engine's beside each other's as a ratio."""
    from plait.watch.engine import console, table

    heads = [head for at, engine in enumerate(engines) for head in ((engine, "ratio") if at else (engine,))]
    made = table(
        f"{profile.peers:,} peers, medians of {len(turns) // len(engines)} rounds",
        ("phase", "figure"),
        tuple(heads),
    )
    for place, metric, values in figures(profile, engines, turns):
        first = values[0]
        cells = [load_compare.text(metric, first)]
        for value in values[1:]:
            ratio = f"{first / value:.2f}" if first is not None and value else "-"
            cells += [load_compare.text(metric, value), ratio]
        made.add_row(place, metric, *cells)
    console().print(made)
    print("ratio: the first engine's figure divided by this one's.")


def figures(
    profile: Profile, engines: Sequence[str], turns: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, str, list[float | None]]]:
    """Phase (or gateway), figure, and its median for each engine."""

    def medians(value: Any) -> list[float | None]:
        found: list[float | None] = []
        for engine in engines:
            each = [value(turn) for turn in turns if turn["engine"] == engine]
            known = [one for one in each if one is not None]
            found.append(median(known) if known else None)
        return found

    for key in ("configure_seconds", "cpu_seconds", "pss_bytes_idle", "pss_bytes_after"):
        yield "gateway", key.replace("_", " "), medians(lambda turn, key=key: turn["gateway"][key])
    for at, phase in enumerate(profile.phase):
        for metric in load_thresholds.METRICS:
            values = medians(
                lambda turn, at=at, metric=metric: turn["run"]["phases"][at]["metrics"].get(metric)
            )
            if any(values):
                yield phase.name, metric, values
        for key in ("cpu_share", "us_per_handshake", "us_per_datagram"):
            values = medians(lambda turn, at=at, key=key: turn["run"]["phases"][at]["generator"].get(key))
            if any(values):
                yield phase.name, f"generator {key}", values


def main() -> None:
    """In the load's host: profile file, result file, the target that the lab owns, cores."""
    from plait.load import run as load_run
    from plait.load import screen as load_screen

    given, found, target, cores = sys.argv[1:]
    profile = msgspec.json.decode(Path(given).read_bytes(), type=Profile)
    done = load_run.execute(
        profile, json.loads(cores) or load_run.default_cores(), [target], load_screen.Lines()
    )
    for line in load_screen.notes(done):
        print(f"load: {line}", file=sys.stderr)
    load_json.write(found, load_json.document(done, []))
    load_run.check_answered(done)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"plait: {failure}")
