"""The supervisor: starts the workers of one interface, keeps them alive, ends them together.

It is a single-threaded loop over channels and pidfds. It touches no packet. Its rules:

- Signal handlers only enqueue (signals.py); the loop calls one `handle_<signal>` each.
- How workers start, end and are replaced stands in roster.py; what it hears of them ends here.
- A worker that the watchdog finds stuck is killed, and then treated as any dead one.
- The end is the same whatever the reason: all workers are told, waited for, then killed, and
  everything that was opened is given back.
"""

from __future__ import annotations

import base64
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from workers._workers import ffi, lib
from workers.failure import Exit, Failure
from workers.launch import WorkerStart, take_title
from workers.log import describe, reopen
from workers.log import look as look_at_log
from workers.promises import PR_SET_DUMPABLE, Broken, Promise, be_spared, set_process_option
from workers.selector import Selector
from workers.settings import Settings
from workers.supervisor import link_setup
from workers.supervisor.changes import Changes
from workers.supervisor.news import News
from workers.supervisor.notify import ServiceManager
from workers.supervisor.patience import Patience
from workers.supervisor.ports import Ports
from workers.supervisor.resources import Resources
from workers.supervisor.roster import NO_CPU, Roster
from workers.supervisor.scaling import Scaling
from workers.supervisor.signals import Signals
from workers.supervisor.upgrade import Upgrade
from workers.supervisor.watchdog import Watchdog
from workers.supervisor.worker import Life, Worker

log = logging.getLogger("plait")


class Supervisor:
    """The life of one interface, from its first worker to its last.

    run() returns when the interface has ended cleanly, or raises the Failure that ended it.
    on_ready is called once, when every worker is ready. work: what each kind of worker runs
    (entry_points.py). program starts plaitd, and may be another one when SIGUSR2 asks for it.
    """

    # Signals that end a process by default, and whose senders do not mean to end the engine: logrotate,
    # init at a power failure, a limit on CPU time.
    MEANINGLESS = (
        signal.SIGUSR1,
        signal.SIGALRM,
        signal.SIGVTALRM,
        signal.SIGPROF,
        signal.SIGPOLL,
        signal.SIGPWR,
        signal.SIGSTKFLT,
        signal.SIGXCPU,
    )
    SIGNALS = (  # each of the others has its handle_<signal>
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGUSR2,
        signal.SIGQUIT,
        signal.SIGCHLD,
        *MEANINGLESS,
    )

    def __init__(
        self,
        resources: Resources,
        settings: Settings,
        signals: Signals,
        on_ready: Callable[[], None],
        work: Mapping[str, Callable[[WorkerStart], None]],
        manager: ServiceManager | None = None,
        program: Sequence[str] = (),
        patience: Patience | None = None,
    ) -> None:
        self.resources = resources
        self.settings = settings
        self.segment = resources.segment
        self.signals = signals
        self.on_ready = on_ready
        self.patience = patience = patience or Patience()
        self.manager = manager or ServiceManager({})
        self.selector = Selector()
        self.roster = Roster(resources, settings, self.selector, self, work, patience)
        self.roster.program = list(program)
        self.scaling = Scaling(resources, self.roster)
        self.ports = Ports(resources, self.roster)
        self.upgrade = Upgrade(
            program, resources, self.roster, self.ports, signals, self._describe, self.manager.environment
        )
        self.news = News(self._send_news, self._count_given_up)
        self.numbers_told = resources.receivers, resources.consumers
        self.changes = Changes(
            {
                "more": self.scaling.scale_up,
                "fewer": self.scaling.scale_down,
                "scale": self.scaling.scale,
                "trial": self.upgrade.try_program,
                "upgrade": self.upgrade.replace_program,
                "renew": self.upgrade.renew_workers,
            }
        )
        self.failure: Failure | None = None
        self.announced = False
        self.deadline: float | None = None
        self.watchdog = Watchdog(resources.segment, resources.bells, patience)
        self.look_at = 0.0

    def run(self) -> None:
        """Start, watch, end."""
        self.selector.register(self.signals, selectors.EVENT_READ, self._take_signals)
        self._keep_promises()
        line = self.segment.workers[lib.WORKER_SUPERVISOR]
        line.incarnation += 1
        line.pid, line.cpu, line.state = os.getpid(), NO_CPU, lib.WORKER_RUNNING
        try:
            if not self.announced:
                self._hire_everybody()
            while not (self.stopping and self.roster.have_ended):
                self._keep_time(time.monotonic())
                self._tell_manager(time.monotonic())
                for key, _ in self.selector.select(self._timeout(time.monotonic())):
                    key.data()
        finally:
            self.changes.close()
            self.ports.close()
            self.roster.kill_all()
            self.selector.close()
        if self.failure is not None:
            raise self.failure

    def _keep_promises(self) -> None:
        """Those that a supervisor keeps (promises.py)."""
        broken = Broken()
        broken.try_to(Promise.NOT_DUMPED, lambda: set_process_option(PR_SET_DUMPABLE, 0))
        if not self.announced:  # else the program before us has done it
            self.roster.oom_score = be_spared()
        self.roster.note_broken(broken)
        self.roster.reap_without_pidfd()  # who ended while nobody listened for SIGCHLD

    def _hire_everybody(self) -> None:
        self.deadline = time.monotonic() + self.patience.start
        self.roster.hire("control", 0)
        for kind, count in (("receiver", self.resources.receivers), ("consumer", self.resources.consumers)):
            for number in range(count):
                self.roster.hire(kind, number)

    @property
    def stopping(self) -> bool:
        return self.roster.stopping

    # -- signals --------------------------------------------------------------------------

    def handle_sigint(self) -> None:
        """As SIGTERM: Ctrl-C in the foreground."""
        self.handle_sigterm()

    def handle_sigterm(self) -> None:
        """End cleanly; the second time, kill what has not ended yet."""
        if self.stopping:
            self.deadline = time.monotonic()
        self.stop("a signal asked for it")

    def handle_sigquit(self) -> None:
        """As SIGTERM: Ctrl-\\ in the foreground."""
        self.handle_sigterm()

    def handle_sighup(self) -> None:
        """Reopen the log file, as after logrotate renamed it. Without one only logged: a closed terminal
        does not end a tunnel."""
        if not reopen():
            log.info("SIGHUP is ignored: there is no log file, and settings are read at the start alone")

    def handle_sigttin(self) -> None:
        """One receiver and one consumer more."""
        self.changes.want("more")

    def handle_sigttou(self) -> None:
        """One receiver and one consumer fewer."""
        self.changes.want("fewer")

    def handle_sigchld(self) -> None:
        """A child ended; for those whose kernel tells it in no other way."""
        self.roster.reap_without_pidfd()

    def handle_sigusr2(self) -> None:
        """Go on as the program that is installed now."""
        self.changes.want("upgrade")

    def _take_signals(self) -> None:
        for number in self.signals.take():
            if number in self.MEANINGLESS:
                log.info("%s means nothing here; SIGHUP has the log file reopened", number.name)
            else:
                getattr(self, f"handle_{number.name.lower()}")()

    # -- time -----------------------------------------------------------------------------

    def _timeout(self, now: float) -> float | None:
        """Seconds until something is due; None when nothing is."""
        due = [at for at in (*self.roster.due(), self.deadline, self.manager.due) if at is not None]
        if self.announced and not self.stopping:
            due.append(self.look_at)
        if (self.changes.is_under_way or self.ports.is_under_way) and not self.stopping:
            due.append(now + self.patience.change)
        return max(min(due) - now, 0.0) if due else None

    def _keep_time(self, now: float) -> None:
        """Do what is due: starts, kills, the end of patience."""
        self.roster.keep_time(now)
        if not self.stopping:
            self.ports.go_on()
        if self.announced and not self.stopping:
            self.changes.go_on()
            if not self.changes.is_under_way:
                self._emit_numbers()
        if self.announced and not self.stopping and self.look_at <= now:
            self.look_at = now + self.patience.look
            self._look_for_stuck()
            self._look_at_lines_of_nobody()
            look_at_log()
        if self.deadline is None or self.deadline > now:
            return
        self.deadline = None
        if self.stopping:
            for worker in self.roster.workers:
                worker.kill()
            return
        late = ", ".join(w.title for w in self.roster.workers if not w.was_ready)
        self.worker_will_not_start(
            f"{late} did not become ready",
            f"{self.patience.start:.0f} seconds have passed",
            "see with `plaitd --foreground` where it stands",
        )

    def _describe(self) -> tuple[dict[str, Any], list[int]]:
        """What the program that takes our place needs (handover.py), and connections of clients that wait."""
        description = {
            "settings": msgspec.to_builtins(self.settings),
            "resources": self.resources.describe(),
            "workers": self.roster.describe(),
            "changes": self.changes.describe(),
            "oom_score": self.roster.oom_score,
            "log": describe(),
        }
        return description, self.changes.fds()

    def resume(self, handover: dict[str, Any]) -> None:
        """Go on from what the program before us described: all workers run, and each is to be renewed."""
        self.announced = True
        self.roster.oom_score = handover["oom_score"]
        self.roster.resume(handover["workers"])
        self.emit("upgraded", reason=self.upgrade.program[-1])  # a control of this program will tell it
        self.changes.resume(handover["changes"])
        self.manager.ready(self._status(), time.monotonic())
        lib.program_let_go()

    def _tell_manager(self, now: float) -> None:
        """The service manager hears who is away, and that control turns."""
        if not self.announced or self.stopping:
            return
        away = ", ".join(w.title for w in self.roster.workers if w.life is not Life.RUNNING)
        self.manager.status(self._status() + (f"; starting again: {away}" if away else ""), now)
        beat = int(self.segment.workers[lib.WORKER_CONTROL].beat)
        is_there = self.roster.find("control").life is Life.RUNNING
        self.manager.watch(now, (lib.clock_now() - beat) / 1e9 if is_there else None)

    def _status(self) -> str:
        r = self.resources
        return f"UDP port {r.port}, {r.receivers} receivers, {r.consumers} consumers"

    def _look_for_stuck(self) -> None:
        for worker in self.roster.workers:
            if worker.process is None or worker.life not in (Life.STARTING, Life.RUNNING):
                continue
            is_starting = worker.life is Life.STARTING
            why = self.watchdog.look(worker.kind, worker.line, worker.process.pid, is_starting)
            if why is not None:
                log.error("%s is stuck%s: %s; it is killed", worker.title, self._in_hand(worker), why)
                worker.kill(why)

    def _look_at_lines_of_nobody(self) -> None:
        """A broken worker may mark an absent worker as awake. Then no grace period would end, and nothing
        that control removes would be freed (shm/epoch.h)."""
        packets = self.roster.of_kind("receiver", "consumer")
        here = {worker.line for worker in packets if worker.process is not None}
        for number in range(lib.MAX_WORKERS):
            if self.segment.workers[number].epoch & 1 and number not in here:
                lib.epoch_sleep(self.segment, number)

    def _in_hand(self, worker: Worker) -> str:
        """Which peer a worker holds, in words."""
        row = int(self.segment.workers[worker.line].peer_in_hand) - 1
        if not 0 <= row < self.segment.geometry.max_peers:
            return ""
        key = bytes(ffi.buffer(self.segment.rows[row].public_key))
        return f" with peer {base64.b64encode(key).decode()} in hand"

    # -- what the roster hears of the workers -------------------------------------------------

    def worker_is_ready(self, worker: Worker) -> None:
        # Control watches the socket file from now on; what happened to it before, only we can tell.
        if worker.kind == "control" and self.resources.uapi.is_gone():
            self.stop(f"the socket file {self.resources.uapi.path} was removed")
        if worker.kind == "control":
            self.resources.uapi.dismiss_guard()
            self.news.control_is_ready()
        if not self.announced and not self.stopping and all(w.was_ready for w in self.roster.workers):
            self.announced = True
            log.info("%s is ready, UDP port %d", self.resources.interface, self.resources.port)
            self.deadline = None
            self.on_ready()
            self.manager.ready(self._status(), time.monotonic())
            lib.program_let_go()  # a start runs code that nothing else does, self-tests of ciphers above all

    def worker_says(self, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
        match str(message["kind"]):
            case "listen_port" if worker.kind == "control":
                self.ports.want(worker, int(message["port"]))
            case "shared_out" if worker.kind == "control":
                self.scaling.shared_out = int(message["consumers"])
                # A control of the program before this one knows of none.
                if set(message.get("away", ())) == self.resources.away_consumers:
                    self.roster.peers_are_shared_out()
            case "heard" if worker.kind == "control":
                self.news.heard(int(message["upto"]))
            case "renamed" if worker.kind == "control":
                self._follow_name(worker)
            case "change" if worker.kind == "control":
                self._take_request(str(message["change"]), [str(each) for each in message["arguments"]], fds)
            case "link_changed" if worker.kind == "control":
                link_setup.set_up(
                    self.resources.queues[0], is_new=False, multicast=self.settings.multicast
                )
            case "broken":
                self.roster.note_broken({str(name): str(why) for name, why in message["broken"].items()})
            case "ended" if worker.kind == "control":
                self.stop(str(message["reason"]))
            case kind:
                raise ValueError(f"message of kind {kind!r}")

    def _take_request(self, change: str, arguments: list[str], fds: list[int]) -> None:
        """A client of control's asks for a change; its connection came with it."""
        if change not in ("upgrade", "trial", "scale") or len(arguments) != 2 * (change == "scale"):
            raise ValueError(f"change {change!r} of {len(arguments)}")
        (client,) = fds
        self.changes.want(change, *arguments, asker=client)

    def worker_will_not_start(self, what: str, why: str, next_step: str) -> None:
        if self.failure is None:
            self.failure = Failure(what, why, next_step, Exit.WORKER)
        self.stop(why)

    def emit(self, event: str, **details: Any) -> None:
        self.news.emit(event, **details)

    def _send_news(self, message: dict[str, Any]) -> None:
        control = self.roster.find("control")
        if control.life is Life.RUNNING:
            self.roster.send(control, message, [])

    def _count_given_up(self) -> None:
        lib.counter_add(self.segment, lib.WORKER_SUPERVISOR, lib.GIVEN_UP, 1)

    def _emit_numbers(self) -> None:
        numbers = self.resources.receivers, self.resources.consumers
        if numbers != self.numbers_told:
            self.numbers_told = numbers
            self.emit("numbers_changed", receivers=numbers[0], consumers=numbers[1])

    def _follow_name(self, control: Worker) -> None:
        """Control saw another name of the interface: its socket file and every process take that name."""
        before = self.resources.interface
        try:
            self.resources.follow_name()
        except Failure as failure:
            log.error("%s", failure)
        except OSError as error:  # it may be gone, which control will see too
            log.debug("what %s is called now cannot be found out: %s", before, error)
        if self.resources.interface != before:
            log.info("the interface is called %s from now on", self.resources.interface)
            take_title(f"{self.resources.interface} supervisor")
            for worker in self.roster.of_kind("receiver", "consumer"):
                self.roster.share(worker)
        self.roster.share(control, "renamed", socket=self.resources.uapi.file)

    # -- the end --------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Tell all workers to end. The loop ends when the last of them is reaped."""
        if self.stopping:
            return
        self.deadline = time.monotonic() + self.patience.stop
        log.info("ending: %s", reason)
        self.manager.stopping(reason)
        self.roster.stop()
