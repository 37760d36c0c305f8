"""How long the supervisor of one interface waits, and for what.

The defaults are what a loaded machine needs. Whoever plays the supervisor in other conditions, as tests do,
gives the constructor others; a name that does not exist is an error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """In seconds, where nothing else is said."""

    start: float = 60.0  # for all together, and for each that starts again
    trial: float = 60.0  # for a program that may take our place
    send: float = 1.0  # a worker that does not read its channel for so long is stuck
    stop: float = 3.0  # from being told to being killed
    closed: float = 1.0  # from a closed channel to being killed
    steady: float = 1.0  # a worker that ran for so long starts again without a pause
    pauses: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)  # before the n-th in a row
    restart: float = 10.0  # for a receiver or consumer that takes a place and does not wait for CPU
    stand_in: float = 1.0  # for a receiver's next start, until others read what is its
    change: float = 0.005  # between two looks whether a change can go on
    drain: float = 10.0  # for a receiver that leaves; what its sockets hold then is lost, and counted
    old_port: float = 1.0  # for what lies in the sockets of another port; the rest is lost, and counted
    look: float = 0.5  # between two looks of the watchdog
    still_looks: int = 3  # in a row, that find a worker still, until it is stuck
    busy: float = 1.5  # of CPU without finishing a turn
    busy_control: float = 10.0  # the same for control
