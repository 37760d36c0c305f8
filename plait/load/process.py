"""One process of the load generator: it makes its sockets, prepares, then runs phases in C when told.

Orders come as one line of JSON on standard input, the fd of a nameless file (struct load_area) with them. All
that is counted goes there; the command reads it while phases run. The process ends with the last
phase, when the command says stop, or when its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from setproctitle import setproctitle

from plait.load._generator import ffi, lib
from plait.load.secrets_file import SecretsFile, setup_digest
from shm.segment import PlainSegment
from workers.promises import PR_SET_PDEATHSIG, set_process_option

if TYPE_CHECKING:
    from plait.load._generator import Pointer, load, load_area_p, load_phase

BUFFER_BYTES = 16 << 20
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
STEPS = 128  # of preparation between two looks at the command's word
AREA_BYTES = ffi.sizeof("struct load_area")


def bound_socket(family: int) -> socket.socket:
    """A UDP socket on a port that the kernel chooses, at every address, with large buffers."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                made.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:  # without CAP_NET_ADMIN: as much as the host allows
                made.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
    except OSError:
        made.close()
        raise
    return made


def main() -> None:
    """Be one process; raises OSError or MemoryError, which the command passes on."""
    orders = json.loads(sys.stdin.readline())
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.getppid()
    setproctitle(f"plait load {orders['number']}")
    if orders["core"] is not None:
        os.sched_setaffinity(0, [orders["core"]])
    segment = PlainSegment.attach(orders["area"], AREA_BYTES)
    area = ffi.cast("struct load_area *", segment.address)
    setup = ffi.new("struct load_setup *", _setup(orders["setup"]))
    sockets = [bound_socket(setup.family) for _ in range(setup.ports + 1)]
    load = lib.load_new(setup, [made.fileno() for made in sockets], area)
    if load == ffi.NULL:
        raise MemoryError(f"no memory for {setup.peers} peers of {lib.load_bytes_per_peer()} bytes")

    if any(any(phase.get("garbage_rate", ())) for phase in orders["phases"]) and lib.load_garbage_open(load):
        raise MemoryError("no memory for garbage")

    def stopped() -> bool:
        return bool(area.stop) or os.getppid() != parent

    with contextlib.suppress(KeyboardInterrupt):  # a terminal tells everybody; the command says stop
        _prepare(load, area, orders, stopped)
        for number, phase in enumerate(orders["phases"]):
            area.prepared = number + 1
            while not area.begin[number] and not stopped():
                time.sleep(0.0005)
            if stopped():
                break
            lib.load_run_phase(load, _phase(phase, area, number), area.begin[number])
            area.finished = number + 1
    lib.load_free(load)


def _setup(given: dict[str, Any]) -> dict[str, Any]:
    """The orders' setup with its bytes as bytes."""
    keys = ("seed", "gateway_key", "target", "source", "inner_base")
    as_bytes = {key: bytes.fromhex(given[key]) for key in keys}
    return {**given, **as_bytes}


def _phase(given: dict[str, Any], area: load_area_p, number: int) -> Pointer[load_phase]:
    """The orders' phase, as the command has changed it since."""
    phase = ffi.new("struct load_phase *", given)
    if area.length[number]:
        phase.length = area.length[number]
    for rate in (phase.handshake_rate, phase.traffic_rate, phase.oneway_rate) if area.scale[number] else ():
        rate[0] *= area.scale[number]
        rate[1] *= area.scale[number]
    return phase


def _prepare(
    load: Pointer[load], area: load_area_p, orders: dict[str, Any], stopped: Callable[[], bool]
) -> None:
    """All secrets that can be computed before the clock starts, on all cores that the orders name."""
    peers, ephemerals = orders["setup"]["peers"], orders["ephemerals"]
    area.steps_all = peers + ephemerals
    kept = SecretsFile(orders["cache"], setup_digest(orders["setup"]), 64 * peers)
    if (secrets := kept.read()) is not None:
        lib.load_secrets_write(load, ffi.from_buffer("uint8_t[]", secrets))
        area.steps = peers
    else:
        _on_all_cores(partial(lib.load_prepare_peers, load), peers, orders["helpers"], area, stopped)
        if not stopped():
            made = ffi.new("uint8_t[]", 64 * peers)
            lib.load_secrets_read(load, made)
            kept.write(memoryview(ffi.buffer(made)))
    room = lib.load_stock_room(load, ephemerals) if ephemerals else 0
    _on_all_cores(partial(lib.load_prepare_ephemerals, load), room, orders["helpers"], area, stopped)
    if not stopped():
        lib.load_stock_filled(load, room)


def _on_all_cores(
    work: Callable[[int, int], int],
    count: int,
    cores: list[int],
    area: load_area_p,
    stopped: Callable[[], bool],
) -> None:
    """work(first, n) for all of `count`, in parts, by a thread on each core: C lets go of Python's lock."""
    lock, begun = threading.Lock(), 0

    def help_on(core: int) -> None:
        nonlocal begun
        os.sched_setaffinity(0, [core])  # this thread's
        while not stopped():
            with lock:
                first, begun = begun, min(begun + STEPS, count)
                n = begun - first
            if not n:
                return
            if work(first, n):
                raise MemoryError("no memory for keys")
            with lock:
                area.steps += n

    with ThreadPoolExecutor(len(cores)) as threads:
        for done in [threads.submit(help_on, core) for core in cores]:
            done.result()


if __name__ == "__main__":
    main()
