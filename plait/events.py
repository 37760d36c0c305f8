"""`plait events`: what engines tell of handshakes that fail and of milestones, as it happens.

Each engine answers `events=1` on its configuration socket with what it remembers and whatever comes (the
lines are described in workers/events.py, their words in plait/event_words.py). When its control process
is restarted the connection ends; a new one goes on where this one stood.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from plait import uapi_client
from plait.event_words import WORDS, Words
from plait.failure import Failure
from plait.show import is_coloured
from workers.events import ANYBODYS, COUNTS, FAILURES, REFUSALS, Event

RECONNECT = 0.2  # seconds before a connection that ended is made anew
SHORT_KEY = 8  # characters of a public key that are shown
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COLOURS = {"refused": "\033[33m", "failed": "\033[31m", "fine": "\033[32m"}
_RESET = "\033[0m"


def run(interface: str | None, *, since: str | None, follow: bool, as_json: bool) -> None:
    """Print events on standard output: those remembered, and with `follow` those that come, until Ctrl-C."""
    after = 0.0 if since is None else parse_since(since, time.time())
    names = uapi_client.interfaces() if interface in (None, "all") else [str(interface)]
    if not names:
        raise Failure("there is nothing to follow", "no engine runs", "Start one first: plaitd IFACE")
    coloured = is_coloured()
    with contextlib.suppress(KeyboardInterrupt):
        told: Iterator[tuple[str, dict[str, Any]]]
        told = followed(names) if follow else remembered(names)
        for name, event in told:
            if event["time"] < after:
                continue
            line = json.dumps(as_dict(name, event)) if as_json else text(name, event, coloured=coloured)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def parse_since(value: str, now: float) -> float:
    """Seconds since 1970 of --since: `now`, an age as 90s, 10m, 2h, 1d, or a date and time of ISO 8601."""
    if value == "now":
        return now
    age = _AGO.fullmatch(value)
    if age:
        return now - float(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        why = "it is neither an age nor a time"
        mend = "Write 90s, 10m, 2h, 1d, now or 2026-01-31T12:00."
        raise Failure(f"--since {value} is not understood", why, mend) from None


def remembered(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the engines remember, by time."""
    told = [(name, event) for name in names for event in uapi_client.events(name)]
    yield from sorted(told, key=lambda pair: float(pair[1]["time"]))


# --- following ----------------------------------------------------------------------------------


class Stream:
    """One interface's connection, made anew when it ends while the engine lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen = (0, 0, 0.0)  # life, number and time of the latest event
        self.is_ending = False
        self.connect()

    def connect(self) -> None:
        """Ask. Failure when nobody listens."""
        self.socket = uapi_client.ask(self.name, b"events=1\n\n")
        self.rest = b""

    def receive(self) -> list[dict[str, Any]] | None:
        """What has come and was not seen before; None at the end of the connection."""
        data = self.socket.recv(1 << 16)
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        fresh = []
        for line in lines:
            key, _, value = line.partition(b"=")
            if key == b"errno":
                raise uapi_client.no_events(self.name)
            event = json.loads(value)
            place = (event["life"], event["number"], event["time"])
            is_another_engine = event["event"] == Event.STARTED and event["time"] > self.seen[2]
            if place[:2] > self.seen[:2] or is_another_engine:
                self.seen = place
                self.is_ending = event["event"] == Event.ENDING
                fresh.append(event)
        return fresh

    def reconnect(self) -> bool:
        """False when the engine is gone."""
        self.socket.close()
        if self.seen[1] == 0:
            raise uapi_client.no_events(self.name)
        if self.is_ending:
            return False
        time.sleep(RECONNECT)
        try:
            self.connect()
        except Failure:
            return False
        return True


def followed(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events as they come, until no engine is left."""
    with selectors.DefaultSelector() as selector:
        for name in names:
            stream = Stream(name)
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            for key, _ in selector.select():
                stream = key.data
                try:
                    fresh = stream.receive()
                except ConnectionError:
                    fresh = None
                if fresh is not None:
                    yield from ((stream.name, event) for event in fresh)
                    continue
                selector.unregister(stream.socket)
                if stream.reconnect():
                    selector.register(stream.socket, selectors.EVENT_READ, stream)
                else:
                    sys.stderr.write(f"plait: the engine of {stream.name} has ended\n")


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
    values["to"] = f" to {short(event['peer'])}" if "peer" in event else ""
    values["claiming"] = f", and names the key {event['claimed_key']}" if "claimed_key" in event else ""
    if "peer" in event:
        values["peer"] = short(event["peer"])
    return Words(*(part.format_map(values) for part in words))


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
