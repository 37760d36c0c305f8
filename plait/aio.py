"""`plait.aio`: interfaces for asyncio, by the same client and the same words as the synchronous ones.

    async with plait.aio.attach("wg0") as wg:
        async for event in wg.events(since="now"):
            print(event)

Nothing here blocks the loop: an answer is read in pieces as it comes, and what has no asynchronous form
(starting and ending plaitd) runs in a thread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from plait import plaitd_client, uapi_client
from plait.api import interface as synchronous
from plait.api import provider
from plait.api.connection import connected
from plait.api.events import Event, event_of
from plait.api.interface import InterfaceAddress, Since
from plait.api.tap import Packet, Tap
from plait.api.values import Key, Peer, peer_of, text_of_set
from plait.watch.events import Stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Interface", "attach"]
L = TypeVar("L", bound=provider.Lookup)
A = TypeVar("A", bound=provider.Account)


class Interface:
    """An interface and its engine, as an asynchronous context manager that starts `plaitd` and ends it.

    `plait.Interface` describes arguments and methods; here they are coroutines.
    """

    def __init__(
        self,
        name: str,
        *,
        private_key: Key | None = None,
        listen_port: int = 0,
        addresses: Iterable[InterfaceAddress] = (),
        peers: Iterable[Peer] = (),
        fwmark: int = 0,
        mtu: int = 1420,
    ) -> None:
        """As `plait.Interface`: nothing happens before the `async with` block."""
        self.name = name
        self._path = name
        self._look: provider.Look | None = None
        self._window = 1
        self._take: provider.Take | None = None
        self._twin: synchronous.Interface | None = synchronous.Interface(
            name, private_key=private_key, listen_port=listen_port, addresses=addresses, peers=peers,
            fwmark=fwmark, mtu=mtu,
        )  # fmt: skip

    @classmethod
    def attach(cls, name: str) -> Self:
        """The interface of an engine that runs already; name: the interface's, or the path of its socket.

        Failure at the beginning of the `async with` block when nobody listens.
        """
        made = cls(uapi_client.interface_of(name))
        made._path, made._twin = name, None
        return made

    async def __aenter__(self) -> Self:
        if self._twin is None:
            uapi_client.check_live(self._path)
        else:
            entering = asyncio.ensure_future(asyncio.to_thread(self._twin.__enter__))
            try:
                await asyncio.shield(entering)
            except asyncio.CancelledError:  # the thread goes on, and nobody would end what it starts
                await asyncio.wait([entering])
                if not entering.exception():
                    await asyncio.to_thread(self._twin.__exit__, None, None, None)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._twin is not None:
            await asyncio.to_thread(self._twin.__exit__, kind, error, trace)

    # -- asking ---------------------------------------------------------------------------------

    async def public_key(self) -> Key | None:
        """Of the interface; None while it has no private key."""
        key = (await self._head()).private_key
        return Key(key).public_key if key else None

    async def listen_port(self) -> int:
        """The UDP port in use."""
        return (await self._head()).listen_port

    async def peers(self) -> list[Peer]:
        """All peers, in no order that means anything."""
        return [peer_of(told) for told in (await self._device()).peers]

    async def peer(self, key: Key) -> Peer:
        """One peer, by its public key. Failure when the interface has no such peer."""
        reading = uapi_client.Reading(self._path)
        try:
            await _ask(self._path, uapi_client.question_of(str(key)), reading)
        except uapi_client.Unknown:
            raise uapi_client.unknown(self.name, str(key)) from None
        except (uapi_client.Unanswered, uapi_client.Refused):  # another engine does not know the question
            return peer_of(uapi_client.peer_of(await self._device(), str(key)))
        return peer_of(uapi_client.peer_of(reading.device, str(key)))

    async def counters(self) -> NDArray[np.void]:
        """Every peer's counters in one numpy structured array: `plait.Interface.counters` has its columns."""
        columns = plaitd_client.Columns(self._path)
        try:
            await _ask(self._path, plaitd_client.GET_COUNTERS, columns)
        except (uapi_client.Unanswered, uapi_client.Refused):  # which of several reasons, more questions tell
            return synchronous.table_of(await asyncio.to_thread(plaitd_client.counters, self._path))
        return synchronous.table_of(columns.table())

    def events(self, since: Since = None, *, sessions: bool = False) -> AsyncIterator[Event]:
        """Events as they come, until the engine ends; since and sessions: as for `plait.Interface.events`."""
        return self._followed(synchronous.seconds_of(since), sessions)

    async def _followed(self, after: float, sessions: bool) -> AsyncIterator[Event]:
        stream = await asyncio.to_thread(Stream, self._path, sessions=sessions)
        try:
            while True:
                await _readable(stream.socket)
                fresh = stream.receive()
                if fresh is None and not await asyncio.to_thread(stream.reconnect):
                    return
                for told in fresh or ():
                    if told["time"] >= after:
                        yield event_of(self.name, told)
        finally:
            stream.socket.close()

    def tap(self, peer: Peer | Key | None = None, *, limit: int | None = None) -> AsyncIterator[Packet]:
        """Inner packets as they pass, with the peer whose they are; as `plait.Interface.tap`."""
        return self._tapped(Tap(self.name, peer), limit)

    async def _tapped(self, tap: Tap, limit: int | None) -> AsyncIterator[Packet]:
        try:
            count = 0
            while limit is None or count < limit:
                await _readable(tap.socket)
                while (limit is None or count < limit) and (found := tap.receive()) is not None:
                    if tap.owner(*found) is None and tap.is_stale:
                        tap.owners.learn((await self._device()).peers)
                    if (packet := tap.packet(*found)) is not None:
                        count += 1
                        yield packet
        finally:
            tap.close()

    # -- changing -------------------------------------------------------------------------------

    async def apply(self, add: Iterable[Peer] = (), remove: Iterable[Peer | Key] = ()) -> None:
        """One transaction: all of it happens, or Failure and nothing of it; as `plait.Interface.apply`."""
        await _ask(self._path, synchronous.transaction(add, remove).encode(), None)

    async def configure(
        self, *, private_key: Key | None = None, listen_port: int | None = None, fwmark: int | None = None
    ) -> None:
        """One transaction: what is given is in force then; as `plait.Interface.configure`."""
        head = synchronous.head_of(private_key, listen_port, fwmark)
        await _ask(self._path, text_of_set((), (), head).encode(), None)

    async def add(self, *peers: Peer) -> None:
        """One transaction: these peers are there, as they say."""
        await self.apply(add=peers)

    async def remove(self, *peers: Peer | Key) -> None:
        """One transaction: these peers are gone, with their sessions."""
        await self.apply(remove=peers)

    # -- peers on demand ------------------------------------------------------------------------

    def provider(self, *, window: int = 256, timeout: float = provider.SECONDS) -> Callable[[L], L]:
        """Decorator of the coroutine function that is asked about keys that are no peer's.

            @wg.provider(window=256)
            async def lookup(key: Key, source: Endpoint) -> Peer | Refuse: ...

        key: proven to be the sender's. source: where its initiation came from, not proven. window: lookups at
        once, 1 to 4096. timeout: seconds, behind which a lookup is cancelled. One that raises, is late or
        returns something else is logged (`plait.provider`); its client is asked about with its next try.
        Nothing is asked before `serve_forever`, and the last function that was decorated is asked.
        """
        provider.check(window, timeout)

        def register(lookup: L) -> L:
            self._look, self._window = provider.guarded_look(self.name, lookup, timeout), window
            return lookup

        return register

    def evicted(self, account: A) -> A:
        """Decorator of the coroutine function that takes the totals of on-demand peers that are idle.

            @wg.evicted
            async def account(key: Key, totals: Totals) -> None: ...

        When it returns, the peer is taken away. When it raises or takes longer than 20 s, that is logged, and
        the peer stays and is offered again a minute later. It may be told of a peer twice: see `Totals.life`.
        Without such a function idle peers go, and their totals are lost.
        """
        self._take = provider.guarded_account(self.name, account)
        return account

    async def serve_forever(self) -> None:
        """Be this engine's provider until cancelled; then lookups that run are cancelled, and waited for.

        A kill of the engine's control process ends nothing. Failure when there is no provider, or when the
        engine ends, is not plaitd, or has 8 providers. The first that came is asked, others stand by.
        """
        if self._look is None:
            raise provider.no_provider(self.name)
        await provider.Provider(self._path, self._window, self._look, self._take).serve()

    async def _device(self) -> uapi_client.Device:
        reading = uapi_client.Reading(self._path)
        await _ask(self._path, uapi_client.GET, reading)
        return reading.device

    async def _head(self) -> uapi_client.Device:
        head = _Head(self._path)
        await _ask(self._path, uapi_client.GET, head)
        return head.device


def attach(name: str) -> Interface:
    """The interface of an engine that runs already: `async with attach("wg0") as wg`."""
    return Interface.attach(name)


class _Reader(Protocol):
    """What takes an answer's pairs as they come."""

    def take(self, pairs: Iterable[tuple[str, str]], /) -> None: ...


class _Enough(Exception):
    """No more of the answer is wanted."""


class _Head(uapi_client.Reading):
    """The interface without its peers."""

    def take(self, pairs: Iterable[tuple[str, str]]) -> None:
        for pair in pairs:
            if pair[0] == "public_key":
                raise _Enough
            super().take([pair])


async def _ask(
    name: str, operation: bytes, reader: _Reader | None, patience: float = uapi_client.TIMEOUT
) -> None:
    """Send one operation, and have its answer read. Failure when it is refused, or when
    the engine does not take it within `patience` seconds, or then sends nothing for that time."""
    answer = uapi_client.Answer(name)
    loop = asyncio.get_running_loop()
    with uapi_client.explained(name, f"{name} cannot be asked", patience):
        sock = await connected(name)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it ended it
                async with asyncio.timeout(patience):
                    await loop.sock_sendall(sock, operation)
            while not answer.is_whole:
                try:
                    async with asyncio.timeout(patience):
                        data = await loop.sock_recv(sock, 1 << 16)
                except ConnectionResetError:
                    data = b""
                if not data:
                    break
                pairs = answer.take(data)
                if reader is None:
                    for _ in pairs:
                        pass
                else:
                    reader.take(pairs)
        except _Enough:
            return
        finally:
            sock.close()
    answer.end()


async def _readable(sock: socket.socket) -> None:
    """Until the socket has something to read, or has ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
