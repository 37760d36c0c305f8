"""The loop: all rows once, then what changes, into one engine, for as long as both are there.

Whatever goes wrong before the store was followed for the first time ends the program: it is a mistake in how
it was started. Later the store or the engine may go away and come back: the engine's peers stay as they are,
each new complaint is said once, and the lag grows.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from engine import uapi
from plait import keys, uapi_client
from plait.api.values import change_of, peer_of
from plait.failure import Failure
from plait.sync import rows, state, target
from plait.sync.owners import Owners
from plait.sync.progress import Progress
from plait.sync.store import BATCH, RETRY, Batch, Feed, Row, Store, TooOld, another


def say(text: str) -> None:
    """A line for people."""
    print(f"plait: {text}", file=sys.stderr, flush=True)


class Follower:
    """One store into one engine. Everything of it runs in one asyncio loop."""

    def __init__(self, interface: str, store: Store, remembered: state.State, *, only: bool = False) -> None:
        """only: peers that the store does not have are removed by a snapshot, whoever set them."""
        self.interface = interface
        self.store = store
        self.state = remembered
        self.progress = Progress(interface)
        self.in_force = asyncio.Event()  # all that the store had, once
        self._only = only
        self._owners: Owners | None = None
        self._waiting: dict[bytes, Row] = {}  # rows that have a prefix of another one
        self._said = ""

    async def run(self, *, once: bool = False, fresh: bool = False) -> None:
        """Until cancelled, or with once until all that the store has is in force.

        fresh: forget the position, and to which store it belongs.
        """
        while True:
            try:
                async with self.store.open() as feed:
                    await self._resume(feed, fresh=fresh)
                    fresh = False
                    async with aclosing(self._changes(feed)) as batches:
                        async for batch in batches:
                            await self._take(batch)
                            if batch.is_last and once:
                                return
            except Failure as failure:
                if once or not self.in_force.is_set():
                    raise
                self.say_once(str(failure))
            self.progress.is_reading = False
            await asyncio.sleep(RETRY)

    async def _resume(self, feed: Feed, *, fresh: bool) -> None:
        """Find out what is known of this engine and this store. Failure when it is known of another store."""
        life = self._life()
        if self.state.life != life:  # its peers went with it
            self.state.begin(life, feed.identity)
        elif fresh:
            self.state.move(feed.identity)
        elif self.state.store != feed.identity:
            raise another(self.store.shown)
        if not self.store.is_exclusive:
            self._owners = await self.owners()

    def _life(self) -> str:
        uapi_client.check_live(self.interface)
        return state.life_of(self.interface)

    async def _changes(self, feed: Feed) -> AsyncGenerator[Batch]:
        """What changed, behind all rows where there is no position. Ends when the engine is another one."""
        while True:
            if self.state.is_old:
                await self.read_all(feed)
            assert self.state.position is not None
            try:
                async with aclosing(feed.follow(self.state.position)) as batches:
                    async for batch in batches:
                        if self._life() != self.state.life:
                            return
                        yield batch
            except TooOld:
                self.state.unsettle()

    async def _take(self, batch: Batch) -> None:
        """Apply changes, then remember that they are in force."""
        self.progress.is_reading = True
        await self.apply(batch.rows)
        self.state.commit(batch.position)
        self.progress.position = batch.position
        if batch.is_last:
            self.progress.caught_up()
            self.in_force.set()
            self.say_once("")

    async def apply(self, changed: Sequence[Row]) -> None:
        """Set and remove peers as rows say. Those that are none are refused one by one, and named."""
        if changes := self.checked(changed):
            self.state.note(change.public_key for change in changes if not change.remove)
            await self.set(changes)
            self.state.forget(change.public_key for change in changes if change.remove)

    async def set(self, changes: Sequence[uapi.PeerChange]) -> None:
        """One transaction, as far as the engine takes it."""
        refused = await target.apply(self.interface, changes)
        for change, why in refused:
            self._refuse(keys.encode(change.public_key), why)
        self.progress.applied += len(changes) - len(refused)

    def checked(self, changed: Iterable[Row]) -> list[uapi.PeerChange]:
        """Those that are peers. The others are refused."""
        found = []
        for row in changed:
            try:
                found.append((row, rows.change_to(row)))
            except rows.BadRow as bad:
                self._refuse(row.public_key, str(bad))
        return self._without_overlaps(found)

    def _without_overlaps(self, found: list[tuple[Row, uapi.PeerChange]]) -> list[uapi.PeerChange]:
        """Those of which no prefix is another row's. The others wait until it is given up."""
        if self._owners is None or not found:
            return [change for _, change in found]
        known = {change.public_key for _, change in found}
        found += [(row, rows.change_to(row)) for key, row in self._waiting.items() if key not in known]
        for _, change in found:
            self._owners.release(change)
        changes = []
        for row, change in found:
            try:
                self._owners.take(change)
            except rows.BadRow as bad:
                if self._waiting.get(change.public_key) != row:
                    self._refuse(row.public_key, str(bad))
                    self._waiting[change.public_key] = row
            else:
                self._waiting.pop(change.public_key, None)
                changes.append(change)
        return changes

    def _refuse(self, public_key: str, why: str) -> None:
        self.progress.refused += 1
        step = "Mend the row. A peer of this key stays as it is."
        say(str(Failure(f"{self.interface}: the row of {public_key!s:.60} is refused", why, step)))

    async def read_all(self, feed: Feed) -> None:
        """Have the engine's peers be those of the store; those that did not change go on."""
        self.state.unsettle()
        stale = self.state.owned()
        if self._only:
            stale |= {keys.decode(peer.public_key) for peer in await self.peers()}
        if self._owners is not None:
            self._owners, self._waiting = Owners(), {}
        position = 0
        async with aclosing(feed.snapshot()) as batches:
            async for batch in batches:
                position = batch.position
                self.progress.is_reading = True
                stale.difference_update(keys_of(batch.rows))
                await self.apply(batch.rows)
        gone = [uapi.PeerChange(key, remove=True) for key in stale]
        for begin in range(0, len(gone), BATCH):
            some = gone[begin : begin + BATCH]
            await self.set(some)
            self.state.forget(change.public_key for change in some)
        self.state.commit(position)
        self.progress.snapshots += 1

    async def peers(self) -> list[uapi_client.Peer]:
        """Those that the engine has."""
        return (await asyncio.to_thread(uapi_client.get, self.interface)).peers

    async def owners(self) -> Owners:
        """Whose prefixes are whose in the engine. Half a million peers take seconds: in slices, between which
        a beat may leave (knock.py)."""
        found, peers = Owners(), await self.peers()
        for begin in range(0, len(peers), BATCH):
            for peer in peers[begin : begin + BATCH]:
                found.learn(change_of(peer_of(peer)))
            await asyncio.sleep(0)
        return found

    def say_once(self, text: str) -> None:
        """A complaint that stands is not repeated; that it is over is said as well."""
        if text != self._said:
            say(f"{self.interface}: {text or f'follows {self.store.shown} again'}")
            self._said = text


def keys_of(changed: Iterable[Row]) -> Iterable[bytes]:
    """Those that are keys: a peer whose row is refused for another reason is not stale."""
    for row in changed:
        try:
            yield rows.key_of(row)
        except rows.BadRow:
            continue
