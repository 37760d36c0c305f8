"""plaitd becomes another program under a TCP stream, with its sessions and counters; or it is refused.

    one (plaitd)  10.200.1.1 ──── 10.200.1.2  two (plaitd)
     wg0 10.0.0.1 ═══ TCP stream ═══▶ 10.0.0.2 wg0

The program is a file of each host, /run/plaitd, that starts the installed one; a test changes it. The
stalls are printed; `pytest -s` shows them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time

import pytest

from plait.lab.namespaces import Host, Lab, descriptors, read_proc
from tests.support.stream import Stream
from tests.support.tunnel import Side, eventually, two_hosts
from workers.control.events import Event

pytestmark = pytest.mark.network

SETTINGS = 'receivers = 1\nconsumers = 1\nmax_receivers = 2\nmax_consumers = 2\nhandoff = "{}"\n'
TITLES = ("supervisor", "control", "receiver 0", "consumer 0")
PATH = "/run/plaitd"
GOOD = f"#!{sys.executable} -P\nimport os, sys\n{{}}\nfrom plait.daemon import main\nsys.exit(main())\n"
# What is started by the new program can be told from outside.
NEW = GOOD.format("open('/proc/self/coredump_filter', 'w').write('7')")
# Passes its trial; each consumer that it starts ends at once.
NO_CONSUMER = NEW.replace("from plait.daemon", "from workers.entry_points import WORK\n"
                          "WORK['consumer'] = lambda start: sys.exit(3)\nfrom plait.daemon")
OTHER_LAYOUT = GOOD.format("import shm.layout\nshm.layout.layout_hash = lambda: 1")
COMMAND = (
    "sh", "-c", f'printf %s "$1" > {PATH}; chmod +x {PATH}; exec {PATH} -f "$2"', "sh",
    GOOD.format(""), "{iface}",
)  # fmt: skip
# What a program is that must be refused, and words of the line that says so; None: there is none.
REFUSED = [
    # Good in its trial, and gone when it is to be.
    (GOOD.format("'--trial' in sys.argv and os.unlink(sys.argv[0])"), "it cannot be started: No such file"),
    (GOOD.format("def main(:"), "SyntaxError: "),
    (OTHER_LAYOUT, "cannot take over: the layout of its shared memory is not the one that this program was"),
    (GOOD.format("sys.modules['workers.datapath.receiver'] = None"), "ModuleNotFoundError: import of work"),
    ("#!/bin/sh\nexit 0\n", "it says nothing (exit code 0)"),
    ("#!/no/such/interpreter\n", "it cannot be started: No such file or directory"),
    (None, "it cannot be started: No such file or directory"),
]


def install(host: Host, text: str | None) -> None:
    """Another program at the path, in one step, as a package manager does it."""
    path = host.root / PATH.lstrip("/")
    if text is None:
        path.unlink()
        return
    other = path.with_suffix(".new")
    other.write_text(text)
    other.chmod(0o755)
    other.rename(path)


def pids(side: Side) -> dict[str, int | None]:
    found = side.host.titles(side.interface)
    return {title: found.get(title) for title in TITLES}


def is_new(pid: int | None) -> bool:
    return pid is not None and read_proc(pid, "coredump_filter") == "00000007\n"


def ask(side: Side, words: str) -> float:
    """Ask for an upgrade; when. Returns when these words are said once more and packets flow."""
    output = side.engine.process.output
    before, at = output().count(words), time.monotonic()
    side.engine.process.signal(signal.SIGUSR2)
    eventually(lambda: output().count(words) > before)
    moved = side.transfer()
    eventually(lambda: min(map(int.__sub__, side.transfer(), moved)) > 20_000)
    return at


def is_tried(side: Side) -> bool:
    """Whether another program is being tried beside the engine."""
    return any("--trial" in (read_proc(pid, "cmdline") or "") for pid in side.host.pids())


def inheritable(side: Side) -> list[str]:
    """What another program would get of the supervisor's descriptors."""
    pid, found = pids(side)["supervisor"], []
    for fd, name in descriptors(pid).items():
        text = read_proc(pid, f"fdinfo/{fd}") or "flags: 02000000"  # closed meanwhile
        if not int(text.split("flags:")[1].split()[0], 8) & os.O_CLOEXEC:
            found.append(name)
    return sorted(found)


def is_gone(side: Side) -> bool:
    links = side.host.run(["ip", "-o", "link"]).stdout
    return not (
        any(pids(side).values())
        or f" {side.interface}: " in links
        or os.listdir(side.host.root / "run/wireguard")
    )


@pytest.mark.parametrize(("handoff", "end"), [("pipeline", 1), ("inline", 0)])
def test_stream_survives_an_upgrade(handoff: str, end: int) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, COMMAND, COMMAND, settings=SETTINGS.format(handoff))
        one, two = tunnel.sides
        side = tunnel.sides[end]
        assert one.echo(two.address4, 2) == 2
        with Stream(one, two) as stream:
            before, counters = pids(side), side.counters()
            assert not any(map(is_new, before.values()))
            install(side.host, NEW)
            stream.note(f"{handoff}: {side.host.name}", ask(side, f"upgraded: every process runs {PATH}"))
            after = pids(side)
            assert after["supervisor"] == before["supervisor"]
            assert all(after[title] not in (None, before[title]) for title in TITLES[1:])
            assert all(map(is_new, after.values()))
            assert all(count >= counters[name] for name, count in side.counters().items())
        stream.check()
        counters = side.counters()
        assert (counters["drop_killed"], counters["lost_wakes"]) == (0, 0)
        tunnel.check()
        lines = side.engine.uapi("events=0\n\n").splitlines()[:-2]
        told = [json.loads(line.removeprefix("event=")) for line in lines]
        assert [each["reason"] for each in told if each["event"] == Event.UPGRADED] == [PATH]
        assert not [each for each in told if each["event"] == Event.WORKER_DIED]
        # One log, before and after, of old processes and new ones.
        lines = side.engine.process.output().splitlines()
        assert all(re.match(r"\d{4}-\S+T\S+ (info|error) plait: wg0 \w+", line) for line in lines), lines
        # Its end is that of any engine.
        if end:
            side.host.ip(f"link delete {side.interface}")
            assert side.engine.process.wait() == 0
            assert is_gone(side)
        else:
            side.engine.process.signal(signal.SIGKILL)
            eventually(lambda: is_gone(side))


def test_an_upgrade_ends_at_the_worker_that_does_not_come_back() -> None:
    """What comes after it stays; it is started again and again, and a mended program is upgraded to."""
    with Lab() as lab:
        tunnel = two_hosts(lab, COMMAND, COMMAND, settings=SETTINGS.format("inline"))
        one, two = tunnel.sides
        assert one.echo(two.address4, 2) == 2
        before, output = pids(one), one.engine.process.output
        install(one.host, NO_CONSUMER)
        one.engine.process.signal(signal.SIGUSR2)
        eventually(lambda: "upgraded in part: consumer 0 does not come back" in output())
        tries = output().count("consumer 0 starts again in")
        eventually(lambda: output().count("consumer 0 starts again in") >= tries + 2)
        after = pids(one)
        assert all(after[title] == before[title] for title in ("supervisor", "control"))
        assert is_new(after["receiver 0"]) and not is_new(after["control"])
        assert "upgraded: every process" not in output()
        install(one.host, NEW)
        one.engine.process.signal(signal.SIGUSR2)
        eventually(lambda: f"upgraded: every process runs {PATH}" in output())
        assert all(map(is_new, pids(one).values()))
        assert one.echo(two.address4, 2) == 2
        tunnel.check()


def test_refused_upgrades_leave_everything_alone() -> None:
    """The last one is none: what signals asked for meanwhile is done by the new program."""
    with Lab() as lab:
        tunnel = two_hosts(lab, COMMAND, COMMAND, settings=SETTINGS.format("inline"))
        one, two = tunnel.sides
        assert one.echo(two.address4, 2) == 2
        with Stream(one, two) as stream:
            before, open_to_all = pids(one), inheritable(one)
            for text, words in REFUSED:
                install(one.host, text)
                stream.note(words[:24], ask(one, words))
                assert pids(one) == before
                assert inheritable(one) == open_to_all
            output = one.engine.process.output
            assert output().count(f"not upgraded, everything goes on as it was: {PATH}: ") == len(REFUSED)
        stream.check()
        install(one.host, NEW)
        one.engine.process.signal(signal.SIGUSR2)
        eventually(lambda: is_tried(one) or "upgraded: every" in output())
        one.engine.process.signal(signal.SIGTTIN)
        eventually(lambda: "2 receivers and 2 consumers run" in output(), 120)
        assert output().index("upgraded: every") < output().index("2 receivers and 2 consumers run")
        assert one.echo(two.address4, 2) == 2
        tunnel.check()
