"""`plait sync --knock`: gateways of one key tell each other that they live, and whose their sessions are.

Each beats in the store, and adds the sessions that began since: of each the receiver index and four bytes
of its peer's key. A gateway that has not beaten for LEASE is dead for the others. They read its sessions,
find the peers of these keys among their own, and tell their engines (workers/control/neighbours.py), again
with each beat for as long as it is so, and no longer than a session may be used.

All times are of the store's clock. A gateway that is taken for dead and is not costs nothing: data of its
clients does not come here. So LEASE may be short.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from typing import Final

from engine import uapi
from plait import uapi_client
from plait.failure import Failure
from plait.sync import state
from plait.sync.progress import Knocks
from plait.sync.store import RETRY, Gateway, Gateways, Store

BEAT: Final = 0.4  # seconds between two beats
LEASE: Final = 1.0  # a gateway that was silent for so much longer than we between two beats is dead
KNOWN: Final = 200.0  # and for longer than that, none of its sessions is used any more
ENGINE_LEASE: Final = uapi.LEASE_MOST  # seconds for which the engine believes what it is told
PACKED: Final = 8  # bytes of a session in the store
PREFIX: Final = PACKED - 4  # of them of its peer's public key
SESSIONS_MOST: Final = uapi.SESSIONS_BYTES // uapi.SESSION_BYTES
PIECE: Final = 1 << 20  # bytes of one beat at most
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

    async def run(self) -> None:
        """Until cancelled. Failure before the first beat ends it: it is a mistake in how it was started."""
        while True:
            try:
                async with self.store.gateways() as gateways:
                    while True:
                        began = self._clock()
                        await self._turn(gateways)
                        self._is_begun = True
                        await asyncio.sleep(max(began + BEAT - self._clock(), 0))
            except Failure as failure:
                if not self._is_begun:
                    raise
                self._say_once(str(failure))
            self._cursor = 0  # what was not noted is told anew, with all others
            self._latest = float("-inf")
            await asyncio.sleep(RETRY)

    async def _turn(self, gateways: Gateways) -> None:
        await self._look_at_engine()
        rows, cursor = await self._new_sessions()
        found = await self._beat(gateways, packed(rows))
        # Behind a gap of ours, others may have had the same one with the store. Before the first beat is one.
        gap, self._latest = self._clock() - self._latest, self._clock()
        if any(each.number == self._number and each.instance != self._instance for each in found):
            self.progress.is_taken = True
            self._cursor = 0
            why = f"another gateway beats in {self.store.shown} with the same number"
            step = "Give each gateway a number of its own (gateway in its settings), start its engine anew."
            self._say_once(str(Failure(f"gateway {self._number} is not told of", why, step)))
        else:
            self._cursor = cursor
            self.progress.is_taken = False
            self.progress.sessions += len(rows) // uapi.SESSION_BYTES
            self._say_once("")
        for each in found:
            if each.number != self._number and self._refused.get(each.number, 0.0) <= self._clock():
                least = LEASE if each.number in self._fed else LEASE + gap
                try:
                    await self._judge(gateways, each, least < each.silent < KNOWN)
                except uapi_client.Refused as refused:
                    # For good, as of a number that has no room in indices, or while others fill its table.
                    self._complain(each.number, str(refused))

    async def _look_at_engine(self) -> None:
        """Another life of the engine has other sessions, and perhaps another number."""
        uapi_client.check_live(self.interface)
        life = state.life_of(self.interface)
        if life == self._life:
            return
        told = await asyncio.to_thread(uapi_client.engine, self.interface)
        if not told.get("gateway"):
            why = "its engine has no number among gateways"
            settings = f"/etc/plait/{uapi_client.interface_of(self.interface)}.toml"
            step = f"Set gateway = 1 in {settings}, 2 on the next one, and start it anew."
            raise Failure(f"{self.interface} cannot knock", why, step)
        self._life, self._number, self._cursor = life, told["gateway"]["number"], 0
        self._fed, self._refused = set(), {}
        self._instance = instance_of(life)

    async def _new_sessions(self) -> tuple[bytes, int]:
        return await asyncio.to_thread(uapi_client.sessions, self.interface, self._cursor)

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
            told = await gateways.sessions(number)
            rows = await asyncio.to_thread(self._resolved, told)
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
        told = uapi_client.tell_of_neighbour
        return await asyncio.to_thread(told, self.interface, number, lease, rows) is not None

    def _resolved(self, told: bytes) -> bytes:
        """Sessions as the engine takes them: those whose peers it has. Of an index the latest one counts."""
        latest = {told[i : i + 4]: told[i + 4 : i + PACKED] for i in range(0, len(told), PACKED)}
        wanted, keys = set(latest.values()), {}
        for key in uapi_client.public_keys(self.interface):
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


def packed(rows: bytes) -> bytes:
    """Sessions as the store has them: index and the beginning of a key, which stand side by side."""
    size = uapi.SESSION_BYTES
    return b"".join(rows[i : i + PACKED] for i in range(0, len(rows), size))
