"""The handshake: a vector of another implementation, both roles against each other, and each refusal."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import constants, cookie, noise, tai64n

VECTORS = Path(__file__).parent / "vectors"
KEYS = st.binary(min_size=32, max_size=32)
INDICES = st.integers(0, 2**32 - 1)
ALICE, BOB = noise.Identity(bytes(range(32))), noise.Identity(bytes(range(100, 132)))
STAMP = tai64n.stamp(1_700_000_000 * constants.SECOND)
PSK = bytes(range(200, 232))

# Public keys of low order, canonical and not (cr.yp.to/ecdh.html).
LOW_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def transport(key: bytes, counter: int, plain: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(4) + counter.to_bytes(8, "little"), plain, b"")


def initiate() -> tuple[bytes, noise.InitiationSent]:
    peer = noise.PeerKeys(ALICE, BOB.public_key)
    return noise.create_initiation(ALICE, peer, 7, STAMP)


def answer(message: bytes, psk: bytes = PSK) -> tuple[bytes, noise.Session]:
    opened = noise.open_initiation(BOB, message)
    _, opened = noise.open_timestamp(opened, BOB.static_static(opened.peer_public_key))
    return noise.create_response(opened, psk, 9)


def flip(message: bytes, at: int, mask: int) -> bytes:
    return message[:at] + bytes([message[at] ^ mask]) + message[at + 1 :]


def test_vector() -> None:
    """The whole exchange of another implementation, prologue, payloads and transport messages included."""
    vector = {
        name: bytes.fromhex(value)
        for name, value in json.loads((VECTORS / "noise_ikpsk2.json").read_text())["vector"].items()
        if name != "handshake"
    }
    alice = noise.Identity(vector["init_static"], vector["prologue"])
    bob = noise.Identity(vector["resp_static"], vector["prologue"])
    payloads = [vector[f"msg_{i}_payload"] for i in range(4)]
    messages = [vector[f"msg_{i}_ciphertext"] for i in range(4)]

    peer = noise.PeerKeys(alice, bob.public_key)
    first, state = noise.write_first(alice, peer, 1, payloads[0], vector["gen_init_ephemeral"])
    assert first == messages[0]
    opened = noise.read_first(bob, messages[0], 1)
    assert opened.peer_public_key == alice.public_key
    payload, opened = noise.open_timestamp(opened, bob.static_static(alice.public_key))
    assert payload == payloads[0]
    second, theirs = noise.write_second(
        opened, vector["preshared_key"], 2, payloads[1], vector["gen_resp_ephemeral"]
    )
    assert second == messages[1]
    payload, ours = noise.read_second(alice, state, messages[1], vector["preshared_key"], 2)
    assert payload == payloads[1]
    assert ours.hash == theirs.hash
    assert transport(ours.send_key, 0, payloads[2]) == messages[2]
    assert transport(theirs.send_key, 0, payloads[3]) == messages[3]
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)


def test_recorded_as_responder() -> None:
    """wireguard-go initiates: its message opens, and what it sends under the session opens too."""
    record = json.loads((VECTORS / "wireguard_go.json").read_text())
    us, psk = noise.Identity(bytes.fromhex(record["our_private"])), bytes.fromhex(record["psk"])
    them = noise.Identity(bytes.fromhex(record["their_private"]))
    scene = {name: bytes.fromhex(value) for name, value in record["they_initiate"].items()}

    assert cookie.mac1_is_right(us.mac1_key, scene["initiation"])
    opened = noise.open_initiation(us, scene["initiation"])
    assert opened.peer_public_key == them.public_key
    stamp, opened = noise.open_timestamp(opened, us.static_static(them.public_key))
    assert stamp[:4] == bytes.fromhex("40000000") and int.from_bytes(stamp[8:], "big") < 10**9
    index = int.from_bytes(scene["response"][4:8], "little")
    body, session = noise.create_response(opened, psk, index, scene["response_ephemeral"])
    assert cookie.add_macs(body, them.mac1_key, None) == scene["response"]
    counter = int.from_bytes(scene["data"][8:16], "little")
    assert int.from_bytes(scene["data"][4:8], "little") == session.local_index
    assert transport(session.receive_key, counter, scene["inner"]) == scene["data"][16:]


def test_recorded_as_initiator() -> None:
    """wireguard-go responds: its response opens, and its answer to our ping opens too."""
    record = json.loads((VECTORS / "wireguard_go.json").read_text())
    us, psk = noise.Identity(bytes.fromhex(record["our_private"])), bytes.fromhex(record["psk"])
    them = noise.Identity(bytes.fromhex(record["their_private"]))
    scene = {name: bytes.fromhex(value) for name, value in record["we_initiate"].items()}

    index = int.from_bytes(scene["initiation"][4:8], "little")
    peer = noise.PeerKeys(us, them.public_key)
    body, state = noise.create_initiation(us, peer, index, scene["timestamp"], scene["initiation_ephemeral"])
    assert cookie.add_macs(body, peer.mac1_key, None) == scene["initiation"]
    assert cookie.mac1_is_right(us.mac1_key, scene["response"])
    session = noise.consume_response(us, state, scene["response"], psk)
    counter = int.from_bytes(scene["data"][8:16], "little")
    assert transport(session.receive_key, counter, scene["inner"]) == scene["data"][16:]


@settings(max_examples=25, deadline=None)
@given(KEYS, KEYS, KEYS, INDICES, INDICES, st.binary(min_size=12, max_size=12))
def test_both_roles_agree(a: bytes, b: bytes, psk: bytes, i: int, j: int, stamp: bytes) -> None:
    alice, bob = noise.Identity(a), noise.Identity(b)
    message, state = noise.create_initiation(alice, noise.PeerKeys(alice, bob.public_key), i, stamp)
    assert len(message) == noise.INITIATION_BODY
    opened = noise.open_initiation(bob, message + bytes(32))
    assert (opened.peer_public_key, opened.sender_index) == (alice.public_key, i)
    heard, opened = noise.open_timestamp(opened, bob.static_static(alice.public_key))
    assert heard == stamp
    response, theirs = noise.create_response(opened, psk, j)
    assert len(response) == noise.RESPONSE_BODY
    ours = noise.consume_response(alice, state, response + bytes(32), psk)
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    assert ours.send_key != ours.receive_key
    assert (ours.local_index, ours.remote_index, ours.initiator) == (i, j, True)
    assert (theirs.local_index, theirs.remote_index, theirs.initiator) == (j, i, False)


@given(st.integers(8, noise.INITIATION_BODY - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_altered_initiation_is_refused(at: int, mask: int) -> None:
    """Each byte after the index is authentic: the cause is the first step that sees the change."""
    message = flip(initiate()[0], at, mask)
    wanted = noise.StaticTagWrong if at < 88 else noise.TimestampTagWrong
    with pytest.raises(wanted):
        answer(message)


def test_top_bit_of_ephemeral_is_authentic() -> None:
    """X25519 ignores it, the hash does not."""
    with pytest.raises(noise.StaticTagWrong):
        answer(flip(initiate()[0], 39, 0x80))


@given(st.integers(8, noise.RESPONSE_BODY - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_altered_response_is_refused_and_changes_nothing(at: int, mask: int) -> None:
    message, state = initiate()
    response, theirs = answer(message)
    with pytest.raises(noise.ResponseTagWrong):
        noise.consume_response(ALICE, state, flip(response, at, mask), PSK)
    assert noise.consume_response(ALICE, state, response, PSK).send_key == theirs.receive_key


def test_wrong_psk_is_refused() -> None:
    message, state = initiate()
    response, _ = answer(message)
    with pytest.raises(noise.ResponseTagWrong):
        noise.consume_response(ALICE, state, response, noise.NO_PSK)


def test_other_responder_is_refused() -> None:
    with pytest.raises(noise.StaticTagWrong):
        noise.open_initiation(noise.Identity(bytes(range(50, 82))), initiate()[0])


def test_stranger_with_known_public_key_is_refused() -> None:
    """Whoever shows a static key that it does not hold fails at the timestamp."""
    message, _ = initiate()
    opened = noise.open_initiation(BOB, message)
    with pytest.raises(noise.TimestampTagWrong):
        noise.open_timestamp(opened, bytes([1]) * 32)


@pytest.mark.parametrize("public", LOW_ORDER)
def test_low_order_keys_are_refused(public: bytes) -> None:
    with pytest.raises(noise.LowOrder):
        ALICE.static_static(public)
    with pytest.raises(noise.LowOrder):
        noise.PeerKeys(ALICE, public)
    with pytest.raises(noise.LowOrder):  # as the other side's ephemeral key, in either message
        noise.open_initiation(BOB, initiate()[0][:8] + public + initiate()[0][40:])
    message, state = initiate()
    response, _ = answer(message)
    with pytest.raises(noise.LowOrder):
        noise.consume_response(ALICE, state, response[:12] + public + response[44:], PSK)


def test_zero_static_static_is_refused() -> None:
    opened = noise.open_initiation(BOB, initiate()[0])
    with pytest.raises(noise.LowOrder):
        noise.open_timestamp(opened, bytes(32))
    with pytest.raises(noise.LowOrder):
        noise.PeerKeys(ALICE, BOB.public_key, bytes(32))


def test_precomputed_secret_serves() -> None:
    peer = noise.PeerKeys(ALICE, BOB.public_key, ALICE.static_static(BOB.public_key))
    message, state = noise.create_initiation(ALICE, peer, 7, STAMP)
    response, theirs = answer(message)
    assert noise.consume_response(ALICE, state, response, PSK).hash == theirs.hash


@given(KEYS)
def test_clamp(private: bytes) -> None:
    clamped = noise.clamp(private)
    assert (clamped[0] & 7, clamped[31] & 0xC0) == (0, 0x40)
    assert clamped[1:31] == private[1:31]
    assert noise.Identity(private).public_key == noise.Identity(clamped).public_key
