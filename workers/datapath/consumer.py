"""The consumer process: it holds its peers' tokens, opens and seals their packets in order.

All it does with packets is C (datapath/consumer.c, datapath/holder*.c); this is its start, its
channel and its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers._workers import ffi, lib
from workers.channel import ChannelClosed
from workers.datapath.holder import free_holder, new_holder, use_fds
from workers.launch import WorkerStart

if TYPE_CHECKING:
    from workers._workers import holder_p

TURN_NS = 1_000_000_000


def work(start: WorkerStart) -> None:
    """Take the turns of this consumer's peers until the supervisor says stop."""
    holder = new_holder(start)
    consumer = lib.consumer_new(holder, start.number, start.channel.fileno())
    if consumer == ffi.NULL:
        raise MemoryError("no memory for the consumer's own state")
    start.wake_at_once(lambda: lib.consumer_wake_at_once(consumer))
    start.stay_on_a_core(lambda core: lib.consumer_stay_on(consumer, core))
    start.enter_sandbox()
    start.ready()
    while True:
        reason = lib.consumer_run(consumer, lib.clock_now() + TURN_NS)
        if reason == lib.CONSUMER_CHANNEL and not obey(start, holder):
            break
    lib.consumer_free(consumer)
    free_holder(holder)


def obey(start: WorkerStart, holder: holder_p) -> bool:
    """Apply one message of the supervisor; False when it was the last."""
    try:
        message, fds = start.channel.receive()
    except ChannelClosed:
        return False
    if message["kind"] == "sockets":
        start.replace_sockets(message, fds)
        use_fds(start, holder)
    return bool(message["kind"] != "stop")
