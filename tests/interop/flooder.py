"""Send initiations at a steady rate to one engine. usage: flooder.py ADDRESS PORT KEY KIND RATE SECONDS

KEY: the engine's public key in hexadecimal. KIND, which is what they have right:

    nothing     mac1 is wrong
    mac1        mac1 is right, mac2 zeros whatever the engine asks for, the rest random
    cookie      whole initiations of a key that the engine does not know, with its cookie once it asks
    strangers   likewise of as many keys as there are messages
    garbage     likewise, with timestamps that do not open

Prints how many were sent and how many answers came.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from hashlib import blake2s

from engine import cookie, noise, tai64n

MESSAGES = 256
WHOLE = ("cookie", "strangers", "garbage")
TICK = 0.001


def messages(kind: str, key: bytes) -> list[bytes]:
    """Different ones to send by turns; the sender index is the place in the list."""
    made = []
    stranger = noise.Identity(os.urandom(32))
    peer = noise.PeerKeys(stranger, key)
    for i in range(MESSAGES):
        if kind in ("strangers", "garbage"):
            stranger = noise.Identity(os.urandom(32))
            peer = noise.PeerKeys(stranger, key)
        body = b"\1\0\0\0" + i.to_bytes(4, "little") + os.urandom(noise.INITIATION_BODY - 8)
        if kind in WHOLE:
            body, _ = noise.create_initiation(stranger, peer, i, tai64n.stamp(time.time_ns()))
        if kind == "garbage":
            body = body[:-1] + bytes([body[-1] ^ 1])
        right = cookie.add_macs(body, peer.mac1_key, None)
        made.append(body + os.urandom(32) if kind == "nothing" else right)
    return made


def with_cookie(made: list[bytes], reply: bytes, key: bytes) -> list[bytes]:
    """The same with the mac2 that the reply to one of them allows."""
    holder = cookie.CookieHolder()
    holder.message_sent(made[int.from_bytes(reply[4:8], "little")])
    holder.consume_reply(noise.cookie_key(key), reply, 0)
    held = holder.cookie(0)
    assert held is not None
    return [m[:-16] + blake2s(m[:-16], digest_size=16, key=held).digest() for m in made]


def main() -> None:
    address, port, key, kind, rate, seconds = sys.argv[1:]
    made = messages(kind, bytes.fromhex(key))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, int(port)))
    sock.setblocking(False)
    sent = answers = 0
    has_cookie = kind not in WHOLE
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < float(seconds):
        while sent < passed * int(rate):
            sock.send(made[sent % MESSAGES])
            sent += 1
        try:
            while True:
                answer = sock.recv(256)
                answers += 1
                if not has_cookie and answer[0] == 3:
                    made, has_cookie = with_cookie(made, answer, bytes.fromhex(key)), True
        except BlockingIOError:
            pass
        time.sleep(TICK)
    print(sent, answers)


if __name__ == "__main__":
    main()
