"""`plait soak`, for as long as a test may take. `plait soak --minutes 10` is the real one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.long, pytest.mark.network]


def test_a_minute_of_kills() -> None:
    code = "import sys; from plait.command import main; sys.argv[0] = 'plait'; main()"
    command = [sys.executable, "-c", code, "soak", "--minutes", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert (done.returncode, result["wrong"]) == (0, []), done.stderr
    assert sum(sum(points.values()) for points in result["kills"].values()) >= 5
    assert result["changes"] >= 5 and result["roams"] >= 5
    # Losses are of kills, of roams (to the old port), or of full buffers: how many is the machine's affair.
    assert result["packets_echoed"] > 0
