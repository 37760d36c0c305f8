"""`plait demo` on this machine: it tells what it measured, ends well, and nothing of it stays.

    host a  wg0 (plaitd) ── eth0 ──── eth0 ── wg0 (plaitd)  host b
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.kept_namespaces import KeptNamespaces
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network

PLAIT = os.path.join(os.path.dirname(sys.executable), "plait")


class Demo:
    """A running `plait demo`, and its two hosts."""

    def __init__(self, *arguments: str) -> None:
        marker = f"DEMO_MARKER={os.getpid()}-{id(self)}".encode()
        self.popen = subprocess.Popen(
            [PLAIT, "demo", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "DEMO_MARKER": marker.decode().partition("=")[2]})
        self.hosts = KeptNamespaces("pid")
        own = os.stat("/proc/self/ns/pid").st_ino

        def both_hosts_have_workers() -> bool:
            assert self.popen.poll() is None, self.popen.communicate()
            for entry in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it ended meanwhile
                    if marker in (entry / "environ").read_bytes().split(b"\0"):
                        self.hosts.keep(entry.name)
            self.hosts.numbers.discard(own)
            living = list(self.left().values())
            # A host that only tried whether hosts can be made has gone again.
            return len(set(living)) == 2 and len(living) > 8

        eventually(both_hosts_have_workers)

    def left(self) -> dict[int, int]:
        """The processes in the demo's hosts, by pid: which host's."""
        return self.hosts.processes()


def test_demo_measures_and_leaves_nothing() -> None:
    demo = Demo("--json")
    out, err = demo.popen.communicate(timeout=120)
    assert demo.popen.returncode == 0, err
    assert not demo.left()
    demo.hosts.close()
    result = json.loads(out)
    assert result["wrong"] == []
    assert all(ping["received"] == ping["sent"] > 0 for ping in result["pings"])
    assert len(result["pings"]) == 4 and len(result["streams"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_demo_leaves_nothing(number: int) -> None:
    demo = Demo()
    demo.popen.send_signal(number)
    demo.popen.communicate(timeout=120)
    assert demo.popen.returncode == (-number if number == signal.SIGKILL else 128 + number)
    eventually(lambda: not demo.left())
    demo.hosts.close()
