"""Waiting until no reader can still hold what control took away.

Control unpublishes something (a trie node, a keypair, a row), then asks for an action after a grace
period. Requests of one moment share a period; what is asked for while a period runs waits for the
next one, since its readers may have started after this one began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from workers._workers import ffi, lib

if TYPE_CHECKING:
    from workers._workers import segment_p

Action = Callable[[], int | None]  # returns how many others it is worth, where that is not one
ACTIONS_A_POLL = 128  # of a period that is over


class GracePeriods:
    """The grace periods of control."""

    def __init__(self, segment: segment_p) -> None:
        self.segment = segment
        self.words = ffi.new("uint64_t[]", lib.MAX_WORKERS)
        self.running: deque[Action] = deque()
        self.waiting: deque[Action] = deque()
        self.is_over = False  # the period of those that run
        self.is_stopping = False  # no more in this poll
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

    def go_on(self, action: Action) -> None:
        """From an action that has more to do: call that in the next poll, in this period still."""
        self.running.append(action)
        self.is_stopping = True

    @property
    def has_work(self) -> bool:
        """Whether `poll` should be called again at once."""
        return self.is_over and bool(self.running)

    def poll(self) -> bool:
        """Run some of what is due and start the next period. True while anything waits."""
        left, self.is_stopping = ACTIONS_A_POLL, False
        while left > 0 and not self.is_stopping and (self.running or self.waiting):
            if not self.running:
                self.running, self.waiting = self.waiting, deque()
                self.gathered, self.is_over = {}, False
                lib.grace_begin(self.segment, self.words)
            if not self.is_over and not lib.grace_is_over(self.segment, self.words):
                return True
            self.is_over = True
            while self.running and left > 0 and not self.is_stopping:
                left -= self.running.popleft()() or 1
        return bool(self.running or self.waiting)
