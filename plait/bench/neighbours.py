"""What an engine leaves to a normal program on the same cores while a flood of small packets comes in.

The flood is a peer's, authentic, one way, without an engine at its end: flood.c seals and sends. It stands
for a full line, which does not wait for whoever reads it, so its thread has a real-time priority above every
engine's: each implementation has the same flood. Where that is refused, the rate that was sent tells.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plait.bench.implementation import ADDRESSES, PORT, Tunnel
from plait.bench.simulated_peer import SINK_PORT, handshake, packet
from plait.failure import Failure
from plait.lab.namespaces import Host

# Enough that engines on two cores have no rest, and what one thread can send. Ethernet: 32 bytes inside, 32
# of a data message, 8 and 20 of UDP and IPv4, 14 and 4 of the frame, 20 between frames.
LINE = 200_000_000  # bits a second
FLOOD_RATE = LINE // 8 // (32 + 32 + 8 + 20 + 14 + 4 + 20)
TICK_US = 1000
PRIORITY = 10  # of SCHED_FIFO; above any that an engine takes

# Runs in host b: SECONDS CORES. Prints how many blocks of work all processes together have done by then.
PROGRAM = """
import os, sys, time
seconds, cores = float(sys.argv[1]), int(sys.argv[2])
begin, pipes = time.monotonic() + 0.2, []
for _ in range(cores):
    reading, writing = os.pipe()
    if not os.fork():
        time.sleep(max(0, begin - time.monotonic()))
        done, end = 0, begin + seconds
        while time.monotonic() < end:
            sum(range(1000))
            done += 1
        os.write(writing, b"%d" % done)
        os._exit(0)
    os.close(writing)
    pipes.append(reading)
print(sum(int(os.read(pipe, 64)) for pipe in pipes))
"""


def program_beside_flood(tunnel: Tunnel, seconds: int) -> dict[str, float]:
    """The share of its work that a program keeps during the flood; what was sent, and what arrived inside."""
    alone = _work(tunnel.hosts[1], seconds)
    with tunnel.hosts[1].socket() as sink:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least; who reads would share the cores
        sink.bind(("", SINK_PORT))
        with _flood(tunnel) as flood:
            before, begun = _dropped(tunnel.hosts[1]), time.monotonic()
            beside = _work(tunnel.hosts[1], seconds)
            carried = (_dropped(tunnel.hosts[1]) - before) / (time.monotonic() - begun)
    if flood.error:
        mend = "Run it again; if it stays, report it."
        raise Failure("cannot flood the tunnel", os.strerror(flood.error), mend)
    tunnel.cpu_seconds()  # Failure when an engine has ended meanwhile
    return {
        "flood.kept": beside / alone,
        "flood.rate": flood.sent * 1e9 / flood.ns,
        "flood.carried": carried,
    }


def _work(host: Host, seconds: int) -> int:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(seconds), str(len(os.sched_getaffinity(0)))]
    done = int(host.run(command, timeout=seconds + 60).stdout)
    if not done:
        raise Failure("cannot measure a program beside the tunnel", "it had no time at all", "Run it again.")
    return done


def _dropped(host: Host) -> int:
    """Datagrams that the sink had no room for: nearly all that reach it."""
    for line in Path(f"/proc/{host.pid}/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == SINK_PORT:
            return int(words[-1])
    return 0


@contextmanager
def _flood(tunnel: Tunnel) -> Iterator[Any]:
    """A flood from host c for as long as the block runs; yields what flood.h's struct flood tells."""
    from plait.bench._bench import ffi, lib

    host = tunnel.hosts[2]
    flood = ffi.new("struct flood *", {"rate": FLOOD_RATE, "tick_us": TICK_US})
    with host.socket() as out, ThreadPoolExecutor(1) as thread:
        if tunnel.engines:
            out.connect((tunnel.cables[1].address(tunnel.hosts[1]), PORT))
            session = handshake(*tunnel.keys_of_second_peer(), out, tunnel.implementation.title)
            flood.key, flood.receiver = session.send_key, session.remote_index
            flood.inner = packet(ADDRESSES[2], ADDRESSES[1])
        else:
            out.connect((tunnel.address_for(host), SINK_PORT))
        sending = thread.submit(_send, lib, out.fileno(), flood)
        try:
            yield flood
        finally:
            flood.stop = 1
            sending.result()


def _send(lib: Any, descriptor: int, flood: Any) -> None:
    run_before_engines()
    lib.flood_send(descriptor, flood)


def run_before_engines() -> None:
    """This thread has a real-time priority above every engine's, where that is allowed."""
    with suppress(PermissionError):  # a container without CAP_SYS_NICE
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))  # 0: this thread
