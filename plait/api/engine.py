"""An engine that this program starts, and which ends with it, however the program ends.

plaitd runs in the foreground as a child of one thread, which lives as long as the engine: the kernel sends
the child SIGTERM when that thread is gone (prctl(2), PR_SET_PDEATHSIG), be it by kill -9 of the program.
Readiness comes by sd_notify(3), so nobody looks every so often. The engine's log goes to the logger
`plait.engine`, a record a line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from plait.failure import Failure
from plait.programs import plaitd

log = logging.getLogger("plait.engine")
START_SECONDS: Final = 60.0
END_SECONDS: Final = 60.0
LAST_LINES: Final = 20  # of the log, for what is said when the engine does not start
ENDED: Final = b"ended"
# Becomes plaitd. The parent may have died before the prctl: then there is nobody to end it.
CHILD: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Engine:
    """plaitd for one interface. `start`, then `stop`, once each."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._process: Future[subprocess.Popen[bytes]] = Future()
        self._code: Future[int] = Future()
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self._process.result().pid

    def start(self) -> None:
        """Until the interface works. Failure when it does not come to that; nothing is left then."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind("")  # unix(7): the kernel chooses an abstract name
            told.settimeout(START_SECONDS)
            thread = threading.Thread(
                target=self._keep, args=(_program(self.interface), told.getsockname()), daemon=True,
                name=f"engine of {self.interface}",
            )  # fmt: skip
            thread.start()
            try:
                self._process.result()
            except OSError as error:
                why = f"the kernel refuses another process ({error.strerror})"
                step = "See what is missing: plait doctor"
                raise Failure(f"the engine of {self.interface} does not start", why, step) from error
            try:
                while (words := told.recv(4096)) != ENDED:
                    if b"READY=1" in words.split(b"\n"):
                        return
            except TimeoutError:
                self.stop()
                why = f"it is not ready after {START_SECONDS:.0f} s"
                step = f"See why: plaitd --foreground {self.interface}"
                raise Failure(f"the engine of {self.interface} does not start", why, step) from None
            except BaseException:
                self.stop()
                raise
        raise self._why_not()

    def stop(self) -> None:
        """End the engine and wait until nothing of it is left. Failure when it ended badly, now or before."""
        process = self._process.result()
        process.terminate()
        try:
            code = self._code.result(END_SECONDS)
        except TimeoutError:
            process.kill()
            self._code.result()
            why = f"it had not ended {END_SECONDS:.0f} s after SIGTERM, and was killed"
            step = "Its log (logger plait.engine) says what it waited for."
            raise Failure(f"the engine of {self.interface} did not end", why, step) from None
        if code not in (0, -signal.SIGTERM):
            why = "; ".join(self._last) or f"exit code {code}"
            step = "Its log (logger plait.engine) has more."
            raise Failure(f"the engine of {self.interface} ended badly", why, step)

    def _keep(self, program: list[str], address: bytes) -> None:
        """The thread that the engine is a child of."""
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + address[1:].decode()}
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"):  # meant for this program
            environment.pop(name, None)
        try:
            process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except BaseException as error:
            self._process.set_exception(error)
            return
        self._process.set_result(process)
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip("\n")
                self._last.append(text)
                log.info("%s: %s", self.interface, text)
        self._code.set_result(process.wait())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller, contextlib.suppress(OSError):
            teller.sendto(ENDED, address)  # nobody listens any more to whoever was ready

    def _why_not(self) -> Failure:
        """What plaitd said last: what: why; next step."""
        code = self._code.result()
        what, _, rest = (self._last[-1] if self._last else "").removeprefix("plaitd: ").partition(": ")
        why, semicolon, step = rest.rpartition("; ")
        if not semicolon:
            why = "; ".join(self._last) or f"plaitd ended with exit code {code}"
            what, step = f"the engine of {self.interface} does not start", "see what is missing: plait doctor"
        return Failure(what, why, f"{step[:1].upper()}{step[1:]}.")


def _program(interface: str) -> list[str]:
    # -I: nothing that lies about has a say. The stub's own import of ctypes is of the standard library.
    command = [plaitd(interface), "--foreground", interface]
    return [sys.executable, "-I", "-S", "-c", CHILD, str(os.getpid()), *command]
