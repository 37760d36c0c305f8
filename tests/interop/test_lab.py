"""The laboratory itself: hosts are private, and nothing of them outlives it, however it ends.

    host a  eth0 10.200.1.1 fd00:200:1::1 ──── eth0 10.200.1.2 fd00:200:1::2  host b
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plait.failure import Failure
from plait.lab.namespaces import WIREGUARD_GO, Lab, missing, state
from tests.support.kept_namespaces import KeptNamespaces
from tests.support.waiting import until

pytestmark = pytest.mark.network


NAME = f"lab{os.getpid()}"  # of interfaces: found outside, it could only be ours


def traces() -> list[str]:
    """What of a lab can be seen outside: interfaces and sockets by name, cables by their addresses."""
    sockets = os.listdir("/run/wireguard") if os.path.isdir("/run/wireguard") else []
    cables = [address for entry in Path("/sys/class/net").iterdir()
              if (address := (entry / "address").read_text()).startswith("02:00:00:00:")]
    return [name for name in [*sockets, *os.listdir("/sys/class/net")] if name.startswith(NAME)] + cables


def living(namespaces: KeptNamespaces) -> list[int]:
    """Processes in them that have not ended."""
    return [pid for pid in namespaces.processes() if state(pid) not in ("", "Z")]


def test_hosts_reach_each_other_and_only_each_other() -> None:
    with Lab() as lab:
        a, b, c = lab.add_hosts(["a", "b", "c"])
        link = lab.link(a, b)
        assert a.ping(link.address(b), 3).received == 3
        assert b.ping(link.address(a, 6), 3).received == 3
        assert c.ping(link.address(b), 1, wait=0.2).received == 0
        assert traces() == []


def test_both_ends_may_have_the_same_interface_name() -> None:
    with Lab() as lab:
        engines = [host.engine(NAME, WIREGUARD_GO) for host in lab.add_hosts(["a", "b"])]
        # Before wireguard-go has heard that its interface is up it has no port, and nothing to tell of.
        assert all(engine.uapi("get=1\n\n").endswith("errno=0\n\n") for engine in engines)
        assert [len(engine.processes()) for engine in engines] == [1, 1]
        assert all(row.cpu_seconds >= 0 and row.pss_bytes > 1e6 for row in engines[0].processes())
        assert traces() == []
        assert engines[0].stop() == 0
        assert not engines[0].host.usage()
        assert engines[1].host.usage()


def test_engine_that_fails_says_why() -> None:
    with Lab() as lab, pytest.raises(Failure, match="no more strings than this"):
        lab.host("a").engine("wg0", ["sh", "-c", "echo no more strings than this >&2; exit 3"])


def test_command_that_fails_or_hangs_is_an_error() -> None:
    with Lab() as lab:
        a = lab.host("a")
        with pytest.raises(Failure, match="exit code 1"):
            a.run(["ip", "link", "show", "nothing"])
        with pytest.raises(Failure, match="still runs"):
            a.run(["sleep", "60"], timeout=0.2)
        assert not a.usage()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_killed_lab(number: int) -> None:
    text = (f"NAME = '{NAME}'\n"
            "import os, sys, time\nfrom plait.lab.namespaces import *\nlab = Lab()\nfor name in 'ab':\n"
            "    host = lab.host(name)\n    host.engine(NAME, WIREGUARD_GO)\n"
            "    host.popen(['sh', '-c', '(trap \"\" TERM HUP INT; sleep 1000 & wait) & wait'])\n"
            "    print(host.pid, flush=True)\ntime.sleep(1000)\n")
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as script, KeptNamespaces("pid") as hosts:
        assert script.stdout is not None
        for _ in "ab":
            hosts.keep(script.stdout.readline().strip())
        assert len(living(hosts)) >= 6
        script.send_signal(number)
        script.wait(60)
        until(lambda: living(hosts) == [], "the end of every process")
    assert traces() == []


def test_missing_program_is_named() -> None:
    assert missing() == []
    assert ["no such-program" in str(error) for error in missing("such-program")] == [True]
