"""Control's sweep for lost wakes where there are more rows than it looks through in a second."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import shm.segment
from tests.support.small_segment import GEOMETRY
from workers._workers import ffi, lib
from workers.control.process import SWEEP_ROWS, Control

ROWS = SWEEP_ROWS + 65
CHECKS = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}  # without such a library: no checks


def main() -> None:
    """Tokens of some rows are queued and their ready bits are lost.

    Each sweep but the first mends those that a sweep before it had seen so.
    """
    geometry = GEOMETRY | {"max_peers": SWEEP_ROWS + 128}
    data = shm.segment.create(geometry)
    data.ensure(lib.REGION_ROWS, SWEEP_ROWS + 128)
    segment = ffi.cast("struct segment *", data.segment_address)
    segment.device.rows_used = ROWS
    lost = [0, SWEEP_ROWS - 1, *range(SWEEP_ROWS, ROWS)]
    for row in range(ROWS):
        for queue in (2 * row, 2 * row + 1):
            lib.queue_initialise(segment, queue)
            lib.token_initialise(segment, queue)
    for row in lost:
        assert lib.token_schedule(segment, 2 * row)
    control: Any = SimpleNamespace(peers=SimpleNamespace(used=ROWS), segment=segment, swept=0)
    swept = []
    for _ in range(3):
        Control._sweep(cast(Control, control))
        swept.append((control.swept, lib.counter_sum(segment, lib.LOST_WAKES)))
    print(swept)


def test_every_queued_token_is_looked_at_each_second_within_its_memory() -> None:
    """By the checks of glibc's malloc, which ends a process that wrote behind what it got."""
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True,
                          env=os.environ | CHECKS)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"[({SWEEP_ROWS}, 0), ({ROWS}, 67), ({SWEEP_ROWS}, 67)]"


if __name__ == "__main__":
    main()
