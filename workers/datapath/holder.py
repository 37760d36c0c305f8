"""What a process needs to hold peers: an AEAD context, sockets, a TUN queue (workers/datapath/holder.h)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from workers._workers import ffi, lib
from workers.launch import WorkerStart
from workers.providers import PACKAGES, new_context
from workers.sharing import number_of

if TYPE_CHECKING:
    from workers._workers import holder_p


def bells_of(start: WorkerStart) -> list[int]:
    """The bells' eventfds by worker number; -1 where there is none."""
    bells = [-1] * lib.MAX_WORKERS
    for name, fd in start.fds.items():
        if name.startswith("bell:"):
            bells[int(name.removeprefix("bell:"))] = fd
    return bells


def new_holder(start: WorkerStart) -> holder_p:
    """A `struct holder *` with this worker's fds. Ends the process if its AEAD provider does not work."""
    name = start.message["aead"]
    made = new_context(name)
    if made == ffi.NULL and name in PACKAGES:
        start.fail(
            f"worker {start.worker} cannot start",
            f'the setting aead = "{name}" asks for a library that this build, host or CPU has not',
            f'set aead = "auto", or install {PACKAGES[name]} and build Plait again',
        )
    if made == ffi.NULL:
        start.fail(
            f"worker {start.worker} cannot start",
            "no provider of ChaCha20-Poly1305 works here",
            "check that libcrypto is OpenSSL 3 and that its default provider is not disabled",
        )
    holder = ffi.new("struct holder *")
    if lib.holder_initialise(holder, start.segment, made, start.worker) != 0:
        raise MemoryError("no memory for the holder's own state")
    holder.bells = bells_of(start)
    holder.joins = start.message["joins"]
    holder.trains = start.message["trains"]
    holder.share = number_of(start.message["share"])
    holder.cores = start.message["cores"]
    if holder.share == lib.SHARE_AUTO:
        with contextlib.suppress(OSError):  # without it no core counts as idle
            holder.loadavg = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    use_fds(start, holder)
    return holder


def use_fds(start: WorkerStart, holder: holder_p) -> None:
    """Send through the sockets and queue of the receiver with this worker's number, round robin."""

    def fd_of(what: str) -> int:
        own, shared = f"{what}:{start.number}", f"{what}:{start.number % start.receivers}"
        return start.fds.get(own, start.fds.get(shared, -1))

    holder.udp4, holder.udp6, holder.tun = fd_of("udp4"), fd_of("udp6"), fd_of("tun")


def free_holder(holder: holder_p) -> None:
    """Give back what new_holder took."""
    lib.aead_free(holder.aead)
    if holder.loadavg >= 0:
        os.close(holder.loadavg)
    lib.holder_release(holder)
