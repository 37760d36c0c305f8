"""`plait exec FILE -- COMMAND`: a program whose only network is the tunnel of a file, without root."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

from plait.failure import Failure
from plait.rootless.box import NotRun, Sandbox
from plait.signals import interruptible

# Exit codes beside the program's own, as env(1) and containers have them.
NO_SANDBOX: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
ENOENT: Final = 2

PASSED_ON: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
SI_KERNEL: Final = 0x80  # asm-generic/siginfo.h: of a terminal, which sends it to the program as well
ENDED: Final = signal.SIGCHLD


def run(config: str, command: Sequence[str]) -> int:
    """Run the program; its exit code, 128 + N when a signal ended it."""
    try:
        with interruptible(), Sandbox(config) as box:
            # Behind the start, which a signal may end: now they are waited for, with who sent them. The
            # sandbox's own thread has them blocked anyhow, and others are made later.
            signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, ENDED})
            return _wait(box, box.start(command))
    except NotRun as failure:
        print(f"plait: {failure}", file=sys.stderr)
        is_missing = failure.errno == ENOENT and not failure.in_directory
        return NOT_FOUND if is_missing else NOT_EXECUTABLE
    except Failure as failure:
        print(f"plait: {failure}", file=sys.stderr)
        return NO_SANDBOX


def _wait(box: Sandbox, number: int) -> int:
    """Pass signals on until the program has ended."""
    codes: list[int] = []
    failures: list[Failure] = []

    def wait() -> None:
        try:
            codes.append(box.wait(number))
        except Failure as failure:
            failures.append(failure)
        signal.pthread_kill(threading.main_thread().ident or 0, ENDED)

    threading.Thread(target=wait, daemon=True).start()
    while not codes and not failures:
        told = signal.sigwaitinfo({*PASSED_ON, ENDED})
        if told.si_signo != ENDED and told.si_code != SI_KERNEL:
            box.signal(number, told.si_signo)
    if failures:
        raise failures[0]
    return codes[0]
