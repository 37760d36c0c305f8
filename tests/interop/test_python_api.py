"""Programs that `import plait`, as users write them, in hosts of a lab."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

import plait
from plait import Failure, Key, Peer
from plait.lab.namespaces import Host, Lab, Process
from plait.lab.tunnels import tunnel
from tests.support.unprivileged import UNPRIVILEGED, open_to_all
from tests.support.waiting import until

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), re.M | re.S)

HOLD = """
import sys, threading
from plait import Interface, Key
with Interface("wg0", private_key=Key.generate(), addresses=["10.0.0.1/24"]) as wg:
    print("ready", wg.listen_port, flush=True)
    threading.Event().wait()
"""
FAILURES = """
import json
from plait import Failure, Interface, Key
said = {}
def attempt(case, name, **options):
    try:
        with Interface(name, private_key=Key.generate(), **options):
            said[case] = "no failure"
    except Failure as failure:
        said[case] = [failure.what, failure.why, failure.next_step]
with Interface("wg0", listen_port=5000) as wg:
    attempt("taken", "wg0")
    attempt("port", "wg1", listen_port=5000)
    attempt("mtu", "wg1", mtu=1)
    attempt("address", "wg1", addresses=["10.0.0.1/24", "10.0.0.1/24"])
    attempt("name", "a name", addresses=[])
    attempt("words", "wg1", addresses=["300.0.0.1/24"])
    said["goes on"] = wg.listen_port
print(json.dumps(said))
"""
BROKEN = """
from plait import Interface
with Interface("wg0"):
    raise KeyError("of the program's own")
"""
CANCELLED = """
import asyncio, plait, socket
async def enter():
    async with plait.aio.Interface("wg0"):
        pass
async def main():
    task = asyncio.create_task(enter())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", "wg0" in [name for _, name in socket.if_nameindex()])
asyncio.run(main())
"""
NO_ROOT = """
from plait import Failure, Interface
try:
    Interface("wg0").__enter__()
except Failure as failure:
    print(failure.next_step)
"""
MEET = """
import asyncio, sys, plait
from ipaddress import ip_network
from plait import Endpoint, Key, Peer
mine, theirs, inner, their_inner, place = sys.argv[1:]
async def main():
    endpoint, keepalive = (Endpoint.parse(place), 25) if place else (None, 0)
    peer = Peer(Key(theirs), [ip_network(their_inner)], endpoint, keepalive=keepalive)
    has = {"private_key": Key(mine), "listen_port": 51820, "addresses": [inner], "peers": [peer]}
    async with plait.aio.Interface("wg0", **has) as wg:
        async for event in wg.events():
            if isinstance(event, plait.SessionBegan):
                told = await wg.peer(peer.public_key)
                assert event.peer == told.public_key and told.latest_handshake
                print("session with", event.peer, "at", event.endpoint, flush=True)
                await asyncio.to_thread(sys.stdin.read)
                return
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    return lab.host("a")


def python(text: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", text, *arguments]


def left(host: Host) -> dict[str, object]:
    """What an engine can leave behind."""
    sockets = host.root / "run/wireguard"
    return {
        "processes": host.pids(),
        "links": "wg0" in host.run(["ip", "-o", "link"]).stdout,
        "sockets": os.listdir(sockets) if sockets.exists() else [],
        "segments": os.listdir(host.root / "dev/shm"),
    }


def assert_nothing_left(host: Host) -> None:
    until(lambda: not any(left(host).values()), f"nothing left: {left(host)}")


def test_the_program_of_the_guide_runs(host: Host) -> None:
    done = host.run(python(PROGRAM[0]))
    none, bob = done.stdout.splitlines()
    assert none == "None" and re.fullmatch(r"\S{44} 0 0", bob) and done.stderr == ""
    assert_nothing_left(host)


def test_the_end_of_the_program_is_the_engine_s_even_by_kill_9(host: Host) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        program = host.popen(python(HOLD))
        until(lambda program=program: "ready" in program.output(), "an engine that runs")
        assert len(host.pids()) > 3
        program.signal(number)
        program.wait()
        assert_nothing_left(host)


def test_a_start_that_is_cancelled_leaves_nothing(host: Host) -> None:
    assert host.run(python(CANCELLED)).stdout == "cancelled False\n"
    assert_nothing_left(host)


def test_an_exception_in_the_block_is_told_and_ends_the_engine(host: Host) -> None:
    done = host.run(python(BROKEN), check=False)
    assert done.returncode == 1 and done.stderr.endswith("KeyError: \"of the program's own\"\n")
    assert_nothing_left(host)


def test_each_failure_has_three_parts_and_leaves_nothing(host: Host) -> None:
    said = json.loads(host.run(python(FAILURES)).stdout)
    assert said.pop("goes on") == 5000
    reasons = {
        "taken": "exists already", "port": "another program or interface has", "mtu": "mtu",
        "address": "address", "name": "name", "words": "300.0.0.1",
    }  # fmt: skip
    for case, reason in reasons.items():
        what, why, step = said[case]
        assert what and reason in f"{what}: {why}".lower(), said[case]
        assert step and step[0].isupper(), said[case]
    assert_nothing_left(host)


def test_an_engine_without_privilege_says_so(host: Host) -> None:
    open_to_all(host, Path(sys.base_prefix), Path(sys.prefix), ROOT)
    done = host.run([*UNPRIVILEGED, *python(NO_ROOT)])
    assert "root" in done.stdout, done
    assert_nothing_left(host)


def test_packets_are_told_with_their_peer() -> None:
    """Out and in, of both IP versions; one peer's alone; refused where there is no such interface."""
    with tunnel() as made:
        one, two = made
        wg, key = one.interface, two.private_key.public_key
        other = Peer(Key.generate().public_key, [ip_network("10.77.9.0/24")])
        wg.add(other)
        addresses = (two.address, two.address6, "10.77.9.9", "10.77.8.8")
        sender = threading.Thread(target=lambda: [one.host.ping(each, 2, wait=1) for each in addresses])

        async def first() -> plait.Packet:
            async with plait.aio.attach(one.socket_path) as attached:
                return await anext(aiter(attached.tap(key, limit=1)))

        with one.netns():
            packets = wg.tap()  # behind its last line, echoes of the others may be answered by ICMP
            sender.start()
            counted: Counter[tuple[object, ...]] = Counter()
            wanted = {(key, "out", 4): 2, (key, "in", 4): 2, (key, "out", 6): 2, (key, "in", 6): 2,
                      (other.public_key, "out", 4): 2, (None, "out", 4): 2}  # fmt: skip
            while any(counted[kind] < number for kind, number in wanted.items()):
                packet = next(packets)
                counted[packet.peer, packet.direction, packet.data[0] >> 4] += 1
            sender.join()
            assert {kind: counted[kind] for kind in wanted} == wanted
            again = threading.Thread(target=lambda: one.host.ping(two.address, 20, 0.05))
            again.start()
            assert asyncio.run(first()).peer == key
            again.join()
        with pytest.raises(Failure, match="cannot be tapped"):
            next(wg.tap())


def test_two_programs_meet(lab: Lab, host: Host) -> None:
    other = lab.host("b")
    cable = lab.link(host, other)
    one, two = Key.generate(), Key.generate()
    programs: list[Process] = []
    for where, mine, theirs, inner, their_inner, place in (
        (host, one, two, "10.5.0.1/24", "10.5.0.2/32", ""),
        (other, two, one, "10.5.0.2/24", "10.5.0.1/32", cable.endpoint(host, 51820)),
    ):
        arguments = python(MEET, str(mine), str(theirs.public_key), inner, their_inner, place)
        programs.append(where.popen(["sh", "-c", 'mkfifo /run/$$; exec "$@" <>/run/$$', "sh", *arguments]))
    for program, theirs in zip(programs, (two, one), strict=True):
        until(lambda program=program: "session" in program.output() or program.poll() is not None, "sessions")
        assert f"session with {theirs.public_key}" in program.output(), program.output()
    assert other.ping("10.5.0.1", 3).received == 3
    for program in programs:
        program.signal(signal.SIGKILL)
    for where in (host, other):
        assert_nothing_left(where)
