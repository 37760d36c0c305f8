"""The consumer process: it holds its peers' tokens, opens and seals their packets in order.

All it does with packets is C (workers/consumer.c, workers/holder*.c); this is its start, its
channel and its end.
"""

from __future__ import annotations

from typing import Any

from workers._workers import ffi, lib
from workers.channel import ChannelClosed
from workers.launch import WorkerStart, begin_worker
from workers.receiver import bells_of

TURN_NS = 1_000_000_000


def main() -> None:
    """Take the turns of this consumer's peers until the supervisor says stop."""
    start = begin_worker("consumer")
    aead = lib.aead_new(-1)
    if aead == ffi.NULL:
        start.fail(
            f"consumer {start.number} cannot start",
            "no provider of ChaCha20-Poly1305 works here",
            "check that libcrypto is OpenSSL 3 and that its default provider is not disabled",
        )
    holder = ffi.new("struct holder *")
    lib.holder_initialise(holder, start.segment, aead, start.worker)
    holder.bells = bells_of(start)
    use_fds(start, holder)
    consumer = lib.consumer_new(holder, start.number, start.channel.fileno())
    if consumer == ffi.NULL:
        raise MemoryError("no memory for the consumer's own state")
    start.ready()
    while True:
        reason = lib.consumer_run(consumer, lib.clock_now() + TURN_NS)
        if reason == lib.CONSUMER_CHANNEL and not obey(start, holder):
            break
    lib.consumer_free(consumer)
    lib.aead_free(aead)


def obey(start: WorkerStart, holder: Any) -> bool:
    """Apply one message of the supervisor; False when it was the last."""
    try:
        message, fds = start.channel.receive()
    except ChannelClosed:
        return False
    if message["kind"] == "sockets":
        start.replace_sockets(message, fds)
        use_fds(start, holder)
    return bool(message["kind"] != "stop")


def use_fds(start: WorkerStart, holder: Any) -> None:
    """Send through the sockets and queue of the receiver with this consumer's number, round robin."""
    number = start.number % start.receivers
    holder.udp4 = start.fds.get(f"udp4:{number}", -1)
    holder.udp6 = start.fds.get(f"udp6:{number}", -1)
    holder.tun = start.fds.get(f"tun:{number}", -1)


if __name__ == "__main__":
    main()
