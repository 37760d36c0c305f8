"""One Python target as a program.

    python -m tests.robustness.fuzz.python_target NAME [libFuzzer's flags] FILES…

With atheris it takes libFuzzer's flags; without, it replays the files that are named.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

TICK_SECONDS = 5
TICKS_MOST = 4  # as in entry.c

_inputs = 0
_seen = -1
_ticks = 0


def _on_tick(number: int, frame: FrameType | None) -> None:
    global _seen, _ticks
    _ticks = _ticks + 1 if _inputs == _seen else 0
    _seen = _inputs
    if _ticks >= TICKS_MOST and _inputs:
        os.abort()


def main() -> None:
    """Fuzz, or replay."""
    name, arguments = sys.argv[1], sys.argv[2:]
    try:
        import atheris
    except ModuleNotFoundError:
        atheris = None
    if atheris is None:
        one_input = importlib.import_module(f"tests.robustness.fuzz.{name}").one_input
        for path in arguments:
            print(path, file=sys.stderr)  # the last name is the one that failed
            one_input(Path(path).read_bytes())
        return
    with atheris.instrument_imports(include=["engine", "workers", "plait", "tests.robustness.fuzz"]):
        one_input = importlib.import_module(f"tests.robustness.fuzz.{name}").one_input

    def counted(data: bytes) -> None:
        global _inputs
        _inputs += 1
        one_input(data)

    signal.signal(signal.SIGVTALRM, _on_tick)
    signal.setitimer(signal.ITIMER_VIRTUAL, TICK_SECONDS, TICK_SECONDS)
    atheris.Setup([sys.argv[0], *arguments], counted)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
