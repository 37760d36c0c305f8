"""Forge knocks at a steady rate. usage: knock_forger.py ADDRESS PORT KEY SESSIONS RATE SECONDS SOURCE…

Data messages for gateway DEAD, from each of the sources by turns: half of them with an index of one of its
SESSIONS, the others with one that no session had; of no sessions, all of them so. Each initiation that comes
is answered by a response with a right mac1 and nothing else right. KEY: the gateway's public key, in
hexadecimal.

Prints JSON: how many were sent, in how many seconds, and how many initiations came to each source.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import sys
import time
from contextlib import suppress
from hashlib import blake2s

DEAD, BITS = 2, 4  # its number, and how many bits of an index tell it
SPREAD = 0x9E3779B  # odd: each number has its own index
KNOWN = 1 << 20  # numbers of its sessions are below this one
INITIATION = 1
TICK = 0.001


def index_of(number: int) -> int:
    """The dead gateway's index of its session with this number: those of an engine are as good as random."""
    return number * SPREAD % (1 << 32 - BITS) << BITS | DEAD


def response(initiation: bytes, mac1_key: bytes) -> bytes:
    """To that initiation, from somebody who has no key."""
    body = struct.pack("<I", 2) + os.urandom(4) + initiation[4:8] + os.urandom(48)
    return body + blake2s(body, digest_size=16, key=mac1_key).digest() + bytes(16)


def main() -> None:
    address, port, key, sessions, rate, seconds, *sources = sys.argv[1:]
    mac1_key = blake2s(b"mac1----" + bytes.fromhex(key)).digest()
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in sources]
    for each, source in zip(sockets, sources, strict=True):
        each.bind((source, 0))
        each.connect((address, int(port)))
        each.setblocking(False)
    initiations = dict.fromkeys(sources, 0)
    sent, begun = 0, time.monotonic()
    while (passed := time.monotonic() - begun) < float(seconds):
        while sent < passed * int(rate):
            number = KNOWN + random.randrange(KNOWN)
            if int(sessions) and sent // len(sockets) % 2:
                number = random.randrange(int(sessions))
            message = struct.pack("<IIQ", 4, index_of(number), sent) + bytes(16)
            with suppress(OSError):  # no room for a moment
                sockets[sent % len(sockets)].send(message)
            sent += 1
        for each, source in zip(sockets, sources, strict=True):
            try:
                while message := each.recv(256):
                    if message[0] == INITIATION:  # and no cookie reply, to a response
                        initiations[source] += 1
                        each.send(response(message, mac1_key))
            except BlockingIOError:
                pass
        time.sleep(TICK)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begun, "initiations": initiations}))


if __name__ == "__main__":
    main()
