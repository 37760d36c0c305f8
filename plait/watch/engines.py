"""The engines of this host, asked together: one rule for every command that asks several.

All are asked at once. An engine that cannot be asked (of another make, dead, stuck, talking nonsense, not
ours to ask) is left out, with one line on stderr that says why; the others are shown. When none can be
shown the command fails. One engine that is asked alone gets more patience, and its Failure is the command's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from plait import uapi_client
from plait.failure import Failure

PATIENCE = 8.0  # seconds; Prometheus gives up a scrape after 10

T = TypeVar("T")
Question = Callable[[str, float], T]  # name of an interface, seconds of patience


def names(interface: str | None) -> list[str]:
    """The interface that was named; of None and `all` every one with a socket, sorted."""
    return uapi_client.interfaces() if interface in (None, "all") else [str(interface)]


def ask(names: Sequence[str], question: Question[T]) -> Iterator[tuple[str, T]]:
    """Names and answers in the order of names, without the engines that cannot be asked.

    Failure when no engine answered, unless there was none.
    """
    if len(names) == 1:
        yield names[0], question(names[0], uapi_client.TIMEOUT)
        return
    is_anything_shown = False
    for name, answer in answers(names, question):
        if isinstance(answer, Failure):
            say(answer)
        else:
            is_anything_shown = True
            yield name, answer
    if names and not is_anything_shown:
        raise nothing_shown(len(names))


def answers(names: Sequence[str], question: Question[T]) -> Iterator[tuple[str, T | Failure]]:
    """Every name with its answer, or with why there is none, in the order of names."""
    asked = [start(name, question) for name in names]
    for name, future in zip(names, asked, strict=True):
        try:
            yield name, future.result()
        except Failure as failure:
            yield name, failure


def start(name: str, question: Question[T]) -> Future[T]:
    """Ask one engine in a thread of its own, which does not hold up the end of the program; at once and here,
    where the kernel has no thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(question(name, PATIENCE))
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, name=f"ask {name}", daemon=True).start()
    except RuntimeError:
        run()
    return future


def say(failure: Failure) -> None:
    """The line for an engine that is left out."""
    print(f"plait: {failure}", file=sys.stderr, flush=True)


def none_runs(what: str) -> Failure:
    """This cannot be done, since there is no engine at all."""
    return Failure(what, "no engine runs", "Start one first: plait up IFACE, or plaitd IFACE")


def nothing_shown(count: int) -> Failure:
    """None of several engines could be asked; a line for each was said."""
    why = f"none of {count} engines could be asked"
    return Failure("there is nothing to show", why, "The lines above say why, one for each engine.")
