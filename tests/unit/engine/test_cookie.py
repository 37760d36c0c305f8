"""mac1, mac2 and cookie replies, both sides."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import constants, cookie, messages, noise, peer_cookies
from engine._engine import ffi, lib

SECOND = constants.SECOND
BOB = noise.Identity(bytes(range(32)))
SECRET = bytes(range(64, 96))
BODY = bytes(range(116))
ADDRESSES = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
PORTS = st.integers(0, 65535)


CRYPTO = ffi.gc(lib.handshake_crypto_new(), lib.handshake_crypto_free)


def opened(reply: bytes, mac1: bytes) -> bytes | None:
    """As control opens a reply of BOB's."""
    held = ffi.new("uint8_t[]", constants.MAC_BYTES)
    refused = lib.handshake_open_cookie(CRYPTO, BOB.public_key, reply, mac1, held)
    return None if refused else bytes(held)


def reply_to(message: bytes, address: bytes = bytes(4), port: int = 1) -> bytes:
    return cookie.create_cookie_reply(BOB.cookie_key, SECRET, message, address, port)


@given(ADDRESSES, PORTS, st.binary(min_size=60, max_size=116))
def test_both_sides_agree(address: bytes, port: int, body: bytes) -> None:
    message = cookie.add_macs(body, BOB.mac1_key, None)
    assert message[cookie.MAC2] == bytes(16)
    assert cookie.check_macs(BOB.mac1_key, SECRET, message, address, port) is cookie.MacCheck.NO_COOKIE
    assert cookie.check_macs(BOB.mac1_key, None, message, address, port) is cookie.MacCheck.NO_COOKIE
    holder = cookie.CookieHolder()
    holder.message_sent(message)
    reply = reply_to(message, address, port)
    assert messages.CookieReply.unpack(reply).receiver_index == int.from_bytes(message[4:8], "little")
    holder.consume_reply(BOB.cookie_key, reply, 5 * SECOND)
    again = cookie.add_macs(body, BOB.mac1_key, holder.cookie(6 * SECOND))
    assert cookie.check_macs(BOB.mac1_key, SECRET, again, address, port) is cookie.MacCheck.COOKIE
    other = (port + 1) % 65536
    assert cookie.check_macs(BOB.mac1_key, SECRET, again, address, other) is cookie.MacCheck.NO_COOKIE
    assert not cookie.mac2_is_right(bytes(32), again, address, port)


@given(st.integers(0, 131), st.integers(1, 255))
def test_mac1_covers_every_byte(at: int, mask: int) -> None:
    message = bytearray(cookie.add_macs(BODY, BOB.mac1_key, None))
    message[at] ^= mask
    assert not cookie.mac1_is_right(BOB.mac1_key, bytes(message))
    assert cookie.check_macs(BOB.mac1_key, SECRET, bytes(message), bytes(4), 1) is cookie.MacCheck.INVALID


def test_recorded_cookie_reply() -> None:
    """What wireguard-go answered while under load opens with the mac1 that was sent."""
    record = json.loads((Path(__file__).parent / "vectors" / "wireguard_go.json").read_text())
    them = noise.Identity(bytes.fromhex(record["their_private"]))
    scene = {name: bytes.fromhex(value) for name, value in record["cookie"].items()}
    assert cookie.mac1_is_right(them.mac1_key, scene["message"])
    holder = cookie.CookieHolder()
    holder.message_sent(scene["message"])
    holder.consume_reply(them.cookie_key, scene["reply"], 0)
    held = holder.cookie(0)
    assert held is not None and len(held) == 16


def test_reply_is_accepted_once() -> None:
    message = cookie.add_macs(BODY, BOB.mac1_key, None)
    reply = reply_to(message)
    holder = cookie.CookieHolder()
    with pytest.raises(cookie.CookieUnexpected):
        holder.consume_reply(BOB.cookie_key, reply, 0)
    holder.message_sent(message)
    holder.consume_reply(BOB.cookie_key, reply, 0)
    with pytest.raises(cookie.CookieUnexpected):
        holder.consume_reply(BOB.cookie_key, reply, 0)
    holder.message_sent(cookie.add_macs(BODY[1:], BOB.mac1_key, None))
    with pytest.raises(cookie.CookieTagWrong):  # a reply to an earlier message
        holder.consume_reply(BOB.cookie_key, reply, 0)


@given(st.integers(8, 63), st.integers(1, 255))
def test_forged_reply_is_refused_and_the_true_one_still_accepted(at: int, mask: int) -> None:
    message = cookie.add_macs(BODY, BOB.mac1_key, None)
    reply = reply_to(message)
    forged = reply[:at] + bytes([reply[at] ^ mask]) + reply[at + 1 :]
    holder = cookie.CookieHolder()
    holder.message_sent(message)
    with pytest.raises(cookie.CookieTagWrong):
        holder.consume_reply(BOB.cookie_key, forged, 0)
    assert holder.cookie(0) is None
    holder.consume_reply(BOB.cookie_key, reply, 0)
    assert holder.cookie(0) == cookie.make_cookie(SECRET, bytes(4), 1)


def test_cookie_is_usable_for_115_seconds() -> None:
    message = cookie.add_macs(BODY, BOB.mac1_key, None)
    holder = cookie.CookieHolder()
    holder.message_sent(message)
    holder.consume_reply(BOB.cookie_key, reply_to(message), 7)
    assert holder.cookie(7 + 115 * SECOND - 1) is not None
    assert holder.cookie(7 + 115 * SECOND) is None
    assert holder.cookie(7) is None


def test_secret_rotates_lazily_at_120_seconds() -> None:
    draws = iter([bytes([1]) * 32, bytes([2]) * 32])

    def random(count: int) -> bytes:
        assert count == 32
        return next(draws)

    first = peer_cookies.fresh_secret(None, 50, random)
    assert first == (bytes([1]) * 32, 50)
    assert peer_cookies.fresh_secret(first, 50 + 120 * SECOND - 1, random) is first
    assert peer_cookies.fresh_secret(first, 50 + 120 * SECOND, random) == (bytes([2]) * 32, 50 + 120 * SECOND)


def test_addresses_have_4_or_16_bytes() -> None:
    with pytest.raises(ValueError, match="4 or 16"):
        cookie.make_cookie(SECRET, bytes(5), 1)


def test_port_is_big_endian() -> None:
    """By hand: BLAKE2s-128 keyed with the secret, over address and port."""
    import hashlib

    by_hand = hashlib.blake2s(bytes((1, 2, 3, 4, 0xCA, 0x6C)), digest_size=16, key=SECRET).digest()
    assert cookie.make_cookie(SECRET, bytes((1, 2, 3, 4)), 0xCA6C) == by_hand


@given(st.lists(st.tuples(st.sampled_from(["send", "reply", "old reply", "forged", "forget", "wait"]),
                          st.integers(0, 2)), max_size=30))
def test_columns_do_for_each_row_what_a_holder_does(steps: list[tuple[str, int]]) -> None:
    """Rows of PeerCookies beside as many holders; what one refuses the other refuses for that reason."""
    columns, holders = peer_cookies.PeerCookies(3), [cookie.CookieHolder() for _ in range(3)]
    sent: list[list[bytes]] = [[], [], []]
    now = 1
    for number, (step, row) in enumerate(steps):
        if step == "send":
            message = cookie.add_macs(BODY + bytes([number]), BOB.mac1_key, None)
            sent[row].append(message)
            holders[row].message_sent(message)
            columns.message_sent(row, np.frombuffer(message[cookie.MAC1], np.uint8), now)
        elif step == "forget":
            holders[row] = cookie.CookieHolder()
            columns.forget(row)
        elif step == "wait":
            now += 60 * SECOND
        elif len(sent[row]) > (step == "old reply"):
            reply = reply_to(sent[row][-2 if step == "old reply" else -1], port=number)
            if step == "forged":
                reply = reply[:-1] + bytes([reply[-1] ^ 1])
            outcomes = []
            of_row = functools.partial(columns.consume_reply, row, functools.partial(opened, reply))
            for consume in (functools.partial(holders[row].consume_reply, BOB.cookie_key, reply), of_row):
                try:
                    consume(now)
                    outcomes.append(None)
                except peer_cookies.CookieRefused as error:
                    outcomes.append(type(error))
            # What nobody answered for 240 s is forgotten by the columns alone.
            assert outcomes[0] == outcomes[1] or outcomes[1] is cookie.CookieUnexpected, (step, outcomes)
            if outcomes[0] != outcomes[1]:
                return
        held, is_usable = columns.usable(np.arange(3), now)
        for other in range(3):
            wanted = holders[other].cookie(now)
            assert bool(is_usable[other]) == (wanted is not None)
            assert wanted is None or held[other].tobytes() == wanted
