"""What each kind of worker runs. To import this is to load the whole engine.

The supervisor imports it before it opens anything, and every worker is a fork of the supervisor
(launch.py). A worker that is started months later is the same program, whatever stands on disk by then, so
what a worker loads late, on a path that is seldom taken, is loaded here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from workers.control import process as control
from workers.datapath import consumer, receiver
from workers.launch import WorkerStart

Work = Callable[[WorkerStart], None]

WORK: Final[Mapping[str, Work]] = {
    "control": control.work,
    "receiver": receiver.work,
    "consumer": consumer.work,
}
