"""`plait top`: a live view of a running engine, and the same as one table or JSON for scripts.

What is seen costs the engine little whatever its number of peers: each second it gives its counters and the
busiest peers of one sample (control/busiest.py), never all of them. Sorting and filtering happen here,
among the busiest that were told.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from plait.failure import Failure
from plait.watch import engines
from plait.watch.engine import console
from plait.watch.top_keyboard import Keys, single_keys
from plait.watch.top_rates import Watch
from plait.watch.top_screen import SORTS, Choice, lines

LOOK_SECONDS = 0.2  # between two looks at the size of the terminal
FIRST_SECONDS = 1.0  # that the first interface has to answer before another one is shown
ONCE_HEIGHT = 60


def run(interface: str | None, *, interval: float, once: bool, as_json: bool) -> None:
    """Show until q or Ctrl-C; once: one picture of one interval and the end."""
    names = engines.names(interface)
    if not names:
        raise engines.none_runs("there is nothing to look at")
    if once or as_json:
        _print_once(names, interval, as_json)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("a live view needs a terminal", "this is none", "Use plait top --once, or --json.")
    try:
        view = View(interface, names, interval)
        with single_keys() as keys:
            _watch(view, keys)
    except KeyboardInterrupt:
        pass


def _print_once(names: list[str], interval: float, as_json: bool) -> None:
    def measure(name: str, patience: float) -> dict[str, Any]:
        watch = Watch(name)
        watch.take(patience)
        time.sleep(interval)
        return watch.take(patience)

    pictures = engines.ask(names, measure)
    if as_json:
        json.dump([picture for _, picture in pictures], sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    printer = console()
    for _, picture in pictures:
        shown = lines(picture, Choice(), printer.width, ONCE_HEIGHT)[:-1]  # no help line
        while shown and not shown[-1].plain:
            shown.pop()
        for line in shown:
            line.rstrip()
            printer.print(line, no_wrap=True, overflow="crop")


# --- live ---------------------------------------------------------------------------------------


class View:
    """What the live view shows: the picture of one engine, and why others, or fresher ones, are missing.

    Engines are asked in threads, so that one that does not answer holds up neither keys nor drawing.
    """

    def __init__(self, interface: str | None, names: list[str], interval: float) -> None:
        self.interface = interface
        self.interval = interval
        self.missing: dict[str, Failure] = {}
        self.asked: dict[str, Future[dict[str, Any]]] = {}
        self.watches: dict[str, Watch] = {}
        for name in names:
            self._ask(name)
        self.picture = self._first(names)
        self.wanted = self.shown  # the interface that is to be shown, when it has answered
        self.others: list[str] = []  # are tried in turn when that one cannot be asked
        self.due = time.monotonic() + min(interval, 0.5)  # the first rates soon

    @property
    def shown(self) -> str:
        return str(self.picture["interface"])

    @property
    def notes(self) -> list[str]:
        """Why something is missing; of the shown interface first."""
        found = sorted(self.missing.items(), key=lambda pair: (pair[0] != self.shown, pair[0]))
        return [f"{failure.what}: {failure.why}" for _, failure in found]

    def next(self) -> None:
        """Go to the next interface, as soon as it answers."""
        names = self._names()
        for name in set(self.missing) - set(names) - {self.shown}:
            del self.missing[name]
        others = (name for name in names if name != self.wanted)
        self.others = sorted(others, key=lambda name: (name < self.wanted, name))
        self._try_next()

    def _try_next(self) -> None:
        self.wanted = self.others.pop(0) if self.others else self.shown
        self._ask(self.wanted)

    def turn(self, *, is_paused: bool) -> bool:
        """Take answers, and ask when it is time to. Whether anything is to be drawn."""
        changed = False
        for name in [name for name, future in self.asked.items() if future.done()]:
            future = self.asked.pop(name)
            try:
                picture = future.result()
            except Failure as failure:
                changed |= str(self.missing.get(name)) != str(failure)
                self.missing[name] = failure
                if name == self.wanted != self.shown:
                    self._try_next()
                continue
            changed |= self.missing.pop(name, None) is not None
            if name in (self.wanted, self.shown):
                if name != self.shown:
                    self.due = time.monotonic() + min(self.interval, 0.5)
                self.picture, changed = picture, True
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + self.interval
            if not is_paused:
                self._ask(self.shown)
        return changed

    def _ask(self, name: str) -> None:
        if name not in self.asked:
            watch = self.watches.setdefault(name, Watch(name))
            self.asked[name] = engines.start(name, lambda _, patience: watch.take(patience))

    def _first(self, names: list[str]) -> dict[str, Any]:
        """The picture of the first interface, or of another where that one does not answer soon."""
        wait(self.asked.values(), FIRST_SECONDS)
        while True:
            for name in names:
                future = self.asked.get(name)
                if future is None or not future.done():
                    continue
                del self.asked[name]
                try:
                    return future.result()
                except Failure as failure:
                    self.missing[name] = failure
            if not self.asked:
                break
            wait(self.asked.values(), return_when=FIRST_COMPLETED)
        if len(names) == 1:
            raise self.missing[names[0]]
        for each in self.missing.values():
            engines.say(each)
        raise engines.nothing_shown(len(names))

    def _names(self) -> list[str]:
        try:
            return engines.names(self.interface)
        except Failure:
            return []


def _watch(view: View, keys: Keys) -> None:
    from rich.console import Group
    from rich.live import Live

    choice = Choice()
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        while True:
            # The size is asked for at each drawing, so a resize is followed within LOOK_SECONDS.
            size = _size()
            live.console.size = size
            drawn = lines(view.picture, choice, *size, view.notes)
            live.update(Group(*drawn), refresh=True)
            changed = False
            while not changed and _size() == size:
                for key in keys.wait(min(LOOK_SECONDS, max(view.due - time.monotonic(), 0.01))):
                    if key == "q" and not choice.is_typing:
                        return
                    if key == "tab" and not choice.is_typing:
                        view.next()
                    press(choice, key)
                    changed = True
                if keys.ended:
                    return
                changed |= view.turn(is_paused=choice.is_paused)


def _size() -> tuple[int, int]:
    """Columns and lines of the terminal; those of an old one where it does not tell."""
    columns, rows = os.get_terminal_size()
    return columns or 80, rows or 24


_PARTS = {"p": "processes", "d": "drops", "n": "handshakes"}


def press(choice: Choice, key: str) -> None:
    """One key changes the choice."""
    if choice.is_typing:
        if key in ("enter", "escape"):
            choice.is_typing = False
            choice.filter = choice.filter if key == "enter" else ""
        elif key == "delete":
            choice.filter = choice.filter[:-1]
        elif len(key) == 1:
            choice.filter += key
    elif key in SORTS:
        choice.sort, choice.scroll = SORTS[key][0], 0
    elif key in _PARTS:
        choice.hidden ^= {_PARTS[key]}
    elif key == "/":
        choice.is_typing, choice.scroll = True, 0
    elif key == "escape":
        choice.filter = ""
    elif key == " ":
        choice.is_paused = not choice.is_paused
    else:
        choice.scroll += {"up": -1, "down": 1, "page up": -10, "page down": 10}.get(key, 0)
