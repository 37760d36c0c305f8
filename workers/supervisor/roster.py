"""The workers of one interface: how they start, end and are replaced.

    hire ──▶ WAITING ──fork──▶ STARTING ──"ready"──▶ RUNNING
                ▲                  │                    │
                │                  └── process ended ───┤   reaped, then what it left is repaired
                ├── after a pause, or at once to renew ─┤
                └───────────────────────────────────────┴──▶ ENDED: told to leave, a first start that
                                                             failed, or the interface ends

- A worker is dead when it has been reaped, never earlier. What it left in the shared segment
  is repaired before its replacement starts, with the same fds and the next incarnation.
- A worker that cannot start is an error with a reason, for the listener to judge. One that was
  ready once is started again, at once the first time, then with growing pauses.
- While a receiver does not come back, the others read its sockets and its queue. While a consumer does not
  come back, its peers belong to the others (docs/adr/0010).
- A worker whose channel is stuck or nonsense is killed and replaced like any dead one.
- Every worker is a fork of the supervisor, which has loaded what they run (launch.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from shm.segment import SegmentError
from workers import version
from workers._workers import ffi, lib
from workers.channel import Channel, ChannelClosed, DescriptorsLost
from workers.failure import explain
from workers.handoffs import INLINE
from workers.launch import Birth, WorkerStart, fork_workers
from workers.promises import say
from workers.settings import Settings
from workers.sharing import NEVER, Share
from workers.supervisor.patience import Patience
from workers.supervisor.resources import Resources
from workers.supervisor.watchdog import NANOSECONDS, process_state, ring
from workers.supervisor.worker import Life, Told, Worker

NO_CPU = 0xFFFFFFFF
OUT_OF_FILES = "the supervisor has no descriptor left; raise its limit on open files (prlimit --nofile)"
# Raised by a message that has values of wrong types: an infinite number, no mapping, …
SENSELESS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
MOST_BROKEN = 32  # promises, and characters of each below: every control is told of all in one message
PROMISE_CHARACTERS, WHY_CHARACTERS = 40, 200
LINES = {"control": lib.WORKER_CONTROL, "receiver": lib.WORKER_RECEIVER, "consumer": lib.WORKER_CONSUMER}
log = logging.getLogger("plait")


class Listener(Protocol):
    """Hears what happens to the workers: the supervisor."""

    def worker_is_ready(self, worker: Worker) -> None:
        """The worker is ready, the first one or a replacement."""

    def worker_says(self, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
        """A message that is not about the worker's own life. Its descriptors are closed afterwards. Raises
        one of SENSELESS when it makes no sense."""

    def worker_will_not_start(self, what: str, why: str, next_step: str) -> None:
        """The first process of a worker that the interface needs did not become ready."""

    def emit(self, event: str, **details: Any) -> None:
        """Something happened that `plait events` is to show (news.py)."""


class Roster:
    """Every worker. The supervisor hires them; its loop calls `keep_time` when something is `due`, and the
    selector's callbacks."""

    def __init__(
        self,
        resources: Resources,
        settings: Settings,
        selector: selectors.BaseSelector,
        listener: Listener,
        work: Mapping[str, Callable[[WorkerStart], None]],
        patience: Patience,
    ) -> None:
        self.resources = resources
        self.settings = settings
        self.selector = selector
        self.listener = listener
        self.patience = patience
        self.segment = resources.segment
        self.workers: list[Worker] = []
        self.work = work
        self.stopping = False
        self.broken: dict[str, str] = {}  # promises that this host does not let us keep, and why
        self.oom_score: int | None = None  # of workers; None: more than ours
        self.program: list[str] = []  # what starts plaitd

    # -- who there is -------------------------------------------------------------------------

    def hire(self, kind: str, number: int, is_extra: bool = False) -> Worker:
        """One more worker; `keep_time` starts its process."""
        cpus = () if kind == "control" else self.settings.cores_of(number)
        worker = Worker(kind, number, LINES[kind] + number, cpus, is_extra)
        self.workers.append(worker)
        return worker

    def find(self, kind: str, number: int = 0) -> Worker:
        return next(w for w in self.workers if (w.kind, w.number) == (kind, number))

    def of_kind(self, *kinds: str) -> list[Worker]:
        return [w for w in self.workers if w.kind in kinds]

    @property
    def have_ended(self) -> bool:
        return all(w.life is Life.ENDED for w in self.workers)

    # -- what another program is left (upgrade.py) ----------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """Every worker as a JSON object."""
        return [worker.describe() for worker in self.workers]

    def fds(self) -> list[int]:
        """The descriptors that `describe` names."""
        return [worker.channel.fileno() for worker in self.workers if worker.channel is not None]

    def resume(self, described: list[dict[str, Any]]) -> None:
        """Take over workers that are our children already."""
        for handover in described:
            worker = self.hire(handover["kind"], handover["number"])
            if worker.resume(handover, self.patience):
                self._watch(worker)
            elif handover["pid"] is not None:  # it has closed its channel, and is no use
                os.kill(handover["pid"], signal.SIGKILL)
                os.waitpid(handover["pid"], 0)
                self._mourn(worker, -signal.SIGKILL, "it had closed its channel", self._repair(worker))

    # -- time ---------------------------------------------------------------------------------

    def due(self) -> Iterator[float]:
        """Each time.monotonic() at which `keep_time` has something to do."""
        for worker in self.workers:
            if worker.life is Life.WAITING and not self.stopping:
                yield worker.start_at
            if worker.stand_in_at is not None:
                yield worker.stand_in_at
            if worker.kill_at is not None:
                yield worker.kill_at

    def keep_time(self, now: float) -> None:
        """Start and kill the workers whose time has come."""
        due = []
        for worker in self.workers:
            if worker.life is Life.WAITING:
                if self.stopping:
                    worker.life = Life.ENDED
                elif worker.start_at <= now:
                    due.append(worker)
        if due:
            self._start(due)
        for worker in list(self.workers):
            if worker.stand_in_at is not None and worker.stand_in_at <= now:
                self._give_away(worker)
            if worker.kill_at is not None and worker.kill_at <= now and self._waits_for_cpu(worker):
                worker.kill_at = now + self.patience.restart
            if worker.kill_at is not None and worker.kill_at <= now:
                why = "it did not end when it was told" if worker.channel else "it closed its channel"
                if worker.life is Life.STARTING:
                    log.error("%s did not become ready in time and is killed", worker.title)
                    why = "it did not become ready in time"
                worker.kill(why)

    def _waits_for_cpu(self, worker: Worker) -> bool:
        """Whether a starting worker is late for want of CPU, which is no reason to kill it."""
        if worker.life is not Life.STARTING or worker.told is not Told.NOTHING_YET or worker.process is None:
            return False
        try:
            letter, cpu = process_state(worker.process.pid)
        except (OSError, ValueError):  # it has ended, or there is no /proc to ask
            return False
        return letter in "RD" and cpu < self.patience.busy * NANOSECONDS

    # -- the start ----------------------------------------------------------------------------

    def _start(self, workers: list[Worker]) -> None:
        """Start these workers. All are forked before any is told what to do, and before any is given up."""
        channels, refused = [], []
        for worker in workers:
            try:
                channels.append((worker, *Channel.pair()))
            except OSError as why:
                refused.append((worker, why))
        births = [Birth(self.work[worker.kind], worker.title, theirs) for worker, _, theirs in channels]
        begun = []
        for (worker, ours, theirs), process in zip(
            channels, fork_workers(births, self.resources.interface), strict=True
        ):
            theirs.close()  # first, so that the pidfd can have its number when no other is free
            if isinstance(process, OSError):
                ours.close()
                refused.append((worker, process))
                continue
            ours.socket.settimeout(self.patience.send)
            worker.fill(process, ours)
            begun.append(worker)
        for worker in begun:
            self._begin(worker)
        for worker, error in refused:
            self._not_started(worker, *explain(error))

    def _begin(self, worker: Worker) -> None:
        """Tell a process that was just forked what it is to do."""
        line = self.segment.workers[worker.line]
        if line.incarnation == 0:
            line.incarnation = 1
        assert worker.process is not None
        worker.life, worker.told = Life.STARTING, Told.NOTHING_YET
        worker.ready_at = None
        seconds = self.patience.start if worker.kind == "control" else self.patience.restart
        worker.kill_at = time.monotonic() + seconds if worker.was_ready or worker.is_extra else None
        if worker.was_ready and worker.kind != "control":
            worker.stand_in_at = time.monotonic() + self.patience.stand_in
        line.pid = worker.process.pid
        line.cpu = worker.cpus[0] if len(worker.cpus) == 1 else NO_CPU
        line.state = lib.WORKER_STARTING
        self._watch(worker)
        names, fds = self.resources.fds_for(worker.kind, worker.number)
        message = {
            "kind": "start",
            "role": worker.kind,
            "worker": worker.line,
            "number": worker.number,
            "incarnation": int(line.incarnation),
            "segment_bytes": self.resources.data.bytes,
            "cpus": worker.cpus,
            "quiet_core": self._quiet_core_of(worker),
            "handoff": self.settings.handoff,
            "priority": self.settings.priority,
            "share": self._share_of(worker),
            "cores": len(set(self.settings.cores)),
            "aead": self.settings.aead,
            "joins": self.resources.joins,
            "trains": int(self.resources.trains),
            "receivers": self.resources.receivers,
            "consumers": self.resources.consumers,
            "away": sorted(self.resources.away_consumers),
            "oom_score": self.oom_score,
            "fds": names,
        }
        if worker.kind == "control":
            message["broken"] = self.broken
            message["idle_after"] = self.settings.idle_seconds
            message["gateway"] = self.settings.gateway_and_bits
            message["socket"] = self.resources.uapi.file
            message["given"] = self.resources.given
            message["program"] = {**version.as_dict(), "program": self.program}
        self.send(worker, message, fds)

    def _share_of(self, worker: Worker) -> Share:
        """The setting, for whoever holds directions, where there is memory for the parts."""
        holders = {"consumer", "receiver"} if self.settings.handoff == INLINE else {"consumer"}
        if worker.kind not in holders or self.settings.share == NEVER:
            return NEVER
        try:
            self.resources.data.ensure_parts(worker.line)
        except SegmentError as error:
            log.info("%s shares no batches: %s", worker.title, error)
            return NEVER
        self.segment.workers[worker.line].lends = 1
        return self.settings.share

    def _quiet_core_of(self, worker: Worker) -> int | None:
        if worker.kind == "control":
            return None
        return self.settings.quiet_core_of(worker.number, self.resources.interface)

    def _watch(self, worker: Worker) -> None:
        if worker.pidfd >= 0:
            self.selector.register(worker.pidfd, selectors.EVENT_READ, lambda: self._reap(worker))
        self.selector.register(_channel(worker), selectors.EVENT_READ, lambda: self._receive(worker))

    def _ready(self, worker: Worker) -> None:
        worker.life = Life.RUNNING
        worker.was_ready = True
        worker.kill_at = worker.stand_in_at = None
        worker.ready_at = time.monotonic()
        self.segment.workers[worker.line].state = lib.WORKER_RUNNING
        log.debug("%s is ready (pid %d)", worker.title, worker.process.pid if worker.process else 0)
        if worker.died_at is not None:
            away = round(worker.ready_at - worker.died_at, 3)
            incarnation = int(self.segment.workers[worker.line].incarnation)
            self.listener.emit("worker_replaced", worker=worker.title, incarnation=incarnation, away=away)
            worker.died_at = None
        self._give_back(worker)
        self.listener.worker_is_ready(worker)

    def note_broken(self, broken: dict[str, str]) -> None:
        """Log each broken promise once, whichever worker noted it, and let control answer with them."""
        cut = {promise[:PROMISE_CHARACTERS]: why[:WHY_CHARACTERS] for promise, why in broken.items()}
        news = {promise: why for promise, why in cut.items() if promise not in self.broken}
        news = dict(islice(news.items(), max(MOST_BROKEN - len(self.broken), 0)))
        for promise, why in news.items():
            log.info("%s", say(promise, why))
        self.broken |= news
        control = next((w for w in self.workers if w.kind == "control"), None)
        if news and control is not None and control.life is Life.RUNNING:
            self.send(control, {"kind": "broken", "broken": self.broken}, [])

    def _failed(self, worker: Worker, what: str, why: str, next_step: str) -> None:
        if worker.was_ready or worker.is_extra or self.stopping:  # the reaper decides
            worker.why_failed = f"{what}: {why}"
            log.error("%s: %s: %s; %s", worker.title, what, why, next_step)
        else:
            self.listener.worker_will_not_start(what, why, next_step)

    def _not_started(
        self, worker: Worker, why: str, mend: str = "see why with `plaitd --foreground`"
    ) -> None:
        """A start failed without a message of the worker: the first ends all, a later one is tried again."""
        worker.life = Life.ENDED
        if worker.was_ready:
            log.error("%s did not start again: %s", worker.title, why)
            self._schedule_restart(worker, why)
        elif worker.is_extra:
            log.error("%s does not start: %s", worker.title, why)
            self._repair(worker)
            self.workers.remove(worker)
        else:
            what = f"the {worker.title} process cannot start"
            self.listener.worker_will_not_start(what, why, mend)

    # -- the end of a process -------------------------------------------------------------------

    def reap_without_pidfd(self) -> None:
        """SIGCHLD: reap ended workers that have no pidfd. The others are reaped when their pidfd says so."""
        for worker in list(self.workers):
            if worker.pidfd < 0 and worker.process is not None and worker.process.has_ended:
                self._reap(worker)

    def _reap(self, worker: Worker) -> None:
        """The process has ended. Now it is dead."""
        if worker.pidfd >= 0:
            self.selector.unregister(worker.pidfd)
        why_killed = worker.why_killed
        status = worker.bury()
        if worker.channel is not None:
            self._read_last_words(worker)
        self._close_channel(worker)
        worker.kill_at = worker.stand_in_at = None
        if self.stopping:
            worker.life = Life.ENDED
            self.segment.workers[worker.line].state = lib.WORKER_ABSENT
            return
        how = _how(status)
        if not worker.was_ready:
            self._not_started(worker, f"it {how} before it was ready")
            return
        was_starting = worker.life is Life.STARTING
        is_death = worker.told is Told.NOTHING_YET or status != 0
        if is_death:
            log.error("%s %s", worker.title, how)
        repaired = self._repair(worker)
        if is_death:
            self._mourn(worker, status, why_killed, "" if was_starting else repaired)
        if worker.told is Told.LEAVE:
            worker.life = Life.ENDED
            self.workers.remove(worker)
        elif worker.told is Told.RENEW:
            worker.life, worker.start_at = Life.WAITING, 0.0
        else:
            self._schedule_restart(worker, (why_killed or worker.why_failed or f"it {how}") * was_starting)
        worker.why_failed = ""

    def _mourn(self, worker: Worker, status: int, why_killed: str, repaired: str) -> None:
        """Count a death that nobody asked for, and tell of it. repaired: what was; empty for one that had
        not begun to work."""
        kind = lib.DEATHS_STUCK if why_killed else lib.DEATHS_KILLED if status < 0 else lib.DEATHS_ENDED
        lib.counter_add(self.segment, lib.WORKER_SUPERVISOR, kind, 1)
        if repaired:
            cause = {lib.DEATHS_STUCK: "stuck", lib.DEATHS_KILLED: "killed", lib.DEATHS_ENDED: "ended"}[kind]
            reason = f"{why_killed}, so that it was killed" if why_killed else f"it {_how(status)}"
            self.listener.emit(
                "worker_died", worker=worker.title, cause=cause, reason=reason, repaired=repaired
            )
        if worker.told is not Told.LEAVE and worker.died_at is None:
            worker.died_at = time.monotonic()

    def _repair(self, worker: Worker) -> str:
        """Repair what the dead worker left, and wake all who may wait for it. What it left, in words."""
        line = self.segment.workers[worker.line]
        line.state = lib.WORKER_REPAIRING
        repair = ffi.new("struct repair *")
        lib.repair_worker(self.segment, worker.line, repair)
        for bell in self.resources.bells.values():  # the dead may have taken an announcement and rung nobody
            ring(bell)
        line.state = lib.WORKER_ABSENT
        found = {name: int(getattr(repair, name)) for name, _ in ffi.typeof("struct repair").fields}
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found.items() if n)
        words = counts or "it left nothing undone"
        log.info("%s repaired: %s", worker.title, words)
        return words

    def _schedule_restart(self, worker: Worker, why_not: str = "") -> None:
        """why_not: the last try failed."""
        now = time.monotonic()
        if worker.ready_at is not None and now - worker.ready_at >= self.patience.steady:
            worker.deaths = 0
        worker.ready_at = None  # of the one that died: a start that the kernel refuses has no other
        pauses = self.patience.pauses
        pause = pauses[min(worker.deaths, len(pauses) - 1)]
        worker.deaths += 1
        worker.start_at = now + pause
        worker.life = Life.WAITING
        if pause:
            self._give_away(worker)
        log.info("%s starts again in %.1f s", worker.title, pause)
        if why_not:
            self.listener.emit("worker_not_replaced", worker=worker.title, reason=why_not, pause=pause)

    # -- receivers and consumers that do not come back ------------------------------------------

    def _give_away(self, worker: Worker) -> None:
        """Others read the sockets and the queue of this receiver, or have the peers of this consumer, until
        it is back."""
        worker.stand_in_at = None
        if worker.kind == "control" or worker.number in self._away(worker) or self.stopping:
            return
        self._away(worker).add(worker.number)
        if worker.kind == "receiver":
            log.info("what is sent to %s is read by other receivers until it is back", worker.title)
        else:
            log.info("the peers of %s belong to other consumers until it is back", worker.title)
        self._share_work(worker.kind)

    def _give_back(self, worker: Worker) -> None:
        """The worker is back. Until the others have let go, two processes read the same sockets or queue:
        packets may be reordered, none is lost."""
        if worker.kind != "control" and worker.number in self._away(worker):
            self._away(worker).remove(worker.number)
            self._share_work(worker.kind)

    def _away(self, worker: Worker) -> set[int]:
        return self.resources.away if worker.kind == "receiver" else self.resources.away_consumers

    def _share_work(self, kind: str) -> None:
        """Receivers are given the sockets and queues themselves; consumers their peers, by control."""
        for other in self.of_kind("receiver" if kind == "receiver" else "control"):
            self.share(other)

    def peers_are_shared_out(self) -> None:
        """No process takes any peer for one of a consumer that is away. Peers marked ready at such a consumer
        are passed on."""
        away = self.resources.away_consumers
        for worker in self.of_kind("consumer"):
            if worker.number in away and len(away) < self.resources.consumers:
                lib.schedule_pass_on(self.segment, worker.number)

    # -- channels -----------------------------------------------------------------------------

    def send(self, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
        if worker.channel is None:
            return
        try:
            worker.channel.send(message, fds)
            if worker.kind == "consumer":  # it sleeps on its bell, not on its channel
                lib.bell_ring(self.segment, worker.line, -1)
        except ChannelClosed:
            pass  # it ends, or has: the pidfd tells
        except TimeoutError:
            log.error("%s does not read its channel and is killed", worker.title)
            worker.kill("it does not read its channel")
        except OSError as error:  # what it misses now, its successor is told at the start
            if not (worker.was_ready or worker.is_extra or self.stopping):
                raise  # the first message of the start: the host refuses to pass descriptors
            why = f"what it is to be told cannot be sent: {error.strerror or error}"
            log.error("%s is killed: %s", worker.title, why)
            worker.kill(why)

    def share(self, worker: Worker, kind: str = "sockets", **more: Any) -> None:
        """Send a worker the descriptors to use from now on, the numbers of workers, and the interface's name.

        The worker answers when it has closed its former ones. One without a process gets them at its start.
        """
        if worker.channel is None:
            return
        names, fds = self.resources.packet_fds_for(worker.kind, worker.number)
        numbers = {"receivers": self.resources.receivers, "consumers": self.resources.consumers}
        more |= {"interface": self.resources.interface, "away": sorted(self.resources.away_consumers)}
        worker.unanswered += 1
        self.send(worker, {"kind": kind, "fds": names, **numbers, **more}, fds)

    def _receive(self, worker: Worker) -> None:
        if worker.channel is None:
            return
        try:
            message, fds = worker.channel.receive()
        except ChannelClosed:
            self._close_channel(worker)
            worker.kill_at = time.monotonic() + self.patience.closed
            return
        except DescriptorsLost:  # a client's connection, which is closed by that
            log.error("a request of %s is lost: %s", worker.title, OUT_OF_FILES)
            return
        except ValueError as error:
            self._nonsense(worker, str(error))
            return
        except BlockingIOError:
            raise
        except OSError as error:  # the message is still there, and the next turn of the loop reads it
            log.debug("%s cannot be heard: %s", worker.title, error)
            if worker.process is None:  # nobody reads the last words twice
                self._close_channel(worker)
            return
        try:
            self._dispatch(worker, message, fds)
        except SENSELESS as error:
            self._nonsense(worker, f"{type(error).__name__} {error}")
        finally:
            for fd in fds:
                os.close(fd)

    def _dispatch(self, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
        match str(message["kind"]):
            case "ready" if worker.life is Life.STARTING:
                self._ready(worker)
                self.note_broken({str(promise): str(why) for promise, why in message["broken"].items()})
            case "failed":
                self._failed(worker, str(message["what"]), str(message["why"]), str(message["next"]))
            case "replaced" if worker.unanswered:
                worker.unanswered -= 1
            case "log":
                level = {"error": logging.ERROR, "info": logging.INFO}.get(
                    str(message["level"]), logging.DEBUG
                )
                log.log(level, "%s: %s", worker.title, str(message["text"]))
            case _:
                self.listener.worker_says(worker, message, fds)

    def _read_last_words(self, worker: Worker) -> None:
        """Read what a dead worker sent before it died: mostly the reason."""
        _channel(worker).socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while worker.channel is not None:
                self._receive(worker)

    def _nonsense(self, worker: Worker, words: str) -> None:
        log.error("%s sent what the supervisor does not understand (%s) and is killed", worker.title, words)
        self._close_channel(worker)
        worker.kill("it sent what the supervisor does not understand")

    def _close_channel(self, worker: Worker) -> None:
        if worker.channel is not None:
            self.selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None

    # -- the end --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Tell all workers to end."""
        self.stopping = True
        for worker in self.workers:
            if worker.life in (Life.STARTING, Life.RUNNING):
                self._tell_to_end(worker)

    def dismiss(self, worker: Worker) -> None:
        """End a worker for good."""
        if worker.process is None:
            worker.life = Life.ENDED
            self.workers.remove(worker)
            return
        worker.told, worker.kill_at = Told.LEAVE, time.monotonic() + self.patience.stop
        self._tell_to_end(worker)

    def renew(self, worker: Worker) -> None:
        """End a worker's process; another one follows at once."""
        if worker.process is not None:
            worker.told, worker.kill_at = Told.RENEW, time.monotonic() + self.patience.stop
            self._tell_to_end(worker)

    def _tell_to_end(self, worker: Worker) -> None:
        self.segment.workers[worker.line].state = lib.WORKER_STOPPING
        self.send(worker, {"kind": "stop"}, [])

    def kill_all(self) -> None:
        """After the loop, and after a fault of our own: no worker outlives the supervisor."""
        everybody = [w for w in self.workers if w.process is not None]
        for worker in everybody:
            worker.kill()
        for worker in everybody:
            worker.bury()
            if worker.channel is not None:
                worker.channel.close()


def _how(status: int) -> str:
    """A process ended, in words; status as in Child.wait."""
    if status >= 0:
        return f"ended with code {status}"
    if status == -signal.SIGSYS:
        why = "it made a system call that no worker makes: an attack, or a library's fault"
        return f"was killed by SIGSYS, since {why}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"


def _channel(worker: Worker) -> Channel:
    assert worker.channel is not None
    return worker.channel
