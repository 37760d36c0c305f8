"""Providers in Python at a real engine: what they answer and do wrong, and how they and control end."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

import plait
from plait import Endpoint, Failure, Key, Peer, Refuse
from plait.lab.namespaces import Lab
from tests.support.fake_peer import FakePeer, Network
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
GUIDE = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), re.M | re.S)
HANGS = """
import asyncio, plait
async def main():
    async with plait.aio.attach("wg0") as wg:
        @wg.provider()
        async def lookup(key, source):
            print("asked about", key, flush=True)
            await asyncio.Event().wait()
        await wg.serve_forever()
asyncio.run(main())
"""


class Gateway(Network):
    """An engine that is asked by peers whom it does not know."""

    def stranger(self) -> FakePeer:
        """A peer that the engine does not know."""
        peer = FakePeer(self)
        self.set(f"public_key={peer.identity.public_key.hex()}\nremove=true\n")
        return peer


@pytest.fixture(scope="module")
def network() -> Iterator[Gateway]:
    with Lab() as lab:
        yield Gateway(lab)


@pytest.fixture(autouse=True)
def words(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines in the provider's log."""
    caplog.set_level(logging.INFO, "plait.provider")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "plait.provider"]


def key_of(peer: FakePeer) -> Key:
    return Key(peer.identity.public_key)


def entry(peer: FakePeer) -> Peer:
    """What the store has of it."""
    return Peer(key_of(peer), [ip_network(peer.inner4)], on_demand=True, idle_after=5)


def providers(network: Gateway) -> int:
    return int(network.report()["on_demand"]["providers"])


@contextmanager
def running(
    network: Gateway, serve: Callable[[], Awaitable[None]], others: int = 0
) -> Iterator[Callable[[], None]]:
    """A coroutine in an event loop of its own, in a thread. It serves within the block, and is cancelled at
    the end of that or by what the block is given."""
    until(lambda: providers(network) == others, "those before are gone")
    loop = asyncio.new_event_loop()
    task: asyncio.Task[None] = loop.create_task(serve())  # type: ignore[arg-type]

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()

    def cancel() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)
        assert not thread.is_alive() and task.cancelled()

    try:
        until(lambda: providers(network) == others + 1, "the provider is known")
        yield cancel
    finally:
        cancel()


def serving(network: Gateway, lookup: Any, timeout: float = 4.0, others: int = 0) -> Any:
    async def serve() -> None:
        async with plait.aio.attach(str(network.engine.socket_path)) as wg:
            wg.provider(timeout=timeout)(lookup)
            await wg.serve_forever()

    return running(network, serve, others)


def test_the_provider_of_the_guide_answers_and_takes_back(network: Gateway) -> None:
    (block,) = [block for block in GUIDE if "serve_forever" in block]
    names: dict[str, Any] = {"plait": plait, "Key": Key, "Peer": Peer, "net": ip_network}
    exec(block.replace('"wg0"', repr(str(network.engine.socket_path))), names)
    peer, other = network.stranger(), network.stranger()
    key, traffic = key_of(peer), dict[tuple[Key, str], int]()
    with running(network, lambda: names["provide"]({key: f"{peer.inner4}/32"}, traffic)):
        assert peer.initiate().kind == 2
        told = network.peer(peer)
        assert (told["on_demand"], told["idle_after"]) == ("1", "3600")
        before = network.count("unknown_refused")
        other.send_raw(other.initiation()[0])
        until(lambda: network.count("unknown_refused") == before + 1, "the other is refused")

        wg = plait.attach(str(network.engine.socket_path))
        assert (wg.peer(key).on_demand, wg.peer(key).idle_after) == (True, 3600)
        network.step(3600 + 200)
        until(lambda: is_gone(wg, key), "it is idle, and goes")
    (bytes_,) = [bytes_ for (of, _), bytes_ in traffic.items() if of == key]
    assert bytes_ == int(told["rx_bytes"]) + int(told["tx_bytes"])


def test_what_one_lookup_does_wrong_is_told_and_costs_no_other(
    network: Gateway, words: Callable[[], list[str]]
) -> None:
    async def raises(_: Key) -> Any:
        raise RuntimeError("the store is down")

    async def is_late(_: Key) -> Any:
        await asyncio.Event().wait()

    async def says_nothing(_: Key) -> Any:
        return None

    async def says_another(_: Key) -> Any:
        return Peer(Key.generate().public_key)

    async def is_cancelled(_: Key) -> Any:
        raise asyncio.CancelledError

    async def says_what_the_engine_refuses(key: Key) -> Any:
        return Peer(key, endpoint=Endpoint.parse("[fe80::1%nowhere]:5"))

    wrong = {
        raises: "raised: the store is down", is_late: "took longer than 0.5 s",
        says_nothing: "it returned a NoneType", says_another: "which was not asked about",
        is_cancelled: "was cancelled", says_what_the_engine_refuses: "the engine refuses the peer",
    }  # fmt: skip
    peers = [network.stranger() for _ in wrong]
    does = dict(zip(map(key_of, peers), wrong, strict=True))
    good = network.stranger()

    async def lookup(key: Key, source: Endpoint) -> Any:
        return await does[key](key) if key in does else entry(good)

    with serving(network, lookup, timeout=0.5):
        for turn in (1, 2):  # none is remembered: each is asked about with its next try
            before = network.count("unknown_refused")
            for peer in peers:
                peer.send_raw(peer.initiation()[0])
            assert turn > 1 or good.initiate().kind == 2
            until(lambda before=before: network.count("unknown_refused") == before + len(peers), "refusals")
        assert providers(network) == 1
    for peer, why in zip(peers, wrong.values(), strict=True):
        lines = [line for line in words() if str(key_of(peer)) in line]
        assert len(lines) == 2 and all(why in line for line in lines), (lines, why)


def test_control_may_be_killed_while_a_lookup_runs(network: Gateway, words: Callable[[], list[str]]) -> None:
    peer, ends, is_first = network.stranger(), list[str](), True

    async def lookup(key: Key, source: Endpoint) -> Peer:
        nonlocal is_first
        if is_first:
            is_first = False
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
        return entry(peer)

    with serving(network, lookup, timeout=PATIENCE):
        peer.send_raw(peer.initiation()[0])
        until(lambda: not is_first, "it is asked")
        os.kill(network.plait.titles()["control"], signal.SIGKILL)
        until(lambda: sum("is asked" in line for line in words()) == 2, "it serves the next control")
        # Its one initiation is answered, unless this machine took 5 s for it: then a client tries again.
        until(lambda: is_answered(peer), "a response")
        assert ends == ["cancelled"]
    assert network.peer(peer)["on_demand"] == "1"


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_a_provider_that_goes_leaves_its_questions_to_the_next(network: Gateway, end: str) -> None:
    """Its lookup is cancelled, and has ended when serve_forever does."""
    peer, events = network.stranger(), list[str]()

    async def hangs(key: Key, source: Endpoint) -> Refuse:
        events.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            events.append("ended")
        return Refuse()

    async def answers(key: Key, source: Endpoint) -> Peer:
        events.append("answered")
        return entry(peer)

    def asked_before_the_second_answers(cancel: Callable[[], None], is_asked: Callable[[], object]) -> None:
        with serving(network, answers, others=1):
            peer.send_raw(peer.initiation()[0])
            until(is_asked, "the first is asked")
            cancel()
            assert peer.hear(2).kind == 2, "the one initiation was answered"

    if end == "cancelled":
        with serving(network, hangs, timeout=PATIENCE) as cancel:

            def end_it() -> None:
                cancel()
                assert "ended" in events

            asked_before_the_second_answers(end_it, lambda: events)
        assert sorted(events) == ["answered", "asked", "ended"]
    else:
        until(lambda: providers(network) == 0, "those before are gone")
        program = network.plait.popen([sys.executable, "-P", "-c", HANGS])
        until(lambda: providers(network) == 1, "it serves")
        kill = lambda: program.signal(signal.SIGKILL)  # noqa: E731
        asked_before_the_second_answers(kill, lambda: str(key_of(peer)) in program.output())
        assert events == ["answered"]
        program.wait()


def test_a_provider_without_asyncio(network: Gateway, words: Callable[[], list[str]]) -> None:
    """Its lookups run at once, each in a thread; what it cannot take back stays, and is offered again."""
    path = str(network.engine.socket_path)
    peers, late = [network.stranger() for _ in range(2)], network.stranger()
    both, ever = threading.Barrier(2, timeout=PATIENCE), threading.Event()
    taken: list[tuple[Key, plait.Totals]] = []
    with plait.attach(path) as wg:

        @wg.provider(window=3, timeout=2)
        def lookup(key: Key, source: Endpoint) -> Peer | Refuse:
            (found,) = [entry(peer) for peer in [*peers, late] if key_of(peer) == key]
            if key == key_of(late):
                ever.wait(PATIENCE)
            else:
                both.wait()
            return found

        @wg.evicted
        def account(key: Key, totals: plait.Totals) -> None:
            if key == key_of(peers[0]):
                taken.append((key, totals))
                if len(taken) == 1:
                    raise RuntimeError("the store is down")

        failures: list[Failure] = []

        def serve() -> None:
            try:
                wg.serve_forever()
            except Failure as failure:
                failures.append(failure)

        thread = threading.Thread(target=serve)
        thread.start()
        until(lambda: providers(network) == 1, "it serves")
        late.send_raw(late.initiation()[0])
        for peer in peers:
            peer.send_raw(peer.initiation()[0])
        assert [peer.hear(2).kind for peer in peers] == [2, 2]
        until(lambda: any("took longer than 2 s" in line for line in words()), "one was too slow")
        ever.set()

        network.step(200)
        until(lambda: taken, "it is idle")
        until(lambda: any("the store is down" in line for line in words()), "it is told")
        assert network.peer(peers[0])
        network.step(61)
        until(lambda: len(taken) == 2, "it is offered again")
        until(lambda: is_gone(wg, key_of(peers[0])), "it goes")
        assert taken[0] == taken[1] and taken[0][1].life and len(taken[0][1].timestamp) == 12
        wg.shutdown()
        thread.join(PATIENCE)
        assert not thread.is_alive() and not failures
    until(lambda: providers(network) == 0, "it is gone")


def is_answered(peer: FakePeer) -> bool:
    """Whether a response came to one of its initiations; else it sends another."""
    try:
        return peer.hear(2, 5).kind == 2
    except TimeoutError:
        peer.send_raw(peer.initiation()[0])
        return False


def is_gone(wg: plait.Interface, key: Key) -> bool:
    return all(peer.public_key != key for peer in wg.peers())
