"""Whether this program could go on with an engine that another one describes: a process of its own tries."""

from __future__ import annotations

import os
from typing import Any

from shm.segment import DataSegment, SegmentError
from workers.failure import Exit, Failure


def look(description: dict[str, Any]) -> None:
    """Load all that an engine consists of, read its settings and map its segment, as a trial.

    Failure when that cannot be.
    """
    import workers.entry_points
    import workers.supervisor.process  # noqa: F401
    from workers.settings import described

    described(description["settings"])
    fd, size = description["resources"]["data"]
    try:
        DataSegment.attach(os.dup(fd), size).close()
    except SegmentError as error:
        raise Failure("cannot take over", error.why, error.next, Exit.MEMORY) from error
