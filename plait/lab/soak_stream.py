"""Random bytes over TCP, hashed at both ends, with the times at which they stood still.

    python -m plait.lab.soak_stream receive PORT
    python -m plait.lab.soak_stream send ADDRESS PORT FILE [BYTES_A_SECOND]
    python -m plait.lab.soak_stream echo PORT        sends every UDP datagram back, until it is killed

The sender goes on until FILE exists. Each prints one line of JSON: bytes, sha256, and where it receives
`stalls`: [end, seconds] of every pause of at least STALL_SECONDS, by CLOCK_MONOTONIC.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import time

CHUNK_BYTES = 1 << 16
STALL_SECONDS = 0.02
PATIENCE = 60.0  # seconds without any progress, then it is an error


def receive(port: int) -> dict[str, object]:
    """Accept one connection and read it to its end."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
    hashed, total, stalls = hashlib.sha256(), 0, []
    with connection:
        connection.settimeout(PATIENCE)
        before = time.monotonic()
        while part := connection.recv(CHUNK_BYTES):
            now = time.monotonic()
            if now - before >= STALL_SECONDS:
                stalls.append([now, now - before])
            before = now
            hashed.update(part)
            total += len(part)
    return {"bytes": total, "sha256": hashed.hexdigest(), "stalls": stalls}


def send(address: str, port: int, until: str, rate: float | None = None) -> dict[str, object]:
    """Send until that file exists; rate: bytes a second, None for as fast as they go."""
    hashed, total = hashlib.sha256(), 0
    begun = time.monotonic()
    with socket.create_connection((address, port), timeout=PATIENCE) as connection:
        while not os.path.exists(until):
            part = os.urandom(CHUNK_BYTES if rate is None else min(CHUNK_BYTES, max(int(rate * 0.005), 1)))
            connection.sendall(part)
            hashed.update(part)
            total += len(part)
            if rate is not None:
                time.sleep(max(begun + total / rate - time.monotonic(), 0))
    return {"bytes": total, "sha256": hashed.hexdigest()}


def echo(port: int) -> None:
    """Send every datagram back to where it came from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("", port))
        while True:
            data, source = sock.recvfrom(1 << 16)
            with contextlib.suppress(OSError):  # the peer was just removed, or the interface is away
                sock.sendto(data, source)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    if sys.argv[1] == "receive":
        answer = receive(int(sys.argv[2]))
    else:
        answer = send(sys.argv[2], int(sys.argv[3]), sys.argv[4], *map(float, sys.argv[5:]))
    print(json.dumps(answer))
