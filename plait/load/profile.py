"""A load profile: who is simulated, and phase by phase what they do. TOML, or made of options.

A profile is taken whole or refused whole, with file, line, what, why and the next step. docs/load.md
has every key; configs/load/ has examples.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from plait.failure import Failure

PEERS_MOST = 1 << 20
PHASES_MOST = 32
MIX_MOST = 8  # sizes (plait/load/generator.h)
BYTES, BYTES_LEAST, BYTES_MOST = 84, 64, 1920  # of an echo request
UNTIL_DONE_SECONDS = 300.0  # the longest that a phase without `seconds` waits for its handshakes
RATE_OF_A_PEER = 40  # handshakes a second (FLOOD_NS in plait/load/state.h)
UNPACED_HANDSHAKES = 8000  # a second: ephemerals prepared for a closed loop that repeats

_Count = Annotated[int, msgspec.Meta(ge=1, le=PEERS_MOST)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=10_000_000)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
_Arrival = Literal["even", "poisson"]
_Ramp = _Rate | Annotated[list[_Rate], msgspec.Meta(min_length=2, max_length=2)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """No unknown keys, no changes."""


class Handshakes(Strict, frozen=True):
    """How handshakes begin: one of outstanding (closed loop), rate and within (open loops).

    count: how many in all; by default each peer once, and without end where there is a rate.
    """

    outstanding: _Count | None = None
    rate: _Ramp | None = None
    within: _Seconds | None = None
    count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    patience: _Seconds = 1.0
    confirm: bool = True
    arrival: _Arrival = "even"


class Traffic(Strict, frozen=True):
    """Echo requests: rate (open loop) or outstanding (closed loop, one a peer).

    bytes: of each; mix: bytes -> how many of so large, drawn at random. arrival: of a rate.
    """

    rate: _Ramp | None = None
    outstanding: _Count | None = None
    bytes: Annotated[int, msgspec.Meta(ge=BYTES_LEAST, le=BYTES_MOST)] | None = None
    mix: dict[str, Annotated[int, msgspec.Meta(ge=1)]] | None = None
    peers: _Count | None = None
    arrival: _Arrival = "even"

    def sizes(self) -> tuple[list[int], list[float]]:
        """Bytes of a request, and the share of all requests of this size and those before it."""
        mix = {int(size): weight for size, weight in (self.mix or {}).items()}
        whole = sum(mix.values())
        return list(mix), [up_to / whole for up_to in accumulate(mix.values())]


class Keepalives(Strict, frozen=True):
    """Each peer sends a keepalive every so many seconds."""

    every: _Seconds


class Roaming(Strict, frozen=True):
    """So many peers a second move on to their next address and port."""

    rate: _Rate


class Garbage(Strict, frozen=True):
    """Messages a second of each kind, in the order of enum load_counter (plait/load/generator.h)."""

    mac1: _Rate = 0
    stranger: _Rate = 0
    short: _Rate = 0
    random: _Rate = 0
    tag: _Rate = 0
    replayed_data: _Rate = 0
    replayed_initiation: _Rate = 0


TABLES: dict[str, type[Strict]] = {
    "handshakes": Handshakes,
    "traffic": Traffic,
    "keepalives": Keepalives,
    "roaming": Roaming,
    "garbage": Garbage,
}


class Phase(Strict, frozen=True):
    """What goes on together for so many seconds; without seconds, until its handshakes are over."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    seconds: _Seconds | None = None
    drain: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0
    pause: bool = False
    handshakes: Handshakes | None = None
    traffic: Traffic | None = None
    keepalives: Keepalives | None = None
    roaming: Roaming | None = None
    garbage: Garbage | None = None

    def length(self) -> float:
        """Seconds that it lasts at most."""
        if self.seconds is not None:
            return self.seconds
        return UNTIL_DONE_SECONDS

    def handshake_count(self, peers: int) -> int:
        """How many handshakes it begins in all; 0: without end."""
        if self.handshakes is None:
            return 0
        if self.handshakes.count is not None:
            return self.handshakes.count
        return 0 if self.handshakes.rate is not None else peers

    def ephemerals(self, peers: int) -> int:
        """How many handshakes to prepare for, at most a million."""
        if self.handshakes is None:
            return 0
        count = self.handshake_count(peers)
        if not count and self.handshakes.rate is not None:
            ramp = self.handshakes.rate
            mean = sum(ramp) / 2 if isinstance(ramp, list) else ramp
            count = int(mean * self.length()) + 1
        elif not count:
            count = int(UNPACED_HANDSHAKES * self.length())
        return min(count, PEERS_MOST)


class Profile(Strict, frozen=True):
    """The whole run. target and public_key may come from the command line or the seed instead."""

    phase: Annotated[tuple[Phase, ...], msgspec.Meta(min_length=1, max_length=PHASES_MOST)]
    peers: _Count = 100
    target: str = "127.0.0.1:51820"
    seed: str = "plait"
    public_key: str | None = None
    psk: bool = False
    sources: str | None = None
    ports: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    inner: str = "10.64.0.0/10"
    retry: _Seconds = 5.0
    give_up: _Seconds = 15.0
    silence: _Seconds = 15.0
    require: tuple[str, ...] = ()
    abort_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A file that a profile is made of, or the options."""

    path: str
    text: str
    given: dict[str, Any]


def load(path: str, changes: dict[str, Any] | None = None, changed: Sequence[str] = ()) -> Profile:
    """The profile of a file and of what it includes. changes: of the command line, over its top-level keys;
    changed: words of --set, over all."""
    return _checked(_sources(path, _text(path), ()), changes or {}, changed)


def parse(
    text: str, path: str, changes: dict[str, Any] | None = None, changed: Sequence[str] = ()
) -> Profile:
    """The profile in a TOML text. path is for the words of a Failure, and what it includes lies beside it."""
    return _checked(_sources(path, text, ()), changes or {}, changed)


def of_options(given: dict[str, Any], changed: Sequence[str] = ()) -> Profile:
    """The profile that options make up; refused in the same words, without a line."""
    return _checked([_Source("the options", "", given)], {}, changed)


def _text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Failure(f"cannot read profile {path}", why, "configs/load has examples.") from error


def _sources(path: str, text: str, within: tuple[str, ...]) -> list[_Source]:
    """What a file includes, in order, then the file itself; within: the files that include it."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, place = str(error), re.search(r" \(at line (\d+), column \d+\)$", str(error))
        line = int(place.group(1)) if place else max(len(text.splitlines()), 1)
        reason = reason[: place.start()] if place else reason
        raise Failure(f"{path}, line {line}: cannot read the profile", reason, "It is TOML.") from error
    names = given.pop("include", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        mend = 'Write include = "other.toml" or include = ["one.toml", "two.toml"].'
        raise Failure(_where(path, text, ["include"]), "it is no name of a file, and no list of names", mend)
    found = []
    for name in names:
        other = str(Path(path).parent / name)
        if other in (*within, path):
            why = f"{' includes '.join([*within, path, other])}"
            raise Failure(_where(path, text, ["include"]), why, "Leave one of them out.")
        found += _sources(other, _text(other), (*within, path))
    return [*found, _Source(path, text, given)]


def _checked(sources: list[_Source], changes: dict[str, Any], changed: Sequence[str]) -> Profile:
    given: dict[str, Any] = {}
    origins: list[tuple[_Source, int]] = []  # of each phase: its source, and its number there
    for source in sources:
        phases, included = given.get("phase", []), len(origins)
        given |= {key: value for key, value in source.given.items() if key != "phase"}
        own = source.given.get("phase", [])
        for number, phase in enumerate(own if isinstance(own, list) else []):
            at = _of_name(phases, phase, before=included)
            if at is None:
                phases = [*phases, phase]
                origins.append((source, number))
            else:
                phases = [*phases[:at], _merged(phases[at], phase), *phases[at + 1 :]]
                origins[at] = (source, number)
        if "phase" in source.given:
            given["phase"] = phases if isinstance(own, list) else own
    given |= changes
    for words in changed:
        _set(given, words)

    def where(keys: list[str | int]) -> str:
        source = sources[-1]
        if len(keys) > 1 and keys[0] == "phase" and isinstance(keys[1], int) and keys[1] < len(origins):
            source, number = origins[keys[1]]
            keys = ["phase", number, *keys[2:]]
        elif keys:
            source = next((each for each in reversed(sources) if keys[0] in each.given), source)
        return _where(source.path, source.text, keys)

    try:
        profile = msgspec.convert(given, Profile)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        unknown = re.search(r"unknown field `(\w+)`", reason)
        steps = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place)
        keys = [name or int(number) for name, number in steps if number != "..."]
        mend = "docs/load.md lists the keys of a profile."
        if unknown:
            near = difflib.get_close_matches(unknown.group(1), _fields(keys), 1)
            mend = f"Did you mean {near[0]}? {mend}" if near else mend
            keys += [unknown.group(1)]
        raise Failure(where(keys), reason.replace("`", ""), mend) from error
    for number in range(len(profile.phase)):
        for key, why, mend in _contradictions(profile, number):
            raise Failure(where(["phase", number, key]), why, mend)
    names = [phase.name for phase in profile.phase]
    for number, name in enumerate(names):
        if name in names[:number]:
            why = f"there is a phase {name} before it"
            raise Failure(where(["phase", number, "name"]), why, "Name it otherwise.")
    return profile


def _fields(keys: Sequence[str | int]) -> list[str]:
    """The keys that there are at a place of a profile."""
    names = [key for key in keys if isinstance(key, str)]
    tables: dict[str, type[Strict]] = {"phase": Phase, **TABLES}
    table = tables.get(names[-1], Profile) if names else Profile
    return list(table.__struct_fields__) + (["include"] if table is Profile else [])


def _merged(under: Any, over: Any) -> Any:
    """A table with another's keys over its own, table by table."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}


def _set(given: dict[str, Any], words: str) -> None:
    """Carry out one --set: `retry=2`, `phase.NAME.traffic.rate=5000`, or `phase.NAME.rate=5000` where one
    table of that phase alone has such a key."""
    what = f"cannot use --set {words}"
    path, equals, text = words.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise Failure(what, "it is not KEY=VALUE", "Write for example --set phase.steady.traffic.rate=5000.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place: Any = given
    if keys[0] == "phase":
        phases = [each for each in given.get("phase", []) if isinstance(each, dict)]
        named = {str(each.get("name")): each for each in phases}
        rest = path.strip().removeprefix("phase.")
        fits = [name for name in named if rest.startswith(f"{name}.") and rest != f"{name}."]
        if not fits:
            raise Failure(what, f"there is no phase {rest.partition('.')[0]}", f"Phases: {', '.join(named)}.")
        place = named[max(fits, key=len)]
        keys = [key.strip() for key in rest.removeprefix(f"{place['name']}.").split(".")]
        if len(keys) == 1 and keys[0] not in Phase.__struct_fields__:
            fitting = [name for name in _tables_with(keys[0]) if isinstance(place.get(name), dict)]
            if len(fitting) > 1:
                mend = " or ".join(f"phase.{place['name']}.{name}.{keys[0]}" for name in fitting)
                raise Failure(what, f"{' and '.join(fitting)} have a {keys[0]}", f"Write {mend}.")
            keys = [*fitting, *keys]
        place = _own(named, given, str(place["name"]))
    for key in keys[:-1]:
        place[key] = dict(place.get(key) or {}) if isinstance(place.get(key), dict | None) else {}
        place = place[key]
    place[keys[-1]] = value


def _own(named: dict[str, dict[str, Any]], given: dict[str, Any], name: str) -> dict[str, Any]:
    """The phase of that name as a table of its own, so that nothing of a source is written to."""
    made = dict(named[name])
    given["phase"] = [made if each is named[name] else each for each in given["phase"]]
    return made


def _tables_with(key: str) -> Iterator[str]:
    """The tables of a phase that have such a key."""
    for name, table in TABLES.items():
        if key in table.__struct_fields__:
            yield name


def _of_name(phases: Sequence[Any], phase: Any, before: int) -> int | None:
    """Which of the first so many phases has the name of this one."""
    name = phase.get("name") if isinstance(phase, dict) else None
    for at, each in enumerate(phases[:before]):
        if name is not None and isinstance(each, dict) and each.get("name") == name:
            return at
    return None


def _contradictions(profile: Profile, number: int) -> list[tuple[str, str, str]]:
    """Key, why and mend of what the types allow and a run does not, in one phase."""
    phase = profile.phase[number]
    handshakes, traffic = phase.handshakes, phase.traffic
    found = _without_effect(profile, number)
    if handshakes is not None:
        ways = [handshakes.outstanding, handshakes.rate, handshakes.within]
        if sum(way is not None for way in ways) != 1:
            found.append(
                (
                    "handshakes",
                    "it says not exactly one of outstanding, rate and within",
                    "Write for example `handshakes = { outstanding = 64 }`.",
                )
            )
        rate = profile.peers / handshakes.within if handshakes.within else handshakes.rate or 0
        most = max(rate) if isinstance(rate, list) else rate
        if most > profile.peers * RATE_OF_A_PEER:
            found.append(
                (
                    "handshakes",
                    f"{profile.peers} peers begin at most {profile.peers * RATE_OF_A_PEER:,} handshakes a "
                    f"second, {RATE_OF_A_PEER} each, for a gateway takes no more of one peer",
                    f"Give it {int(-(-most // RATE_OF_A_PEER)):,} peers or more, or a lower rate.",
                )
            )
    if traffic is not None and (traffic.rate is None) == (traffic.outstanding is None):
        found.append(
            (
                "traffic",
                "it says not exactly one of rate and outstanding",
                "Write for example `traffic = { rate = 1000 }`.",
            )
        )
    if traffic is not None and traffic.peers is not None and traffic.peers > profile.peers:
        found.append(("traffic", f"it names {traffic.peers} of {profile.peers} peers", "Name fewer."))
    found += _sizes_wrong(traffic)
    if phase.roaming is not None and profile.ports == 1 and profile.sources is None:
        found.append(
            (
                "roaming",
                "peers have one address and one port to be at",
                "Set ports = 2 or more, or sources, at the top.",
            )
        )
    if phase.seconds is None and (handshakes is None or not phase.handshake_count(profile.peers)):
        found.append(("name", "nothing ends this phase", "Give it `seconds`."))
    return found


def _sizes_wrong(traffic: Traffic | None) -> list[tuple[str, str, str]]:
    mend = "Write for example mix = { 64 = 7, 594 = 4, 1420 = 1 }: bytes, and how many of so large."
    if traffic is None or traffic.mix is None:
        return []
    if traffic.bytes is not None:
        return [("traffic", "it says both bytes and mix", mend)]
    if not 1 <= len(traffic.mix) <= MIX_MOST:
        return [("traffic", f"its mix has {len(traffic.mix)} sizes, not 1 to {MIX_MOST}", mend)]
    wrong = [
        size for size in traffic.mix if not size.isdecimal() or not BYTES_LEAST <= int(size) <= BYTES_MOST
    ]
    return [("traffic", f"{wrong[0]} is no size from {BYTES_LEAST} to {BYTES_MOST}", mend)] if wrong else []


def _without_effect(profile: Profile, number: int) -> list[tuple[str, str, str]]:
    """The same, of what would run and do nothing."""
    phase, found = profile.phase[number], []
    parts = {name: getattr(phase, name) for name in TABLES if getattr(phase, name) is not None}
    if not parts and not phase.pause:
        mend = "Give it handshakes, traffic, keepalives, roaming or garbage; pause = true where it is meant."
        found.append(("name", "nothing happens in this phase", mend))
    if parts and phase.pause:
        found.append(("pause", f"there is {' and '.join(parts)} in this phase", "Leave one of them out."))
    for name, part in parts.items():
        rates = [part.rate] if hasattr(part, "rate") else []
        rates = list(msgspec.structs.asdict(part).values()) if name == "garbage" else rates
        if rates and not any(max(rate) if isinstance(rate, list) else rate is None or rate for rate in rates):
            found.append((name, "its rate is 0: nothing would be sent", "Give it a rate, or leave it out."))
    shaken = any(each.handshakes is not None for each in profile.phase[: number + 1])
    for name, part in parts.items():
        if getattr(part, "arrival", "even") != "even" and getattr(part, "outstanding", None) is not None:
            found.append((name, "a closed loop has no arrivals", "Leave arrival out, or give it a rate."))
    for name in ("traffic", "keepalives", "roaming"):
        if name in parts and not shaken:
            why = "no phase until here has handshakes, so no peer has a session"
            found.append((name, why, "Put a phase with handshakes = { outstanding = 64 } before it."))
    return found


def _where(path: str, text: str, keys: list[str | int]) -> str:
    """`FILE, line N: cannot use KEY`, the line found by walking the text down the keys."""
    key = ".".join(str(key) for key in keys if isinstance(key, str)) or "the profile"
    if not text:
        return f"{path}: cannot use {key}"
    lines = text.splitlines()
    line, at = 1, 0
    for step in keys:
        if isinstance(step, int):  # of an array of tables: its header once more for each number
            wanted, pattern = step, re.compile(r"\s*\[\[\s*phase\s*\]\]")
        elif step == "phase":
            continue
        else:
            wanted, pattern = 0, re.compile(rf"""(?:^|[\[.{{,\s])["']?{re.escape(step)}["']?\s*[\].=]""")
        for number in range(at, len(lines)):
            if pattern.search(lines[number].split("#")[0]):
                if not wanted:
                    line, at = number + 1, number
                    break
                wanted -= 1
    return f"{path}, line {line}: cannot use {key}"
