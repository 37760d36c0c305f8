"""Threads that only compute: several cores share the arithmetic of a batch of handshakes.

The calls into C release the interpreter's lock, and each thread has libcrypto contexts of its own. A thread
that is free takes the next few handshakes, so that one which gets no CPU delays no more than the few that it
took. Where the kernel refuses a thread (a full pids cgroup, RLIMIT_NPROC), the next batch asks again. The
helpers are SCHED_BATCH and nice: in a storm of handshakes, data comes first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from workers._workers import ffi, lib
from workers.settings import usable_cpus

if TYPE_CHECKING:
    from workers._workers import Pointer, handshake, handshake_crypto

PIECE = 8  # handshakes; some hundred microseconds
MOST = 4  # threads, the caller's among them
NICE = 5

Step = Callable[["Pointer[handshake_crypto]", "Pointer[handshake]", int], None]


class CryptoThreads:
    """The caller's thread and `helpers` more at most, which start with the first large batch."""

    def __init__(self, helpers: int | None = None) -> None:
        if helpers is None:
            helpers = min(len(usable_cpus()), MOST) - 1
        self.cryptos = [_new_crypto() for _ in range(1 + helpers)]
        self.pool = self._new_pool()

    @property
    def crypto(self) -> Pointer[handshake_crypto]:
        """The caller's `struct handshake_crypto *`."""
        return self.cryptos[0]

    def _new_pool(self) -> ThreadPoolExecutor | None:
        helpers = len(self.cryptos) - 1
        return ThreadPoolExecutor(helpers, "crypto", _stand_back) if helpers else None

    def each(self, step: Step, handshakes: Pointer[handshake], count: int) -> None:
        """step(crypto, handshakes, n) over all of an array, in pieces; returns when all are done."""
        pieces = iter(range(0, count, PIECE))  # next() is atomic: it holds the interpreter's lock

        def work(crypto: Pointer[handshake_crypto]) -> None:
            for first in pieces:
                step(crypto, handshakes + first, min(PIECE, count - first))

        begun, is_refused = [], False
        if self.pool is not None and count > PIECE:
            try:
                for crypto in self.cryptos[1:]:
                    begun.append(self.pool.submit(work, crypto))
            except RuntimeError:  # the kernel refuses a thread; what was submitted stays in the pool's queue
                is_refused = True
        work(self.crypto)
        for helper in begun:
            if not helper.cancel():
                helper.result()
        if is_refused:
            self.close()
            self.pool = self._new_pool()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _new_crypto() -> Pointer[handshake_crypto]:
    crypto = lib.handshake_crypto_new()
    if crypto == ffi.NULL:
        raise MemoryError("libcrypto gave no context for handshakes; look for a shortage of memory")
    return ffi.gc(crypto, lib.handshake_crypto_free)


def _stand_back() -> None:
    with contextlib.suppress(OSError):
        stand_back()


def stand_back() -> None:
    """Let other threads run before the calling one. OSError: the kernel, or a filter, refuses."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # On Linux this is the calling thread, the only one that control's filter allows.
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
