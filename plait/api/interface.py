"""One interface: what is asked of its engine and changed there, synchronously. plait/aio.py is its twin."""

from __future__ import annotations

import asyncio
import ipaddress
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from engine import uapi
from plait import plaitd_client, uapi_client
from plait.api import provider
from plait.api.engine import Engine
from plait.api.events import Event, event_of
from plait.api.tap import Packet, Tap
from plait.api.values import Endpoint, Key, Peer, Refuse, Totals, peer_of, text_of_set
from plait.failure import Failure
from plait.watch.events import Stream, parse_since

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Since: TypeAlias = str | datetime | timedelta | None
InterfaceAddress: TypeAlias = str | ipaddress.IPv4Interface | ipaddress.IPv6Interface
L = TypeVar("L", bound=Callable[[Key, Endpoint], Peer | Refuse])
A = TypeVar("A", bound=Callable[[Key, Totals], None])


@dataclass(frozen=True, slots=True)
class Start:
    """An interface as it is to be when its engine runs."""

    head: uapi.Set
    peers: tuple[Peer, ...]
    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]
    mtu: int


class Interface:
    """An interface and its engine, as a context manager that starts `plaitd` and ends it.

    The engine ends with the `with` block, and with the program, however that ends; the kernel takes the
    interface, its addresses and routes with it. `attach` is for an engine that runs already.

        with Interface("wg0", private_key=Key.generate(), addresses=["10.0.0.1/24"]) as wg:
            wg.add(Peer(key, allowed_ips=[ip_network("10.0.0.2/32")]))

    Routes beyond the networks of its own addresses are the caller's to make.

    Every method raises Failure when the engine cannot be asked, or refuses.
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
        """Nothing happens before the `with` block. Needs root, or CAP_NET_ADMIN.

        listen_port: UDP, 0 for any that is free. addresses: of the interface, with their prefix length.
        fwmark: mark of what the engine sends, 0 for none. mtu: bytes of the largest packet inside.
        """
        self.name = name
        self._path = name
        try:
            made = tuple(ipaddress.ip_interface(address) for address in addresses)
        except ValueError as error:
            step = "Write an address with its prefix length: 10.0.0.1/24."
            raise Failure(f"{name} cannot be set up", str(error), step) from error
        head = head_of(private_key, listen_port or None, fwmark or None)
        self._start: Start | None = Start(head, tuple(peers), made, mtu)
        self._engine: Engine | None = None
        self._lookup: Callable[[Key, Endpoint], Peer | Refuse] | None = None
        self._window, self._timeout = 1, provider.SECONDS
        self._account: Callable[[Key, Totals], None] | None = None
        self._end: Callable[[], object] | None = None  # of a serve_forever
        self._lock = threading.Lock()

    @classmethod
    def attach(cls, name: str) -> Self:
        """The interface of an engine that runs already, of any program that speaks the protocol of wg(8).

        name: the interface's, or the path of its socket. Its engine goes on after a `with` block.
        Failure when nobody listens.
        """
        uapi_client.check_live(name)
        made = cls(uapi_client.interface_of(name))
        made._path, made._start = name, None
        return made

    def __enter__(self) -> Self:
        if self._start is not None:
            self._engine = Engine(self.name)
            self._engine.start()
            try:
                uapi_client.change(self._path, [text_of_set(self._start.peers, (), self._start.head)])
                _set_up(self.name, self._start)
            except BaseException:
                self._engine.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            try:
                engine.stop()
            except Failure:
                if error is None:  # else that one is what the caller wants to know
                    raise

    # -- asking ---------------------------------------------------------------------------------

    @property
    def public_key(self) -> Key | None:
        """Of the interface; None while it has no private key."""
        key = uapi_client.head(self._path).private_key
        return Key(key).public_key if key else None

    @property
    def listen_port(self) -> int:
        """The UDP port in use."""
        return uapi_client.head(self._path).listen_port

    def peers(self) -> list[Peer]:
        """All peers, in no order that means anything. Of 100,000 this takes seconds: see `counters`."""
        return [peer_of(told) for told in uapi_client.get(self._path).peers]

    def peer(self, key: Key) -> Peer:
        """One peer, by its public key. Failure when the interface has no such peer."""
        return peer_of(uapi_client.get_peer(self._path, str(key)))

    def counters(self) -> NDArray[np.void]:
        """Every peer's counters in one numpy structured array, which is the caller's: a copy.

        Columns: `key` (32 bytes, V32; `Key(bytes(row["key"]))`), `rx_bytes` and `tx_bytes` (uint64, from and
        to the peer, with WireGuard's own headers), `handshake` (datetime64[ns], UTC; NaT: never). Failure
        when the engine is not plaitd.
        """
        return table_of(plaitd_client.counters(self._path))

    def events(
        self, since: Since = None, *, follow: bool = True, sessions: bool = False
    ) -> Iterator[Event]:
        """Events as they come, until the engine ends; the iterator waits for the next one.

        since: None for all that the engine remembers, "now", an age (timedelta, or as "10m"), or a time
        (datetime, or in ISO 8601). follow: False ends behind what is remembered. sessions: SessionBegan and
        SessionEnded come for each session, however many there are; else as docs/events.md says of a flood.
        Failure when the engine is not plaitd.
        """
        after = seconds_of(since)
        if follow:
            return self._followed(Stream(self._path, sessions=sessions), after)
        told = plaitd_client.events(self._path)
        return iter([event_of(self.name, each) for each in told if each["time"] >= after])

    def _followed(self, stream: Stream, after: float) -> Iterator[Event]:
        try:
            while True:
                waiting = select.poll()
                waiting.register(stream.socket, select.POLLIN)
                waiting.poll()
                fresh = stream.receive()
                if fresh is None and not stream.reconnect():
                    return
                yield from (event_of(self.name, each) for each in fresh or () if each["time"] >= after)
        finally:
            stream.socket.close()

    def tap(self, peer: Peer | Key | None = None, *, limit: int | None = None) -> Iterator[Packet]:
        """Inner packets as they pass, decrypted, with the peer whose they are.

        peer: whose packets are wanted, None for everybody's. limit: so many packets, then it ends.
        Needs CAP_NET_RAW, in the network namespace of the interface. A program that is slow misses packets:
        the kernel keeps 8 MiB of them.
        """
        return self._tapped(Tap(self.name, peer), limit)

    def _tapped(self, tap: Tap, limit: int | None) -> Iterator[Packet]:
        try:
            count = 0
            while limit is None or count < limit:
                waiting = select.poll()
                waiting.register(tap.socket, select.POLLIN)
                waiting.poll()
                while (limit is None or count < limit) and (found := tap.receive()) is not None:
                    if tap.owner(*found) is None and tap.is_stale:
                        tap.owners.learn(uapi_client.get(self._path).peers)
                    if (packet := tap.packet(*found)) is not None:
                        count += 1
                        yield packet
        finally:
            tap.close()

    # -- changing -------------------------------------------------------------------------------

    def apply(self, add: Iterable[Peer] = (), remove: Iterable[Peer | Key] = ()) -> None:
        """One transaction: all of it happens, or Failure and nothing of it.

        add: peers that are then as they say; one that is there already keeps its session and, unless an
        endpoint is given, the place where it was heard. An allowed IP moves here from whichever peer had it.
        remove: peers that go first, by themselves or by their public keys; one that is not there is no error.
        """
        uapi_client.change(self._path, [transaction(add, remove)])

    def configure(
        self, *, private_key: Key | None = None, listen_port: int | None = None, fwmark: int | None = None
    ) -> None:
        """One transaction: what is given is in force then, and None leaves a thing as it is.

        listen_port: 0 for any that is free. fwmark: 0 for none.
        """
        uapi_client.change(self._path, [text_of_set((), (), head_of(private_key, listen_port, fwmark))])

    def add(self, *peers: Peer) -> None:
        """One transaction: these peers are there, as they say."""
        self.apply(add=peers)

    def remove(self, *peers: Peer | Key) -> None:
        """One transaction: these peers are gone, with their sessions."""
        self.apply(remove=peers)

    # -- peers on demand ------------------------------------------------------------------------

    def provider(self, *, window: int = 16, timeout: float = provider.SECONDS) -> Callable[[L], L]:
        """Decorator of the function that is asked about keys that are no peer's.

            @wg.provider(window=16)
            def lookup(key: Key, source: Endpoint) -> Peer | Refuse: ...

        key: proven to be the sender's. source: where its initiation came from, not proven. window: lookups at
        once, 1 to 4096, each in a thread of its own. timeout: seconds, behind which nobody waits for a
        lookup, though its thread goes on. One that raises, is late or returns something else is logged
        (`plait.provider`); its client is asked about with its next try. Nothing is asked before
        `serve_forever`, and the last function that was decorated is asked.
        """
        provider.check(window, timeout)

        def register(lookup: L) -> L:
            self._lookup, self._window, self._timeout = lookup, window, timeout
            return lookup

        return register

    def evicted(self, account: A) -> A:
        """Decorator of the function that takes the totals of on-demand peers that are idle.

            @wg.evicted
            def account(key: Key, totals: Totals) -> None: ...

        When it returns, the peer is taken away. When it raises or takes longer than 20 s, that is logged, and
        the peer stays and is offered again a minute later. It may be told of a peer twice: see `Totals.life`.
        Without such a function idle peers go, and their totals are lost.
        """
        self._account = account
        return account

    def serve_forever(self) -> None:
        """Be this engine's provider until `shutdown`, or an exception in this thread (KeyboardInterrupt).

        A kill of the engine's control process ends nothing. Failure when there is no provider, or when the
        engine ends, is not plaitd, or has 8 providers. The first that came is asked, others stand by.
        """
        if self._lookup is None:
            raise provider.no_provider(self.name)
        pool = ThreadPoolExecutor(self._window, f"provider of {self.name}")
        try:
            asyncio.run(self._serve(pool, self._lookup, self._account))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def shutdown(self) -> None:
        """End `serve_forever`, from another thread or from a lookup. Nothing happens when nobody serves."""
        with self._lock:
            if self._end is not None:
                self._end()

    async def _serve(
        self, pool: ThreadPoolExecutor, lookup: Callable[[Key, Endpoint], Peer | Refuse],
        account: Callable[[Key, Totals], None] | None,
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()

        async def look(key: Key, source: Endpoint) -> Peer | Refuse:
            return await loop.run_in_executor(pool, lookup, key, source)

        async def take(key: Key, totals: Totals) -> None:
            if account is not None:
                await loop.run_in_executor(pool, account, key, totals)

        guarded = provider.guarded_look(self.name, look, self._timeout)
        taking = provider.guarded_account(self.name, take)
        serving = asyncio.ensure_future(provider.Provider(self._path, self._window, guarded, taking).serve())
        ended = asyncio.Event()
        with self._lock:
            self._end = lambda: loop.call_soon_threadsafe(ended.set)
        ending = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            with self._lock:
                self._end = None
            for each in (serving, ending):
                each.cancel()
            await asyncio.gather(serving, ending, return_exceptions=True)


def attach(name: str) -> Interface:
    """The interface of an engine that runs already: `Interface.attach`."""
    return Interface.attach(name)


# --- what the asynchronous twin shares ------------------------------------------------------------


def head_of(private_key: Key | None, listen_port: int | None, fwmark: int | None) -> uapi.Set:
    """What a `set` says of the interface itself; None: nothing. Failure for what no engine takes."""
    for what, value, most in (("UDP port", listen_port, 0xFFFF), ("mark", fwmark, 0xFFFFFFFF)):
        if value is not None and not 0 <= value <= most:
            raise Failure(f"the {what} {value} is refused", f"there are 0 to {most}", "Give one of these.")
    return uapi.Set(bytes(private_key) if private_key else None, listen_port, fwmark)


def transaction(add: Iterable[Peer], remove: Iterable[Peer | Key]) -> str:
    """The text of one `set` operation that adds and removes peers."""
    gone = [each.public_key if isinstance(each, Peer) else each for each in remove]
    return text_of_set(list(add), gone, uapi.Set())


def table_of(rows: NDArray[np.void]) -> NDArray[np.void]:
    """The columns that `counters` promises, in the memory of those that came."""
    import numpy as np

    times = rows["handshake"]
    times[times == 0] = np.iinfo(np.int64).min  # NaT
    columns = [("key", "V32"), ("rx_bytes", "<u8"), ("tx_bytes", "<u8"), ("handshake", "<M8[ns]")]
    return rows.view(np.dtype(columns))


def seconds_of(since: Since) -> float:
    """Seconds since 1970 from which on events are told."""
    match since:
        case None:
            return 0.0
        case str():
            return parse_since(since, time.time())
        case timedelta():
            return time.time() - since.total_seconds()
        case _:
            return since.timestamp()


def _set_up(name: str, start: Start) -> None:
    """Addresses and MTU, and up."""
    commands = [f"address add {address} dev {name}" for address in start.addresses]
    commands.append(f"link set dev {name} mtu {start.mtu} up")
    try:
        text = "\n".join(commands) + "\n"
        done = subprocess.run(["ip", "-batch", "-"], input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        why, step = f"ip: {error.strerror}", "Install iproute2."
        raise Failure(f"{name} cannot get its addresses", why, step) from error
    if done.returncode:
        why = done.stderr.partition("\n")[0]
        raise Failure(f"{name} cannot get its addresses", why, "Mend that address, or the MTU.")


