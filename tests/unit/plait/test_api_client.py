"""`plait.Interface` and `plait.aio.Interface`, attached to one control process: both do the same."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plait
from plait import Failure, Key, Peer
from plait.api.interface import transaction
from tests.support.control_harness import SMALL, ControlProcess, Interface
from tests.support.descriptors import open_here
from tests.support.waiting import PATIENCE
from workers._workers import ffi
from workers.control.peer_counters import ROWS
from workers.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sockets in /var/run/wireguard")

Do = Callable[..., Any]


@pytest.fixture(scope="module")
def control() -> Iterator[ControlProcess]:
    # No holder runs beside it to retire removed peers, so every one that was ever added keeps its row.
    settings = Settings(**{**SMALL, "max_peers": 4096})
    with Interface(f"api{os.getpid()}", settings) as interface, ControlProcess(interface) as control:
        yield control


@pytest.fixture(params=["synchronous", "asyncio"])
def do(request: pytest.FixtureRequest, control: ControlProcess) -> Do:
    """do("peer", key): that method of the interface, by either client; its answer."""

    def by_name(name: str, *arguments: Any, **options: Any) -> Any:
        with plait.attach(control.interface.name) as wg:
            found = getattr(wg, name)
            return found(*arguments, **options) if callable(found) else found

    def by_asyncio(name: str, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with plait.aio.attach(control.interface.name) as wg:
                return await getattr(wg, name)(*arguments, **options)

        return asyncio.run(run())

    return by_name if request.param == "synchronous" else by_asyncio


@pytest.fixture(autouse=True)
def empty(control: ControlProcess) -> None:
    plait.attach(control.interface.name).remove(*plait.attach(control.interface.name).peers())


def peers(count: int) -> list[Peer]:
    numbers = [(n >> 8, n & 255) for n in range(count)]
    return [
        Peer(Key(bytes([1, high, low, *[9] * 29])), [ip_network(f"10.1.{high}.{low}/32")], keepalive=low)
        for high, low in numbers
    ]


def test_peers_come_and_go_in_one_transaction(do: Do) -> None:
    first, second, third = peers(3)
    do("apply", add=[first, second])
    assert sorted(do("peers"), key=lambda peer: peer.keepalive) == [first, second]
    do("apply", add=(peer for peer in [third]), remove=iter([first, second.public_key]))
    assert do("peers") == [third]
    do("remove", third)
    do("remove", third)
    assert do("peers") == []


def test_a_refused_transaction_changes_nothing(do: Do) -> None:
    first, second = peers(2)
    do("add", first)
    zone = plait.Endpoint.parse("[fe80::1%no-such-one]:5")
    with pytest.raises(Failure) as refused:
        do("apply", add=[second, Peer(second.public_key, endpoint=zone)], remove=[first])
    assert refused.value.what and refused.value.why and refused.value.next_step
    assert do("peers") == [first]


def test_one_peer_is_asked_for_by_its_key(do: Do) -> None:
    first, second = peers(2)
    do("add", first, second)
    assert do("peer", second.public_key) == second
    with pytest.raises(Failure) as refused:
        do("peer", Key(bytes([7] * 32)))
    assert str(Key(bytes([7] * 32))) in refused.value.what


def test_an_interface_tells_of_itself(do: Do, control: ControlProcess) -> None:
    key = Key.generate()
    do("configure", private_key=key, fwmark=7)
    do("add", *peers(3))
    assert do("public_key") == key.public_key
    assert do("listen_port") == control.interface.port


def test_counters_are_a_copy_of_what_each_peer_has(do: Do, control: ControlProcess) -> None:
    """More peers than one line of the answer has, and rows without a peer between them."""
    many = peers(ROWS + 40)
    do("apply", add=many)
    do("apply", remove=many[3:20])
    rows = control.interface.segment.rows
    places = {bytes(ffi.buffer(rows[row].public_key)): row for row in range(4096)}
    for number, peer in enumerate(many[20:], 1):
        row = rows[places[bytes(peer.public_key)]]
        row.rx_bytes, row.tx_bytes, row.handshake_rx = 1 << 40 | number, 2 * number, 5
    row = rows[places[bytes(many[1].public_key)]]
    row.handshake_sec, row.handshake_nsec = 1764000000, 7
    found = do("counters")
    by_key = {Key(bytes(row["key"])): row for row in found}
    left = [many[n] for n in range(len(many)) if not 3 <= n < 20]
    assert by_key.keys() == {peer.public_key for peer in left} and len(found) == len(left)
    for peer in do("peers"):
        row = by_key[peer.public_key]
        assert (row["rx_bytes"], row["tx_bytes"]) == (peer.rx_bytes, peer.tx_bytes)
        assert np.isnat(row["handshake"]) == (peer.latest_handshake is None)
    [latest] = found[~np.isnat(found["handshake"])]
    assert latest["handshake"] == np.datetime64(1764000000_000000007, "ns")
    assert Key(bytes(latest["key"])) == many[1].public_key and latest["rx_bytes"] == 0
    busiest = found[found["rx_bytes"].argsort()[-10:]]
    assert len(busiest) == 10 and busiest["rx_bytes"][-1] == found["rx_bytes"].max() == (1 << 40) + ROWS + 25
    found["rx_bytes"] = 0  # it is the caller's


def test_no_peers_are_no_rows(do: Do) -> None:
    found = do("counters")
    assert len(found) == 0 and found.dtype.names == ("key", "rx_bytes", "tx_bytes", "handshake")


def test_events_that_are_remembered(control: ControlProcess) -> None:
    wg = plait.attach(control.interface.name)
    [peer] = peers(1)
    wg.add(peer)
    added = [event for event in wg.events(follow=False) if isinstance(event, plait.PeerAdded)]
    assert added and all(isinstance(event.peer, Key) for event in added)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert list(wg.events(later, follow=False)) == list(wg.events(timedelta(hours=-1), follow=False)) == []
    assert len(list(wg.events("1d", follow=False))) == len(list(wg.events(follow=False)))
    with pytest.raises(Failure):
        list(wg.events("yesterday", follow=False))


def test_events_as_they_come(control: ControlProcess) -> None:
    """A follower of either kind is told what happens behind its question."""
    wg = plait.attach(control.interface.name)
    keys = [Key.generate(), Key.generate()]
    followed = wg.events()
    next(followed)  # it is connected
    wg.configure(private_key=keys[0])
    changed = (event for event in followed if isinstance(event, plait.PrivateKeyChanged))
    until = next(event for event in changed if event.public_key == keys[0].public_key)
    assert until.interface == control.interface.name and keys[0].public_key != keys[1].public_key

    async def follow() -> list[plait.Event]:
        async with plait.aio.attach(control.interface.name) as wg:
            found: list[plait.Event] = []
            async for event in wg.events(since=until.time):
                if not found:
                    await wg.configure(private_key=keys[1])
                found.append(event)
                if isinstance(event, plait.PrivateKeyChanged) and event.public_key == keys[1].public_key:
                    return found
        raise AssertionError("the engine has ended")

    assert all(event.time >= until.time for event in asyncio.run(follow()))


def test_following_ends_when_it_is_cancelled(control: ControlProcess) -> None:
    async def run() -> None:
        async def follow() -> None:
            async with plait.aio.attach(control.interface.name) as wg:
                async for _ in wg.events():
                    begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(follow())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = open_here()
    asyncio.run(run())
    assert open_here() == before


def test_many_ask_at_once_without_a_thread_each(control: ControlProcess) -> None:
    """More clients than the engine serves at once: the others wait, and the loop goes on."""
    [peer] = peers(1)

    async def run() -> list[list[Peer]]:
        async with plait.aio.attach(control.interface.name) as wg:
            await wg.add(peer)
            before = threading.active_count()
            answers = await asyncio.gather(*(wg.peers() for _ in range(300)))
            assert threading.active_count() == before
            return answers

    assert asyncio.run(run()) == [[peer]] * 300


def test_nobody_there_is_a_failure(tmp_path: Path) -> None:
    for name in ("none-such", str(tmp_path / "wg0.sock")):
        with pytest.raises(Failure, match="nobody listens"):
            plait.attach(name)

        async def enter(name: str = name) -> None:
            async with plait.aio.attach(name):
                pytest.fail("entered")

        with pytest.raises(Failure, match="nobody listens"):
            asyncio.run(enter())


def test_an_engine_that_takes_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """It listens, and reads not a byte of more than a socket's buffer holds."""
    path = str(tmp_path / "deaf.sock")

    async def change() -> None:
        async with asyncio.timeout(PATIENCE):
            await plait.aio._ask(path, transaction(peers(20000), ()).encode(), None, 0.2)

    with socket.create_server(path, family=socket.AF_UNIX), pytest.raises(Failure) as refused:
        asyncio.run(change())
    assert refused.value.what and refused.value.why and refused.value.next_step
