"""plaitd under a service manager: the notifications that systemd would get, and the units themselves."""

from __future__ import annotations

import itertools
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab, read_proc
from tests.support.waiting import until
from workers.supervisor.notify import BEAT_SECONDS, RETRY_SECONDS, ServiceManager

UNITS = Path(__file__).parents[3] / "configs/systemd"
SMALL = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"


class Listener:
    """The socket that NOTIFY_SOCKET names."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(60)

    def receive(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()

    def until(self, line: str) -> list[list[str]]:
        """Every notification up to the one with this line."""
        got = [self.receive()]
        while line not in got[-1]:
            got.append(self.receive())
        return got

    def waiting(self) -> list[list[str]]:
        self.socket.setblocking(False)
        got = []
        while True:
            try:
                got.append(self.receive())
            except BlockingIOError:
                self.socket.settimeout(60)
                return got


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def manager(listener: Listener, **more: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": listener.socket.getsockname(), **more})


def test_signs_of_life_come_at_half_of_the_time_while_control_turns(listener: Listener) -> None:
    told = manager(listener, WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getpid()))
    assert told.due is None, "the manager waits for readiness first"
    told.ready("works", 100.0)
    assert listener.receive() == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=works"]
    assert told.due == 102
    told.watch(101.9, 0.1)
    told.watch(102.0, None)
    told.watch(102.1, 0.1)
    assert listener.waiting() == []
    told.watch(102.5, BEAT_SECONDS + 0.1)
    assert told.due == 102.5 + RETRY_SECONDS
    told.watch(103.0, BEAT_SECONDS)
    assert listener.waiting() == [["WATCHDOG=1"]]
    assert told.due == 105
    told.status("works", 103.1)
    told.status("limps", 103.2)
    told.stopping("enough\nREADY=1")
    assert listener.waiting() == [["STATUS=limps"], ["STOPPING=1", "STATUS=ending: enough READY=1"]]
    assert told.due is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "4194305"},  # above any pid
    ],
)
def test_no_watchdog_where_none_is_asked_of_us(listener: Listener, more: dict[str, str]) -> None:
    told = manager(listener, **more)
    told.ready("", 1.0)
    assert told.due is None


def test_nothing_is_sent_without_a_manager_and_its_death_is_no_error(listener: Listener) -> None:
    environment = {"WATCHDOG_USEC": "1000000", "HOME": "/"}
    told = ServiceManager(environment)
    told.ready("", 1.0)
    assert told.due is None
    assert environment == {"HOME": "/"}, "workers must not speak for the engine"
    told = manager(listener)
    listener.socket.close()
    told.stopping("")


def fill(listener: Listener) -> int:
    """Have its socket full; how many datagrams that took."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for count in itertools.count():
            try:
                sock.sendto(b"of another", listener.socket.getsockname())
            except BlockingIOError:
                return count
    raise AssertionError


def test_a_manager_that_stands_still_is_told_later(listener: Listener) -> None:
    told = manager(listener, WATCHDOG_USEC="4000000")
    full = fill(listener)
    told.ready("works", 100.0)
    assert told.due == 100 + RETRY_SECONDS
    told.status("works", 100.5)
    told.status("limps", 100.6)
    told.watch(102.0, 0.1)
    assert told.refused == 4 and told.due == 100.6 + RETRY_SECONDS
    assert listener.waiting() == [["of another"]] * full
    told.status("limps", 101.0)
    assert listener.waiting() == [], "not due"
    told.status("limps", 101.2)
    assert listener.waiting() == [["READY=1", f"MAINPID={os.getpid()}", "STATUS=limps"]]
    told.watch(102.5, 0.1)
    assert listener.waiting() == [["WATCHDOG=1"]] and (told.due, told.refused) == (104.5, 0)


def test_a_manager_without_a_descriptor_to_it_is_told_later(listener: Listener) -> None:
    told = manager(listener)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        told.ready("works", 100.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    told.status("works", 101.0)
    assert listener.waiting() == [["READY=1", f"MAINPID={os.getpid()}", "STATUS=works"]]
    assert told.due is None


@pytest.mark.network
def test_an_engine_waits_for_no_manager() -> None:
    """Its socket is full before the engine is ready, and while a worker is killed."""
    with Lab() as lab:
        host = lab.host("unserved")
        listener = Listener(f"/proc/{host.pid}/root/run/notify")
        full = fill(listener)
        environment = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "600000"}
        engine = host.engine("t0", settings=SMALL, environment=environment)
        until(lambda: "t0 is ready" in engine.process.output(), "readiness")
        words = "the service manager does not take notifications for now: Resource temporarily unavailable"
        until(lambda: words in engine.process.output(), words)
        for title in ("receiver 0", "control"):
            pid = host.titles("t0")[title]
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid, title=title: host.titles("t0").get(title, pid) != pid, f"the next {title}")
        host.run(["wg", "show", "t0", "listen-port"])
        assert [listener.receive() for _ in range(full)] == [["of another"]] * full
        listener.until("READY=1")
        until(lambda: "takes notifications again, after" in engine.process.output(), "how many were refused")
        fill(listener)
        engine.process.signal(signal.SIGTERM)
        assert engine.process.wait() == 0


@pytest.mark.network
def test_an_engine_tells_readiness_life_and_its_end() -> None:
    with Lab() as lab:
        host = lab.host("served")
        listener = Listener(f"/proc/{host.pid}/root/run/notify")
        environment = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "600000"}
        engine = host.engine("t0", settings=SMALL, environment=environment)
        ready = listener.receive()
        assert ready[0] == "READY=1"
        assert re.fullmatch(r"STATUS=UDP port \d+, 1 receivers, 1 consumers", ready[2])
        listener.until("WATCHDOG=1"), listener.until("WATCHDOG=1")
        control = host.titles("t0")["control"]
        assert "NOTIFY_SOCKET" not in (read_proc(control, "environ") or "")
        os.kill(control, signal.SIGKILL)
        away = [f"{ready[2]}; starting again: control"]
        assert away in listener.until(away[0])
        assert [ready[2]] in listener.until(ready[2])
        listener.until("WATCHDOG=1")
        engine.process.signal(signal.SIGTERM)
        assert listener.until("STOPPING=1")[-1] == ["STOPPING=1", "STATUS=ending: a signal asked for it"]
        assert engine.process.wait() == 0
        assert listener.waiting() == []


def control_of(host: Host) -> int:
    titles = {row.pid: Path(f"/proc/{row.pid}/cmdline").read_text() for row in host.usage()}
    return next(pid for pid, title in titles.items() if title.startswith("plait: t0 control"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """With the path of this installation's programs, which systemd looks for in its own places."""
    for unit in UNITS.glob("*.service"):
        here = f"\\1{Path(sys.executable).parent}/"
        text = re.sub(r"^(Exec\w+=)(?=plait)", here, unit.read_text(), flags=re.M)
        (tmp_path / unit.name.replace("@", "@wg0")).write_text(text)
    (tmp_path / "wg-quick@wg0.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    shutil.copytree(UNITS / "wg-quick@.service.d", tmp_path / "wg-quick@wg0.service.d")
    units = sorted(str(path) for path in tmp_path.glob("*.service"))
    assert len(units) == 6
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [
        line for line in said.stderr.splitlines() if str(tmp_path) in line or "wg0" in line or "plait" in line
    ]
    assert (said.returncode, ours) == (0, [])


def test_a_unit_beside_an_engine_starts_none() -> None:
    # The engine may be that of plait@, plait-quick@ or wg-quick@: another unit that pulled in one of them
    # would begin a second engine beside it.
    for unit in UNITS.glob("*.service"):
        text = unit.read_text()
        pulled = re.findall(r"^(?:Requires|BindsTo|Wants|Upholds)=.*(?:quick|plait)@.*$", text, re.M)
        assert not pulled, unit.name


def test_the_debian_package_stops_each_unit_and_takes_its_links_away() -> None:
    units = [path.name.replace("@.", "@*.") for path in UNITS.glob("*.service")]
    assert len(units) >= 4
    for script in ("prerm", "postrm"):
        text = (UNITS.parents[1] / "scripts/debian" / script).read_text()
        assert [unit for unit in units if unit not in text.replace("'", " ").split()] == [], script
