"""Peers of a store that are set when they first come: the engine asks about unknown keys (docs/on-demand.md).

Nothing is read as a whole. Changes are followed for the peers that are there, so that a row that is deleted
takes its peer away at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from engine import uapi
from plait import keys
from plait.api.provider import Answer, Provider, Question
from plait.api.values import Refuse
from plait.failure import Failure
from plait.sync.follower import Follower, keys_of
from plait.sync.state import State
from plait.sync.store import BATCH, RETRY, Feed, Row, Store
from plait.sync.together import together

REMEMBERED = 65536  # keys that were refused, as many as an engine remembers


class Lookups:
    """A connection for lookups alone, since the other one waits for changes. Opened again when it broke."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feed: Feed | None = None
        self._opened = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def rows(self, public_keys: Sequence[str]) -> list[Row]:
        """As Feed.rows."""
        async with self._lock:
            if self._feed is None:
                self._feed = await self._opened.enter_async_context(self._store.open())
        feed = self._feed
        try:
            return await feed.rows(public_keys)
        except Failure:
            if self._feed is feed:
                await self.close()
            raise

    async def close(self) -> None:
        """Until the next lookup."""
        self._feed = None
        await self._opened.aclose()


class OnDemand(Follower):
    """One store, asked by one engine."""

    def __init__(self, interface: str, store: Store, remembered: State, window: int, ttl: int) -> None:
        """window: questions that are open at once. ttl: seconds for which an unknown key is refused."""
        super().__init__(interface, store, remembered)
        self._window, self._ttl = window, ttl
        self._lookups = Lookups(store)
        self._open: set[bytes] = set()  # keys that are asked about
        self._changed: set[bytes] = set()  # of these, those whose row has changed since
        self._refused: dict[bytes, None] = {}  # keys that the engine does not ask about for a while

    async def run(self, *, once: bool = False, fresh: bool = False) -> None:
        """Until cancelled."""
        try:
            await together(super().run(fresh=fresh), self._serve())
        finally:
            await self._lookups.close()

    async def _serve(self) -> None:
        """Answer. An engine that ends is awaited by the follower's own rules."""
        await self.in_force.wait()
        while True:
            try:
                await Provider(self.interface, self._window, self._look, settled=self._settled).serve()
            except Failure as failure:
                self.say_once(str(failure))
            await asyncio.sleep(RETRY)

    async def _look(self, question: Question) -> Answer:
        key = question.public_key
        self._open.add(key)
        try:
            found = self.checked(await self._lookups.rows([keys.encode(key)]))
        except Failure as failure:
            self.say_once(str(failure))
            return Refuse(0)
        if found:
            found[0].on_demand = 1
            return found[0]
        self._refused[key] = None
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]
        return Refuse(self._ttl)

    async def _settled(self, key: bytes) -> None:
        """What changed while the question was open was for a peer that was not there yet."""
        self._open.discard(key)
        if key not in self._changed:
            return
        self._changed.discard(key)
        try:
            await self._renew([key], self._lookups)
        except Failure as failure:
            self.say_once(str(failure))

    async def apply(self, changed: Sequence[Row]) -> None:
        """Only what is there changes; and keys that were refused are asked about from now on."""
        self._changed.update(self._open.intersection(keys_of(changed)))
        changes = self.checked(changed)
        for change in changes:
            if not change.remove:
                change.update_only = change.public_key not in self._refused
                change.on_demand = None if change.update_only else 1
                self._refused.pop(change.public_key, None)
        await self.set(changes)

    async def read_all(self, feed: Feed) -> None:
        """Renew the peers that were set on demand; of all others nothing is known."""
        self.state.unsettle()
        position = await feed.position()
        peers = (peer for peer in await self.peers() if peer.others.get("on_demand") == "1")
        present = [keys.decode(peer.public_key) for peer in peers]
        for begin in range(0, len(present), BATCH):
            await self._renew(present[begin : begin + BATCH], feed)
        self.state.commit(position)

    async def _renew(self, present: Sequence[bytes], source: Feed | Lookups) -> None:
        """These are as their rows say, or gone with them."""
        found = await source.rows([keys.encode(key) for key in present])
        gone = set(present).difference(keys_of(found))
        await self.apply(found)
        await self.set([uapi.PeerChange(key, remove=True) for key in gone])
