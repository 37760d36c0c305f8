"""One load process (plait/load/process.py), as the command that started it sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import numpy as np

from plait.failure import Failure
from plait.load.stop import deaf_children

WORKER = [sys.executable, "-m", "plait.load.process"]
STOP_AND_DRAIN, STOP_AT_ONCE = 1, 2  # load_area.stop


class ProcessEndedError(Exception):
    """A load process is gone; args[0]: the Failure that says why."""


class LoadProcess:
    """One load process and the memory it counts in."""

    def __init__(self, orders: dict[str, Any], stack: ExitStack) -> None:
        from plait.load._generator import ffi
        from shm.segment import SegmentError, create_plain

        try:
            self.segment = create_plain(ffi.sizeof("struct load_area"), "load")
            stack.callback(self.segment.close)
            self.segment.ensure(0, self.segment.bytes)
        except SegmentError as error:
            raise Failure(error.what, error.why, error.next) from error
        self.area = ffi.cast("struct load_area *", self.segment.address)
        with deaf_children():
            self._popen = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(self.segment.fd,)
            )
        self._phases, self.peers = len(orders["phases"]), int(orders["setup"]["peers"])
        self.population, self.core = str(orders["population"]), int(orders["core"])
        stack.callback(self.end)
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({**orders, "area": self.segment.fd}).encode() + b"\n")
        self._popen.stdin.close()

    def check(self) -> None:
        """ProcessEndedError when the process ended before its time."""
        code = self._popen.poll()
        if code is not None and (code or self.area.finished < self._phases):
            assert self._popen.stderr is not None
            words = self._popen.stderr.read().decode(errors="replace").strip().splitlines()
            why = words[-1] if words else f"exit code {code}"
            failure = Failure("a load process ended", why, "Look at this host's memory and limits.")
            raise ProcessEndedError(failure)

    def is_over(self, phase: int) -> bool:
        """Whether nothing more will be counted for a phase."""
        return self.area.finished > phase or self._popen.poll() is not None

    def tally(self, phase: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
        """Counters, histograms and greatest lag (ns) of one phase as they are now: copies."""
        from plait.load._generator import ffi, lib

        tally = self.area.tallies[phase]
        counters = np.frombuffer(ffi.buffer(tally.counters), dtype=np.uint64)[: lib.LOAD_COUNTERS]
        rows = np.frombuffer(ffi.buffer(tally.histograms), dtype=np.uint64)
        return (
            counters.copy(),
            rows.reshape(lib.LOAD_HISTOGRAMS, lib.LOAD_BUCKETS).copy(),
            int(tally.lag_most),
        )

    def end(self) -> None:
        """Stop it, by force when it does not heed the word."""
        self.area.stop = STOP_AT_ONCE
        try:
            self._popen.wait(3)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        assert self._popen.stderr is not None
        self._popen.stderr.close()
