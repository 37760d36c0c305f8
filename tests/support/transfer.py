"""Random bytes over TCP, hashed at both ends, nothing kept in memory. Runs inside the hosts.

    python transfer.py receive PORT                      accepts one connection, prints "BYTES SHA256"
    python transfer.py send ADDRESS PORT BYTES [FILE]    sends random bytes, prints the same

With FILE the sender goes on after BYTES until FILE exists: the test says when it has seen enough.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys

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


def send(address: str, port: int, count: int, until: str | None = None) -> str:
    hashed, total = hashlib.sha256(), 0
    with socket.create_connection((address, port), timeout=TIMEOUT) as connection:
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
