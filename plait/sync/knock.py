"""`plait sync --knock`: gateways of one key tell each other that they live, and whose their sessions are.

Each beats in the store, and adds the sessions that began since: of each the receiver index and four bytes
of its peer's key. A gateway that has not beaten for LEASE is dead for the others. They read its sessions,
find the peers of these keys among their own, and tell their engines (workers/control/neighbours.py), again
with each beat for as long as it is so, and no longer than a session may be used.

Beating and judging are two tasks. To judge a death may take seconds: half a million sessions are read from
the store, their peers are looked for, and the engine is told of them. Our own beats leave meanwhile, else
others would take this gateway for dead. So a store gives sessions in pieces, between which a beat leaves on
the same connection; what computes does so in a thread; and when the engine is slow to answer, a beat leaves
without its new sessions.

All times are of the store's clock. A gateway that is taken for dead and is not costs nothing: data of its
clients does not come here. So LEASE may be short.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Final

from engine import uapi
from plait import plaitd_client, uapi_client
from plait.failure import Failure
from plait.sync import state
from plait.sync.progress import Knocks
from plait.sync.store import KEPT, PACKED, PIECE, RETRY, Gateway, Gateways, Store
from plait.sync.together import together

BEAT: Final = 0.4  # seconds between two beats
LEASE: Final = 1.0  # a gateway that was silent for so much longer than we between two beats is dead
ENGINE_LEASE: Final = uapi.LEASE_MOST  # seconds for which the engine believes what it is told
PREFIX: Final = PACKED - 4  # of them of its peer's public key
SESSIONS_MOST: Final = uapi.SESSIONS_BYTES // uapi.SESSION_BYTES
REFUSED: Final = 10.0  # seconds for which the engine is told no more of a gateway that it refused to hear of


class Knock:
    """Of one interface. Everything of it runs in one asyncio loop."""

    def __init__(
        self,
        interface: str,
        store: Store,
        progress: Knocks,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interface = interface
        self.store = store
        self.progress = progress
        self._say = say
        self._clock = clock
        self._said = ""
        self._is_begun = False  # it has beaten once
        self._cursor = 0  # in the engine's sessions
        self._life = ""
        self._number = 0
        self._instance = ""
        self._fed: set[int] = set()  # gateways that the engine takes for dead
        self._refused: dict[int, float] = {}  # gateways that the engine refused to hear of, until when
        self._latest = float("-inf")  # by the clock: our latest beat
        self._reading: asyncio.Task[tuple[bytes, int]] | None = None  # new sessions that the engine tells
        self._found: list[Gateway] = []  # by our latest beat
        self._gap = 0.0  # seconds between our latest beat and the one before
        self._has_found = asyncio.Event()  # and they are not judged yet

    async def run(self) -> None:
        """Until cancelled. Failure before the first beat ends it: it is a mistake in how it was started."""
        while True:
            try:
                async with self.store.gateways() as gateways:
                    await together(self._beat_on(gateways), self._judge_on(gateways))
            except Failure as failure:
                if not self._is_begun:
                    raise
                self._say_once(str(failure))
            self._cursor = 0  # what was not noted is told anew, with all others
            self._latest = float("-inf")
            self._has_found.clear()
            await asyncio.sleep(RETRY)

    async def _beat_on(self, gateways: Gateways) -> None:
        try:
            while True:
                began = self._clock()
                await self._turn(gateways)
                self._is_begun = True
                await asyncio.sleep(max(began + BEAT - self._clock(), 0))
        finally:
            await self._stop_reading()

    async def _judge_on(self, gateways: Gateways) -> None:
        while True:
            await self._has_found.wait()
            await self._judge_found(gateways)

    async def _turn(self, gateways: Gateways) -> None:
        """One beat."""
        await self._look_at_engine()
        added, cursor = await self._read()
        found = await self._beat(gateways, added)
        # Behind a gap of ours, others may have had the same one with the store. Before the first beat is one.
        self._gap, self._latest = self._clock() - self._latest, self._clock()
        if any(each.number == self._number and each.instance != self._instance for each in found):
            self.progress.is_taken = True
            await self._stop_reading()  # or what it reads from the old cursor on would move the cursor
            self._cursor = 0
            why = f"another gateway beats in {self.store.shown} with the same number"
            step = "Give each gateway a number of its own (gateway in its settings), start its engine anew."
            self._say_once(str(Failure(f"gateway {self._number} is not told of", why, step)))
        else:
            self._cursor = cursor
            self.progress.is_taken = False
            self.progress.sessions += len(added) // PACKED
            self._say_once("")
        self._found = found
        self._has_found.set()

    async def _judge_found(self, gateways: Gateways) -> None:
        """Judge each of those that our latest beat has found; what is found meanwhile is judged next."""
        self._has_found.clear()
        found, gap = self._found, self._gap
        for each in found:
            if each.number != self._number and self._refused.get(each.number, 0.0) <= self._clock():
                least = LEASE if each.number in self._fed else LEASE + gap
                try:
                    await self._judge(gateways, each, least < each.silent < KEPT)
                except uapi_client.Refused as refused:
                    # For good, as of a number that has no room in indices, or while others fill its table.
                    self._complain(each.number, str(refused))

    async def _look_at_engine(self) -> None:
        """Another life of the engine has other sessions, and perhaps another number."""
        uapi_client.check_live(self.interface)
        life = state.life_of(self.interface)
        if life == self._life:
            return
        told = await asyncio.to_thread(plaitd_client.engine, self.interface)
        if not told.get("gateway"):
            why = "its engine has no number among gateways"
            settings = f"/etc/plait/{uapi_client.interface_of(self.interface)}.toml"
            step = f"Set gateway = 1 in {settings}, 2 on the next one, and start it anew."
            raise Failure(f"{self.interface} cannot knock", why, step)
        await self._stop_reading()
        self._life, self._number, self._cursor = life, told["gateway"]["number"], 0
        self._fed, self._refused = set(), {}
        self._instance = instance_of(life)

    async def _read(self) -> tuple[bytes, int]:
        """New sessions, and the cursor behind them. None yet when the engine takes longer than to the next
        beat: what it answers goes with a later one."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._new_sessions(self._cursor))
        await asyncio.wait([self._reading], timeout=BEAT)
        if not self._reading.done():
            return b"", self._cursor
        reading, self._reading = self._reading, None
        return reading.result()

    async def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _new_sessions(self, cursor: int) -> tuple[bytes, int]:
        """Since a cursor, as the store has them; and the next cursor."""

        def asked() -> tuple[bytes, int]:
            rows, latest = plaitd_client.sessions(self.interface, cursor)
            return packed(rows), latest

        return await asyncio.to_thread(asked)

    async def _beat(self, gateways: Gateways, added: bytes) -> list[Gateway]:
        """In pieces, when there are many new sessions."""
        found: list[Gateway] = []
        for begin in range(0, max(len(added), 1), PIECE):
            found = await gateways.beat(self._number, self._instance, added[begin : begin + PIECE])
            self.progress.beats += 1
        return found

    async def _judge(self, gateways: Gateways, each: Gateway, is_dead: bool) -> None:
        """Tell the engine."""
        number = each.number
        if not is_dead:
            if number in self._fed:
                self._fed.discard(number)
                await self._tell(number, 0)
        elif number not in self._fed or not await self._tell(number, ENGINE_LEASE):
            latest: dict[bytes, bytes] = {}
            async with aclosing(gateways.sessions(number)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(add_packed, latest, piece)
            rows = await asyncio.to_thread(self._resolved, latest)
            await self._tell(number, ENGINE_LEASE, rows)
            self._fed.add(number)
        self.progress.dead = len(self._fed)

    def _complain(self, number: int, text: str) -> None:
        """Once of each gateway, in one life of the engine. To ask costs a reading of its sessions and of all
        peers, so it is not done with each beat."""
        if number not in self._refused:
            self._say(text)
        self._refused[number] = self._clock() + REFUSED

    async def _tell(self, number: int, lease: int, rows: bytes | None = None) -> bool:
        """False when the engine does not know its sessions (any more)."""
        told = plaitd_client.tell_of_neighbour
        return await asyncio.to_thread(told, self.interface, number, lease, rows) is not None

    def _resolved(self, latest: Mapping[bytes, bytes]) -> bytes:
        """Sessions as the engine takes them: those whose peers it has. latest: as of add_packed."""
        wanted, keys = set(latest.values()), {}
        for key in plaitd_client.public_keys(self.interface):
            if key[:PREFIX] in wanted:
                # Two peers whose keys begin alike: it cannot be said whose it is, and neither gets a knock.
                keys[key[:PREFIX]] = b"" if key[:PREFIX] in keys else key
        rows = [index + keys[prefix] for index, prefix in latest.items() if keys.get(prefix)]
        return b"".join(rows[-SESSIONS_MOST:])

    def _say_once(self, text: str) -> None:
        """A complaint that stands is not repeated; that it is over is said as well."""
        if text != self._said:
            self._say(text or f"{self.interface}: gateway {self._number} is told of again")
            self._said = text


def instance_of(life: str) -> str:
    """A short name for one life of one engine. Containers may share a boot, and the numbers of their socket
    files may be alike, but they do not share a network namespace as well."""
    place = f"{life} {os.stat('/proc/self/ns/net').st_ino} {os.uname().nodename}"
    return hashlib.blake2s(place.encode(), digest_size=8).hexdigest()


def add_packed(latest: dict[bytes, bytes], piece: bytes) -> None:
    """Sessions of the store, the beginning of a key by its index. Of an index the latest one counts."""
    for i in range(0, len(piece), PACKED):
        latest[piece[i : i + 4]] = piece[i + 4 : i + PACKED]


def packed(rows: bytes) -> bytes:
    """Sessions as the store has them: index and the beginning of a key, which stand side by side."""
    size = uapi.SESSION_BYTES
    return b"".join(rows[i : i + PACKED] for i in range(0, len(rows), size))
