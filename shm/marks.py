"""What shm/counters.h says of each counter: the marks at the front of its comment, as `(end in, fine)`.

Whoever balances packets takes its lists from here, so that a new counter is named in that header alone; the
daemon and its workers do not. An installed package has no header: its build has run this file as a program,
which prints the module _marks.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

HEADER = Path(__file__).with_name("counters.h")
KNOWN = frozenset({"end in", "end out", "end both", "end message", "end knock", "fine", "wire", "event"})
_COUNTER = re.compile(r"^    ([A-Z0-9_]+),(?:[ ]+/\* \(([a-z, ]+)\))?", re.MULTILINE)


@cache
def marks() -> dict[str, frozenset[str]]:
    """The marks by counter, named as `get_engine` does: udp_received."""
    if HEADER.exists():
        return read(HEADER.read_text())
    built = import_module("shm._marks").MARKS
    return {name: frozenset(words) for name, words in built.items()}


def read(text: str) -> dict[str, frozenset[str]]:
    """The marks in a header's text. ValueError when one is not known."""
    found = {}
    for name, words in _COUNTER.findall(text[text.index("enum counter {") :]):
        found[name.lower()] = frozenset(words.split(", ")) if words else frozenset()
    unknown = {name: sorted(words - KNOWN) for name, words in found.items() if words - KNOWN}
    if unknown:
        raise ValueError(f"{HEADER}: marks that nobody knows: {unknown}; write one of {sorted(KNOWN)}")
    return found


def marked(*any_of: str, but: str = "") -> tuple[str, ...]:
    """Counters with one of these marks, in the order of the header, without those that are marked `but`."""
    return tuple(name for name, words in marks().items() if words & set(any_of) and but not in words)


if __name__ == "__main__":
    said = {name: sorted(words) for name, words in read(Path(sys.argv[1]).read_text()).items()}
    print(f'"""Marks of counters: shm/marks.py wrote them, out of counters.h."""\n\nMARKS = {said!r}')
