"""The supervisor: starts the workers of one interface, keeps them alive, ends them together.

It is a single-threaded loop over channels and pidfds. It touches no packet. Its rules:

- Signal handlers only enqueue (signals.py); the loop calls one `handle_<signal>` each.
- A worker is dead when it has been reaped, never earlier. What it left in the shared segment
  is repaired before its replacement starts, with the same fds and the next incarnation.
- A worker that cannot start is an error with a reason that ends everything. A worker that was
  ready once is started again, at once the first time, then with growing pauses.
- A worker whose channel is stuck or nonsense, or that the watchdog finds stuck, is killed, and then
  treated as any dead one.
- A standby (standby.py) waits beside the workers. The next receiver or consumer that dies is replaced by it.
- The end is the same whatever the reason: all workers are told, waited for, then killed, and
  everything that was opened is given back.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from workers._workers import ffi, lib
from workers.channel import Channel, ChannelClosed
from workers.failure import Exit, Failure
from workers.launch import spawn
from workers.notify import ServiceManager
from workers.resources import Resources
from workers.settings import Settings
from workers.signals import Signals
from workers.sockets import close_sockets
from workers.watchdog import LOOK_SECONDS, Watchdog

START_SECONDS = 60.0  # for all together, and for each that starts again: a loaded machine takes its time
STOP_SECONDS = 3.0  # from being told to being killed
CLOSED_SECONDS = 1.0  # from a closed channel to being killed
SEND_SECONDS = 1.0  # a worker that does not read its channel for so long is stuck
STEADY_SECONDS = 10.0  # a worker that ran for so long starts again without a pause
STANDBY_SECONDS = 0.2  # before the next standby is made ready: its start takes CPU from the traffic
STANDBY_READY_SECONDS = 5.0  # for one that takes a place: it has loaded everything
STANDBY_PAUSE = 5.0  # the same after one that died while it waited
PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)

LEVELS = {"error": logging.ERROR, "info": logging.INFO}
NO_CPU = 0xFFFFFFFF
log = logging.getLogger("plait")


class Life(Enum):
    """Where a worker is in its life."""

    WAITING = auto()  # not there; `start_at` says when it will be
    STARTING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass
class Worker:
    """One worker, through all its incarnations."""

    kind: str  # control, receiver, consumer, standby: the module workers.KIND
    number: int  # of its kind, from 0
    line: int  # worker number in the segment, shm/layout.h; -1: none
    cpus: tuple[int, ...]  # where it may run; () = anywhere
    life: Life = Life.WAITING
    start_at: float = 0.0
    kill_at: float | None = None
    ready_at: float | None = None  # of this incarnation
    was_ready: bool = False  # of any incarnation
    deaths: int = 0  # in a row, without a steady run between
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    channel: Channel | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        return self.kind if self.kind in ("control", "standby") else f"{self.kind} {self.number}"


class Supervisor:
    """The life of one interface, from its first worker to its last.

    run() returns when the interface has ended cleanly, or raises the Failure that ended it.
    on_ready is called once, when every worker is ready.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # each has its handle_<signal>

    def __init__(
        self,
        resources: Resources,
        settings: Settings,
        signals: Signals,
        on_ready: Callable[[], None],
        manager: ServiceManager | None = None,
    ) -> None:
        self.resources = resources
        self.settings = settings
        self.signals = signals
        self.on_ready = on_ready
        self.manager = manager or ServiceManager({})
        self.selector = selectors.DefaultSelector()
        self.failure: Failure | None = None
        self.announced = False
        self.noted_kept = False
        self.stopping = False
        self.deadline: float | None = None
        self.watchdog = Watchdog(resources.segment, resources.bells)
        self.look_at = 0.0
        self.standby = Worker("standby", 0, -1, (), life=Life.ENDED)
        self.workers = [Worker("control", 0, lib.WORKER_CONTROL, ())]
        self.workers += [
            Worker("receiver", i, lib.WORKER_RECEIVER + i, settings.cores_of(i))
            for i in range(settings.receivers)
        ]
        self.workers += [
            Worker("consumer", j, lib.WORKER_CONSUMER + j, settings.cores_of(j))
            for j in range(settings.consumers)
        ]

    def run(self) -> None:
        """Start, watch, end."""
        self.selector.register(self.signals, selectors.EVENT_READ, self._take_signals)
        line = self.resources.segment.workers[lib.WORKER_SUPERVISOR]
        line.incarnation, line.pid, line.cpu, line.state = 1, os.getpid(), NO_CPU, lib.WORKER_RUNNING
        try:
            self.deadline = time.monotonic() + START_SECONDS
            while not (self.stopping and all(w.life is Life.ENDED for w in self.workers)):
                self._keep_time(time.monotonic())
                self._tell_manager(time.monotonic())
                for key, _ in self.selector.select(self._timeout(time.monotonic())):
                    key.data()
        finally:
            self._kill_all()
            self.selector.close()
        if self.failure is not None:
            raise self.failure

    # -- signals --------------------------------------------------------------------------

    def handle_sigint(self) -> None:
        """As SIGTERM: Ctrl-C in the foreground."""
        self.handle_sigterm()

    def handle_sigterm(self) -> None:
        """End cleanly; the second time, kill what has not ended yet."""
        if self.stopping:
            self.deadline = time.monotonic()
        self.stop("a signal asked for it")

    def handle_sighup(self) -> None:
        """Nothing but a word: a closed terminal does not end a tunnel."""
        log.info("SIGHUP is ignored: the settings are read at the start alone")

    def _take_signals(self) -> None:
        for number in self.signals.take():
            getattr(self, f"handle_{number.name.lower()}")()

    # -- time -----------------------------------------------------------------------------

    def _timeout(self, now: float) -> float | None:
        """Seconds until something is due; None when nothing is."""
        everybody = (*self.workers, self.standby)
        due = [w.start_at for w in everybody if w.life is Life.WAITING and not self.stopping]
        due += [w.kill_at for w in self.workers if w.kill_at is not None]
        due += [at for at in (self.deadline, self.manager.due) if at is not None]
        if self.announced and not self.stopping:
            due.append(self.look_at)
        return max(min(due) - now, 0.0) if due else None

    def _keep_time(self, now: float) -> None:
        """Do what is due: starts, kills, the end of patience."""
        for worker in self.workers:
            if worker.life is Life.WAITING:
                if self.stopping:
                    worker.life = Life.ENDED
                elif worker.start_at <= now:
                    self._start(worker)
            if worker.kill_at is not None and worker.kill_at <= now:
                if worker.life is Life.STARTING:
                    log.error("%s did not become ready in time and is killed", worker.title)
                self._kill(worker)
        if self.announced and not self.stopping:
            if self.standby.life is Life.WAITING and self.standby.start_at <= now:
                self._prepare_standby()
            if self.look_at <= now:
                self.look_at = now + LOOK_SECONDS
                self._look_for_stuck()
        if self.deadline is None or self.deadline > now:
            return
        self.deadline = None
        if self.stopping:
            for worker in self.workers:
                self._kill(worker)
            return
        late = ", ".join(w.title for w in self.workers if not w.was_ready)
        self._fail(
            f"{late} did not become ready",
            f"{START_SECONDS:.0f} seconds have passed",
            "see with `plaitd --foreground` where it stands",
        )

    def _tell_manager(self, now: float) -> None:
        """The service manager hears who is away, and that control turns."""
        if not self.announced or self.stopping:
            return
        away = ", ".join(w.title for w in self.workers if w.life is not Life.RUNNING)
        self.manager.status(self._status() + (f"; starting again: {away}" if away else ""))
        beat = int(self.resources.segment.workers[lib.WORKER_CONTROL].beat)
        is_there = self.workers[0].life is Life.RUNNING
        self.manager.watch(now, (int(lib.clock_now()) - beat) / 1e9 if is_there else None)

    def _status(self) -> str:
        s = self.settings
        return f"UDP port {self.resources.port}, {s.receivers} receivers, {s.consumers} consumers"

    def _look_for_stuck(self) -> None:
        for worker in self.workers:
            if worker.process is None or worker.life not in (Life.STARTING, Life.RUNNING):
                continue
            is_starting = worker.life is Life.STARTING
            why = self.watchdog.look(worker.kind, worker.line, worker.process.pid, is_starting)
            if why is not None:
                log.error("%s is stuck%s: %s; it is killed", worker.title, self._in_hand(worker), why)
                self._kill(worker)

    def _in_hand(self, worker: Worker) -> str:
        """Which peer a worker holds, in words."""
        segment = self.resources.segment
        row = int(segment.workers[worker.line].peer_in_hand) - 1
        if not 0 <= row < segment.geometry.max_peers:
            return ""
        key = bytes(ffi.buffer(segment.rows[row].public_key))
        return f" with peer {base64.b64encode(key).decode()} in hand"

    # -- the life of a worker ---------------------------------------------------------------

    def _start(self, worker: Worker) -> None:
        line = self.resources.segment.workers[worker.line]
        if line.incarnation == 0:
            line.incarnation = 1
        patience = STANDBY_READY_SECONDS
        if not self._become(worker):
            patience = START_SECONDS
            try:
                self._spawn(worker)
            except OSError as error:
                self._not_started(worker, f"it cannot be started: {error.strerror}")
                return
        assert worker.process is not None
        worker.life = Life.STARTING
        worker.ready_at = None
        worker.kill_at = time.monotonic() + patience if worker.was_ready else None
        line.pid = worker.process.pid
        line.cpu = worker.cpus[0] if len(worker.cpus) == 1 else NO_CPU
        line.state = lib.WORKER_STARTING
        self.selector.register(worker.pidfd, selectors.EVENT_READ, lambda: self._reap(worker))
        self.selector.register(_channel(worker), selectors.EVENT_READ, lambda: self._receive(worker))
        names, fds = self.resources.fds_for(worker.kind, worker.number)
        message = {
            "kind": "start",
            "role": worker.kind,
            "interface": self.resources.interface,
            "worker": worker.line,
            "number": worker.number,
            "incarnation": int(line.incarnation),
            "segment_bytes": self.resources.data.bytes,
            "cpus": worker.cpus,
            "handoff": self.settings.handoff,
            "joins": self.resources.joins,
            "trains": int(self.resources.trains),
            "receivers": self.settings.receivers,
            "consumers": self.settings.consumers,
            "fds": names,
        }
        if worker.kind == "control":
            message["socket"] = self.resources.uapi.file
        self._send(worker, message, fds)

    def _spawn(self, worker: Worker) -> None:
        """A process for this worker, on a channel. OSError when there is none to be had."""
        ours, theirs = Channel.pair()
        ours.socket.settimeout(SEND_SECONDS)
        try:
            worker.process = spawn(worker.kind, self.resources.interface, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        worker.pidfd = os.pidfd_open(worker.process.pid)
        worker.channel = ours

    def _prepare_standby(self) -> None:
        standby = self.standby
        try:
            self._spawn(standby)
        except OSError as error:
            log.error("there is no standby: %s", error.strerror)
            standby.start_at = time.monotonic() + STANDBY_PAUSE
            return
        standby.life = Life.STARTING
        self.selector.register(standby.pidfd, selectors.EVENT_READ, self._reap_standby)

    def _become(self, worker: Worker) -> bool:
        """Have the standby take the place of this worker, which has no process. False without one."""
        standby = self.standby
        if standby.process is None or worker.kind == "control":
            return False
        self.selector.unregister(standby.pidfd)
        worker.process, worker.pidfd, worker.channel = standby.process, standby.pidfd, standby.channel
        self._without_standby(STANDBY_SECONDS)
        return True

    def _reap_standby(self) -> None:
        """It ended while it waited."""
        standby = self.standby
        assert standby.process is not None
        standby.process.wait()
        log.error("the standby ended")
        self.selector.unregister(standby.pidfd)
        os.close(standby.pidfd)
        _channel(standby).close()
        self._without_standby(STANDBY_PAUSE)

    def _without_standby(self, pause: float) -> None:
        """There is none; the next one comes after a pause."""
        start_at = time.monotonic() + pause
        self.standby = Worker("standby", 0, -1, (), start_at=start_at)

    def _ready(self, worker: Worker) -> None:
        worker.life = Life.RUNNING
        worker.was_ready = True
        worker.kill_at = None
        worker.ready_at = time.monotonic()
        self.resources.segment.workers[worker.line].state = lib.WORKER_RUNNING
        log.debug("%s is ready (pid %d)", worker.title, worker.process.pid if worker.process else 0)
        # Control watches the socket file from now on; what happened to it before, only we can tell.
        if worker.kind == "control" and self.resources.uapi.is_gone():
            self.stop(f"the socket file {self.resources.uapi.path} was removed")
        if not self.announced and not self.stopping and all(w.was_ready for w in self.workers):
            self.announced = True
            log.info("%s is ready, UDP port %d", self.resources.interface, self.resources.port)
            self.deadline = None
            self.standby.life = Life.WAITING
            self.on_ready()
            self.manager.ready(self._status(), time.monotonic())

    def _reap(self, worker: Worker) -> None:
        """The pidfd is readable: the process has ended. Now it is dead."""
        assert worker.process is not None
        status = worker.process.wait()
        self.selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        if worker.channel is not None:
            self._read_last_words(worker)
        self._close_channel(worker)
        worker.process, worker.pidfd, worker.kill_at = None, -1, None
        if self.stopping:
            worker.life = Life.ENDED
            self.resources.segment.workers[worker.line].state = lib.WORKER_ABSENT
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with code {status}"
        if not worker.was_ready:
            self._not_started(worker, f"it {how} before it was ready")
            return
        log.error("%s %s", worker.title, how)
        self._repair(worker)
        self._schedule_restart(worker)

    def _repair(self, worker: Worker) -> None:
        """Make whole what the dead worker left, and wake whoever waited for it."""
        segment = self.resources.segment
        line = segment.workers[worker.line]
        line.state = lib.WORKER_REPAIRING
        repair = ffi.new("struct repair *")
        lib.repair_worker(segment, worker.line, repair)
        for other, bell in self.resources.bells.items():
            lib.bell_ring_starving(segment, other, bell)
        line.state = lib.WORKER_ABSENT
        found = {name: int(getattr(repair, name)) for name, _ in ffi.typeof("struct repair").fields}
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found.items() if n)
        log.info("%s repaired: %s", worker.title, counts or "it left nothing undone")

    def _schedule_restart(self, worker: Worker) -> None:
        now = time.monotonic()
        if worker.ready_at is not None and now - worker.ready_at >= STEADY_SECONDS:
            worker.deaths = 0
        pause = PAUSES[min(worker.deaths, len(PAUSES) - 1)]
        worker.deaths += 1
        worker.start_at = now + pause
        worker.life = Life.WAITING
        log.info("%s starts again in %.1f s", worker.title, pause)

    def _not_started(self, worker: Worker, why: str) -> None:
        """A start that failed without words: the end at first, another try later."""
        worker.life = Life.ENDED
        if worker.was_ready:
            log.error("%s did not start again: %s", worker.title, why)
            self._schedule_restart(worker)
        else:
            self._fail(f"the {worker.title} process cannot start", why, "see why with `plaitd --foreground`")

    # -- channels -----------------------------------------------------------------------------

    def _send(self, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
        if worker.channel is None:
            return
        try:
            worker.channel.send(message, fds)
            if worker.kind == "consumer":  # it sleeps on its bell, not on its channel
                lib.bell_ring(self.resources.segment, worker.line, -1)
        except ChannelClosed:
            pass  # it ends, or has: the pidfd tells
        except TimeoutError:
            log.error("%s does not read its channel and is killed", worker.title)
            self._kill(worker)

    def _receive(self, worker: Worker) -> None:
        if worker.channel is None:
            return
        try:
            message, fds = worker.channel.receive()
        except ChannelClosed:
            self._close_channel(worker)
            worker.kill_at = time.monotonic() + CLOSED_SECONDS
            return
        except (TimeoutError, ValueError) as error:
            self._nonsense(worker, str(error))
            return
        for fd in fds:
            os.close(fd)
        try:
            self._dispatch(worker, message)
        except (KeyError, TypeError, ValueError) as error:
            self._nonsense(worker, f"{type(error).__name__} {error}")

    def _dispatch(self, worker: Worker, message: dict[str, Any]) -> None:
        match str(message["kind"]):
            case "ready" if worker.life is Life.STARTING:
                self._ready(worker)
                self._note_kept(", ".join(map(str, message["kept"])))
            case "failed":
                self._failed(worker, str(message["what"]), str(message["why"]), str(message["next"]))
            case "log":
                level = {"error": logging.ERROR, "info": logging.INFO}.get(
                    str(message["level"]), logging.DEBUG
                )
                log.log(level, "%s: %s", worker.title, str(message["text"]))
            case "listen_port" if worker.kind == "control":
                self._change_port(worker, int(message["port"]))
            case "ended" if worker.kind == "control":
                self.stop(str(message["reason"]))
            case kind:
                raise ValueError(f"message of kind {kind!r}")

    def _note_kept(self, kept: str) -> None:
        """Once: the kernel is the same for all."""
        if kept and not self.noted_kept:
            self.noted_kept = True
            log.info("this kernel does not let workers give up %s", kept)

    def _failed(self, worker: Worker, what: str, why: str, next_step: str) -> None:
        if worker.was_ready or self.stopping:  # a later start: the reaper tries again
            log.error("%s: %s: %s; %s", worker.title, what, why, next_step)
        else:
            self._fail(what, why, next_step)

    def _change_port(self, control: Worker, port: int) -> None:
        """Control asks for another listen port: all workers get new sockets, or none does."""
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port}")
        try:
            old = self.resources.change_port(port)
        except Failure as failure:
            log.error("%s", failure)
            refusal = {"kind": "listen_port", "port": self.resources.port, "errno": failure.errno, "fds": []}
            self._send(control, refusal, [])
            return
        named = self.resources.named_sockets()
        names, fds = list(named), list(named.values())
        if old:
            for worker in self.workers:
                if worker is not control:
                    self._send(worker, {"kind": "sockets", "fds": names}, fds)
        answer = {"kind": "listen_port", "port": self.resources.port, "errno": 0, "fds": names}
        self._send(control, answer, fds)
        close_sockets(old)

    def _read_last_words(self, worker: Worker) -> None:
        """What a dead worker said before it died is still in its channel: the reason, mostly."""
        assert worker.channel is not None
        worker.channel.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while worker.channel is not None:
                self._receive(worker)

    def _nonsense(self, worker: Worker, words: str) -> None:
        log.error("%s sent what the supervisor does not understand (%s) and is killed", worker.title, words)
        self._close_channel(worker)
        self._kill(worker)

    def _close_channel(self, worker: Worker) -> None:
        if worker.channel is not None:
            self.selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None

    # -- the end --------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Tell all workers to end. The loop ends when the last of them is reaped."""
        if self.stopping:
            return
        self.stopping = True
        self.deadline = time.monotonic() + STOP_SECONDS
        log.info("ending: %s", reason)
        self.manager.stopping(reason)
        for worker in self.workers:
            if worker.life in (Life.STARTING, Life.RUNNING):
                self.resources.segment.workers[worker.line].state = lib.WORKER_STOPPING
                self._send(worker, {"kind": "stop"}, [])

    def _fail(self, what: str, why: str, next_step: str) -> None:
        if self.failure is None:
            self.failure = Failure(what, why, next_step, Exit.WORKER)
        self.stop(why)

    def _kill(self, worker: Worker) -> None:
        worker.kill_at = None
        if worker.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    def _kill_all(self) -> None:
        """After the loop, and after a fault of our own: no worker outlives the supervisor."""
        everybody = (*self.workers, self.standby)
        for worker in everybody:
            self._kill(worker)
        for worker in everybody:
            if worker.process is not None:
                worker.process.wait()
                os.close(worker.pidfd)
                if worker.channel is not None:
                    worker.channel.close()


def _channel(worker: Worker) -> Channel:
    assert worker.channel is not None
    return worker.channel
