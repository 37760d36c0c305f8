"""Random bytes over TCP, hashed at both ends, nothing kept in memory. Runs inside the hosts.

    python transfer.py receive PORT                      accepts one connection, prints "BYTES SHA256"
    python transfer.py send ADDRESS PORT BYTES [FILE]    sends random bytes, prints the same

With FILE the sender goes on after BYTES until FILE exists: the test says when it has seen enough.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import time

CHUNK_BYTES = 1 << 17
TIMEOUT = 60.0  # seconds without any progress


def receive(port: int) -> str:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(TIMEOUT)
        connection, _ = server.accept()
    with connection:
        connection.settimeout(TIMEOUT)
        hashed, total = hashlib.sha256(), 0
        while part := connection.recv(CHUNK_BYTES):
            hashed.update(part)
            total += len(part)
        return f"{total} {hashed.hexdigest()}"


def connect(address: str, port: int) -> socket.socket:
    """Again while the engine says that it does not know where the peer is: the other end is to begin."""
    for _ in range(100):
        try:
            return socket.create_connection((address, port), timeout=TIMEOUT)
        except OSError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH):
                raise
        time.sleep(0.1)
    raise TimeoutError(f"{address} is not reachable")


def send(address: str, port: int, count: int, until: str | None = None) -> str:
    hashed, total = hashlib.sha256(), 0
    with connect(address, port) as connection:
        while total < count or (until is not None and not os.path.exists(until)):
            part = os.urandom(min(CHUNK_BYTES, count - total) if total < count else CHUNK_BYTES)
            connection.sendall(part)
            hashed.update(part)
            total += len(part)
    return f"{total} {hashed.hexdigest()}"


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        print(receive(int(sys.argv[2])))
    else:
        print(send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
