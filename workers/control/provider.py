"""Provider: a client of the configuration socket that is asked which unknown keys are peers.

What it is told, a line each (`unknown_peers=1` in docs/socket.md):

    serving=1                   it is asked from now on; 0: another one is, and this one stands by
    unknown_peer={"id": 7, "public_key": "base64", "source": "203.0.113.9:40000", "age_ms": 1}
    evicted={"id": 8, "public_key": "base64", "life": "…", "timestamp": "hex", "rx": 1, "tx": 2,
             "latest_handshake": 3}    in one line
    error={"what": …, "why": …, "next": …}    of an answer; behind nonsense the connection ends

What it answers, in any order: `done=7` after the `set` that adds the peer, `refuse=7` with a line `ttl=60`
behind it. An empty line may end an answer, and ends a refusal.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from engine.uapi import TTL_MOST

TTL: Final = 60  # seconds that a refusal without a ttl stands
LINE_BYTES: Final = 256
SILENT: Final = 30_000_000_000  # ns with a question as old: a provider that does not answer makes way
_PIECE: Final = 100  # lines that are sent at once
_NUMBER = re.compile(rb"[0-9]{1,18}\Z")


class Answer(NamedTuple):
    """ttl: None for `done`; else the seconds of a refusal, 0: it is not to be remembered."""

    number: int
    ttl: int | None


class Wrong(Exception):
    """What a client says is no answer: what, why, next step."""

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(f"{what}: {why}; {next_step}")
        self.what, self.why, self.next = what, why, next_step


@dataclass(slots=True, eq=False)
class Question:
    """One that was asked and is not answered."""

    number: int
    key: bytes
    asked: int  # ns
    is_eviction: bool = False  # may this peer be taken away?


@dataclass(slots=True, eq=False)
class Provider:
    """An iterator over pieces of lines that never ends, b"" when nothing waits. window: 1 to WINDOW_MOST."""

    window: int
    heard: int  # ns; when it said something last, or came
    unread: deque[bytes] = field(default_factory=deque)
    open: dict[int, Question] = field(default_factory=dict)  # by number, in the order of asking
    wrong_answers: int = 0  # to questions that are not open
    is_over: bool = False  # it is closed when it has read its lines
    _rest: bytes = b""
    _refused: int | None = None  # a refusal whose ttl may follow
    _ttl: int = TTL

    def __iter__(self) -> Provider:
        return self

    def __next__(self) -> bytes:
        count = min(len(self.unread), _PIECE)
        return b"".join(self.unread.popleft() for _ in range(count))

    def is_stuck(self, now: int) -> bool:
        """It was told that it is over, and does not read that."""
        return self.is_over and now - self.heard >= 2 * SILENT

    @property
    def room(self) -> int:
        """How many more questions it wants."""
        return 0 if self.is_over else self.window - len(self.open)

    def tell(self, key: str, value: dict[str, object] | int) -> None:
        """A line for it."""
        self.unread.append(f"{key}={json.dumps(value)}\n".encode("ascii"))

    def refuse(self, wrong: Wrong) -> None:
        """It is told what was wrong with its answer."""
        self.tell("error", {"what": wrong.what, "why": wrong.why, "next": wrong.next})

    def end(self, wrong: Wrong, code: int) -> None:
        """Likewise, and no more is read from it."""
        self.refuse(wrong)
        self.unread.append(b"errno=%d\n\n" % code)
        self.is_over = True

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Its answers that are whole now. Wrong at a line that is none; those before it were given."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._line(line)
        if len(self._rest) > LINE_BYTES:
            raise _none("a line", f"it has more than {LINE_BYTES} bytes")

    def _line(self, line: bytes) -> Iterator[Answer]:
        key, _, value = line.partition(b"=")
        if key == b"ttl" and self._refused is not None:
            if not _NUMBER.match(value) or int(value) > TTL_MOST:
                raise _none("a ttl", f"it must be a number of seconds, 0 to {TTL_MOST}")
            self._ttl = int(value)
            return
        if self._refused is not None:
            yield Answer(self._refused, self._ttl)
            self._refused, self._ttl = None, TTL
        if not line:
            return
        if key not in (b"done", b"refuse"):
            raise _none("a line", "it is no `done=`, no `refuse=`, and no `ttl=` behind a refusal")
        if not _NUMBER.match(value):
            raise _none(f"a `{key.decode()}`", "the id of a question is expected")
        if key == b"done":
            yield Answer(int(value), None)
        else:
            self._refused = int(value)


def _none(what: str, why: str) -> Wrong:
    return Wrong(f"{what} is refused", why, "answer `done=ID`, or `refuse=ID` and `ttl=SECONDS`")
