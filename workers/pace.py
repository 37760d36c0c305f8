"""How much control does at a time: tests that drive control give its constructor other values."""

from __future__ import annotations

from dataclasses import dataclass

from engine import constants


@dataclass(frozen=True)
class Pace:
    scan: int = 50_000_000  # ns between two scans of the timer column, however busy the loop is
    initiations: int = 64  # that are wanted and begun in a turn
    peers: int = 512  # of a set, and allowed IPs of one that changes, between two yields
    vain: int = constants.UNDER_LOAD_VAIN  # messages of a second that came to nothing: under load


PACE = Pace()
