"""Wrong messages, each made from a right one so that it is wrong in exactly one way."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

from engine import cookie


def flip(random: Random, message: bytes, start: int, end: int) -> bytes:
    """One to four bits changed between start and end, anything there for a tenth of the messages."""
    changed = bytearray(message)
    if random.random() < 0.1:
        changed[start:end] = random.randbytes(end - start)
    else:
        for _ in range(random.randint(1, 4)):
            changed[random.randrange(start, end)] ^= 1 << random.randrange(8)
    return bytes(changed) if changed != message else flip(random, message, start, end)


def no_messages(random: Random, count: int) -> Iterator[tuple[bytes, str]]:
    """Datagrams that are no message by type or length, and the counter that each must end in."""
    lengths = {1: 148, 2: 92, 3: 64}
    made = 0
    while made < count:
        shape = random.randrange(4)
        if shape == 0:
            data = random.randbytes(random.randrange(0, 200))
        else:
            data = struct.pack("<I", random.choice((0, 1, 2, 3, 4, 5, 0x101, 1 << 24, 1 << 31)))
            data += random.randbytes(random.choice((0, 1, 11, 12, 27, 28, 59, 61, 87, 89, 143, 145, 300)))
        if len(data) < 4:
            counter = "drop_message_length"
        else:
            kind = int.from_bytes(data[:4], "little")
            if kind in lengths:
                if len(data) == lengths[kind]:
                    continue
                counter = "drop_message_length"
            elif kind == 4:
                if len(data) >= 32:
                    continue
                counter = "drop_message_length"
            else:
                counter = "drop_message_type"
        yield data, counter
        made += 1


def wrong_mac1(random: Random, initiation: bytes, response: bytes, count: int) -> Iterator[bytes]:
    """Changed anywhere that mac1 covers, or in mac1. mac2 and the type word are left."""
    for number in range(count):
        message = response if number % 4 == 3 else initiation
        yield flip(random, message, 4, len(message) - 16)


def wrong_initiation(random: Random, initiation: bytes, mac1_key: bytes, count: int) -> Iterator[bytes]:
    """Ephemeral, sealed static key or sealed timestamp changed, and then mac1 made right again."""
    parts = ((8, 40), (40, 88), (88, 116))
    for number in range(count):
        start, end = parts[number % 3]
        body = flip(random, initiation, start, end)[:116]
        yield cookie.add_macs(body, mac1_key, None)


def wrong_response(random: Random, response: bytes, mac1_key: bytes, count: int) -> Iterator[bytes]:
    """Ephemeral or sealed nothing changed, mac1 right."""
    for number in range(count):
        start, end = ((12, 44), (44, 60))[number % 2]
        yield cookie.add_macs(flip(random, response, start, end)[:60], mac1_key, None)


def wrong_index(random: Random, data: bytes, count: int) -> Iterator[bytes]:
    """A receiver index that is nobody's: near the right one, or anything."""
    (right,) = struct.unpack_from("<I", data, 4)
    for number in range(count):
        index = right ^ (1 << number % 32) if number % 2 else random.getrandbits(32)
        if index == right:
            index ^= 1
        yield data[:4] + struct.pack("<I", index) + data[8:]


def wrong_data(random: Random, data: bytes, count: int) -> Iterator[bytes]:
    """Right index; counter, ciphertext or tag changed, or the end cut off or grown."""
    for number in range(count):
        shape = number % 5
        if shape == 0:
            yield flip(random, data, 8, 14)  # the counter stays below its limit
        elif shape == 1:
            yield flip(random, data, 16, len(data) - 16)
        elif shape == 2:
            yield flip(random, data, len(data) - 16, len(data))
        elif shape == 3:
            yield data[:random.randrange(32, len(data))]
        else:
            yield data + random.randbytes(random.randint(1, 64))


def inner_verdict(packet: bytes, allowed: frozenset[bytes]) -> str:
    """A plain model: the counter that an authentic inner packet, padding included, must end in."""
    if not packet:
        return "keepalive_received"
    if packet[0] >> 4 == 4 and len(packet) >= 20:
        header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        if header < 20 or total < header or total > len(packet):
            return "drop_inner_header"
        source = packet[12:16]
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        if 40 + int.from_bytes(packet[4:6], "big") > len(packet):
            return "drop_inner_header"
        source = packet[8:24]
    else:
        return "drop_inner_header"
    return "tun_sent" if source in allowed else "drop_inner_source"


def wrong_inner(random: Random, four: bytes, six: bytes, allowed: frozenset[bytes],
                count: int) -> Iterator[tuple[bytes, str]]:
    """Inner packets that must not be delivered, and the counter that each must end in."""
    made = 0
    while made < count:
        packet = bytearray(random.choice((four, six)))
        is_four = packet[0] >> 4 == 4
        shape = random.randrange(8)
        if shape == 0:
            packet[0] = random.randrange(16) << 4 | packet[0] & 15
        elif shape == 1:
            packet[0] = packet[0] & 0xF0 | random.randrange(16)
        elif shape == 2:
            at = 2 if is_four else 4
            packet[at:at + 2] = random.choice((0, 1, 19, 20, len(packet) + 1, 0xFFFF,
                                               random.getrandbits(16))).to_bytes(2, "big")
        elif shape == 3:
            del packet[random.randrange(1, len(packet)):]
        elif shape == 4:
            at, size = (12, 4) if is_four else (8, 16)
            packet[at:at + size] = random.randbytes(size)
        elif shape == 5:
            at, size = (12, 4) if is_four else (8, 16)
            packet[at + random.randrange(size)] ^= 1 << random.randrange(8)
        elif shape == 6:
            packet = bytearray(random.randbytes(random.randrange(1, 100)))
        else:
            packet = bytearray(flip(random, bytes(packet), 0, 20 if is_four else 40))
        if random.random() < 0.5:
            packet += bytes(-len(packet) % 16)
        verdict = inner_verdict(bytes(packet), allowed)
        if verdict in ("drop_inner_header", "drop_inner_source"):
            yield bytes(packet), verdict
            made += 1
