"""The plugin for pytest, as a user's test file has it: the one of docs/python.md, and the wire below it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.failure import Failure
from plait.lab.tunnels import Tunnel, tunnel

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
# As the entry point of the installed package loads it; an editable install may be older than that.
PLUGIN = ("-p", "no:plait", "-p", "plait.pytest_plugin", "-p", "no:cacheprovider")


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), re.M | re.S)
    [text] = [block for block in blocks if "plait_tunnel" in block]
    (tmp_path / "test_user.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *PLUGIN, "test_user.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


@pytest.fixture(scope="module")
def made() -> Iterator[Tunnel]:
    with tunnel() as made:
        yield made


def test_what_is_lost_and_delayed_is_what_was_asked_for(made: Tunnel) -> None:
    a, b = made
    for address in (b.address, b.address6):
        assert a.host.ping(address, 3).received == 3
        made.delay(0.03)
        times = a.host.ping(address, 3).times
        assert len(times) == 3 and min(times) >= 60
        made.delay(0)
        made.loss(0.5)
        lossy = a.host.ping(address, 60, wait=1)
        assert 0 < lossy.received < 60
        made.loss(1)
        assert a.host.ping(address, 5, wait=1).received == 0
        made.loss(0)
        assert a.host.ping(address, 3).received == 3
    for loss, delay in ((-0.1, 0.0), (1.1, 0.0), (0.0, -1.0)):
        with pytest.raises(Failure):
            made._wire.set(loss, delay)


def test_a_kill_is_over_when_another_is_there(made: Tunnel) -> None:
    a, b = made
    before = a.processes()
    for process in ("control", "receiver 0", "consumer 0"):
        made.kill(process)
        assert a.processes()[process] != before[process]
        assert a.host.ping(b.address, 2).received == 2
    with pytest.raises(Failure, match="consumer 9"):
        b.kill("consumer 9")
    assert {peer.public_key for peer in b.interface.peers()} == {a.private_key.public_key}
