"""The UAPI socket: many clients, several operations each, none of which may hold up the others.

Everything is driven by readiness. A connection's operations are taken one at a time, the next one only when
the answer to the last one is sent, and an answer is produced only as fast as the client reads it. Sets are
applied one after another. A get waits for a set that is being applied, so that it never shows half of it.
Questions about the engine itself are answered at once, during a long set too. A set does not rest between
slices: the scheduler keeps packets off a core that is busy throughout, but not off one that is busy now and
then (docs/scale.md).

The numbers of clients and of followers of events are limited. When every place is taken, a new client waits
in the listening socket until another one leaves or is closed. The client that is closed is the one that has
kept control waiting longest, a second at least, by sending nothing or by not reading. A client that sends or
reads slowly counts as idle a minute after its operation or answer began. A client that waits for control is
never closed.
"""

from __future__ import annotations

import errno
import json
import logging
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator

from engine import uapi
from workers.control.configuration import Configuration, Pause, PortRequest, Steps
from workers.control.events import Event, Events, Follower
from workers.control.lookups import PROVIDERS, Lookups
from workers.control.neighbours import Refusal
from workers.control.provider import Provider
from workers.failure import SHORTAGES, explain

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 16
MAX_CONNECTIONS = 128  # more wait in the listening socket; who follows events is counted apart
MAX_FOLLOWERS = 64
SECOND = 1_000_000_000
PATIENCE = SECOND  # ns without a byte from a client, or to it, before another may have its place
SLOW = 60 * SECOND  # ns that an operation, or its answer, may take its client while others wait
CHUNKS_A_TURN = 4  # of an answer, about 800 peers: a client that reads as fast as we write is not alone
BYTES_OF_ALL = RECEIVE_BYTES  # read in one turn, of whatever number of clients, and one read more
CHUNKS_OF_ALL = 32  # in one turn, of whatever number of clients; events are few, and so are followers
SETS_A_TURN = CHUNKS_OF_ALL  # small ones, whose answers are a chunk each; a provider's are one peer each
SETS_TIME = 2_000_000  # ns of a turn, behind which no further set begins


class Connection:
    """One client."""

    def __init__(self, server: UapiServer, sock: socket.socket) -> None:
        self.server = server
        self.socket = sock
        self.reader = uapi.Reader()
        self.operations: Iterator[uapi.Operation] = iter(())
        self.answer: Iterator[bytes] = iter(())
        self.unsent = memoryview(b"")
        self.is_waiting = False  # for its set, or for a set before its get
        self.is_ended = False  # the client sends no more
        self.interest = 0
        self.follower: Follower | None = None  # it follows events, and says nothing more
        self.provider: Provider | None = None  # it is asked about unknown keys, and says no more operations
        self.began = self.moved = server.clock()  # ns: its operation or answer; its latest byte
        self.is_between = True  # operations: it has begun to send none, as far as we have read

    def kept_waiting(self, now: int) -> int:
        """How long, in ns, it has let us wait; 0 while it waits for us, be it that we have not looked yet."""
        if self.is_waiting:
            return 0
        is_writing = self.interest == selectors.EVENT_WRITE
        if now - self.began >= SLOW and (is_writing or not self.is_between):
            return now - self.began
        look = select.poll()
        look.register(self.socket, select.POLLOUT if is_writing else select.POLLIN)
        return 0 if look.poll(0) else now - self.moved

    def fileno(self) -> int:
        return self.socket.fileno()

    def handle(self, mask: int) -> None:
        """The socket is readable or writable."""
        try:
            if mask & selectors.EVENT_READ and not self.is_waiting:
                if self.server.bytes_left <= 0:
                    return  # it stays readable
                data = self.socket.recv(RECEIVE_BYTES)
                self.server.bytes_left -= len(data)
                self.moved = self.server.clock()
                if self.is_between:
                    self.began, self.is_between = self.moved, False
                if data and self.provider is not None:
                    self.server.lookups.heard(self.provider, data)
                elif data and self.follower is None:
                    self.operations = self.reader.feed(data)
                elif not data:
                    self.is_ended = True
            self.go_on()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def go_on(self) -> None:
        """Send what there is, then take the next operation, as far as the socket allows."""
        while not self.is_waiting:
            if not self._send():
                self._want(selectors.EVENT_WRITE)
                return
            operation = next(self.operations, None)
            if operation is None:
                if self.is_ended or (self.provider is not None and self.provider.is_over):
                    self.close()
                else:
                    self._want(selectors.EVENT_READ)
                return
            self._begin(operation)
        self._want(0)

    def finish(self, answer: Iterator[bytes]) -> None:
        """What was waited for is there."""
        self.is_waiting = False
        self.answer = answer
        self.began = self.moved = self.server.clock()
        try:
            self.go_on()
        except OSError:
            self.close()

    def close(self) -> None:
        self._want(0)
        if self.follower is not None:
            self.server.events.leave(self.follower)
        if self.provider is not None:
            self.server.lookups.leave(self.provider)
        self.server.connections.discard(self)
        self.answer = iter(())  # a get lets go of its place in a list
        self.socket.close()
        self.server.listen_again()

    def _begin(self, operation: uapi.Operation) -> None:
        self.began, self.is_between = self.server.clock(), True
        if isinstance(operation, uapi.Refused):
            error = operation.error
            log.error("a configuration is refused: %s", error)
            reason = f"line {error.line_number} ({error.line}): {error.what}: {error.why}"
            self.server.events.emit(Event.SET_REFUSED, reason=reason, mend=error.next)
            self.answer = iter((uapi.answer_refused(operation),))
            return
        if isinstance(operation, uapi.Events):
            self._begin_events(operation)
            return
        if isinstance(operation, uapi.UnknownPeers):
            self._begin_to_provide(operation)
            return
        if isinstance(operation, uapi.GetEngine):
            self.answer = self.server.configuration.show_engine()
            self.server.chunks_left = 0  # it looked at all rows: enough for a turn
            return
        if isinstance(operation, uapi.GetBusiest):
            self.answer = self.server.configuration.show_busiest(operation.peers)
            self.server.chunks_left = 0
            return
        if isinstance(operation, uapi.GetSessions):
            self.answer = self.server.configuration.handshakes.new_sessions.answer(operation.cursor)
            return
        if isinstance(operation, uapi.Neighbour):
            self.answer = iter((self._hear_of(operation),))
            self.server.chunks_left = 0  # it may have been many sessions
            return
        if isinstance(operation, uapi.Upgrade | uapi.Scale):
            self.server.ask_change(operation, self.socket.fileno())
            self.is_waiting = True  # for ever: the supervisor has a copy, and answers there
            self.close()
            return
        self.is_waiting = True
        self.server.enqueue(self, operation)

    def _begin_events(self, operation: uapi.Events) -> None:
        events = self.server.events
        if operation.follow and not self.server.has_room_to_follow():
            log.error("a client cannot follow events: %d do; end one of them", MAX_FOLLOWERS)
            self.answer = iter((uapi.answer_get_refused(errno.EBUSY),))
        elif operation.follow:
            self.answer = self.follower = events.follow(operation.sessions)
            self.operations = iter(())
            self.server.listen_again()
        else:
            self.answer = iter((uapi.answer_events(events.remembered()),))

    def _hear_of(self, operation: uapi.Neighbour) -> bytes:
        handshakes = self.server.configuration.handshakes
        try:
            count = handshakes.neighbours.apply(operation, handshakes.pace.now())
        except Refusal as refusal:
            told = {"what": refusal.what, "why": refusal.why, "next": refusal.next}
            if refusal.errno != errno.ENOENT:  # that is a question, asked by whoever renews a lease
                log.error("%s", refusal)
            return uapi.answer_neighbour(json.dumps({"refused": told}), refusal.errno)
        return uapi.answer_neighbour(json.dumps({"refused": None, "sessions": count}), 0)

    def _begin_to_provide(self, operation: uapi.UnknownPeers) -> None:
        self.provider = self.server.lookups.join(operation.window)
        if self.provider is None:
            log.error("a client cannot be asked about unknown peers: %d are; end one of them", PROVIDERS)
            self.answer = iter((uapi.answer_get_refused(errno.EBUSY),))
            self.operations = self.reader.feed(self.reader.take_rest())
            return
        self.answer, self.operations = self.provider, iter(())
        if rest := self.reader.take_rest():
            self.server.lookups.heard(self.provider, rest)

    def _send(self) -> bool:
        """True when everything is sent; else it goes on when the socket is writable, in another turn."""
        for _ in range(CHUNKS_A_TURN):
            if not self.unsent:
                is_counted = self.follower is None and self.provider is None
                if is_counted and self.server.chunks_left <= 0:
                    return False
                self.unsent = memoryview(next(self.answer, b""))
                if not self.unsent:
                    return True
                self.server.chunks_left -= is_counted
            try:
                sent = self.socket.send(self.unsent)
            except BlockingIOError:
                return False
            self.unsent = self.unsent[sent:]
            self.moved = self.server.clock()
        return False

    def _want(self, interest: int) -> None:
        if interest == self.interest:
            return
        if not self.interest:
            self.server.selector.register(self.socket, interest, self.handle)
        elif not interest:
            self.server.selector.unregister(self.socket)
        else:
            self.server.selector.modify(self.socket, interest, self.handle)
        self.interest = interest


class UapiServer:
    """The listening socket and its clients."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        configuration: Configuration,
        ask_port: Callable[[int], None],
        ask_change: Callable[[uapi.Upgrade | uapi.Scale, int], None],
        events: Events,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        # Not the clock of sessions: no client is slow for as long as the machine was suspended.
        self.clock = clock
        self.listener = listener
        self.listener.setblocking(False)
        self.selector = selector
        self.configuration = configuration
        self.ask_port = ask_port
        self.ask_change = ask_change
        self.events = events
        self.connections: set[Connection] = set()
        self.waiting: deque[tuple[Connection, uapi.Operation]] = deque()
        self.steps: Steps | None = None  # the set that is being applied
        self.client: Connection | None = None  # whose it is
        self.is_asking = False  # it waits for the supervisor
        self.is_pausing = False  # it waits for removed peers
        self.is_listening = False
        self.chunks_left, self.bytes_left = CHUNKS_OF_ALL, BYTES_OF_ALL  # until the next `step`
        self.rest_until = 0  # ns; no descriptor was left for one more client
        self.listen_again()

    @property
    def lookups(self) -> Lookups:
        return self.configuration.handshakes.lookups

    def listen_again(self) -> None:
        """Accept more clients, while there are not too many."""
        if not self.is_listening and self._has_room():
            self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
            self.is_listening, self.rest_until = True, 0

    def accept(self, mask: int) -> None:
        """The listening socket is readable."""
        if not self._has_room() and not self._make_room():
            self.selector.unregister(self.listener)  # `step` looks again
            self.is_listening = False
            return
        try:
            sock, _ = self.listener.accept()
        except OSError as error:
            if error.errno in SHORTAGES and not isinstance(error, BlockingIOError):
                self._rest(error)
            return
        self.rest_until = 0
        sock.setblocking(False)
        connection = Connection(self, sock)
        self.connections.add(connection)
        connection.handle(0)

    def _rest(self, error: OSError) -> None:
        """Whoever knocked waits until a client leaves, or for a second: the listening socket stays readable,
        and a loop that asks again and again does nothing else."""
        if not self.rest_until:
            log.error("clients of the configuration socket wait: {}; {}".format(*explain(error)))
        self.selector.unregister(self.listener)
        self.is_listening = False
        self.rest_until = self.clock() + SECOND

    def _has_room(self) -> bool:
        return len(self.connections) - len(self.events.followers) < MAX_CONNECTIONS

    def _make_room(self) -> bool:
        """Close the connection that has kept us waiting longest, if that is long enough."""
        return self._give_up(self._of_operations(), "others wait")

    def _of_operations(self) -> list[Connection]:
        return [each for each in self.connections if each.follower is None and each.provider is None]

    def has_room_to_follow(self) -> bool:
        """Whether one more may follow events; a follower that does not read makes room."""
        following = [each for each in self.connections if each.follower is not None]
        lagging = [each for each in following if each.unsent]
        return len(following) < MAX_FOLLOWERS or self._give_up(lagging, "another wants to follow events")

    def _give_up(self, connections: list[Connection], why: str) -> bool:
        now = self.clock()
        kept = [(each.kept_waiting(now), each) for each in connections]
        longest, slowest = max(kept, key=lambda pair: pair[0], default=(0, None))
        if slowest is None or longest < PATIENCE:
            return False
        log.warning("a client of the configuration socket was idle for %d s and is closed: %s",
                    longest // SECOND, why)
        slowest.close()
        return True

    def enqueue(self, connection: Connection, operation: uapi.Operation) -> None:
        """An operation of that client waits for its turn, which `step` gives it."""
        self.waiting.append((connection, operation))

    @property
    def has_work(self) -> bool:
        """Whether `step` should be called again at once."""
        if self.is_pausing:
            return False
        return bool(self.waiting and self.steps is None) or (self.steps is not None and not self.is_asking)

    def step(self) -> None:
        """Once a turn: one slice of the set that is being applied, or what waits: one get, or sets, up to the
        first that has a second slice."""
        self.chunks_left, self.bytes_left = CHUNKS_OF_ALL, BYTES_OF_ALL
        if not self.is_listening:
            self._look_who_waits()
        until = self.clock() + SETS_TIME
        for _ in range(SETS_A_TURN):
            if not self._go_on() or self.clock() >= until:
                return

    def _go_on(self) -> bool:
        """One slice, or one operation. True when a set is over, so that another may begin."""
        if self.steps is None:
            if not self.waiting:
                return False
            connection, operation = self.waiting.popleft()
            if connection not in self.connections:
                return True
            if isinstance(operation, uapi.Get):
                connection.finish(self.configuration.show(operation.public_key))
                return False
            if isinstance(operation, uapi.GetCounters):
                connection.finish(self.configuration.show_counters())
                return False
            assert isinstance(operation, uapi.Set)
            self.client, self.steps = connection, self.configuration.apply(operation)
        if not self.is_asking:
            self._advance(None)
        return self.steps is None

    def _look_who_waits(self) -> None:
        """Every place is taken, and somebody knocked: by now a client may have been idle for long enough."""
        now = self.clock()
        if now < self.rest_until:
            return
        clients = self._of_operations()
        if self._has_room() or any(each.kept_waiting(now) >= PATIENCE for each in clients):
            self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
            self.is_listening = True

    def push_events(self) -> None:
        """Send followers what has come; who does not read is left."""
        if not self.events.followers:
            return
        for connection in [each for each in self.connections if each.follower is not None]:
            assert connection.follower is not None
            if connection.follower.is_lost:
                log.warning("a client that follows events does not read them; its connection is closed")
                connection.close()
            elif connection.follower.unread and connection.interest != selectors.EVENT_WRITE:
                connection.handle(0)

    def push_questions(self) -> None:
        """Send providers what they are asked; who does not read has its window full, and is left in time."""
        if not self.lookups.providers:
            return
        for connection in [each for each in self.connections if each.provider is not None]:
            assert connection.provider is not None
            if connection.provider.unread and connection.interest != selectors.EVENT_WRITE:
                connection.handle(0)
            elif connection.provider.is_over and connection.provider.is_stuck(self.lookups.now()):
                connection.close()

    def port_answered(self, code: int) -> None:
        """The supervisor changed the port (0), or could not (its errno)."""
        if self.is_asking:
            self.is_asking = False
            self._advance(code)

    def _advance(self, value: int | None) -> None:
        assert self.steps is not None and self.client is not None
        try:
            request = self.steps.send(value)
        except StopIteration as end:
            client, self.client, self.steps = self.client, None, None
            self.is_pausing = False
            if client in self.connections:
                client.finish(iter((uapi.answer_set(int(end.value)),)))
            return
        self.is_pausing = isinstance(request, Pause)
        if isinstance(request, PortRequest):
            self.is_asking = True
            self.ask_port(request.port)

    def close(self) -> None:
        """Leave all clients."""
        for connection in list(self.connections):
            connection.close()
