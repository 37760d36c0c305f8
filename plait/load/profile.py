"""A load profile: who is simulated, and phase by phase what they do. TOML, or made of options.

A profile is taken whole or refused whole, with file, line, what, why and the next step. docs/load.md
has every key; configs/load/ has examples.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from plait.failure import Failure

PEERS_MOST = 1 << 20
PHASES_MOST = 32
UNTIL_DONE_SECONDS = 300.0  # the longest that a phase without `seconds` waits for its handshakes
UNPACED_HANDSHAKES = 8000  # a second: ephemerals prepared for a closed loop that repeats

_Count = Annotated[int, msgspec.Meta(ge=1, le=PEERS_MOST)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=10_000_000)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
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


class Traffic(Strict, frozen=True):
    """Echo requests: rate (open loop) or outstanding (closed loop, one a peer)."""

    rate: _Ramp | None = None
    outstanding: _Count | None = None
    bytes: Annotated[int, msgspec.Meta(ge=64, le=1920)] = 84
    peers: _Count | None = None


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


class Phase(Strict, frozen=True):
    """What goes on together for so many seconds; without seconds, until its handshakes are over."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    seconds: _Seconds | None = None
    drain: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0
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
    require: tuple[str, ...] = ()


def load(path: str, changes: dict[str, Any] | None = None) -> Profile:
    """The profile of a file, with changes of the command line over its top-level keys."""
    try:
        text = Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read profile {path}", str(error), "configs/load has examples.") from error
    return parse(text, path, changes)


def parse(text: str, path: str, changes: dict[str, Any] | None = None) -> Profile:
    """The profile in a TOML text. path is for the words of a Failure."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, place = str(error), re.search(r" \(at line (\d+), column \d+\)$", str(error))
        line = int(place.group(1)) if place else max(len(text.splitlines()), 1)
        reason = reason[: place.start()] if place else reason
        raise Failure(f"{path}, line {line}: cannot read the profile", reason, "It is TOML.") from error
    return _checked({**given, **(changes or {})}, text, path)


def of_options(given: dict[str, Any]) -> Profile:
    """The profile that options make up; refused in the same words, without a line."""
    return _checked(given, "", "the options")


def _checked(given: dict[str, Any], text: str, path: str) -> Profile:
    try:
        profile = msgspec.convert(given, Profile)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        unknown = re.search(r"unknown field `(\w+)`", reason)
        steps = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place)
        keys = [name or int(number) for name, number in steps if number != "..."]
        keys += [unknown.group(1)] if unknown else []
        mend = "docs/load.md lists the keys of a profile."
        raise Failure(_where(path, text, keys), reason.replace("`", ""), mend) from error
    for number, phase in enumerate(profile.phase):
        for key, why, mend in _contradictions(profile, phase):
            raise Failure(_where(path, text, ["phase", number, key]), why, mend)
    names = [phase.name for phase in profile.phase]
    for number, name in enumerate(names):
        if name in names[:number]:
            why = f"there is a phase {name} before it"
            raise Failure(_where(path, text, ["phase", number, "name"]), why, "Name it otherwise.")
    return profile


def _contradictions(profile: Profile, phase: Phase) -> list[tuple[str, str, str]]:
    """Key, why and mend of what the types allow and a run does not."""
    found = []
    handshakes, traffic = phase.handshakes, phase.traffic
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
