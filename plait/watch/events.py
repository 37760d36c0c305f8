"""`plait events`: what engines tell of handshakes that fail and of milestones, as it happens.

Each engine answers `events=1` on its configuration socket with what it remembers and whatever comes (the
lines are described in control/events.py, their words in plait/watch/event_words.py). When its control process
is restarted the connection ends; a new one goes on where this one stood.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from plait import plaitd_client, uapi_client
from plait.failure import Failure
from plait.standard_streams import reader_is_gone
from plait.watch import engines
from plait.watch.event_words import WORDS, Words
from plait.watch.terminal import is_coloured, printable
from workers.control.events import ANYBODYS, COUNTS, FAILURES, REFUSALS, Event

RECONNECT = 0.2  # seconds before a connection that ended is made again
LOOK = 1.0  # seconds between two looks at which engines there are
SHORT_KEY = 8  # characters of a public key that are shown
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COLOURS = {"refused": "\033[33m", "failed": "\033[31m", "fine": "\033[32m"}
_RESET = "\033[0m"


def run(interface: str | None, *, since: str | None, follow: bool, sessions: bool, as_json: bool) -> None:
    """Print events on standard output: those remembered, and with `follow` those that come, until Ctrl-C.

    sessions: of those that come, each session's begin and end.
    """
    if sessions and not follow:
        why = "what is remembered is not each session"
        raise Failure("--sessions and --no-follow do not go together", why, "Leave out one of them.")
    after = 0.0 if since is None else parse_since(since, time.time())
    coloured = is_coloured()
    with contextlib.suppress(KeyboardInterrupt):
        told: Iterator[tuple[str, dict[str, Any]]]
        told = Following(interface, sessions=sessions).events() if follow else remembered(interface)
        for name, event in told:
            if event["time"] < after:
                continue
            line = json.dumps(as_dict(name, event)) if as_json else text(name, event, coloured=coloured)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def parse_since(value: str, now: float) -> float:
    """Seconds since 1970 of --since: `now`, an age as 90s, 10m, 2h, 1d, or a date and time of ISO 8601."""
    if value == "now":
        return math.floor(now * 1000) / 1000  # the engine tells whole milliseconds
    age = _AGO.fullmatch(value)
    if age:
        return now - float(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        why = "it is neither an age nor a time"
        mend = "Write 90s, 10m, 2h, 1d, now or 2026-01-31T12:00."
        raise Failure(f"--since {value} is not understood", why, mend) from None


def remembered(interface: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the engines remember, by time."""
    names = engines.names(interface)
    if not names:
        raise engines.none_runs("there is nothing to tell")
    told = [(name, event) for name, found in engines.ask(names, plaitd_client.events) for event in found]
    yield from sorted(told, key=lambda pair: float(pair[1]["time"]))


# --- following ----------------------------------------------------------------------------------


Ask = Callable[[str, bytes, float], socket.socket]  # of an interface, an operation, seconds of patience


class Stream:
    """One interface's connection, made again when it ends while the engine lives.

    sessions: the engine is to tell of each session, however many there are.
    """

    def __init__(self, name: str, ask: Ask = uapi_client.ask, *, sessions: bool = False) -> None:
        self.name = name
        self.sessions = sessions
        self.operation = b"events=1\nsessions=true\n\n" if sessions else b"events=1\n\n"
        self.ask = ask
        self.seen = (0, 0, 0.0)  # life, number and time of the latest event
        self.is_ending = False
        self.connect()

    def connect(self, patience: float = engines.PATIENCE) -> None:
        """Ask. Failure when nobody listens."""
        self.socket = self.ask(self.name, self.operation, patience)
        self.rest = b""
        self.is_silent = True  # since it was asked
        self.asked = time.monotonic()

    def receive(self) -> list[dict[str, Any]] | None:
        """What has come and was not seen before; None at the end of the connection.

        Failure when it is no event.
        """
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        fresh = []
        for line in lines:
            key, _, value = line.partition(b"=")
            if key == b"errno":
                if self.sessions and self.is_silent and value == b"%d" % errno.EPROTO:
                    what, why = f"{self.name} does not tell of each session", "its engine is an older plaitd"
                    raise Failure(what, why, f"Update the engine: plait upgrade {self.name}")
                return None
            if key != b"event" or len(self.rest) > uapi_client.LONGEST_LINE:
                raise uapi_client.nonsense(self.name, "it tells something that is no event")
            event = plaitd_client.event(self.name, value)
            self.is_silent = False
            place = (event["life"], event["number"], event["time"])
            is_another_engine = event["event"] == Event.STARTED and event["time"] > self.seen[2]
            if place[:2] > self.seen[:2] or is_another_engine:
                self.seen = place
                self.is_ending = event["event"] == Event.ENDING
                fresh.append(event)
        return fresh if data else None

    def reconnect(self) -> bool:
        """False when the engine is gone. Failure when it tells no events."""
        self.socket.close()
        if self.is_silent:
            plaitd_client.events(self.name, engines.PATIENCE)
        elif self.is_ending:
            return False
        time.sleep(RECONNECT)
        try:
            self.connect()
        except Failure:
            return False
        return True


class Following:
    """Engines whose events are followed, also those that start meanwhile when all are followed.

    An engine that cannot be followed is left out, with one line on stderr (watch/engines.py); who does not
    listen yet, or is too busy to, is asked again.
    """

    def __init__(self, interface: str | None, *, sessions: bool = False) -> None:
        self.interface = interface
        self.sessions = sessions
        self.selector = selectors.DefaultSelector()
        self.streams: dict[str, Stream] = {}  # once followed: what they told is not told twice
        self.said: set[str] = set()  # names whose absence needs no more words
        self.resting: dict[str, tuple[int, float]] = {}  # sockets that are not asked before a time
        self.has_told = False

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events as they come, until no engine is left. Failure when none could be followed."""
        names = engines.names(self.interface)
        if not names:
            raise engines.none_runs("there is nothing to follow")
        self._join(names, is_alone=len(names) == 1)
        looked = time.monotonic()
        while self.selector.get_map():
            for key, _ in self.selector.select(LOOK):
                yield from self._take(key.data, is_alone=len(names) == 1 and not self.has_told)
            if reader_is_gone():
                raise BrokenPipeError
            if time.monotonic() - looked >= LOOK:
                self._say_silent()
                if self.interface in (None, "all"):
                    with contextlib.suppress(Failure):
                        self._join(engines.names(self.interface))
                looked = time.monotonic()
        if not self.has_told:
            raise engines.nothing_shown(len(self.said))

    def _followed(self) -> list[Stream]:
        return [key.data for key in self.selector.get_map().values()]

    def _take(self, stream: Stream, *, is_alone: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        fresh: list[dict[str, Any]] | None = []
        try:
            fresh = stream.receive()
            if fresh is None:
                self.selector.unregister(stream.socket)
                if stream.reconnect():
                    self.selector.register(stream.socket, selectors.EVENT_READ, stream)
                else:
                    self.said.add(stream.name)
                    sys.stderr.write(f"plait: the engine of {stream.name} has ended\n")
        except Failure as failure:
            if stream in self._followed():
                self.selector.unregister(stream.socket)
                stream.socket.close()
            self._leave_out(stream.name, failure, is_alone=is_alone)
        for event in fresh or ():
            self.has_told = True
            self.said.discard(stream.name)
            yield stream.name, event

    def _join(self, names: list[str], *, is_alone: bool = False) -> None:
        """Follow those that are not followed."""
        followed = {stream.name for stream in self._followed()}
        self.said &= {*names, *followed}
        for name in names:
            number, until = self.resting.get(name, (0, 0.0))
            if name in followed or (time.monotonic() < until and uapi_client.socket_number(name) == number):
                continue
            try:
                if name in self.streams:
                    self.streams[name].connect(LOOK)
                else:
                    self.streams[name] = Stream(name, sessions=self.sessions)
                stream = self.streams[name]
                self.selector.register(stream.socket, selectors.EVENT_READ, stream)
            except Failure as failure:
                self._leave_out(name, failure, is_alone=is_alone)

    def _leave_out(self, name: str, failure: Failure, *, is_alone: bool) -> None:
        if is_alone:
            raise failure
        if name not in self.said:
            engines.say(failure)
        self.said.add(name)
        rest = float("inf") if isinstance(failure, plaitd_client.Foreign) else engines.PATIENCE
        if uapi_client.is_live(name):  # else it may be about to listen
            self.resting[name] = uapi_client.socket_number(name), time.monotonic() + rest

    def _say_silent(self) -> None:
        """Of engines that took the question and told nothing yet; plaitd tells its start at least."""
        for stream in self._followed():
            waited = time.monotonic() - stream.asked
            if stream.is_silent and waited > engines.PATIENCE and stream.name not in self.said:
                self.said.add(stream.name)
                why = f"no event came within {engines.PATIENCE:.0f} s"
                step = "Its engine may be stuck; look at its log. It is listened to."
                engines.say(Failure(f"{stream.name} tells nothing", why, step))


# --- showing ------------------------------------------------------------------------------------


def as_dict(name: str, event: dict[str, Any]) -> dict[str, Any]:
    """The event for JSON: as the engine told it, with its interface and words."""
    words = filled(name, event)
    return {"interface": name, **event, "what": words.what, "why": words.why, "next": words.next}


def text(name: str, event: dict[str, Any], *, coloured: bool = False) -> str:
    """The event as a line: time, interface, what: why; next."""
    words = filled(name, event)
    when = datetime.fromtimestamp(event["time"]).isoformat(" ", "milliseconds")
    said = words.what
    if words.why:
        said = f"{words.what}: {words.why}; {words.next}"
    if coloured:
        said = said.replace(words.what, _COLOURS[_kind(event["event"])] + words.what + _RESET, 1)
    return f"{when} {name}: {said}"


def filled(name: str, event: dict[str, Any]) -> Words:
    """The three parts with everything filled in."""
    try:
        words = WORDS[Event(event["event"])]
    except ValueError:  # of an engine newer than this program
        details = {key: value for key, value in event.items() if key not in ("life", "number", "time")}
        return Words(json.dumps(details))
    if "more" in event:
        return Words(f"and {event['more']} more of the kind `{event['event']}`")
    values = _Values(event)
    values["interface"] = name
    values["from"] = f" from {event['source']} (unproven)" if "source" in event else ""
    values["at"] = f" at {event['endpoint']}" if "endpoint" in event else ""
    values["was"] = f" (was at {event['was']})" if "was" in event else ""
    values["to"] = f" to {_peer(event)}" if "peer" in event else ""
    values["claiming"] = f", and names the key {event['claimed_key']}" if "claimed_key" in event else ""
    if "peer" in event:
        values["peer"] = _peer(event)
    return Words(*(part.format_map(values) for part in words))


def _peer(event: dict[str, Any]) -> str:
    """Its key's start, which `plait why` takes, and its name where it has one."""
    name = printable(event.get("name", ""))
    return f"{short(event['peer'])} ({name})" if name else short(event["peer"])


def short(key: str) -> str:
    """The start of a public key."""
    return key[:SHORT_KEY] + "…"


class _Values(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _kind(event: str) -> str:
    if event in REFUSALS | ANYBODYS | COUNTS:
        return "refused"
    return "failed" if event in FAILURES else "fine"
