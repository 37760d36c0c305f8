"""The handover: what a supervisor leaves to the program that takes its place in the same process.

Descriptors survive exec, workers stay its children, and shared memory is as it was. What is missing is which
is which: a description in JSON says that, in a nameless file whose descriptor the new program gets. It holds
numbers and settings, no secrets.

    {"format": 4, "layout_hash": …, "interface": "wg0",
     "settings": {…},                                 those of the start, workers/settings.py
     "resources": {"queues": [5, 6], …},              workers/supervisor/resources.py
     "workers": [{"kind": "control", "pid": …, …}],   workers/supervisor/roster.py
     "changes": [{"kind": "renew", "askers": [9], …}],  what is to be done, workers/supervisor/changes.py
     "oom_score": 0,                                  of workers, workers/promises.py
     "log": {"pipe": [3, 4], …}}                      workers/log.py
"""

from __future__ import annotations

import json
import os
from typing import Any

from shm.layout import layout_hash
from workers.failure import Exit, Failure

FORMAT = 4  # what a description says and what workers are told and say, together
READ = {3, FORMAT}  # in 3 the hand-offs have other names (workers/handoffs.py)
ACCEPTED = "plaitd: can take over"  # what a program says that has looked at a description


def write(description: dict[str, Any]) -> int:
    """A nameless file that holds the description; its descriptor, close-on-exec. OSError."""
    whole = {"format": FORMAT, "layout_hash": layout_hash(), **description}
    fd = os.memfd_create("plait-handover", os.MFD_CLOEXEC)
    try:
        os.write(fd, json.dumps(whole).encode())
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> dict[str, Any]:
    """The description behind fd, which is closed. Raises Failure when this program cannot go on from it."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        description: dict[str, Any] = json.loads(file.read())
    what, next_step = "cannot take over", "stop the interface and start it with this program"
    if description["format"] not in READ:
        why = f"what it is left is described in format {description['format']}, and it reads format {FORMAT}"
        raise Failure(what, why, next_step, Exit.MEMORY)
    if description["layout_hash"] != layout_hash():
        why = "the layout of its shared memory is not the one that this program was built with"
        raise Failure(what, why, next_step, Exit.MEMORY)
    return description
