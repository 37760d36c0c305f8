"""Another program takes the supervisor's place, and then the workers' places, while the interface runs.

    trial      the program at plaitd's path is started beside us. It loads everything, reads the
               description (handover.py), maps the segment and says that it can take over.
               If it does not, one line in the log says why, and nothing changes.
    exec       our process goes on as that program: the same pid, the same descriptors, and the
               workers, who do not notice, as its children.
    renewal    each worker is told to end and followed by one of the new program, one after
               another, as after a death, but with nothing in hand, control last.

Sessions, counters and replay windows stand in shared memory and stay there. A worker that does not
come back ends the renewal: the others go on as they are, and it is restarted as after any death.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from workers import version
from workers.failure import Exit, Failure, explain
from workers.log import fds as log_fds
from workers.log import hold as hold_log
from workers.log import release as release_log
from workers.supervisor import handover
from workers.supervisor.changes import Change
from workers.supervisor.ports import Ports
from workers.supervisor.resources import Resources
from workers.supervisor.roster import Roster
from workers.supervisor.signals import Signals
from workers.supervisor.worker import Life, Worker

log = logging.getLogger("plait")

Trial = Generator[None, None, str]  # what the program says of itself; Failure: it cannot take over


class Upgrade:
    """program: what to start, without arguments. describe: the description as it is now (handover.py), and
    the descriptors in it that are neither of resources nor of the roster. environment: what the new program
    needs besides ours."""

    def __init__(
        self,
        program: Sequence[str],
        resources: Resources,
        roster: Roster,
        ports: Ports,
        signals: Signals,
        describe: Callable[[], tuple[dict[str, Any], list[int]]],
        environment: Mapping[str, str],
    ) -> None:
        self.program = list(program)
        self.resources = resources
        self.roster = roster
        self.ports = ports
        self.signals = signals
        self.describe = describe
        self.environment = environment

    # -- the old program ----------------------------------------------------------------------

    def replace_program(self) -> Change:
        """Try the program, then be it. Comes back only to raise Failure: it is refused."""
        yield from self._try()
        return (yield from self._become())

    def try_program(self) -> Change:
        """Find out whether the program could take over, and no more."""
        said = yield from self._try()
        return {"program": self.program[-1], "says": said}

    def _refused(self, why: str) -> Failure:
        what, next_step = "not upgraded, everything goes on as it was", "mend that program, then ask again"
        return Failure(what, f"{self.program[-1]}: {why}", next_step, Exit.WORKER)

    def _no_file(self, error: OSError) -> Failure:
        why, next_step = explain(error)
        what = "not upgraded, everything goes on as it was"
        return Failure(what, f"no file for the description: {why}", next_step, Exit.WORKER)

    def _try(self) -> Trial:
        with contextlib.ExitStack() as stack:
            try:
                handover_fd = stack.enter_context(_closed(handover.write(self.describe()[0])))
                said = stack.enter_context(_memory())
            except OSError as error:
                raise self._no_file(error) from error
            try:
                process = subprocess.Popen(
                    self._command(handover_fd, "--trial"),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=(handover_fd, self.resources.data.fd),
                    process_group=0,
                )
            except OSError as error:
                raise self._refused(f"it cannot be started: {error.strerror}") from error
            try:
                patience = self.roster.patience.trial
                deadline = time.monotonic() + patience
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        raise self._refused(f"it says nothing in {patience:.0f} seconds")
                    yield
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
            if process.returncode == 0 and handover.ACCEPTED in lines:
                return lines[lines.index(handover.ACCEPTED) - 1]
            words = next((line for line in reversed(lines) if line), "it says nothing")
            raise self._refused(f"{words} (exit code {process.returncode})")

    def _become(self) -> Change:
        """Exec. Failure when that was not possible."""
        # From here on signals wait in the kernel, for the new program; what came before is done
        # first, and what lies in the sockets of an old port is read.
        numbers = self.signals.numbers
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        while self.signals.are_waiting or self.ports.is_under_way:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            yield
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        description, more = self.describe()
        try:
            handover_fd = handover.write(description)
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            raise self._no_file(error) from error
        with _closed(handover_fd):
            fds = [handover_fd, *self.resources.fds(), *self.roster.fds(), *more, *log_fds()]
            for fd in fds:
                os.set_inheritable(fd, True)
            command = self._command(handover_fd)
            hold_log()
            try:
                os.execve(command[0], command, {**os.environ, **self.environment})
            except OSError as error:
                release_log()
                for fd in fds:
                    os.set_inheritable(fd, False)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
                raise self._refused(f"it cannot be started: {error.strerror}") from error

    def _command(self, handover_fd: int, *more: str) -> list[str]:
        return [*self.program, "--inherit", str(handover_fd), *more, self.resources.interface]

    # -- the new program ----------------------------------------------------------------------

    def renew_workers(self) -> Change:
        """Every worker becomes one of this program."""
        workers = [w for kind in ("receiver", "consumer", "control") for w in self.roster.of_kind(kind)]
        for worker in workers:
            if not (yield from self._renew(worker)):
                raise Failure(
                    "upgraded in part",
                    f"{worker.title} does not come back: the others stay as they are for now",
                    "see why in the engine's log, mend it, then ask for an upgrade again",
                    Exit.WORKER,
                )
        log.info("upgraded: every process runs %s", self.program[-1])
        return {"program": self.program[-1], **version.as_dict()}

    def _renew(self, worker: Worker) -> Generator[None, None, bool]:
        """False when it did not come back."""
        deadline = time.monotonic() + self.roster.patience.start
        before, deaths = worker.process, worker.deaths
        self.roster.renew(worker)
        while worker.process is before or worker.life is not Life.RUNNING:
            if worker.deaths != deaths or time.monotonic() > deadline:
                return False
            yield
        return True


def _memory() -> BinaryIO:
    return os.fdopen(os.memfd_create("plait-trial", os.MFD_CLOEXEC), "w+b")


@contextlib.contextmanager
def _closed(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
