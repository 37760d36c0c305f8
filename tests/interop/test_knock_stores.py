"""What `plait sync --knock` asks of a store, asked of real ones: beats, whose number it is, sessions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from plait.lab.namespaces import Host, Lab
from plait.sync.store import PACKED, PIECE, Gateways, Store
from tests.interop.knock_stores import STORES, KnockStore

pytestmark = pytest.mark.network

@dataclass
class Scene:
    """A store in a host of its own."""

    host: Host
    server: KnockStore
    store: Store

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """In the network of the host."""
        with self.host.thread() as thread:
            thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="module", params=STORES)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with Lab() as lab:
        host = lab.host("store")
        server = STORES[request.param](host, [])
        yield Scene(host, server, server.reached())
        server.close()


async def told(gateways: Gateways, number: int) -> bytes:
    """All of its sessions."""
    async with aclosing(gateways.sessions(number)) as pieces:
        return b"".join([piece async for piece in pieces])


async def beaten(gateways: Gateways, number: int, instance: str, added: bytes = b"") -> dict[int, str]:
    """Instances of all gateways, as a beat found them."""
    return {each.number: each.instance for each in await gateways.beat(number, instance, added)}


def test_sessions_come_in_pieces_and_beats_leave_between_them(scene: Scene) -> None:
    async def go() -> None:
        async with scene.store.gateways() as one, scene.store.gateways() as two:
            added = [os.urandom(PIECE) for _ in range(3)] + [os.urandom(PACKED) for _ in range(40)]
            for each in added:
                await one.beat(200, "one", each)
            found = []
            async with aclosing(two.sessions(200)) as pieces:
                async for piece in pieces:
                    found.append(piece)
                    await two.beat(201 + len(found), "two", b"")
                    assert 201 + len(found) in await beaten(one, 200, "one"), "others see a beat at once"
            assert len(found) > 1 and b"".join(found) == b"".join(added)

    scene.run(go())


def test_a_gateway_is_silent_from_its_beat_on_by_the_store_s_clock(scene: Scene) -> None:
    async def go() -> None:
        async with scene.store.gateways() as one, scene.store.gateways() as two:
            await one.beat(1, "one", b"")
            silent = [0.0]
            while silent[-1] < 0.3:
                (latest,) = (each for each in await two.beat(2, "two", b"") if each.number == 1)
                assert latest.silent > silent[-1]
                silent.append(latest.silent)
            (own,) = (each for each in await one.beat(1, "one", b"") if each.number == 1)
            assert own.silent < silent[-1]

    scene.run(go())


def test_a_number_is_its_first_instance_s(scene: Scene) -> None:
    async def go() -> None:
        mine, others = os.urandom(PACKED), os.urandom(PACKED)
        async with scene.store.gateways() as one, scene.store.gateways() as two:
            assert (await beaten(one, 7, "one"))[7] == "one"
            for _ in range(2):
                assert (await beaten(two, 7, "two", others))[7] == "one"
            assert (await beaten(one, 7, "one", mine))[7] == "one"
            assert (await beaten(two, 7, "two", others))[7] == "one"
            assert await told(two, 7) == mine, "what was refused is not told"
        async with scene.store.gateways() as again:
            assert (await beaten(again, 7, "one"))[7] == "one", "over another connection"

    scene.run(go())


def test_a_beat_that_was_forgotten_is_written_anew(scene: Scene) -> None:
    async def go() -> None:
        async with scene.store.gateways() as one:
            assert (await beaten(one, 9, "one"))[9] == "one"
            scene.server.forget(9)
            assert (await beaten(one, 9, "one", bytes(PACKED)))[9] == "one"
            assert await told(one, 9) == bytes(PACKED)

    scene.run(go())
