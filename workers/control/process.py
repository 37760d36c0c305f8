"""The control process: handshakes, timers, configuration, and the watch over the interface.

One thread, one loop, no asyncio. A turn does a bounded piece of everything that waits, so that nothing
keeps anything else waiting: a batch of handshake messages, the peers with events, the timers that
are due, a slice of a set, grace periods. Then it announces that it sleeps, looks once more, and sleeps in
select, from which its bell, the channel, clients or the clock wake it.

It can be killed at any moment: what it knows stands in the data segment and the vault. An exception that
nobody expected is logged with its traceback and ends the process; the supervisor starts it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import thread_time_ns
from typing import Any

import numpy as np

from engine import timers, uapi
from workers._workers import ffi, lib
from workers.attempts import DEATHS, LEAVES_OUT, WORDS, Step
from workers.channel import ChannelClosed
from workers.control.configuration import Configuration
from workers.control.endpoints import EndpointOrders
from workers.control.events import Event, Events
from workers.control.eviction import Eviction
from workers.control.grace_periods import GracePeriods
from workers.control.handshakes import Handshakes
from workers.control.interface import Interface, InterfaceState, Removed
from workers.control.kernel_drops import KernelDrops
from workers.control.keylog import WARNING, KeyLog, open_keylog
from workers.control.keypairs import Keypairs
from workers.control.losses import Losses
from workers.control.memory import Memory
from workers.control.outgoing import Outgoing, mark_sockets
from workers.control.pace import PACE, Pace
from workers.control.peers import Peers
from workers.control.quotas import Quotas
from workers.control.routes import Routes
from workers.control.timer_columns import TimerColumns
from workers.control.uapi_server import UapiServer
from workers.control.vault import CAME_UP, KEY_CHANGED, WENT_DOWN, Vault
from workers.descriptors import is_covered, is_gone
from workers.failure import Failure, explain
from workers.launch import WorkerStart, leave_no_socket
from workers.promises import Promise
from workers.selector import Selector

log = logging.getLogger(__name__)

SECOND = 1_000_000_000
EVENTS_A_TURN = 256
WARY = 2 * SECOND
HURRY = 64  # messages: under load, with fewer waiting it may rest before the next turn
SWEEP_ROWS = 1 << 16  # looked through for lost wakes in a second
NEVER = 0xFFFFFFFF_FFFFFFFF  # no word of events
LOADED_NAP = 0.006  # seconds; 60 messages of a flood of 10,000 a second
SHORT_WAIT = 0.002  # seconds; grace periods, endpoints that wait for a holder, a set that pauses
NAP_TICK = (1 << lib.TIMER_TICK_SHIFT) / SECOND


class Control:
    """Everything that the process works with. `run` returns when the supervisor says so."""

    def __init__(self, start: WorkerStart, pace: Pace = PACE) -> None:
        self.start = start
        self.pace = pace
        self.segment = start.segment
        self.channel = start.channel
        self.line = self.segment.workers[lib.WORKER_CONTROL]
        self.broken: dict[str, str] = dict(start.message.get("broken", {}))  # of all processes, promises.py
        self.vault = Vault(start.fds["vault"], int(self.segment.geometry.max_peers))
        assert start.mapping is not None
        self.memory = Memory(start.fds["data"], start.mapping, self.segment, self.vault)
        self.device = self.memory.device
        self._prepare_device()
        self.grace_periods = GracePeriods(self.segment)
        self.keypairs = Keypairs(self.memory, self.grace_periods, pace)
        self.peers = Peers(self.memory, self.grace_periods, self.keypairs, start.consumers, pace)
        self.timer_columns = TimerColumns(self.memory)
        self.endpoints = EndpointOrders(self.segment, pace)
        self.outgoing = Outgoing(*self._own_sockets())
        self.events = Events(self.peers.public_key, self.peers.name, pace.now, pace.wall, start.incarnation)
        self.routes = Routes(self.peers, self.endpoints, is_at_home=not start.message.get("given"))
        self.losses = Losses(self.peers, self.endpoints, self.events, self.routes)
        self.handshakes = Handshakes(
            self.peers, self.timer_columns, self.endpoints, self.outgoing, self.events, self._open_keylog(),
            pace,
        )
        self.interface = Interface(os.dup(start.fds["tun:0"])) if "tun:0" in start.fds else None
        self.configuration = Configuration(
            self.peers, self.handshakes, self.timer_columns, self.endpoints, self._udp_fds,
            start.message["aead"],
            start.message.get("program"), self.broken, pace, KernelDrops(self.interface, self._udp_fds),
        )  # fmt: skip
        self.eviction = Eviction(self.configuration, int(start.message.get("idle_after", 0)))
        self.quotas = Quotas(self.handshakes)
        self.selector = Selector()
        self.bell = start.fds["bell:1"]
        self.socket_file: Sequence[Any] | None = start.message.get("socket")  # path, device, inode
        self.is_renaming = False  # that file is, by the supervisor
        self.wary_until = 0  # ns; until then one peer's events a turn, since a control before us died of some
        self.cursor = ffi.new("uint32_t *")
        self.event_rows = np.zeros(EVENTS_A_TURN, np.uint32)
        self.event_words = np.zeros(EVENTS_A_TURN, np.uint64)
        self.event_arrays = (
            ffi.from_buffer("uint32_t[]", self.event_rows),
            ffi.from_buffer("uint64_t[]", self.event_words),
        )
        self.stopping = False
        self.ended = False
        self.is_elsewhere = False  # the interface, when we looked last
        self.passes: deque[tuple[int, Iterator[None]]] = deque()
        self.passed = 0  # slices of the first of those
        self.turns = 0
        self.next_second = 0
        self.is_covered = False  # the socket file, from whoever looks for it by its path
        self.scanned_at = 0
        self.swept = 0  # row that the sweep for lost wakes has come to

    # -- the start ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Find what a control before this one left, then listen."""
        self.events.emit(Event.STARTED if self.start.incarnation <= 1 else Event.RESTARTED)
        without = self._give_up()
        self.peers.recover(without)
        self._share_out()
        if Step.ENDPOINTS not in without:
            rows = self.vault.attempts.each(Step.ENDPOINTS, self.peers.rows_with_pending_endpoint())
            self.endpoints.recover(rows)
        self.handshakes.load_identity()
        self.handshakes.recover()
        self._look_at_interface(first=True)
        self.configuration.redo()
        self.quotas.begin(self.pace.now())
        self.uapi = UapiServer(
            socket.socket(fileno=os.dup(self.start.fds["uapi"])),
            self.selector,
            self.configuration,
            lambda port: self.channel.send({"kind": "listen_port", "port": port}),
            self._ask_change,
            self.events,
        )
        self.selector.register(self.bell, selectors.EVENT_READ, self._rung)
        self.selector.register(self.channel.fileno(), selectors.EVENT_READ, self._told)
        is_deaf = self.routes.is_at_home and self.routes.news is None
        if is_deaf or (self.interface is not None and self.interface.news is None):
            self.start.broken[Promise.WATCH] = "the kernel refuses a socket of AF_NETLINK"
        if self.routes.news is not None:
            self.selector.register(self.routes.news, selectors.EVENT_READ, self._routes_changed)
            if self.peers.used:
                self.routes.drain()  # it may have changed while no control listened, or in the hand of one
        if self.interface is not None and self.interface.news is not None:
            self.selector.register(self.interface.news, selectors.EVENT_READ, self._links_changed)

    def _give_up(self) -> list[Step]:
        """What the controls before this one died of is not tried again; steps that recovery leaves out."""
        given = self.vault.attempts.judge()
        if given is None:
            if self.vault.attempts.suspects(Step.EVENTS):
                self.wary_until = self.pace.now() + WARY
            return []
        step, place = given
        lib.counter_add(self.segment, lib.WORKER_CONTROL, lib.GIVEN_UP, 1)
        log.error("%s: given up (place %d), control died of it %d times", WORDS[step], place, DEATHS)
        if step is Step.SET:
            peers = self.vault.redo_peers
            done = f"at least the first {place} of its {peers} peers were applied" if place else (
                f"its key, and what it removes, may have been applied, of its {peers} peers a few"
            )
            # It may have stored a key that came late, or an endpoint: what waits for those begins.
            self.vault.note_passing(self.vault.passing | CAME_UP)
            self.vault.clear_redo()
            self.events.emit(Event.SET_GIVEN_UP, tries=DEATHS, reason=done)
        elif step is Step.EVENTS:
            if 0 < place <= self.peers.used:
                lib.events_clear(self.segment, place - 1, lib.events_read(self.segment, place - 1))
            self.events.emit(Event.STEP_GIVEN_UP, tries=DEATHS, reason=WORDS[step])
        elif step in LEAVES_OUT and 0 < place <= self.peers.used:
            self.peers.leave_out(place - 1)
            self.events.emit(Event.PEER_LEFT_OUT, place - 1, tries=DEATHS, reason=WORDS[step])
        elif step in (Step.PARKED, Step.ASKING):
            self.handshakes.lookups.give_up(place)
            self.events.emit(Event.STEP_GIVEN_UP, tries=DEATHS, reason=WORDS[step])
        elif step is not Step.PEERS:  # its table is no step to go without
            if step is Step.PASSES:
                self.vault.note_passing(self.vault.passing & ~(place % 8))
            self.events.emit(Event.STEP_GIVEN_UP, tries=DEATHS, reason=WORDS[step])
            return [step]
        return []

    def _prepare_device(self) -> None:
        """Once in an engine's life: indices that were given out mean what they meant."""
        gateway, bits = self.start.message.get("gateway", (0, 0))
        while not self.device.index_key[0]:
            self.device.index_key[2] = bits << 8 | gateway
            self.device.index_key[1] = int.from_bytes(os.urandom(8), "little")
            self.device.index_key[0] = int.from_bytes(os.urandom(8), "little")

    @staticmethod
    def _open_keylog() -> KeyLog | None:
        """plaitd looked at the file before it started; if it went bad since, the tunnel matters more."""
        try:
            keylog = open_keylog(os.environ)
        except Failure as failure:
            log.error("there is no key log: %s", failure)
            return None
        if keylog is not None:
            log.error(WARNING.format(keylog.path))
        return keylog

    def _own_sockets(self) -> list[int | None]:
        found = [self.start.fds.get(name) for name in ("udp4:0", "udp6:0")]
        return [None if fd is None else os.dup(fd) for fd in found]

    def _udp_fds(self) -> list[int]:
        return [fd for name, fd in self.start.fds.items() if name.startswith("udp")]

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until the supervisor says stop. ChannelClosed when it is gone."""
        before = thread_time_ns()
        while not self.stopping:
            now = self.pace.now()
            self.line.beat = now
            is_busy = self.turn(now)
            self._sleep(0.0 if is_busy else self._nap(now))
            spent, before = before, thread_time_ns()
            self.configuration.longest_turn = max(self.configuration.longest_turn, before - spent)
        self.vault.attempts.stop()  # who is told to end did not die of anything

    def turn(self, now: int) -> bool:
        """A piece of everything that waits. True when there is more."""
        # Due timers run before messages, so that an old timer cannot act on new state.
        if self.handshakes.is_up and now >= self.scanned_at + self.pace.scan:
            self.scanned_at = now
            for row, action in self.timer_columns.due(now):
                self._act(row, action, now)
            if self.timer_columns.has_due:
                self.scanned_at = 0
        if self.quotas.is_due(now, is_set_over=self.uapi.steps is None):
            self.quotas.look(now)
        taken = self.handshakes.take_messages(now)
        is_busy = taken > 0 or self.quotas.has_work
        if self.handshakes.under_load:
            is_busy = lib.mailbox_waiting(self.segment) >= HURRY
        is_busy |= self.timer_columns.has_due
        is_busy |= self._take_events(now)
        self.uapi.step()
        is_busy |= self.uapi.has_work
        is_busy |= self.handshakes.look_up(now)
        if self.uapi.steps is None:  # no set is in the middle of a peer
            is_busy |= self.eviction.step(now)
        if now >= self.next_second:
            self.next_second = now + SECOND
            self._each_second(now)
        if self.routes.step(now):
            self.handshakes.initiator.try_unsent(now)
        self._go_on_passing()
        self.grace_periods.poll()
        is_busy |= self.grace_periods.has_work or bool(self.passes)
        if self.endpoints.waiting:
            before = self.vault.attempts.note(Step.PENDING_ENDPOINTS, 0)
            self.endpoints.poll(self.vault.attempts.at)
            self.vault.attempts.over(before)
        self.uapi.push_events()
        self.uapi.push_questions()
        return is_busy

    def _nap(self, now: int) -> float:
        """Seconds until something is due."""
        periods = self.grace_periods
        if periods.running or periods.waiting or self.endpoints.waiting or self.uapi.is_pausing:
            return SHORT_WAIT
        nap = (min(self.next_second, self.quotas.due) - now) / SECOND
        for look in self.routes.due_in(now), self.handshakes.lookups.due_in(now):
            if look is not None:
                nap = min(nap, look)
        if self.peers.used and self.handshakes.is_up:
            due = self.timer_columns.next_due()
            if due != timers.NO_TICK:
                scan = (self.scanned_at + self.pace.scan - now) / SECOND
                nap = min(nap, max((due - timers.tick(now)) * NAP_TICK, scan))
        return max(nap, 0.001)

    def _sleep(self, seconds: float) -> None:
        """Announce, look once more, wait. Under load it is not woken for each message: what came in the
        meantime is dealt with together."""
        if seconds > 0 and self.handshakes.under_load:
            seconds = min(seconds, LOADED_NAP)
        elif seconds > 0:
            lib.bell_announce(self.segment, lib.WORKER_CONTROL)
            if lib.mailbox_waiting(self.segment) or not lib.ready_is_empty(self.segment, 0):
                seconds = 0.0
        ready = self.selector.select(seconds)
        lib.bell_cancel(self.segment, lib.WORKER_CONTROL)
        self.turns += 1
        first = self.turns % len(ready) if ready else 0  # what one turn may do is another's by turns
        for key, mask in ready[first:] + ready[:first]:
            key.data(mask)

    # -- what wakes it ------------------------------------------------------------------------

    def _rung(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def _told(self, mask: int) -> None:
        """The supervisor has something to say."""
        message, fds = self.channel.receive()
        kind = message["kind"]
        if kind == "stop":
            self.stopping = True
        elif kind == "sockets":
            self._replace_sockets(message, fds)
        elif kind == "renamed":
            self._replace_sockets(message, fds)
            self.is_renaming, self.socket_file = False, message["socket"]
            leave_no_socket(os.getppid(), self.socket_file)
        elif kind == "listen_port":
            if message["fds"]:
                self._replace_sockets(message, fds)
            self.uapi.port_answered(int(message["errno"]))
        elif kind == "broken":
            self.broken.update(message["broken"])
        elif kind == "news":
            for news in message["news"]:
                self.events.emit_news(news)
            self.channel.send({"kind": "heard", "upto": message["upto"]})
        else:
            raise ValueError(f"the supervisor says {kind!r}, which control does not know")

    def _ask_change(self, operation: uapi.Upgrade | uapi.Scale, client: int) -> None:
        """The supervisor changes the engine, and tells the client."""
        if isinstance(operation, uapi.Scale):
            change, arguments = "scale", list(operation)
        else:
            change, arguments = "upgrade" if operation.for_good else "trial", []
        self.channel.send({"kind": "change", "change": change, "arguments": arguments}, [client])

    def _replace_sockets(self, message: dict[str, Any], fds: list[int]) -> None:
        self.configuration.kernel_drops.look()  # at sockets that may be closed by that
        self.start.replace_sockets(message, fds)
        self.outgoing.replace(*self._own_sockets())
        if int(self.device.fwmark):
            mark_sockets(self._udp_fds(), int(self.device.fwmark))
        if (int(self.device.consumers), self.peers.away) != (self.start.consumers, self.start.away):
            self._share_out()
        self.device.receivers = self.start.receivers

    def _share_out(self) -> None:
        """Assign each peer to one of the running consumers; report to the supervisor after a grace period."""
        consumers, away = self.start.consumers, self.start.away
        self.device.receivers, self.device.consumers = self.start.receivers, consumers
        self.peers.share_out(consumers, away)
        message = {"kind": "shared_out", "consumers": consumers, "away": away}
        self.grace_periods.after(lambda: self.channel.send(message))

    def _links_changed(self, mask: int) -> None:
        assert self.interface is not None
        self.interface.drain()
        self._look_at_interface()

    def _routes_changed(self, mask: int) -> None:
        self.routes.drain()

    # -- peers --------------------------------------------------------------------------------

    def _take_events(self, now: int) -> bool:
        """Some of the events of holders. True when there may be more."""
        most = EVENTS_A_TURN if now >= self.wary_until else 1
        count = lib.events_take(self.segment, self.cursor, *self.event_arrays, most)
        if not count:
            return False
        place = int(self.event_rows[0]) + 1 if most == 1 else 0
        before = self.vault.attempts.note(Step.EVENTS, place)
        self._take_told(count, now)
        self.vault.attempts.over(before)
        return count == most

    def _take_told(self, count: int, now: int) -> None:
        """Each kind for all peers at once; in the order that one peer's news must have."""
        rows, words = self.event_rows[:count], self.event_words[:count]
        bits = words.astype(np.uint32)
        wanted = np.flatnonzero(bits & lib.EVENT_HANDSHAKE_WANTED)[self.pace.initiations :]
        bits[wanted], words[wanted] = 0, NEVER  # in the next turn, whole
        for at in np.flatnonzero(bits & (lib.EVENT_RETIRED | lib.EVENT_HOLDER_DIED)).tolist():
            row = int(rows[at])
            if bits[at] & lib.EVENT_RETIRED:
                self.peers.holder_retired(row)
            if bits[at] & lib.EVENT_HOLDER_DIED and self.peers.is_live(row):
                bits[at] |= self.handshakes.untold(row, now)
        bits[~self.peers.are_live(rows)] = 0
        for row in rows[bits & lib.EVENT_LOOP != 0].tolist():
            self.losses.looping = row
        self.handshakes.confirmed(rows[bits & lib.EVENT_CONFIRMED != 0])
        moved = rows[bits & lib.EVENT_ENDPOINT != 0].tolist()
        self.events.emit_each(Event.ENDPOINT_MOVED, moved, self.endpoints.read)
        self.keypairs.collect(rows[bits & lib.EVENT_KEYS != 0], self.handshakes.initiator.numbers)
        if self.handshakes.is_up:
            for row in rows[bits & lib.EVENT_HANDSHAKE_WANTED != 0].tolist():
                self.handshakes.initiator.wanted(row, now)
            for row, action in self.timer_columns.look(rows[bits & lib.EVENT_TIMER != 0], now):
                self._act(row, action, now)
        lib.events_settle(self.segment, *self.event_arrays, count)

    def _act(self, row: int, action: timers.Action, now: int) -> None:
        """Timers fired; those together in the order of timers.Action."""
        if not self.peers.is_live(row):
            return
        orders = 0
        if action & timers.Action.GIVE_UP:
            self.handshakes.initiator.give_up(row)
            orders |= lib.ORDER_PURGE_STAGED
        if action & timers.Action.EXPIRE_KEYS:
            self.events.emit(Event.KEYS_EXPIRED, row)
            orders |= lib.ORDER_EXPIRE
        if action & timers.Action.ZERO_KEYS:
            self.events.emit(Event.KEYS_ZEROED, row)
            self.handshakes.initiator.forget(row)
            orders |= lib.ORDER_ZERO
        if action & (timers.Action.RETRY_HANDSHAKE | timers.Action.START_HANDSHAKE) and (
            self.timer_columns.may_send_handshake(row, now)
        ):
            self.handshakes.initiator.initiate(row, now, is_retry=True)
        if action & timers.Action.SEND_KEEPALIVE and not self.peers.has_run_out(row):
            # Without a session the holder asks for a handshake: one that may be tried 20 times again.
            self.timer_columns.handshake_wanted(row)
            orders |= lib.ORDER_KEEPALIVE
        if orders:
            self.peers.order(row, orders)

    # -- the interface ------------------------------------------------------------------------

    def _look_at_interface(self, first: bool = False) -> None:
        if self.interface is None:
            state: InterfaceState | None = InterfaceState(int(self.device.mtu) or 1420, True)
        else:
            try:
                state = self.interface.look()
            except Removed:
                self._end(f"the interface {self.start.interface} was removed")
                return
            except OSError as error:
                if first and not self.device.mtu:  # nothing is known of it: the host refuses what we need
                    raise
                log.debug("how the interface is cannot be found out: %s", error)
                state = None
        if state is None:
            if not first:  # the next look is a second away at most
                return
            state = InterfaceState(int(self.device.mtu), bool(self.device.up))  # as it was before us
        if int(self.device.mtu) != state.mtu:
            self.device.mtu = state.mtu
        if state.name and state.name != self.start.interface:
            self._follow_name(state.name)
        if (state.is_up and not self.device.up) or state.is_elsewhere != self.is_elsewhere:
            self.is_elsewhere = state.is_elsewhere
            self.channel.send({"kind": "link_changed"})  # the supervisor has the privileges: link_setup.py
        was_up = bool(self.device.up)
        if first:
            self._pass_again(state.is_up)
        if was_up != state.is_up:
            self.events.emit(Event.INTERFACE_UP if state.is_up else Event.INTERFACE_DOWN)
            self._pass(CAME_UP if state.is_up else WENT_DOWN)
            self.device.up = state.is_up
        self._go_on_passing()

    def _pass_again(self, is_up: bool) -> None:
        """What a control before this one did not bring to its end. The key first: no handshake begins before
        its first slice, which makes the secrets of the key before stale."""
        left = self.vault.passing
        for way in KEY_CHANGED, WENT_DOWN, CAME_UP:
            if left & way and (way != CAME_UP or (is_up and self.device.up)):
                self._pass(way)

    def _pass(self, way: int) -> None:
        """Every peer is to know that the interface went down or came up, one pass after the other."""
        self.vault.note_passing(self.vault.passing | way)
        if way == CAME_UP:
            steps = self.configuration.start_what_waits()
        elif way == WENT_DOWN:
            steps = self._went_down()
        else:
            steps = self.configuration.spread_key()
        self.passes.append((way, steps))

    def _go_on_passing(self) -> None:
        """A slice of the passes. Until all peers know that the interface was down, no handshake begins."""
        if self.passes:
            way, steps = self.passes[0]
            if way == CAME_UP:
                self.handshakes.is_up = bool(self.device.up)
            before = self.vault.attempts.note(Step.PASSES, 8 * self.passed + way)
            is_over = next(steps, steps) is steps
            self.vault.attempts.over(before)
            self.passed += 1
            if is_over:
                self.passed = 0
                self.passes.popleft()
                others = [other for other, _ in self.passes]
                if way not in others and not (way == KEY_CHANGED and self.configuration.is_changing_key):
                    self.vault.note_passing(self.vault.passing & ~way)
        self.handshakes.is_up = bool(self.device.up) and all(way != WENT_DOWN for way, _ in self.passes)

    def _follow_name(self, name: str) -> None:
        """Have the supervisor rename the socket file. It may stand at both places until it answers, and our
        supervisor may die before it does."""
        if self.is_renaming:
            return
        self.is_renaming = True
        if self.socket_file is not None:
            other = os.path.join(os.path.dirname(self.socket_file[0]), f"{name}.sock")
            leave_no_socket(os.getppid(), self.socket_file, other)
        self.channel.send({"kind": "renamed"})

    def _went_down(self) -> Iterator[None]:
        """No session survives, nothing stays staged (kernel: device.c)."""
        used = slice(0, self.peers.used)
        self.timer_columns.handshake_dropped(used)
        self.timer_columns.forget_sent(used)
        for first in range(0, self.peers.used, self.pace.ordered):
            for row in self.peers.active_rows(True, first, first + self.pace.ordered):
                self.peers.order(row, lib.ORDER_ZERO | lib.ORDER_PURGE_STAGED)
            yield
        yield from self.handshakes.forget_in_progress()

    def _end(self, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self.events.emit(Event.ENDING, reason=reason)
            self.channel.send({"kind": "ended", "reason": reason})

    # -- once a second ------------------------------------------------------------------------

    def _each_second(self, now: int) -> None:
        if not self.start.broken.get(Promise.LOCKED):
            self._look_at_locks()
        self.peers.look_for_retired()
        self.losses.look()
        self.events.emit_suppressed()
        self.eviction.look(now)
        self.handshakes.neighbours.look(now)
        self.configuration.busiest.rest(now)
        if self.interface is not None:
            self._look_at_interface()
        if self.socket_file is not None and not self.is_renaming:
            self._look_at_socket_file(*self.socket_file)
        self._sweep()
        self.timer_columns.age(now)

    def _look_at_socket_file(self, path: str, device: int, inode: int) -> None:
        """Its removal is the end. A mount over it, or another name of its directory, only hides it."""
        if is_gone(Path(path), (device, inode), self.start.fds.get("directory")):
            self._end(f"the socket file {path} was deleted")
            return
        was_covered, self.is_covered = self.is_covered, is_covered(Path(path), (device, inode))
        if self.is_covered and not was_covered:
            log.warning(
                "`wg` finds no socket at %s: the file is there, but something is mounted over it, or its "
                "directory was renamed; the tunnel goes on; undo that, or stop plaitd by its pid",
                path,
            )

    def _look_at_locks(self) -> None:
        """The limit on locked memory may be reached when peers and sessions have become more."""
        why = self.vault.why_unlocked or self.memory.why_unlocked
        if why:
            self.start.broken[Promise.LOCKED] = why
            self.channel.send({"kind": "broken", "broken": self.start.broken})

    def _sweep(self) -> None:
        """Once a second: wakes that were lost. Rows with packets or a queued token are always looked at; all
        others, which could miss an order of ours at most, by turns, SWEEP_ROWS a second."""
        used = self.peers.used
        first = self.swept if self.swept < used else 0
        last = self.swept = min(first + SWEEP_ROWS, used)
        mended = lib.schedule_sweep(self.segment, first, last)
        if used > last - first:
            seen = ffi.new("uint64_t[]", (used + 63) // 64)
            mended += lib.schedule_sweep_waiting(self.segment, first, last, seen)
        if mended:
            lib.counter_add(self.segment, lib.WORKER_CONTROL, lib.LOST_WAKES, mended)
            log.info("%d lost wakes mended", mended)


def work(start: WorkerStart) -> None:
    """Be the control process until the supervisor says stop."""
    try:
        control = Control(start)
        control.begin()
    except OSError as error:
        log.debug("cannot start", exc_info=True)
        start.fail("the control process cannot start", *explain(error))
    start.enter_sandbox()
    start.ready()
    lib.program_let_go()  # of what only a start runs, as the supervisor does
    try:
        control.run()
    except ChannelClosed:
        start.lost()
    except Exception:
        log.exception("the control process ends on an error that nobody expected")
        sys.exit(1)
