"""How much control does at a time, and the clocks it reads. Tests give its constructor others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine import constants
from workers._workers import lib


@dataclass(frozen=True)
class Pace:
    scan: int = 50_000_000  # ns between two scans of the timer column, however busy the loop is
    initiations: int = 64  # that are wanted and begun in a turn
    peers: int = 512  # of a set, and allowed IPs of one that changes, between two yields
    looked: int = 4096  # rows looked through between two yields
    ordered: int = 2048  # rows looked through and given orders, when all are to know something
    keypairs: int = 4096  # freed in a poll, of a grace period that is over
    freed: int = 1024  # rows, likewise
    retiring: int = 512  # rows that the control before took away, ordered to retire at once
    pending_endpoints: int = 1024  # endpoints that wait, looked at in a poll
    wasted: int = constants.UNDER_LOAD_WASTED  # messages of a second that came to nothing: under load
    now: Callable[[], int] = lib.clock_now  # ns
    wall: Callable[[], int] = lib.clock_wall  # ns, for timestamps that peers and people read


PACE = Pace()
