"""`plait top`: a live view of a running engine, and the same as one table or JSON for scripts.

What is seen costs the engine little whatever its number of peers: each second it gives its counters and the
busiest peers of one sample (workers/busiest.py), never all of them. Sorting and filtering happen here,
among the busiest that were told.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from plait import uapi_client
from plait.failure import Failure
from plait.show import is_coloured
from plait.top_keys import Keys, single_keys
from plait.top_picture import Watch
from plait.top_view import SORTS, Choice, lines

if TYPE_CHECKING:
    from rich.console import Console

LOOK_SECONDS = 0.2  # between two looks at the size of the terminal
ONCE_WIDTH, ONCE_HEIGHT = 160, 60  # a table into a pipe


def run(interface: str | None, *, interval: float, once: bool, as_json: bool) -> None:
    """Show until q or Ctrl-C; once: one picture of one interval and the end."""
    names = uapi_client.interfaces() if interface is None else [interface]
    if not names:
        raise Failure("there is nothing to look at", "no engine runs", "Start one first: plaitd IFACE")
    if once or as_json:
        _print_once(names, interval, as_json)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("a live view needs a terminal", "this is none", "Use plait top --once, or --json.")
    try:
        with single_keys() as keys:
            _watch(names, interval, keys)
    except KeyboardInterrupt:
        pass


def _print_once(names: list[str], interval: float, as_json: bool) -> None:
    watches = [Watch(name) for name in names]
    for watch in watches:
        watch.take()
    time.sleep(interval)
    pictures = [watch.take() for watch in watches]
    if as_json:
        json.dump(pictures, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = _console(ONCE_WIDTH)
    for picture in pictures:
        shown = lines(picture, Choice(), console.width, ONCE_HEIGHT)[:-1]  # no help line
        while shown and not shown[-1].plain:
            shown.pop()
        for line in shown:
            line.rstrip()
            console.print(line, no_wrap=True, overflow="crop")


def _console(width: int | None = None) -> Console:
    from rich.console import Console

    if width is not None and sys.stdout.isatty():
        width = None
    return Console(highlight=False, width=width, color_system="auto" if is_coloured() else None)


# --- live ---------------------------------------------------------------------------------------


def _watch(names: list[str], interval: float, keys: Keys) -> None:
    from rich.console import Group
    from rich.live import Live

    console = _console()
    choice = Choice()
    watch = Watch(names[0])
    picture = watch.take()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + min(interval, 0.5)  # the first rates soon
        while True:
            # The size is asked for anew at each drawing, so a resize is followed within LOOK_SECONDS.
            size = os.get_terminal_size()
            live.update(Group(*lines(picture, choice, size.columns, size.lines)), refresh=True)
            changed = False
            while not changed and os.get_terminal_size() == size:
                for key in keys.wait(min(LOOK_SECONDS, max(due - time.monotonic(), 0))):
                    if key == "q" and not choice.is_typing:
                        return
                    if key == "tab" and not choice.is_typing:
                        watch = Watch(_next(names, watch.interface))
                        picture, due = watch.take(), time.monotonic() + min(interval, 0.5)
                    press(choice, key)
                    changed = True
                if keys.ended:
                    return
                if time.monotonic() >= due:
                    due = time.monotonic() + interval
                    if not choice.is_paused:
                        picture, changed = watch.take(), True


def _next(names: list[str], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


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
