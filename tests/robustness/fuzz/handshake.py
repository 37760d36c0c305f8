"""Handshake messages and cookie replies, made up or honest with some bytes changed: refused by the
exceptions that are counted, and never accepted when anything that is authenticated is not as it was sent."""

from __future__ import annotations

from engine import constants, cookie, messages, noise, peer_cookies

ALICE, BOB = noise.Identity(bytes(range(32))), noise.Identity(bytes(range(32, 64)))
SHARED = ALICE.static_static(BOB.public_key)
TO_BOB = noise.PeerKeys(ALICE, BOB.public_key, SHARED)
EPHEMERAL, SECOND = bytes(range(64, 96)), bytes(range(96, 128))
STAMP, PSK = bytes(range(12)), bytes(range(128, 160))
BODY, STATE = noise.create_initiation(ALICE, TO_BOB, 7, STAMP, EPHEMERAL)
INITIATION = cookie.add_macs(BODY, BOB.mac1_key, None)
_, OPENED = noise.open_timestamp(noise.open_initiation(BOB, INITIATION), SHARED)
ANSWER, SESSION = noise.create_response(OPENED, PSK, 9, SECOND)
RESPONSE = cookie.add_macs(ANSWER, ALICE.mac1_key, None)
SECRET, ADDRESS, PORT = bytes(range(160, 192)), bytes((192, 0, 2, 1)), 51820
REPLY = cookie.create_cookie_reply(BOB.cookie_key, SECRET, INITIATION, ADDRESS, PORT, lambda n: bytes(n))
HONEST = {messages.INITIATION: INITIATION, messages.RESPONSE: RESPONSE, messages.COOKIE: REPLY}


def one_input(data: bytes) -> None:
    """First byte: 0 to 127, a message of any bytes; else an honest one, changed where pairs of bytes say."""
    if not data:
        return
    how, message = data[0], data[1:]
    if how >= 128:
        changed = bytearray(HONEST[1 + how % 3])
        for place, bits in zip(data[1::2], data[2::2], strict=False):
            changed[place % len(changed)] ^= bits
        message = bytes(changed)
    try:
        kind = messages.message_type(message)
    except messages.MessageError as error:
        assert error.reason in ("length", "type")
        return
    if kind == messages.COOKIE:
        _cookie_reply(message)
    elif kind != messages.DATA:
        _macs(message, BOB if kind == messages.INITIATION else ALICE)
        (_initiation if kind == messages.INITIATION else _response)(message)


def _macs(message: bytes, owner: noise.Identity) -> None:
    check = cookie.check_macs(owner.mac1_key, SECRET, message, ADDRESS, PORT)
    assert check is not cookie.MacCheck.COOKIE
    honest = HONEST[message[0]]
    is_whole = message[:-16] == honest[:-16]
    assert (check is cookie.MacCheck.NO_COOKIE) == is_whole or message[:-32] != honest[:-32]


def _initiation(message: bytes) -> None:
    assert messages.Initiation.unpack(message).pack() == message
    is_honest = message[8 : noise.INITIATION_BODY] == INITIATION[8 : noise.INITIATION_BODY]
    try:
        opened = noise.open_initiation(BOB, message)
        stamp, opened = noise.open_timestamp(opened, SHARED)
    except noise.HandshakeRefused:
        assert not is_honest
        return
    assert is_honest and stamp == STAMP and opened.peer_public_key == ALICE.public_key
    answer, session = noise.create_response(opened, PSK, 9, SECOND)
    assert len(answer) == noise.RESPONSE_BODY and session.send_key == SESSION.send_key


def _response(message: bytes) -> None:
    assert messages.Response.unpack(message).pack() == message
    is_honest = message[8 : noise.RESPONSE_BODY] == RESPONSE[8 : noise.RESPONSE_BODY]
    try:
        session = noise.consume_response(ALICE, STATE, message, PSK)
    except noise.HandshakeRefused:
        assert not is_honest
        return
    assert (
        is_honest and session.receive_key == SESSION.send_key and len(session.send_key) == constants.KEY_BYTES
    )


def _cookie_reply(message: bytes) -> None:
    holder = cookie.CookieHolder()
    holder.message_sent(INITIATION)
    is_honest = message[8:] == REPLY[8:]
    try:
        holder.consume_reply(BOB.cookie_key, message, 1)
    except peer_cookies.CookieRefused:
        assert not is_honest and holder.cookie(1) is None
        return
    assert is_honest and holder.cookie(1) == cookie.make_cookie(SECRET, ADDRESS, PORT)
