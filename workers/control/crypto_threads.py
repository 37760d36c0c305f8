"""Threads for arithmetic alone: a batch of handshakes is worked off by every core at once.

The calls into C let go of the interpreter's lock, and each thread has libcrypto's contexts to itself. Nobody
is assigned a part: whoever is free takes the next few, so that a thread that the scheduler keeps waiting
holds up no more than those. Threads that the kernel refuses (a full pids cgroup, RLIMIT_NPROC) are wanted
again with the next batch. The helpers are SCHED_BATCH and nice: in a storm of handshakes, data comes first.
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
    """The caller's thread and up to `helpers` more, which start with the first large batch."""

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
        pieces = iter(range(0, count, PIECE))  # its next() is one step of the interpreter

        def work(crypto: Pointer[handshake_crypto]) -> None:
            for first in pieces:
                step(crypto, handshakes + first, min(PIECE, count - first))

        begun, is_refused = [], False
        if self.pool is not None and count > PIECE:
            try:
                for crypto in self.cryptos[1:]:
                    begun.append(self.pool.submit(work, crypto))
            except RuntimeError:  # no thread to be had; what was submitted is in the pool all the same
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
    """Let others go before this thread. OSError: the kernel, or a filter, refuses."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, NICE)  # this thread, of Linux; control's filter lets no other
