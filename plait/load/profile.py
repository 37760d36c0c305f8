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
LAB_PORTS = 4  # of each process in a lab: peers that share an address differ in it
PHASES_MOST = 32
MIX_MOST = 8  # sizes (plait/load/generator.h)
BYTES, BYTES_LEAST, BYTES_MOST = 84, 64, 1920  # of an inner packet
BYTES6_LEAST = 80  # over IPv6
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


class Packets(Strict, frozen=True):
    """How large inner packets are, and how they come. bytes: of each; mix: bytes -> how many of so large,
    drawn at random. peers: only the first so many send some. arrival: of a rate."""

    rate: _Ramp | None = None
    bytes: Annotated[int, msgspec.Meta(ge=BYTES_LEAST, le=BYTES_MOST)] | None = None
    mix: dict[str, Annotated[int, msgspec.Meta(ge=1)]] | None = None
    peers: _Count | None = None
    arrival: _Arrival = "even"

    def sizes(self) -> tuple[list[int], list[float]]:
        """Bytes of a packet, and the share of all packets of this size and those before it."""
        mix = {int(size): weight for size, weight in (self.mix or {}).items()}
        whole = sum(mix.values())
        return list(mix), [up_to / whole for up_to in accumulate(mix.values())]


class Traffic(Packets, frozen=True):
    """Echo requests: rate (open loop) or outstanding (closed loop, one a peer)."""

    outstanding: _Count | None = None


class Oneway(Packets, frozen=True):
    """Packets to the gateway's host that it does not answer, at a rate."""


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
    timestamp: _Rate = 0


TABLES: dict[str, type[Strict]] = {
    "handshakes": Handshakes,
    "traffic": Traffic,
    "oneway": Oneway,
    "keepalives": Keepalives,
    "roaming": Roaming,
    "garbage": Garbage,
}


class Actions(Strict, frozen=True):
    """What peers do, of TABLES; pause: nothing."""

    pause: bool = False
    handshakes: Handshakes | None = None
    traffic: Traffic | None = None
    oneway: Oneway | None = None
    keepalives: Keepalives | None = None
    roaming: Roaming | None = None
    garbage: Garbage | None = None


class Phase(Actions, frozen=True, kw_only=True):
    """What goes on together for so many seconds; without seconds, until its handshakes are over. population:
    what those of a population do instead."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    seconds: _Seconds | None = None
    drain: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0
    population: dict[str, Actions] = {}

    def length(self) -> float:
        """Seconds that it lasts at most."""
        if self.seconds is not None:
            return self.seconds
        return UNTIL_DONE_SECONDS


class Population(Strict, frozen=True):
    """Peers that have a name: their share of all, in proportion to the other populations' shares.

    inner: the network of their inner addresses, in place of the profile's. known: who knows them: the gateway
    itself; only the provider that it asks about unknown keys; or nobody, so that no answer is the right one.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[^/:]{1,40}$")]
    share: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    inner: str | None = None
    known: Literal["gateway", "provider", "nobody"] = "gateway"


@dataclass(frozen=True)
class Part:
    """A population with the numbers of its peers; without a name: all of them."""

    name: str
    span: range
    inner: str
    known: str = "gateway"


@dataclass(frozen=True)
class Share:
    """A table, of the peers that it is for: `peers` of them, of which peer `first` would be the first if all
    had consecutive numbers. own: it stands under the population."""

    table: Any
    first: int
    peers: int
    parts: int = 1
    own: bool = False


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
    population: tuple[Population, ...] = ()
    retry: _Seconds = 5.0
    give_up: _Seconds = 15.0
    silence: _Seconds = 15.0
    require: tuple[str, ...] = ()
    abort_on: tuple[str, ...] = ()

    def parts(self) -> list[Part]:
        """The populations, in order; one without a name where there are none."""
        if not self.population:
            return [Part("", range(self.peers), self.inner)]
        whole, found, first = sum(each.share for each in self.population), [], 0
        for each, up_to in zip(
            self.population, accumulate(each.share for each in self.population), strict=True
        ):
            after = round(self.peers * up_to / whole)
            found.append(Part(each.name, range(first, after), each.inner or self.inner, each.known))
            first = after
        return found

    def shares(self, phase: Phase, part: Part) -> dict[str, Share]:
        """What a population does in a phase: its own tables, else its share of the phase's. Of these those
        that pause, or that nobody knows, have none."""
        found = {}
        for key in TABLES:
            own = _own_table(phase, part, key)
            table = getattr(phase, key)
            if own is not None:
                found[key] = Share(own, part.span.start, len(part.span), own=True)
            elif table is not None and _takes_part(phase, part, key):
                group = [each for each in self.parts() if _takes_part(phase, each, key)]
                before = sum(len(each.span) for each in group if each.span.start < part.span.start)
                peers = sum(len(each.span) for each in group)
                found[key] = Share(table, part.span.start - before, peers, len(group))
        return found

    def places(self) -> list[str]:
        """What a requirement may name: phases, and the populations of each."""
        names = [f"/{each.name}" for each in self.population]
        return [phase.name + name for phase in self.phase for name in ("", *names)]


def _takes_part(phase: Phase, part: Part, key: str) -> bool:
    """Whether a table of the phase is for these peers too."""
    own = phase.population.get(part.name)
    is_elsewhere = own is not None and (own.pause or getattr(own, key) is not None)
    return part.known != "nobody" and not is_elsewhere


def _own_table(phase: Phase, part: Part, key: str) -> Any:
    return getattr(phase.population.get(part.name), key, None)


def handshake_count(handshakes: Handshakes | None, peers: int) -> int:
    """How many handshakes so many peers begin in all; 0: without end."""
    if handshakes is None:
        return 0
    if handshakes.count is not None:
        return handshakes.count
    return 0 if handshakes.rate is not None else peers


def ephemerals(handshakes: Handshakes, length: float, peers: int) -> int:
    """How many handshakes to prepare for, at most a million. length: of the phase in seconds."""
    count = handshake_count(handshakes, peers)
    if not count and handshakes.rate is not None:
        ramp = handshakes.rate
        mean = sum(ramp) / 2 if isinstance(ramp, list) else ramp
        count = int(mean * length) + 1
    elif not count:
        count = int(UNPACED_HANDSHAKES * length)
    return min(count, PEERS_MOST)


@dataclass(frozen=True)
class _Source:
    """A file that a profile is made of, or the options."""

    path: str
    text: str
    given: dict[str, Any]


def load(
    path: str,
    changes: dict[str, Any] | None = None,
    changed: Sequence[str] = (),
    under: dict[str, Any] | None = None,
) -> Profile:
    """The profile of a file and of what it includes. changes: of the command line, over its top-level keys;
    changed: words of --set, over all; under: in place of the defaults."""
    sources = _sources(path, _text(path), ())
    return _checked([_Source(path, "", under or {}), *sources], changes or {}, changed)


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
    """The profile. What an option made wrong is told of that option, not of a line that is right."""
    try:
        return _made(sources, changes, changed)
    except Failure as failure:
        if (option := _culprit(sources, changes, changed)) is None:
            _made(sources, {}, ())  # the files' own fault first
            raise
        raise Failure(f"cannot use {option}", failure.why, failure.next_step) from failure


def _culprit(sources: list[_Source], changes: dict[str, Any], changed: Sequence[str]) -> str | None:
    """The first option with which a profile is wrong that is right without; None: the files are wrong."""

    def is_wrong(changes: dict[str, Any], changed: Sequence[str]) -> bool:
        try:
            _made(sources, changes, changed)
        except Failure:
            return True
        return False

    if not is_wrong(changes, ()):
        numbers = range(len(changed))
        return next((f"--set {changed[at]}" for at in numbers if is_wrong(changes, changed[: at + 1])), None)
    if not is_wrong({}, ()):
        items = list(changes.items())
        for at, (key, value) in enumerate(items):
            if is_wrong(dict(items[: at + 1]), ()):
                return f"--{key.replace('_', '-')} {value}"
    return None


def _made(sources: list[_Source], changes: dict[str, Any], changed: Sequence[str]) -> Profile:
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
    for keys, why, mend in (*_populations_wrong(profile), *_names_wrong(profile)):
        raise Failure(where(keys), why, mend)
    for number in range(len(profile.phase)):
        for keys, why, mend in _contradictions(profile, number):
            raise Failure(where(["phase", number, *keys]), why, mend)
    return profile


def _names_wrong(profile: Profile) -> Iterator[tuple[list[str | int], str, str]]:
    """Keys, why and mend of names that are taken, or name nobody."""
    names = [phase.name for phase in profile.phase]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield ["phase", number, "name"], f"there is a phase {name} before it", "Name it otherwise."
        if profile.population and "/" in name:
            why = "with populations PHASE/POPULATION names one of them"
            yield ["phase", number, "name"], why, "Leave the / out."
    known = [each.name for each in profile.population]
    for number, phase in enumerate(profile.phase):
        for name in phase.population:
            if name not in known:
                mend = f"Populations: {', '.join(known)}." if known else "Add [[population]] with that name."
                yield ["phase", number, "population", name], f"there is no population {name}", mend


def _populations_wrong(profile: Profile) -> Iterator[tuple[list[str | int], str, str]]:
    names = [each.name for each in profile.population]
    for name in names:
        if names.count(name) > 1:
            yield ["population"], f"there are two populations {name}", "Name one of them otherwise."
    for part in profile.parts():
        if not part.span:
            why = f"of {profile.peers} peers {part.name} has none"
            yield ["population"], why, "Give it a larger share, or more peers to all."


def _fields(keys: Sequence[str | int]) -> list[str]:
    """The keys that there are at a place of a profile."""
    names = [key for key in keys if isinstance(key, str)]
    tables: dict[str, type[Strict]] = {"phase": Phase, **TABLES}
    table = tables.get(names[-1], Profile) if names else Profile
    if "population" in names and table is Profile:
        table = Actions if names[0] == "phase" else Population
    return list(table.__struct_fields__) + (["include"] if table is Profile else [])


def _merged(under: Any, over: Any) -> Any:
    """A table with another's keys over its own, table by table."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}


_KEYS = {"phase": "seconds=30", "population": "share=3"}  # an example of each


def _set(given: dict[str, Any], words: str) -> None:
    """Carry out one --set: `retry=2`, `phase.NAME.traffic.rate=5000`, or `phase.NAME.rate=5000` where one
    table of that phase alone has such a key, or `population.NAME.share=3`."""
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
    if keys[0] == "include":
        raise Failure(what, "files are read before any key is set", "Write include in a profile of its own.")
    if keys[0] in ("phase", "population"):
        kind = keys[0]
        tables = [each for each in given.get(kind, []) if isinstance(each, dict)]
        named = {str(each.get("name")): each for each in tables}
        rest = path.strip().removeprefix(kind).removeprefix(".")
        fits = [name for name in named if rest.startswith(f"{name}.") and rest != f"{name}."]
        if not fits and rest in ("", *named):
            mend = f"Write for example --set {kind}.{rest or next(iter(named), 'NAME')}.{_KEYS[kind]}."
            raise Failure(what, f"it names no key of a {kind}", mend)
        if not fits:
            mend = f"The profile has: {', '.join(named) or f'no {kind}'}."
            raise Failure(what, f"there is no {kind} {rest.partition('.')[0]}", mend)
        place = named[max(fits, key=len)]
        keys = [key.strip() for key in rest.removeprefix(f"{place['name']}.").split(".")]
        if kind == "phase" and len(keys) == 1 and keys[0] not in Phase.__struct_fields__:
            fitting = [name for name in _tables_with(keys[0]) if isinstance(place.get(name), dict)]
            if len(fitting) > 1:
                mend = " or ".join(f"phase.{place['name']}.{name}.{keys[0]}" for name in fitting)
                raise Failure(what, f"{' and '.join(fitting)} have a {keys[0]}", f"Write {mend}.")
            keys = [*fitting, *keys]
        place = _own(named, given, kind, str(place["name"]))
    for key in keys[:-1]:
        place[key] = dict(place.get(key) or {}) if isinstance(place.get(key), dict | None) else {}
        place = place[key]
    place[keys[-1]] = value


def _own(
    named: dict[str, dict[str, Any]], given: dict[str, Any], kind: str, name: str
) -> dict[str, Any]:
    """The phase or population of that name as a table of its own, so that nothing of a source is written
    to."""
    made = dict(named[name])
    given[kind] = [made if each is named[name] else each for each in given[kind]]
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


_Wrong = tuple[list[str | int], str, str]  # keys below the phase, why, mend


def _contradictions(profile: Profile, number: int) -> list[_Wrong]:
    """What the types allow and a run does not, in one phase."""
    phase = profile.phase[number]
    found = _without_effect(profile, number)
    for part in profile.parts():
        shares = profile.shares(phase, part)
        for key, share in shares.items():
            keys: list[str | int] = ["population", part.name, key] if share.own else [key]
            wrong = {
                "handshakes": _handshakes_wrong, "traffic": _traffic_wrong, "oneway": _packets_wrong,
                "roaming": _roaming_wrong,
            }.get(key)  # fmt: skip
            if wrong is not None:
                found += [(keys, why, mend) for why, mend in wrong(profile, part, share)]
            if part.known == "nobody" and key not in ("handshakes", "garbage"):
                why = f"nobody knows the peers of {part.name}, so they have no sessions"
                found.append((keys, why, "Give it to another population."))
        if phase.seconds is None and shares and not _is_finite(shares):
            found.append((["name"], "nothing ends this phase", "Give it `seconds`."))
    if phase.seconds is None and not any(profile.shares(phase, part) for part in profile.parts()):
        found.append((["name"], "nothing ends this phase", "Give it `seconds`."))
    return found


def _is_finite(shares: dict[str, Share]) -> bool:
    """Whether handshakes end it."""
    share = shares.get("handshakes")
    return share is not None and handshake_count(share.table, share.peers) > 0


def _handshakes_wrong(profile: Profile, part: Part, share: Share) -> Iterator[tuple[str, str]]:
    handshakes, peers = share.table, share.peers
    ways = [handshakes.outstanding, handshakes.rate, handshakes.within]
    if sum(way is not None for way in ways) != 1:
        mend = "Write for example `handshakes = { outstanding = 64 }`."
        yield "it says not exactly one of outstanding, rate and within", mend
    yield from _places_wrong(share)
    rate = peers / handshakes.within if handshakes.within else handshakes.rate or 0
    most = max(rate) if isinstance(rate, list) else rate
    if part.known == "nobody":
        if most * handshakes.patience > peers:
            why = (
                f"{peers} peers that nobody answers wait {handshakes.patience:g} s each, so they begin at "
                f"most {peers / handshakes.patience:,.0f} handshakes a second"
            )
            wanted = int(-(-most * handshakes.patience // 1))
            yield why, f"Give it {wanted:,} peers or more, or less patience."
    elif most > peers * RATE_OF_A_PEER:
        why = (
            f"{peers} peers begin at most {peers * RATE_OF_A_PEER:,} handshakes a "
            f"second, {RATE_OF_A_PEER} each, for a gateway takes no more of one peer"
        )
        yield why, f"Give it {int(-(-most // RATE_OF_A_PEER)):,} peers or more, or a lower rate."


def _places_wrong(share: Share) -> Iterator[tuple[str, str]]:
    if share.table.outstanding is not None and share.table.outstanding < share.parts:
        why = f"{share.parts} populations share {share.table.outstanding} outstanding"
        yield why, "Give more, or give each population a table of its own."


def _traffic_wrong(profile: Profile, part: Part, share: Share) -> Iterator[tuple[str, str]]:
    if (share.table.rate is None) == (share.table.outstanding is None):
        mend = "Write for example `traffic = { rate = 1000 }`."
        yield "it says not exactly one of rate and outstanding", mend
    yield from _places_wrong(share)
    yield from _packets_wrong(profile, part, share)


def _packets_wrong(profile: Profile, part: Part, share: Share) -> Iterator[tuple[str, str]]:
    packets = share.table
    mend = "Write for example mix = { 64 = 7, 594 = 4, 1420 = 1 }: bytes, and how many of so large."
    least = BYTES6_LEAST if ":" in part.inner else BYTES_LEAST
    if packets.peers is not None and packets.peers > share.peers:
        yield f"it names {packets.peers} of {share.peers} peers", "Name fewer."
    if packets.bytes is not None and packets.bytes < least:
        yield f"{packets.bytes} bytes are too few over IPv6", f"Give {least} or more."
    if packets.mix is None:
        return
    if packets.bytes is not None:
        yield "it says both bytes and mix", mend
    if not 1 <= len(packets.mix) <= MIX_MOST:
        yield f"its mix has {len(packets.mix)} sizes, not 1 to {MIX_MOST}", mend
    wrong = [size for size in packets.mix if not size.isdecimal() or not least <= int(size) <= BYTES_MOST]
    if wrong:
        yield f"{wrong[0]} is no size from {least} to {BYTES_MOST}", mend


def _roaming_wrong(profile: Profile, part: Part, share: Share) -> Iterator[tuple[str, str]]:
    if profile.ports == 1 and profile.sources is None:
        yield "peers have one address and one port to be at", "Set ports = 2 or more, or sources, at the top."


def _without_effect(profile: Profile, number: int) -> list[_Wrong]:
    """The same, of what would run and do nothing."""
    phase = profile.phase[number]
    found: list[_Wrong] = []
    tables: list[tuple[list[str | int], Actions]] = [([], phase)]
    tables += [(["population", name], each) for name, each in phase.population.items()]
    parts: list[tuple[list[str | int], Any]] = [
        ([*keys, name], table)
        for keys, actions in tables
        for name in TABLES
        if (table := getattr(actions, name)) is not None
    ]
    if not parts and not phase.pause:
        listed = ", ".join([*TABLES][:-1])
        mend = f"Give it {listed} or garbage; pause = true where it is meant."
        found.append((["name"], "nothing happens in this phase", mend))
    for place, actions in tables:
        named = " and ".join(str(keys[-1]) for keys, _ in parts if keys[:-1] == place or not place)
        if actions.pause and named:
            found.append(([*place, "pause"], f"there is {named} in this phase", "Leave one of them out."))
    for keys, table in parts:
        rates = [table.rate] if hasattr(table, "rate") else []
        rates = list(msgspec.structs.asdict(table).values()) if keys[-1] == "garbage" else rates
        is_open = keys[-1] in ("oneway", "garbage", "roaming")
        if rates and not any(
            max(rate) if isinstance(rate, list) else rate or (rate is None and not is_open) for rate in rates
        ):
            found.append((keys, "its rate is 0: nothing would be sent", "Give it a rate, or leave it out."))
        if getattr(table, "arrival", "even") != "even" and getattr(table, "outstanding", None) is not None:
            found.append((keys, "a closed loop has no arrivals", "Leave arrival out, or give it a rate."))
        if len(keys) == 1 and not any(
            not share.own and name == keys[-1]
            for part in profile.parts()
            for name, share in profile.shares(phase, part).items()
        ):
            why = "it is for no population: each has its own in its place, pauses, or is known to nobody"
            mend = f"Leave it out, or write [phase.population.NAME.{keys[-1]}] of one."
            found.append((keys, why, mend))
    for part in profile.parts():
        shaken = any("handshakes" in profile.shares(each, part) for each in profile.phase[: number + 1])
        for name, share in profile.shares(phase, part).items():
            if name in ("traffic", "oneway", "keepalives", "roaming") and not shaken:
                why = "no phase until here has handshakes, so no peer has a session"
                if part.name:
                    why = f"{part.name} has handshakes in no phase until here, so none of it has a session"
                mend = "Put a phase with handshakes = { outstanding = 64 } before it."
                keys = ["population", part.name, name] if share.own else [name]
                if part.known != "nobody":
                    found.append((keys, why, mend))
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
