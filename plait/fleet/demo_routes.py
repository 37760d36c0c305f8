"""What a router's kernel was told by its routing daemon, and when: `ip -ts monitor route`, line by line.

    [2026-11-30T18:05:00.123456] 10.64.0.2 via 10.200.2.2 dev eth1 proto bird metric 32
    [2026-11-30T18:05:20.123456] Deleted 10.64.0.2 via 10.200.2.2 dev eth1 proto bird metric 32
"""

from __future__ import annotations

import datetime
import itertools
import re
from typing import Final, NamedTuple

COMMAND: Final = ("ip", "-ts", "-4", "monitor", "route")  # with TZ=UTC
MAIN: Final = "main"
_LINE: Final = re.compile(r"\[([^\]]+)\] (Deleted )?(\S+) (.*)")


class Move(NamedTuple):
    """From this time (since 1970) on a destination is reached by this next hop; empty: by none."""

    at: float
    to: str
    via: str


class RouterRoutes:
    """The routes that a routing daemon has set, and their history."""

    def __init__(self) -> None:
        self.via: dict[str, dict[str, str]] = {}  # table -> destination -> next hop
        self.moves: list[Move] = []  # in the table `main`
        self._rest = ""

    def feed(self, text: str) -> None:
        """What the monitor wrote next; a line may come in pieces."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if found := _LINE.match(line):
                self._take(*found.groups(default=""))

    def _take(self, time: str, deleted: str, to: str, rest: str) -> None:
        words = rest.split()
        told = dict(itertools.pairwise(words))
        if told.get("proto") != "bird":
            return
        name, via = told.get("table", MAIN), told.get("via", "")
        table = self.via.setdefault(name, {})
        before = table.get(to, "")
        if not deleted:
            table[to] = via
        elif before == via:  # else another one has taken its place
            del table[to]
        if name == MAIN and table.get(to, "") != before:
            at = datetime.datetime.fromisoformat(time).replace(tzinfo=datetime.UTC).timestamp()
            self.moves.append(Move(at, to, table.get(to, "")))

    def of(self, next_hop: str) -> set[str]:
        """The destinations that are reached by it."""
        return {to for to, via in self.via.get(MAIN, {}).items() if via == next_hop}
