"""Changes of a running engine, one after another, and the clients that wait for their results.

A signal asks for a change and waits for nothing. `plait upgrade` and `plait scale` ask over the
configuration socket: control passes their connection on, and the supervisor answers there itself, since an
upgrade replaces control too. A connection survives exec like every other descriptor. A client that closes it
stops waiting; the change goes on.

Requests are coalesced: of each kind one is under way and one waits, however often a change is asked for.

- An upgrade, a trial, and so many workers: a request that comes while an equal one waits shares its result.
  An upgrade answers every request for one that came before the program was replaced.
- One of each more, one fewer (signals): what waits is their sum.
- `plait scale wg0 +1` alone is never coalesced; MOST clients may wait, and more are refused.
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
from workers.descriptors import borrowed
from workers.failure import Exit, Failure, explain

MOST = 64  # changes and connections that may wait
STEPS = {"more": 1, "fewer": -1}  # argument: how many times, when it is not once
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
        for asker in self.askers:
            _send(asker, _answer(told, refusal))
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
        if asker is not None:
            try:
                wanted.askers.append(os.dup(asker))
            except OSError as error:
                refusal = Failure("the engine was not changed", *explain(error), Exit.INTERNAL)
                _send(asker, uapi.ASKED + _answer({}, refusal))
                return
            _send(asker, uapi.ASKED)
        same = self._same(wanted)
        if kind in STEPS and same is not None:
            self._sum_up(same, kind)
        elif sum(1 + len(one.askers) for one in self.waiting) >= MOST:
            what, why = "the engine was not changed", f"{MOST} others wait for a change already"
            refusal = Failure(what, why, "ask again when those are done", Exit.INTERNAL)
            if asker is None:
                log.error("%s", refusal)
            wanted.answer({}, refusal)
        elif same is not None:
            same.askers += wanted.askers
        else:
            self.waiting.append(wanted)

    def _same(self, wanted: Wanted) -> Wanted | None:
        """One that waits, and by which this one is done too."""
        if wanted.kind in ("upgrade", "trial"):
            return next((one for one in self.waiting if one.kind == wanted.kind), None)
        # Of changes of numbers the last one alone: what comes behind another is not what comes before it.
        last = next((one for one in reversed(self.waiting) if one.kind in (*STEPS, "scale")), None)
        if last is None or wanted.kind in STEPS:
            return last if last is not None and last.kind in STEPS else None
        is_goal = not any(number[:1] in ("+", "-") for number in wanted.arguments)
        return last if is_goal and (last.kind, last.arguments) == (wanted.kind, wanted.arguments) else None

    def _sum_up(self, waiting: Wanted, kind: str) -> None:
        times = int(waiting.arguments[0]) if waiting.arguments else 1
        total = STEPS[waiting.kind] * times + STEPS[kind]
        if total == 0:
            self.waiting.remove(waiting)
            log.info("one of each more and one fewer: the numbers stay as they are")
            return
        waiting.kind = "more" if total > 0 else "fewer"
        waiting.arguments = [str(abs(total))] * (abs(total) > 1)

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

    def resume(self, described: list[dict[str, Any]]) -> None:
        """Go on with these."""
        for handover in described:
            for fd in handover["askers"]:
                os.set_inheritable(fd, False)
            self.waiting.append(Wanted(handover["kind"], handover["arguments"], handover["askers"]))


def _answer(told: Mapping[str, Any], refusal: Failure | None) -> bytes:
    words = None
    if refusal is not None:
        words = {"what": refusal.what, "why": refusal.why, "next": refusal.next_step}
    report = json.dumps({"refused": words, **told})
    return uapi.answer_change(report, errno.ECANCELED if refusal else 0)


def _send(asker: int, text: bytes) -> None:
    """One that has gone, or does not read, is not waited for."""
    with contextlib.suppress(OSError), borrowed(asker) as connection:
        connection.send(text, socket.MSG_DONTWAIT)
