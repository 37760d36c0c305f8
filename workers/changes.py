"""Changes of an engine that runs, one after another, and who waits to hear what became of each.

Signals ask and wait for nothing. `plait upgrade` and `plait scale` ask over the configuration socket: control
passes their connection on, and the supervisor answers there itself, since an upgrade replaces control too. A
connection survives exec like every other descriptor. Who closes it stops waiting, and changes nothing.

An upgrade that nobody has begun is one, however many ask for it; when the program is replaced, everybody who
asked until then has what was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import uapi
from workers.failure import Exit, Failure

MOST = 64  # changes and connections that may wait
log = logging.getLogger("plait")

# Yields while it waits; returns what is told of it, and raises Failure when it was refused.
Change = Generator[None, None, dict[str, Any]]


@dataclass
class Wanted:
    """A change that was asked for. askers: connections, which it owns."""

    kind: str
    arguments: list[str] = field(default_factory=list)
    askers: list[int] = field(default_factory=list)

    def answer(self, told: Mapping[str, Any], refusal: Failure | None) -> None:
        """Tell everybody who waits, and close their connections."""
        words = None
        if refusal is not None:
            words = {"what": refusal.what, "why": refusal.why, "next": refusal.next_step}
        report = json.dumps({"refused": words, **told})
        for asker in self.askers:
            _send(asker, uapi.answer_change(report, errno.ECANCELED if refusal else 0))
            os.close(asker)
        self.askers = []


class Changes:
    """The changes of one engine. begin: how each kind begins, by its name."""

    def __init__(self, begin: Mapping[str, Callable[..., Change]]) -> None:
        self.begin = begin
        self.waiting: deque[Wanted] = deque()
        self.now: Wanted | None = None
        self._steps: Change | None = None

    def want(self, kind: str, *arguments: str, asker: int | None = None) -> None:
        """Ask for one. asker: a connection of the caller's, where the answer will be written."""
        wanted = Wanted(kind, list(arguments))
        same = next((one for one in self.waiting if kind == one.kind == "upgrade"), None)
        if asker is not None:
            wanted.askers.append(os.dup(asker))
            _send(asker, uapi.ASKED)
        if sum(1 + len(one.askers) for one in self.waiting) >= MOST:
            what, why = "the engine was not changed", f"{MOST} others wait for a change already"
            wanted.answer({}, Failure(what, why, "ask again when those are done", Exit.INTERNAL))
        elif same is not None:
            same.askers += wanted.askers
        else:
            self.waiting.append(wanted)

    @property
    def is_under_way(self) -> bool:
        return self.now is not None

    def go_on(self) -> None:
        """Do what can be done now. A fault ends the change that has it, and no other."""
        while self.now is not None or self.waiting:
            if self.now is None:
                self.now = self.waiting.popleft()
                self._steps = self.begin[self.now.kind](*self.now.arguments)
            assert self._steps is not None
            try:
                next(self._steps)
                return
            except StopIteration as end:
                self.now.answer(end.value, None)
            except Failure as refusal:
                log.error("%s", refusal)
                self.now.answer({}, refusal)
            except Exception as error:
                log.exception("a change ends on an error that nobody expected")
                why = f"{type(error).__name__}: {error}"
                next_step = "see where in the engine's log"
                self.now.answer({}, Failure("the change failed", why, next_step, Exit.INTERNAL))
            self.now = self._steps = None

    def close(self) -> None:
        """The engine ends: nothing is done any more."""
        if self._steps is not None:
            self._steps.close()
        failure = Failure("the engine was not changed", "it ends", "start it again", Exit.INTERNAL)
        for wanted in (*([self.now] if self.now else []), *self.waiting):
            wanted.answer({}, failure)
        self.waiting.clear()
        self.now = self._steps = None

    # -- what another program is left (upgrade.py) ----------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """What the program is to do that takes over, in words for JSON: first the renewal, for whoever asked
        for an upgrade until now."""
        every = [*([self.now] if self.now else []), *self.waiting]
        renewal = Wanted("renew", [], [fd for one in every if one.kind == "upgrade" for fd in one.askers])
        rest = [one for one in self.waiting if one.kind != "upgrade"]
        return [
            {"kind": one.kind, "arguments": one.arguments, "askers": one.askers} for one in (renewal, *rest)
        ]

    def fds(self) -> list[int]:
        """The descriptors in it."""
        return [fd for one in self.describe() for fd in one["askers"]]

    def inherit(self, described: list[dict[str, Any]]) -> None:
        """Go on with these."""
        for left in described:
            for fd in left["askers"]:
                os.set_inheritable(fd, False)
            self.waiting.append(Wanted(left["kind"], left["arguments"], left["askers"]))


def _send(asker: int, text: bytes) -> None:
    """One that has gone, or does not read, is not waited for."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(asker)) as connection:
        connection.send(text, socket.MSG_DONTWAIT)
