"""`plait drain`: an interface that is about to be stopped withdraws first, and serves its sessions meanwhile.

That it does is one file, which holds for one life of one engine: the next one is not draining.
"""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from plait import uapi_client
from plait.failure import Failure
from plait.fleet.kernel_routes import withdraw_all
from plait.sync.state import life_of

DIRECTORY: Final = Path("/run/plait/draining")
TURN: Final = 0.5  # seconds between two looks for routes that came back


def run(interface: str, *, grace: float, undo: bool) -> None:
    """Withdraw, and wait; or take that back."""
    uapi_client.check_live(interface)
    place = _place(interface)
    if undo:
        place.unlink(missing_ok=True)
        return
    begin(interface)
    until = time.monotonic() + grace
    count = _withdraw(interface)
    say(f"{interface}: {count} routes are withdrawn, and sessions are served for {grace:g} s more")
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, TURN))
        if not is_draining(interface):
            why = "its engine ended, or somebody took the drain back"
            step = f"See what is so: plait doctor --ready {interface}"
            raise Failure(f"{interface} is not drained", why, step)
        _withdraw(interface)  # `plait routes` may have been in the midst of something
    say(f"{interface} may be stopped; until then `plait drain --undo {interface}` takes it back")


def begin(interface: str) -> None:
    """Note it. Failure when that cannot be."""
    place = _place(interface)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_suffix(".new")
        new.write_text(life_of(interface))
        new.replace(place)
    except OSError as error:
        why = f"{place} cannot be written: {error.strerror or error}"
        raise Failure(f"{interface} is not drained", why, "Run this as root.") from error


def is_draining(interface: str) -> bool:
    """Whether the engine that runs now was told to."""
    try:
        life = _place(interface).read_text()
    except OSError:
        return False
    return life != "" and life == life_of(interface)


def say(text: str) -> None:
    """A line for people."""
    print(f"plait: {text}", file=sys.stderr, flush=True)


def _place(interface: str) -> Path:
    return DIRECTORY / uapi_client.interface_of(interface)


def _withdraw(interface: str) -> int:
    with suppress(OSError):  # no interface, no routes
        return withdraw_all(socket.if_nametoindex(uapi_client.interface_of(interface)))
    return 0
