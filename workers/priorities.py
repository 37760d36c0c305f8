"""The scheduling priorities that workers of the data path can have (workers/datapath/priority.h)."""

from __future__ import annotations

import contextlib
import resource
from typing import Final, Literal

Priority = Literal["realtime", "normal"]
CAP_SYS_NICE: Final = 23
REALTIME: Final = "realtime"  # a worker that wakes runs before ordinary processes


def allow_realtime() -> None:
    """Let this process have the lowest real-time priority also without capabilities, where it may say so."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_RTPRIO, (1, 1))


def capabilities_to_return() -> int:
    """Which capabilities (bit n: capability n) a process needs to have the priority again after it gave it
    up: none where RLIMIT_RTPRIO allows the priority. Raising that limit takes CAP_SYS_RESOURCE, which
    containers lack; then CAP_SYS_NICE allows it."""
    try:
        is_allowed = resource.getrlimit(resource.RLIMIT_RTPRIO)[0] > 0
    except OSError:  # where the call is refused, the limit could not be raised either
        is_allowed = False
    return 0 if is_allowed else 1 << CAP_SYS_NICE
