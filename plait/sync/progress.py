"""What became of a sync since it began."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Knocks:
    """Of one `--knock`. Written by its loop alone."""

    beats: int = 0
    sessions: int = 0  # of ours that were told to the other gateways
    dead: int = 0  # gateways that are, and whose clients may knock here
    is_taken: bool = False  # another gateway beats with our number


@dataclass
class Progress:
    """Of one sync. Written by its loop alone."""

    interface: str
    position: int = 0
    applied: int = 0  # changes that the engine took
    refused: int = 0  # rows that are no peers, or that the engine refused
    snapshots: int = 0  # times that all rows were read
    is_reading: bool = False  # the store answers
    knocks: Knocks | None = None  # with --knock
    in_step: float = field(default_factory=time.monotonic)  # when all that the store had was in force

    def caught_up(self) -> None:
        """All that the store had is in force."""
        self.in_step = time.monotonic()

    def lag(self) -> float:
        """Seconds since all that the store had was in force."""
        return time.monotonic() - self.in_step
