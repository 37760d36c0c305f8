"""One trial of small datagrams through a tunnel, by two threads whose sockets live in the hosts.

Both are C (load.c) without the interpreter's lock, so sender and receiver cost little and start at once.
"""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

from plait.bench.implementation import Tunnel
from plait.bench.rate import Trial
from plait.failure import Failure

PAYLOAD = 64  # bytes
TICK_US = 1000  # as iperf3's --pacing-timer: what is due goes out once a millisecond
SETTLE_US = 200_000  # without a datagram, after the last was sent
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python does not name it
BUFFER = 32 << 20  # bytes of the receiver's socket: more than any tick brings


def trial(tunnel: Tunnel, rate: float, seconds: float) -> Trial:
    """Send from a to b, rate datagrams a second; count what arrives, and the engines' CPU."""
    from plait.bench._bench import ffi, lib

    source, target, address = tunnel.ends(towards_b=True)
    packets = max(1, int(rate * seconds))
    load = ffi.new("struct load *")
    load.run = int.from_bytes(os.urandom(8))
    load.bytes, load.tick_us, load.rate, load.packets = PAYLOAD, TICK_US, max(1, int(rate)), packets
    seen = ffi.new("uint64_t[]", (packets + 63) // 64)
    with source.socket() as sender, target.socket() as receiver, ThreadPoolExecutor(2) as threads:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        receiver.bind((address, 0))
        sender.connect(receiver.getsockname())
        before = tunnel.cpu_seconds()
        counting = threads.submit(lib.load_receive, receiver.fileno(), load, seen, SETTLE_US)
        sending = threads.submit(lib.load_send, sender.fileno(), load)
        if sending.result() or counting.result():
            why = os.strerror(load.error)
            mend = "Run it again; if it stays, report it."
            raise Failure("cannot send datagrams through the tunnel", why, mend)
        used = tunnel.cpu_seconds() - before
    return Trial(load.sent * 1e9 / load.ns, load.sent, load.received, load.ns / 1e9, used)
