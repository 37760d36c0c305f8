"""`plait routes`: a kernel route for each allowed IP of each connected peer, for routing daemons to announce.

Events are the bell: behind each one the handshakes of all peers are looked at, at once and then twice a
second until it is quiet, since events are rate-limited by kind and one may stand for many. Once in RENEW
seconds everything is read anew: allowed IPs that changed without a session, and what others did to the
routes. A look is followed by a rest of several times as long as it took.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from plait import keys, lock, plaitd_client, uapi_client
from plait.failure import Failure
from plait.fleet import drain, ready
from plait.fleet.kernel_routes import KernelRoutes, Prefix, Route, prefix_of
from plait.fleet.sessions import AGED, Sessions
from plait.signals import interruptible
from plait.watch.events import Stream
from workers.control.events import Event
from workers.supervisor.notify import ServiceManager

LOCKS: Final = Path("/run/plait/routes")
TURN: Final = 0.5  # seconds between two looks at what rings no bell: a drain, the end of a session
QUIET: Final = 4.0  # seconds behind an event in which others of its kind may have been suppressed
RENEW: Final = 30.0
RETRY: Final = 1.0
PAUSE: Final = 0.1  # between two looks, at least
REST: Final = 5  # times as long as a look took
ASKED: Final = 64  # peers that are asked about one by one; of more, all are read
READY: Final = b"ready"  # in place of a key: the owner of prefixes that stand while the interface is ready
READY_METRIC: Final = 100
LAST_SECOND: Final = (1 << 32) - 1  # of metrics, which fall by one each second
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

ENDING_ONE: Final = frozenset({Event.KEYS_EXPIRED, Event.PEER_RAN_OUT})
OF_A_PEER: Final = ENDING_ONE | {Event.HANDSHAKE_COMPLETE, Event.PEER_REMOVED, Event.PEER_EVICTED}
ENDING_ALL: Final = frozenset({Event.PRIVATE_KEY_CHANGED, Event.PRIVATE_KEY_REMOVED, Event.INTERFACE_DOWN})
Say = Callable[[str], None]


def run(interface: str, *, table: int, while_ready: Sequence[str]) -> None:
    """Keep the routes until SIGINT or SIGTERM, then take them away."""
    try:
        own = [prefix_of(text) for text in while_ready]
    except ValueError as error:
        step = "Write an address, or a prefix such as 198.51.100.0/24."
        raise Failure("--while-ready is not understood", str(error), step) from error
    uapi_client.check_live(interface)
    held = _locked(interface, table)
    with suppress(SystemExit), interruptible():
        try:
            _follow_lives(interface, table, own)
        finally:
            with suppress(OSError), closing(KernelRoutes(socket.if_nametoindex(interface), table)) as kernel:
                kernel.withdraw()  # unless they went with the interface
            os.close(held)


def _locked(interface: str, table: int) -> int:
    """A descriptor: while it is open, nobody else keeps these routes. Two would take away each other's."""
    name = uapi_client.interface_of(interface)
    what = f"{interface} gets no routes"
    try:
        return lock.take(LOCKS / f"{name}:{table}")
    except BlockingIOError:
        why = f"another `plait routes {name}` keeps those of table {table}"
        step = "See who does: systemctl status 'plait-routes@*'; or name another table: --table NUMBER"
        raise Failure(what, why, step) from None
    except OSError as error:
        why = f"{LOCKS} cannot be written: {error.strerror or error}"
        raise Failure(what, why, "Run this as root.") from error


def _follow_lives(interface: str, table: int, own: Sequence[Prefix]) -> None:
    """One engine after the other. Failure when the first one cannot be followed."""
    manager: ServiceManager | None = ServiceManager(os.environ)
    said = ""

    def say(text: str) -> None:
        nonlocal said
        if text != said:  # what stands is not repeated
            print(f"plait: {interface}: {text}", file=sys.stderr, flush=True)
            said = text

    while True:
        try:
            uapi_client.check_live(interface)
            stream = Stream(interface)
            with closing(stream.socket), closing(KernelRoutes(_link(interface), table)) as kernel:
                routes = Routes(interface, kernel, own, say)
                stream.seen = _latest(interface)
                routes.renew()
                told = f"{len(kernel.have)} routes for {len(routes.sessions.live)} connected peers"
                say(told)
                if manager is not None:
                    manager.ready(told, time.monotonic())
                    manager = None
                routes.follow(stream)
        except (Failure, OSError) as error:
            if manager is not None:
                raise
            say(str(error))
        time.sleep(RETRY)


def _link(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        why = "there is no such interface in this network namespace"
        raise Failure(f"{interface} gets no routes", why, "Run this where the interface is.") from error


def _latest(interface: str) -> tuple[int, int, float]:
    """What happened up to this event is seen by whoever looks now."""
    last = plaitd_client.events(interface)[-1]
    return last["life"], last["number"], last["time"]


class Routes:
    """Of one interface, through one life of its engine's control process."""

    def __init__(self, interface: str, kernel: KernelRoutes, own: Sequence[Prefix], say: Say) -> None:
        """own: prefixes that stand for as long as the interface is ready."""
        self.sessions = Sessions()
        self._interface = interface
        self._kernel = kernel
        self._own = own
        self._say = say
        self._is_draining = False
        self._rang = float("-inf")
        self._look_due = self._renew_due = self._ready_due = 0.0

    def follow(self, stream: Stream) -> None:
        """Until the stream ends. Failure when the engine cannot be asked."""
        with selectors.DefaultSelector() as selector:
            selector.register(stream.socket, selectors.EVENT_READ)
            while True:
                for _ in selector.select(TURN):
                    told = stream.receive()
                    if told is None:
                        return
                    for event in told:
                        self.take(event)
                self.turn(time.monotonic())

    def take(self, event: dict[str, Any]) -> None:
        """It happened: note what is over, and that there is something to look at."""
        kind, at = event["event"], int(event["time"] * 1000 + 1) * MILLISECOND
        if kind == Event.INTERFACE_UP:
            self._renew_due = 0.0
        elif kind in ENDING_ALL:
            self.sessions.end_before(at)
            self._renew_due = 0.0  # the kernel may have taken them already
        elif kind in OF_A_PEER:
            self._rang = time.monotonic()
            if "peer" in event and kind in ENDING_ONE:
                over = at - AGED * 1000 * MILLISECOND if kind == Event.KEYS_EXPIRED else at
                self.sessions.end_before(over, keys.decode(event["peer"]))

    def turn(self, now: float) -> None:
        """Look at what is due, and settle."""
        if now >= self._renew_due:
            self.renew()
        elif now >= self._look_due and now < self._rang + QUIET:
            self._look()
        self.sessions.expire(now)
        self._show_ready(now)
        self.settle()

    def renew(self) -> None:
        """Read everything, then settle."""
        begin = time.monotonic()
        self._kernel.look()
        device = uapi_client.get(self._interface)
        told = ((keys.decode(peer.public_key), _handshake(peer)) for peer in device.peers)
        self.sessions.see_all(told, begin, time.time_ns())
        for peer in device.peers:
            self._learn(peer)
        end = time.monotonic()
        self._renew_due = end + max(RENEW, REST * (end - begin))
        self._look_due = end + max(PAUSE, REST * (end - begin))
        self.sessions.touched |= self._kernel.have.keys() | self.sessions.wanted.keys()
        self._show_ready(end)
        self.settle()

    def _look(self) -> None:
        """At the latest handshakes of all."""
        begin = time.monotonic()
        unknown = self.sessions.see_all(plaitd_client.handshakes(self._interface), begin, time.time_ns())
        if len(unknown) > ASKED:
            self.renew()
            return
        for key in unknown:
            try:
                self._learn(uapi_client.get_peer(self._interface, keys.encode(key)))
            except uapi_client.Unknown:  # removed meanwhile
                self.sessions.end(key)
        end = time.monotonic()
        self._look_due = end + max(PAUSE, REST * (end - begin))

    def _learn(self, peer: uapi_client.Peer) -> None:
        """What a connected peer may be reached by. A default route would have the host's own packets."""
        key = keys.decode(peer.public_key)
        if peer.ran_out:
            self.sessions.end_before(_handshake(peer), key)
        elif key in self.sessions.live:
            prefixes = map(prefix_of, peer.allowed_ips)
            self.sessions.set_prefixes(key, [prefix for prefix in prefixes if prefix.length])

    def _show_ready(self, now: float) -> None:
        """Have the own prefixes among those wanted, or not."""
        if not self._own or now < self._ready_due:
            return
        is_ready = ready.is_ready(self._interface)
        self._ready_due = now + max(RETRY, REST * (time.monotonic() - now))
        for prefix in self._own:
            if is_ready and prefix not in self.sessions.wanted:
                self.sessions.wanted[prefix] = READY
                self.sessions.touched.add(prefix)
            elif not is_ready and self.sessions.wanted.get(prefix) == READY:
                del self.sessions.wanted[prefix]
                self.sessions.touched.add(prefix)

    def settle(self) -> None:
        """Make the kernel's routes those that are wanted; none while the interface drains."""
        if drain.is_draining(self._interface):
            self._is_draining = True
            if self._kernel.have:
                self._kernel.withdraw()
            return
        if self._is_draining:
            self._is_draining = False
            self.sessions.touched.update(self.sessions.wanted)
        touched, self.sessions.touched = self.sessions.touched, set()
        new, stale = [], []
        for prefix in touched:
            metric, metrics = self._metric(prefix), self._kernel.have.get(prefix, set())
            if metric is not None and metric not in metrics:
                new.append(Route(prefix, metric))
            stale += [Route(prefix, other) for other in metrics if other != metric]
        refused = self._kernel.add(new)  # first, so that there is always one
        refused += self._kernel.remove(stale)
        if refused:
            self._complain(refused)
        hidden = [prefix for prefix, _ in new if prefix in self._kernel.foreign]
        if hidden:
            why = "another program has set a route to the same, which comes first"
            step = f"Look at it (ip route show {hidden[0]}); a file of `plait up` needs Table = off."
            self._say(str(Failure(f"{len(hidden)} routes are not seen, {hidden[0]} is one", why, step)))

    def _metric(self, prefix: Prefix) -> int | None:
        """Of a prefix that is wanted. The latest handshake has the smallest: routers that compare metrics
        find a client where it is now, while its session at another gateway is not over yet."""
        key = self.sessions.wanted.get(prefix)
        if key is None or key == READY:
            return None if key is None else READY_METRIC
        return LAST_SECOND - self.sessions.live[key].handshake // SECOND

    def _complain(self, refused: list[tuple[Route, int]]) -> None:
        """They are tried again when everything is read anew."""
        (prefix, _), number = refused[0]
        why, step = os.strerror(number), "It is tried again."
        if number in (errno.ENETDOWN, errno.ENODEV):
            why, step = "the interface is down", "They come back with it."
        self._say(str(Failure(f"{len(refused)} routes are refused, {prefix} is one", why, step)))


def _handshake(peer: uapi_client.Peer) -> int:
    return peer.handshake_sec * SECOND + peer.handshake_nsec
