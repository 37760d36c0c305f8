"""`plait sync --knock`, without a store and an engine: what is asked of both, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from plait import uapi_client
from plait.sync import knock
from plait.sync.knock import Knock
from plait.sync.progress import Knocks
from plait.sync.store import Gateway
from tests.support.waiting import PATIENCE


class Gateways:
    """Another gateway, 2, that is silent. Counts how often its sessions are read."""

    def __init__(self) -> None:
        self.silent = 0.0
        self.read = 0
        self.beats: list[bytes] = []

    async def beat(self, number: int, instance: str, added: bytes) -> list[Gateway]:
        self.beats.append(added)
        return [Gateway(number, instance, 0.0), Gateway(2, "another", self.silent)]

    async def sessions(self, number: int) -> AsyncGenerator[bytes]:
        self.read += 1
        yield bytes(range(8))

    async def next_beat(self) -> None:
        """Behind it, one more has left."""
        beats = len(self.beats)
        await reached(lambda: len(self.beats) > beats, "a beat leaves meanwhile")


async def reached(condition: Callable[[], bool], what: str) -> None:
    """Wait within one loop for something that another task of it does."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE:.0f} s: {what}") from None


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

    async def _new_sessions(self, cursor: int) -> tuple[bytes, int]:
        return b"", 7

    def _resolved(self, latest: object) -> bytes:
        return b""

    async def _tell(self, number: int, lease: int, rows: bytes | None = None) -> bool:
        self.told.append(number)
        raise uapi_client.Refused("what is told of gateway 2 is refused", "there is no room", "Wait.")

    async def turns(self, gateways: Gateways, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            await self._turn(gateways)
            await self._judge_found(gateways)
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


class Slow(Gateways):
    """A store whose every answer about a dead gateway's sessions comes behind a beat of ours. It is the store
    itself, too."""

    shown = "slow"
    is_exclusive = True

    @asynccontextmanager
    async def gateways(self) -> AsyncIterator[Slow]:
        yield self

    def open(self) -> Any:
        raise NotImplementedError

    async def sessions(self, number: int) -> AsyncGenerator[bytes]:
        for i in range(3):
            await self.next_beat()
            yield bytes((i, 0, 0, 0)) + b"key."
        self.read += 1


class Busy(Knock):
    """Gateway 1, whose engine answers each question behind a beat only."""

    def __init__(self, gateways: Slow) -> None:
        self.gateways = gateways
        self.told: list[tuple[int, int, bytes | None]] = []
        super().__init__("wg0", gateways, Knocks(), lambda text: None)
        self._number, self._instance = 1, "we"

    async def _look_at_engine(self) -> None:
        pass

    async def _new_sessions(self, cursor: int) -> tuple[bytes, int]:
        await self.gateways.next_beat()
        return b"sessions", cursor + 1

    def _resolved(self, latest: object) -> bytes:
        assert isinstance(latest, dict)
        return b"".join(index + key for index, key in latest.items())

    async def _tell(self, number: int, lease: int, rows: bytes | None = None) -> bool:
        await self.gateways.next_beat()
        self.told.append((number, lease, rows))
        return True


def test_beats_leave_while_a_death_is_judged_and_an_engine_is_slow() -> None:
    """Half a million sessions of a dead gateway must not make others take this one for dead."""

    async def go() -> None:
        gateways = Slow()
        gateways.silent = 50.0
        one = Busy(gateways)
        running = asyncio.create_task(one.run())
        await reached(lambda: running.done() or len(one.told) > 1, "it is told, and its lease is renewed")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        told = b"".join(bytes((i, 0, 0, 0)) + b"key." for i in range(3))
        assert one.told[:2] == [(2, knock.ENGINE_LEASE, told), (2, knock.ENGINE_LEASE, None)]
        assert gateways.read == 1
        assert gateways.beats[0] == b"" and b"sessions" in gateways.beats, "new ones go with a later beat"

    asyncio.run(go())


class Taken(Gateways):
    """A store in which somebody else beats with our number, until he ends."""

    is_taken = True

    async def beat(self, number: int, instance: str, added: bytes) -> list[Gateway]:
        self.beats.append(added)
        return [Gateway(number, "somebody else" if self.is_taken else instance, 0.0)]


class Asked(Refused):
    """Its engine answers late, and notes from which cursor on it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Slow()
        self.cursors: list[int] = []
        self.may_answer = asyncio.Event()

    async def _new_sessions(self, cursor: int) -> tuple[bytes, int]:
        self.cursors.append(cursor)
        await self.may_answer.wait()
        return b"", cursor + 1


def test_all_sessions_are_told_anew_once_the_number_is_free_though_the_engine_was_slow() -> None:
    async def go() -> None:
        one, gateways = Asked(), Taken()
        one._cursor = 5
        await one._turn(gateways)
        assert one.progress.is_taken
        one.may_answer.set()
        gateways.is_taken = False
        await one._turn(gateways)
        assert one.cursors == [5, 0] and not one.progress.is_taken

    asyncio.run(go())
