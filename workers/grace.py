"""Waiting until no reader can still hold what control took away.

Control unpublishes something (a trie node, a keypair, a row), then asks for an action after a grace
period. Requests of one moment share a period; what is asked for while a period runs waits for the
next one, since its readers may have started after this one began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers._workers import ffi, lib

Action = Callable[[], None]


class Graces:
    """The grace periods of control; `segment` is a `struct segment *`."""

    def __init__(self, segment: Any) -> None:
        self.segment = segment
        self.words = ffi.new("uint64_t[]", lib.MAX_WORKERS)
        self.running: list[Action] = []
        self.waiting: list[Action] = []
        self.gathered: dict[Callable[[list[int]], None], list[int]] = {}  # of those that wait

    def after(self, action: Action) -> None:
        """Call `action` once, from `poll`, when every worker has passed a point where it holds nothing."""
        self.waiting.append(action)

    def gather(self, action: Callable[[list[int]], None], more: list[int]) -> None:
        """Likewise, but all numbers that are given for one action before a period begins come in one call."""
        numbers = self.gathered.get(action)
        if numbers is None:
            numbers = self.gathered[action] = []
            whole = numbers
            self.after(lambda: action(whole))
        numbers += more

    def poll(self) -> bool:
        """Run what is due and start the next period. True while anything waits."""
        while self.running or self.waiting:
            if not self.running:
                self.running, self.waiting = self.waiting, []
                self.gathered = {}
                lib.grace_begin(self.segment, self.words)
            if not lib.grace_is_over(self.segment, self.words):
                return True
            actions, self.running = self.running, []
            for action in actions:
                action()
        return False
