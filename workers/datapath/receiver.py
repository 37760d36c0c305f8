"""The receiver process: one per CPU core.

All it does with packets is C (workers/datapath/receiver.c); this is its start, its channel and its end.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workers._workers import ffi, lib
from workers.channel import ChannelClosed
from workers.datapath.holder import bells_of, free_holder, new_holder, use_fds
from workers.failure import explain
from workers.handoffs import INLINE
from workers.launch import WorkerStart

if TYPE_CHECKING:
    from workers._workers import Pointer, holder_p, receiver

TURN_NS = 1_000_000_000  # how long one crossing into C lasts when nothing interrupts it


def work(start: WorkerStart) -> None:
    """Receive packets until the supervisor says stop."""
    bells = ffi.new("int32_t[]", bells_of(start))
    receiver = lib.receiver_new(start.segment, start.number, start.channel.fileno(), bells)
    if receiver == ffi.NULL:
        error = OSError(ffi.errno, os.strerror(ffi.errno))
        start.fail(f"receiver {start.number} cannot start", *explain(error, "epoll_create1"))
    use_sockets(start, receiver)
    inline_holder = None
    if start.message["handoff"] == INLINE:
        inline_holder = new_holder(start)
        inline_holder.budget = lib.QUEUE_LIMIT
        lib.receiver_hand_off(receiver, inline_holder)
    start.wake_at_once(lambda: lib.receiver_wake_at_once(receiver))
    start.stay_on_a_core(lambda core: lib.receiver_stay_on(receiver, core))
    start.enter_sandbox()
    start.ready()
    while True:
        reason = lib.receiver_run(receiver, lib.clock_now() + TURN_NS)
        if reason & lib.RECEIVER_TUN_GONE:
            start.log("debug", f"receiver {start.number}: the TUN queue is gone")
        if reason & lib.RECEIVER_CHANNEL and not obey(start, receiver, inline_holder):
            break
    lib.receiver_free(receiver)
    if inline_holder is not None:
        free_holder(inline_holder)


def obey(start: WorkerStart, receiver: Pointer[receiver], inline_holder: holder_p | None) -> bool:
    """Apply one message of the supervisor; False when it was the last."""
    try:
        message, fds = start.channel.receive()
    except ChannelClosed:
        return False
    if message["kind"] == "sockets":
        lib.receiver_use_sockets(receiver, [], 0)
        lib.receiver_use_queues(receiver, [], 0)
        start.replace_sockets(message, fds)
        use_sockets(start, receiver)
        if inline_holder is not None:
            use_fds(start, inline_holder)
    return bool(message["kind"] != "stop")


def use_sockets(start: WorkerStart, receiver: Pointer[receiver]) -> None:
    """Listen on the sockets and read the TUN queues that this receiver was given."""
    sockets = [fd for name, fd in start.fds.items() if name.startswith("udp")]
    queues = [fd for name, fd in start.fds.items() if name.startswith("tun")]
    if (
        lib.receiver_use_sockets(receiver, sockets, len(sockets)) != 0
        or lib.receiver_use_queues(receiver, queues, len(queues)) != 0
    ):
        raise OSError(ffi.errno, os.strerror(ffi.errno))
