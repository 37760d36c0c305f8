"""UDP echo with datagrams of many sizes, alone and as trains. Runs inside the hosts.

    python datagrams.py serve PORT                 echoes to the sender until it is killed
    python datagrams.py send ADDRESS PORT          prints how many came back unharmed, and of how many

Sizes go through every remainder of 16, over the inner MTU (fragments) and up to UDP's limit. A train
(UDP_SEGMENT) is cut by the sender's kernel, or by the engine if that takes super-packets.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import sys

UDP_SEGMENT = 103  # linux/udp.h
SIZES = (*range(0, 70), 127, 128, 500, *range(1360, 1400), 1500, 5000, 30001, 65507)
TRAINS = ((1, 60), (7, 60), (100, 60), (1000, 40), (1333, 45), (1352, 45), (1364, 2))  # size, datagrams
TIMEOUT = 20.0


def serve(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind(("::", port))
        while True:
            data, sender = server.recvfrom(1 << 16)
            server.sendto(data, sender)


def echo(client: socket.socket, sent: list[bytes]) -> int:
    """How many of the datagrams come back as they were, in order."""
    try:
        return sum(client.recv(1 << 16) == one for one in sent)
    except TimeoutError:
        return 0


def send(address: str, port: int) -> tuple[int, int]:
    returned = total = 0
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT)
        client.connect((address, port))
        most = 65507 - 20 * (":" in address)
        for size in SIZES:
            one = os.urandom(min(size, most))
            client.send(one)
            returned += echo(client, [one])
            total += 1
        for (size, count), short in itertools.product(TRAINS, (0, 1)):
            train = [os.urandom(size) for _ in range(count)]
            if short:
                train[-1] = train[-1][: size // 2 + 1]
            segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))
            client.sendmsg([b"".join(train)], [segment])
            returned += echo(client, train)
            total += len(train)
    return returned, total


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(*send(sys.argv[2], int(sys.argv[3])))
