"""ICMP echo that waits for every answer: ping(8) gives up two round trips after its last request.

    python echo.py ADDRESS COUNT TIMEOUT      prints the number of distinct answers

Requests have 56 bytes of data as ping's, 10 ms apart. Runs inside the hosts, as root.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

INTERVAL = 0.01
DATA = bytes(range(56))


def checksum(data: bytes) -> int:
    """The internet checksum of RFC 1071; data of even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo(address: str, count: int, timeout: float) -> int:
    """Answers of COUNT requests that came within timeout seconds of the last request."""
    ipv6 = ":" in address
    request, reply = (128, 129) if ipv6 else (8, 0)
    identifier = os.getpid() & 0xFFFF
    answered: set[int] = set()
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_RAW,
                       socket.IPPROTO_ICMPV6 if ipv6 else socket.IPPROTO_ICMP) as raw:
        raw.connect((address, 0))
        for number in range(count):
            message = struct.pack("!BBHHH", request, 0, 0, identifier, number) + DATA
            # The kernel fills in the checksum of ICMPv6 alone.
            raw.send(message[:2] + struct.pack("!H", checksum(message)) + message[4:])
            deadline = time.monotonic() + (INTERVAL if number < count - 1 else timeout)
            while len(answered) < count and (left := deadline - time.monotonic()) > 0:
                if not select.select([raw], [], [], left)[0]:
                    break
                packet = raw.recv(1 << 16)
                packet = packet if ipv6 else packet[(packet[0] & 15) * 4:]
                kind, _, _, theirs, sequence = struct.unpack_from("!BBHHH", packet)
                if (kind, theirs, packet[8:]) == (reply, identifier, DATA):
                    answered.add(sequence)
    return len(answered)


if __name__ == "__main__":
    print(echo(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
