"""`plait sync --knock`, without a store and an engine: what is asked of both, and how often."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from plait import uapi_client
from plait.sync import knock
from plait.sync.knock import Knock
from plait.sync.progress import Knocks
from plait.sync.store import Gateway


class Gateways:
    """Another gateway, 2, that is silent. Counts how often its sessions are read."""

    def __init__(self) -> None:
        self.silent = 0.0
        self.read = 0

    async def beat(self, number: int, instance: str, added: bytes) -> list[Gateway]:
        return [Gateway(number, instance, 0.0), Gateway(2, "another", self.silent)]

    async def sessions(self, number: int) -> bytes:
        self.read += 1
        return bytes(range(8))


class Refused(Knock):
    """Gateway 1, whose engine refuses to hear of another one."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[int] = []
        self.said: list[str] = []
        super().__init__("wg0", cast("Any", None), Knocks(), self.said.append, lambda: self.now)
        self._number, self._instance = 1, "we"

    async def _look_at_engine(self) -> None:
        pass

    async def _new_sessions(self) -> tuple[bytes, int]:
        return b"", 7

    def _resolved(self, told: bytes) -> bytes:
        return b""

    async def _tell(self, number: int, lease: int, rows: bytes | None = None) -> bool:
        self.told.append(number)
        raise uapi_client.Refused("what is told of gateway 2 is refused", "there is no room", "Wait.")

    async def turns(self, gateways: Gateways, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            await self._turn(gateways)
            self.now += knock.BEAT


def test_an_engine_that_refuses_is_not_asked_with_each_beat() -> None:
    """Each time costs a reading of all sessions of the dead gateway, and of all peers."""
    one, gateways = Refused(), Gateways()

    async def go() -> None:
        await one.turns(gateways, 2)
        assert not one.told
        gateways.silent = 5.0
        await one.turns(gateways, 4)
        assert (gateways.read, len(one.told), len(one.said)) == (1, 1, 1)
        await one.turns(gateways, 2 * knock.REFUSED)
        assert gateways.read == len(one.told) == 3, "it may have room by then"
        assert len(one.said) == 1

    asyncio.run(go())
