"""A process in waiting: it has loaded all that a receiver or a consumer needs, and is neither yet.

The supervisor keeps one beside the workers and makes it the replacement of the next that dies, since
starting Python takes many times as long as all the rest of a start.
"""

from __future__ import annotations

from workers import consumer, receiver
from workers.launch import begin_worker

WORK = {"receiver": receiver.work, "consumer": consumer.work}


def main() -> None:
    """Wait for a start message, and be what it says."""
    start = begin_worker("standby")
    WORK[start.kind](start)


if __name__ == "__main__":
    main()
