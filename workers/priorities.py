"""The scheduling priorities that workers of the data path can have (workers/datapath/priority.h)."""

from __future__ import annotations

import contextlib
import resource
from typing import Final, Literal

Priority = Literal["realtime", "normal"]
REALTIME: Final = "realtime"  # a worker that wakes runs before ordinary processes


def allow_realtime() -> None:
    """Let this process have the lowest real-time priority also without capabilities, where it may say so."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_RTPRIO, (1, 1))
