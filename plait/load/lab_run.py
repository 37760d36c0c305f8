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
import itertools
import json
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab
from plait.lab.versions import program_version
from plait.load import abort as load_abort
from plait.load import arrivals as load_arrivals
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import output as load_output
from plait.load import result as load_result
from plait.load import thresholds as load_thresholds
from plait.load.key_derivation import Keys, gateway_address, seed_bytes, setconf_text
from plait.load.process_orders import inner_networks, known_to
from plait.load.profile import Profile
from plait.load.schema import VERSION
from plait.load.stop import EXIT_CODE as STOPPED_EXIT_CODE
from plait.load.stop import SIGNALS, Stop, Stopped, deaf_children
from plait.result_file import ResultFile

INTERFACE = "wg0"
PORT = 51820
SOURCES = "10.99.0.0/16"
FIRST_SOURCE = "10.99.0.1"
SOURCES_MOST = 1000
CONFIGURE_TIMEOUT = 600.0
PROVIDER = "plait peers {iface} --file {file}"
ACCOUNTS = "run/accounts.conf"
SERVES, SERVES_SECONDS = "is asked about unknown peers", 10.0  # what `plait peers` says when it is ready
ENDING_SECONDS = 90.0  # for a load that was told to end: a drain has 60 at most
_NAMED = re.compile(r"([A-Za-z][\w.@-]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Candidate:
    """An engine of a lab: a name for tables, and the command that starts it."""

    name: str
    command: str

    @property
    def words(self) -> list[str]:
        """The command's words; {iface} among them is the interface."""
        return shlex.split(self.command)


def candidates(texts: Sequence[str]) -> list[Candidate]:
    """What --lab said: [NAME=]COMMAND. A name that is not given is the program's, numbered where it would be
    another's as well."""
    found: list[Candidate] = []
    for text in texts:
        name, command = match.groups() if (match := _NAMED.fullmatch(text)) else (None, text)
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise Failure(f"cannot use --lab {text}", str(error), "Close the quotation marks.") from error
        if not words:
            mend = "Write for example --lab 'plaitd -f {iface}'."
            raise Failure(f"cannot use --lab '{text}'", "there is no command in it", mend)
        taken = [one.name for one in found]
        if name in taken:
            mend = "Give another name."
            raise Failure(f"cannot use --lab {text}", f"there is a {name} before it", mend)
        base = name or Path(words[0]).name
        numbered = (f"{base} {number}" for number in range(2, len(texts) + 2))
        found.append(
            Candidate(base if base not in taken else next(n for n in numbered if n not in taken), command)
        )
    return found


def run(
    profile: Profile,
    engines: Sequence[str],
    rounds: int,
    cores: list[int] | None,
    gateway_cores: list[int] | None,
    require: Sequence[str],
    json_file: str | None,
    tags: Mapping[str, str] | None = None,
    provider: str | None = None,
) -> int:
    """Run it against each engine `rounds` times, in turns; print medians side by side. The exit code.

    What a turn found is written after it. A turn that fails leaves the others as they are. provider: the
    command that answers for peers that the engine does not know.
    """
    if provider is not None and not known_to(profile, "provider"):
        why = "no population of the profile has known = \"provider\""
        raise Failure("--provider has no effect here", why, "Leave it out.")
    contest = candidates(engines)
    lacks = lab.missing("wg", *(one.words[0] for one in contest))
    if lacks:
        raise Failure(f"no lab: {lacks[0].what}", lacks[0].why, lacks[0].next_step)
    names = [phase.name for phase in profile.phase]
    thresholds = [load_thresholds.parse(text) for text in require]
    load_thresholds.check_phases(thresholds, profile.places())
    load_abort.check(profile.abort_on, names)
    began, stop = time.time(), Stop()
    turns: list[dict[str, Any]] = []

    def text(end: str) -> str:
        return load_json.text(
            document(profile, contest, rounds, turns, thresholds, tags or {}, began, end, stop.signal)
        )

    with contextlib.ExitStack() as stack:
        stack.enter_context(stop.listening())
        file = None if json_file is None else stack.enter_context(ResultFile(json_file))
        for number, one in itertools.product(range(rounds), contest):
            print(f"load: round {number + 1} of {rounds}: {one.name}", file=sys.stderr, flush=True)
            found = Turn(one, number, provider or PROVIDER)
            with contextlib.suppress(Stopped):
                found.take(profile, cores, gateway_cores, stop)
            if found.gateway is not None or found.failed is not None:
                turns.append(found.as_json())
            if file is not None:
                file.write(text("running"))
            for words in found.ended_early():
                print(f"plait: load: {one.name}: {words}", file=sys.stderr, flush=True)
            if stop.signal is not None:
                break
        failed = [turn for turn in turns if turn["failed"] is not None]
        aborted = [turn for turn in turns if _is_aborted(turn)]
        end = (
            "stopped" if stop.signal is not None
            else "failed" if failed
            else "aborted" if aborted
            else "finished"
        )  # fmt: skip
        if file is not None:
            file.last(text(end))
        if json_file != "-":
            show(profile, contest, turns, list(requirements(turns, thresholds)))
    for each in requirements(turns, thresholds):
        if not each["holds"]:
            found_words = load_thresholds.in_its_unit(each["text"], each["found"])
            why = f", the {each['blame']} was the limit" if each["blame"] else ""
            words = f"{each['name']}: required {each['text']}, found {found_words}{why}"
            print(f"plait: load: {words}", file=sys.stderr)
    if stop.signal is not None:
        return STOPPED_EXIT_CODE
    if failed:
        return 1
    if aborted:
        return load_thresholds.EXIT_CODE
    blames = [each["blame"] for each in requirements(turns, thresholds) if not each["holds"]]
    has_limit = any(
        load_result.is_limit([phase["counters"] for phase in turn["run"]["phases"]]) for turn in turns
    )
    return load_thresholds.exit_code(blames, has_limit=has_limit)


def document(
    profile: Profile,
    contest: Sequence[Candidate],
    rounds: int,
    turns: list[dict[str, Any]],
    thresholds: Sequence[load_thresholds.Threshold],
    tags: Mapping[str, str],
    began: float,
    end: str,
    stopped_by: signal.Signals | None,
) -> dict[str, Any]:
    """Everything of a lab, as load_schema.LabRun has it."""
    command = ["plait", *sys.argv[1:]]
    for turn in turns:
        if turn["run"] is not None:
            turn["run"] |= {"command": command, "tags": dict(tags)}
    ends = [f"{turn['name']}: {turn['failed']}" for turn in turns if turn["failed"] is not None]
    ends += [f"{turn['name']}: {turn['run']['why']}" for turn in turns if _is_aborted(turn)]
    return {
        "plait_load_lab": VERSION,
        "command": command,
        "began": load_json.moment(began),
        "ended": load_json.moment(time.time()),
        "end": end,
        "why": stopped_by.name if stopped_by is not None else ends[0] if ends else None,
        "tags": dict(tags),
        "profile": msgspec.to_builtins(profile),
        "rounds": rounds,
        "engines": [
            {"name": one.name, "command": one.command, "version": _version(one.words[0])} for one in contest
        ],
        "turns": turns,
        "requirements": list(requirements(turns, thresholds)),
    }


def _is_aborted(turn: dict[str, Any]) -> bool:
    """Whether --abort-on ended it."""
    return turn["run"] is not None and turn["run"]["end"] == "aborted"


@cache
def _version(program: str) -> str | None:
    """What the program says, None when it says nothing."""
    path = shutil.which(program, path=lab.search_path())
    return None if path is None else program_version(path)


def requirements(
    turns: Sequence[dict[str, Any]], thresholds: Sequence[load_thresholds.Threshold]
) -> Iterator[dict[str, Any]]:
    """Each requirement held against each turn that has a run."""
    for turn in turns:
        if turn["run"] is not None:
            by_name = {name: place["metrics"] for name, place in load_json.places(turn["run"]).items()}
            for verdict in load_json.judged(by_name, turn["run"]["total"]["metrics"], thresholds):
                yield {**verdict, "name": turn["name"], "round": turn["round"]}


@dataclass
class Turn:
    """A lab with one engine, and what the profile found there: filled as far as it came."""

    one: Candidate
    number: int
    provider: str = PROVIDER
    gateway: dict[str, Any] | None = None
    found: dict[str, Any] | None = None
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As load_schema.LabTurn has it."""
        return {
            "name": self.one.name,
            "engine": self.one.command,
            "round": self.number,
            "gateway": self.gateway,
            "run": self.found,
            "failed": self.failed,
        }

    def ended_early(self) -> Iterator[str]:
        """Why it failed, or an --abort-on ended it; nothing when neither."""
        if self.failed is not None:
            yield self.failed
        elif _is_aborted(self.as_json()) and self.found is not None:
            yield f"ended early: {self.found['why']}"

    def take(
        self, profile: Profile, cores: list[int] | None, gateway_cores: list[int] | None, stop: Stop
    ) -> None:
        """Do it. Raises Stopped when a signal comes before the run."""
        try:
            with stop.at_once(), contextlib.ExitStack() as stack:
                self._take(stack, profile, cores, gateway_cores, stop)
        except Failure as error:
            self.failed = str(error)

    def _take(
        self,
        stack: contextlib.ExitStack,
        profile: Profile,
        cores: list[int] | None,
        gateway_cores: list[int] | None,
        stop: Stop,
    ) -> None:
        words = self.one.words
        if gateway_cores:
            words = ["taskset", "-c", ",".join(map(str, gateway_cores)), *words]
        laboratory = stack.enter_context(Lab())
        load_host, gateway = laboratory.add_hosts(["load", "gateway"])
        cable = laboratory.link(load_host, gateway)
        load_host.ip(f"route add local {SOURCES} dev lo")
        gateway.ip(f"route add {SOURCES} via {cable.address(load_host)}")
        engine = gateway.engine(INTERFACE, words)
        seconds = configure(engine, profile)
        provider = provide(engine, profile, self.provider)
        before, idle = used(engine)
        self.gateway = {
            "configure_seconds": seconds,
            "cpu_seconds": None,
            "pss_bytes_idle": idle,
            "pss_bytes_after": None,
            "ended": None,
        }
        profile = msgspec.structs.replace(
            profile,
            target=cable.endpoint(gateway, PORT),
            public_key=None,
            sources=profile.sources or f"{FIRST_SOURCE}+{min(SOURCES_MOST, profile.peers)}",
            require=(),
        )
        inside = Inside(load_host, engine, profile, cores, cable.address(gateway))
        try:
            with stop.later():
                inside.follow(stop)
        finally:
            self.found = inside.found
            if self.found is not None:
                self.found["gateway"]["version"] = _version(self.one.words[0])
        if inside.engine_ended is not None:
            self.gateway["ended"] = inside.engine_ended
            said = " ".join(engine.process.output()[-500:].split()) or "(nothing)"
            raise Failure(f"`{self.one.command}` ended", inside.engine_ended, f"It said: {said}")
        if provider is not None:
            check_provider(provider, self.provider)
        after, busy = used(engine)
        self.gateway |= {"cpu_seconds": after - before, "pss_bytes_after": busy}
        if inside.failed is not None:
            raise inside.failed


def used(engine: Engine) -> tuple[float, int]:
    """CPU seconds and PSS of the engine's processes."""
    processes = engine.processes()
    return sum(each.cpu_seconds for each in processes), sum(each.pss_bytes for each in processes)


def configure(engine: Engine, profile: Profile) -> float:
    """The profile's peers by `wg setconf`, the inner address, up. Seconds that setconf took."""
    keys = Keys(seed_bytes(profile.seed))
    path = engine.host.root / "run/load.conf"
    with path.open("w") as file:
        file.writelines(setconf_text(keys, known_to(profile, "gateway"), port=PORT, psk=profile.psk))
    engine.uapi("get=1\n\n", CONFIGURE_TIMEOUT)  # it listens before it is there: that is no part of a set
    began = time.monotonic()
    engine.host.run(["wg", "setconf", INTERFACE, "/run/load.conf"], timeout=CONFIGURE_TIMEOUT)
    seconds = time.monotonic() - began
    engine.host.ip(
        f"link set {INTERFACE} mtu 1420 up",
        *(
            f"address add {gateway_address(network)}/{network.prefixlen} dev {INTERFACE}"
            + (" nodad" if network.version == 6 else "")
            for network in inner_networks(profile)
        ),
    )
    return seconds


def provide(engine: Engine, profile: Profile, command: str) -> lab.Process | None:
    """The program that answers for the peers that the engine does not know, once it serves; None: there are
    none. {file} in the command has their sections."""
    if not (groups := known_to(profile, "provider")):
        return None
    with (engine.host.root / ACCOUNTS).open("w") as file:
        file.writelines(setconf_text(Keys(seed_bytes(profile.seed)), groups, port=None, psk=profile.psk))
    words = [word.format(iface=INTERFACE, file=f"/{ACCOUNTS}") for word in shlex.split(command)]
    process, until = engine.host.popen(words), time.monotonic() + SERVES_SECONDS
    while process.poll() is None and SERVES not in process.output() and time.monotonic() < until:
        time.sleep(0.02)
    check_provider(process, command)
    return process


def check_provider(process: lab.Process, command: str) -> None:
    """Failure when it has ended."""
    if process.poll() is not None:
        said = " ".join(process.output()[-500:].split()) or "(nothing)"
        why = "so nobody answers for peers that the engine does not know"
        raise Failure(f"`{command}` ended", why, f"It said: {said}")


class Inside:
    """The command itself in the load's host, its words passed on as they come.

    found: the run's JSON, as far as it came; engine_ended: how and when the engine ended meanwhile.
    """

    def __init__(
        self, host: Host, engine: Engine, profile: Profile, cores: list[int] | None, target: str
    ) -> None:
        self._host, self._engine = host, engine
        self._given = [msgspec.json.encode(profile).decode(), target, json.dumps(cores)]
        self.found: dict[str, Any] | None = None
        self.engine_ended: str | None = None
        self.failed: Failure | None = None

    def follow(self, stop: Stop) -> None:
        """Run it to its end. A signal, and the end of the engine, end it early: it keeps what it measured."""
        with tempfile.TemporaryDirectory(prefix="plait-load-") as directory, contextlib.ExitStack() as stack:
            given, found, came = (Path(directory) / name for name in ("profile.json", "run.json", "came"))
            given.write_text(self._given[0])
            files = [str(given), str(found), str(came)]
            with deaf_children():  # until it listens: what a signal cuts off before is a traceback
                process = self._host.popen(
                    [sys.executable, "-m", "plait.load.lab_run", *files, *self._given[1:]]
                )
            stack.callback(process.close)
            began, began_to_end, shown, told = time.monotonic(), 0.0, 0, 0
            while process.poll() is None:
                time.sleep(0.1)
                shown = _pass_on(process, shown)
                load_arrivals.write(came, self._engine.host.pid)
                code = self._engine.process.poll()
                if code is not None and self.engine_ended is None:
                    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                    self.engine_ended = f"{how}, {time.monotonic() - began:.1f} s after the load began"
                wanted = (stop.signal is not None) + stop.is_urgent or int(self.engine_ended is not None)
                if told < wanted:
                    process.signal(signal.SIGINT)
                    told, began_to_end = wanted, time.monotonic()
                if told and time.monotonic() - began_to_end > ENDING_SECONDS:
                    process.signal(signal.SIGKILL)
            _pass_on(process, shown)
            with contextlib.suppress(OSError, ValueError):
                self.found = json.loads(found.read_text())
            if process.wait() and not told:
                last = process.output().strip().splitlines()[-1:] or ["it said nothing"]
                self.failed = Failure(
                    "the load failed", last[0].removeprefix("plait: "), "Its words stand above."
                )


def _pass_on(process: lab.Process, shown: int) -> int:
    """What came behind so many bytes, on stderr; how many bytes are shown now."""
    words, shown = process.output_since(shown)
    sys.stderr.write(words)
    sys.stderr.flush()
    return shown


def show(
    profile: Profile,
    contest: Sequence[Candidate],
    turns: Sequence[dict[str, Any]],
    required: Sequence[dict[str, Any]] = (),
) -> None:
    """Medians of the turns side by side, the first engine's beside each other's as a ratio."""
    from plait.watch.engine import console, table

    names = [one.name for one in contest]
    heads = [head for at, name in enumerate(names) for head in ((name, "ratio") if at else (name,))]
    done = [sum(turn["name"] == name and turn["run"] is not None for turn in turns) for name in names]
    rounds = f"{min(done)} to {max(done)}" if min(done) < max(done) else str(max(done))
    spread = " (least to greatest)" if max(done) > 1 else ""
    made = table(
        f"{profile.peers:,} peers, medians{spread} of {rounds} round{'' if rounds == '1' else 's'}",
        ("phase", "figure"),
        tuple(heads),
    )
    for place, metric, spreads in figures(names, turns, required):
        first = load_compare.middle(spreads[0])
        cells = [load_compare.spread_text(metric, spreads[0])]
        for found in spreads[1:]:
            value = load_compare.middle(found)
            ratio = f"{first / value:.2f}" if first is not None and value else "-"
            cells += [load_compare.spread_text(metric, found), ratio]
        made.add_row(place, metric, *cells)
    console().print(made)
    print("ratio: the first engine's figure divided by this one's. -: not measured.")


def _of_phase(turn: dict[str, Any], phase: str, find: load_compare.Finder) -> float | None:
    return None if turn["run"] is None else load_compare.of_phase(turn["run"], phase, find)


def _of_gateway(turn: dict[str, Any], key: str) -> float | None:
    return (turn["gateway"] or {}).get(key)


def figures(
    names: Sequence[str], turns: Sequence[dict[str, Any]], required: Sequence[dict[str, Any]] = ()
) -> Iterator[tuple[str, str, list[list[float]]]]:
    """Phase (or gateway), figure, and what each engine's turns had of it, those that were finished."""

    def each(value: Callable[[dict[str, Any]], float | None]) -> list[list[float]]:
        found: list[list[float]] = []
        for name in names:
            values = [value(turn) for turn in turns if turn["name"] == name]
            found.append([one for one in values if one is not None])
        return found

    for key in ("configure_seconds", "cpu_seconds", "pss_bytes_idle", "pss_bytes_after"):
        yield "gateway", key.replace("_", " "), each(partial(_of_gateway, key=key))
    runs = [turn["run"] for turn in turns if turn["run"] is not None]
    for phase in dict.fromkeys(name for run in runs for name in load_json.places(run)):
        for metric in load_compare.shown(required):
            values = each(partial(_of_phase, phase=phase, find=load_compare.FIGURES[metric]))
            if any(values):
                yield phase, metric, values


def main() -> None:
    """In the load's host: profile file, result file, that of what came to the gateway's host, the target that
    the lab owns, cores."""
    from plait.load import run as load_run
    from plait.load import screen as load_screen
    from plait.load.answers import check_answered
    from plait.load.progress import Run

    given, found, came, target, cores = sys.argv[1:]
    profile = msgspec.json.decode(Path(given).read_bytes(), type=Profile)
    stop = Stop()
    with stop.listening(), ResultFile(found) as file:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

        def text(run: Run) -> str:
            return load_json.text(load_json.document(run, []))

        screens = load_output.Several([load_screen.Lines(), load_output.Kept(file, text)])
        done = load_run.execute(
            profile, json.loads(cores) or load_run.default_cores(), [target], screens, stop,
            arrivals=partial(load_arrivals.of_file, Path(came)),
        )  # fmt: skip
        for line in load_screen.notes(done):
            print(f"load: {line}", file=sys.stderr)
        file.last(text(done))
    if done.failure is not None:
        raise done.failure
    if done.signal is not None:
        sys.exit(STOPPED_EXIT_CODE)
    if done.aborted is None:  # whose words are in the file
        check_answered(done)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"plait: {failure}")
