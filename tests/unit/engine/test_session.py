"""engine/session: batches against the model, on either side of each limit."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine import aead
from engine._engine import ffi, lib
from tests.unit.engine.test_timer_stamps import LAP, Stamps

from . import inner
from .sessions import ALLOWED, LIMIT, REKEY_MESSAGES, SECOND, Keys, Outcome, Session, header, nonce
from .trie import Scan, Trie

PEER, GENERATION, ROWS, KEYPAIRS = 2, 9, 4, 8
MTU = 1420
VERDICTS = ["DELIVER", "KEEPALIVE", "KEYPAIR_GONE", "KEYPAIR_EXPIRED", "TAG", "REPLAY", "INNER_HEADER",
            "INNER_SOURCE", "ECN", "LOST", "NO_SESSION"]  # fmt: skip
NEWS = ["HANDSHAKE_WANTED", "CONFIRMED", "TIMER", "KEYS", "AUTHENTICATED"]
BIRTH = 1000 * SECOND
PROVIDERS = [p.number for p in aead.PROVIDERS.values() if lib.aead_new(p.number) != ffi.NULL]
AEADS = {p: ffi.gc(lib.aead_new(p), lib.aead_free) for p in PROVIDERS}


class Peer:
    """One peer in memory of the test, as the model says it is."""

    def __init__(self, model: Session, aead: Any) -> None:
        self.model, self.aead = model, aead
        self.keypairs = ffi.new("struct keypair[]", KEYPAIRS)
        self.word = ffi.new("uint64_t *", lib.key_word_of(model.current, model.previous, model.next))
        self.columns = ffi.new("uint32_t[]", lib.TIMER_COLUMN_COUNT * ROWS)
        lib.timers_initialise(self.columns, ROWS, PEER)
        self.stamps = Stamps()
        self.trie = Trie(40, ROWS)
        for network, row in model.allowed.owner.items():
            self.trie.insert(network, row)
        for number, keys in model.keys.items():
            self._store(self.keypairs[number], keys)
        session = self.session = ffi.new("struct session *")
        session.key_word, session.keypairs, session.max_keypairs = self.word, self.keypairs, KEYPAIRS
        session.peer, session.peer_generation = PEER, GENERATION
        session.columns, session.stride = self.columns, ROWS
        session.trie, session.max_trie_nodes = self.trie.nodes, self.trie.max_nodes
        session.root4, session.root6 = self.trie.roots[0], self.trie.roots[1]
        session.mtu = model.mtu

    @staticmethod
    def _store(keypair: Any, keys: Keys) -> None:
        keypair.send_key, keypair.receive_key = keys.send_key, keys.receive_key
        keypair.birth, keypair.flags = keys.birth, lib.KEYPAIR_INITIATOR if keys.initiator else 0
        keypair.local_index, keypair.remote_index = keys.local_index, keys.remote_index
        keypair.peer, keypair.peer_generation = PEER, GENERATION if keys.ours else GENERATION + 1
        keypair.send_counter, keypair.rekey_asked = keys.send_counter, keys.rekey_asked
        for counter in sorted(keys.seen):
            assert lib.window_accept(ffi.addressof(keypair, "window"), counter)

    def _batch(self, contents: Sequence[tuple[bytes, int]], before: int) -> Any:
        """Packets in one block each, filled to the byte, with `before` and 48 spare bytes around."""
        packets = ffi.new("struct packet[]", max(len(contents), 1))
        self.kept = []
        for packet, (content, ecn) in zip(packets, contents, strict=False):
            buffer = ffi.new("uint8_t[]", b"\xee" * (before + len(content) + 48))
            ffi.memmove(buffer + before, content, len(content))
            self.kept.append(buffer)
            packet.data, packet.length, packet.verdict, packet.ecn = buffer + before, len(content), 99, ecn
        return packets

    def _compare(self, expected: Outcome, packets: Any, now: int) -> None:
        count = len(expected.verdicts)
        assert [VERDICTS[packets[i].verdict] for i in range(count)] == expected.verdicts
        for i in range(count):
            if expected.packets[i] is not None:
                assert bytes(ffi.buffer(packets[i].data, packets[i].length)) == expected.packets[i]
        tick = now >> 24
        for happened in expected.events:
            if getattr(self.stamps, happened)(tick):
                expected.news.add("TIMER")
        assert {name for i, name in enumerate(NEWS) if self.session.news >> i & 1} == expected.news
        model = self.model
        assert self.word[0] == lib.key_word_of(model.current, model.previous, model.next)
        for number, keys in model.keys.items():
            keypair = self.keypairs[number]
            assert keypair.send_counter == keys.send_counter
            assert keypair.window.top == keys.top
            assert bool(keypair.rekey_asked) == keys.rekey_asked
        for name, value in self.stamps.now.items():
            assert self.columns[getattr(lib, name) * ROWS + PEER] == value % LAP, name
        assert bool(lib.session_is_usable(self.session, now)) == model.usable(now)

    def open(self, messages: list[tuple[bytes, int]], now: int) -> Outcome:
        expected = self.model.open(messages, now)
        packets = self._batch(messages, 0)
        lib.session_open(self.session, self.aead, packets, len(messages), now)
        self._compare(expected, packets, now)
        if "AUTHENTICATED" in expected.news:
            assert self.session.last_authenticated == expected.last_authenticated
        return expected

    def seal(self, contents: list[bytes], now: int) -> Outcome:
        expected = self.model.seal(contents, now)
        packets = self._batch([(content, 77) for content in contents], 16)
        before = [bytes(ffi.buffer(buffer)) for buffer in self.kept]
        result = lib.session_seal(self.session, self.aead, packets, len(contents), now)
        self._compare(expected, packets, now)
        if "NO_SESSION" in expected.verdicts or (not self.model.usable(now) and not contents):
            assert result == -1
            assert [bytes(ffi.buffer(buffer)) for buffer in self.kept] == before
        else:
            assert result == 0
            assert [packets[i].ecn for i in range(len(contents))] == expected.ecn
        return expected


def keys_of(number: int, **changes: Any) -> Keys:
    made = Keys(
        send_key=bytes([number, 1]) * 16,
        receive_key=bytes([number, 2]) * 16,
        birth=BIRTH,
        local_index=0x1000 + number,
        remote_index=0x2000 + number,
        initiator=True,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def session_of(current: int = 1, previous: int = 0, next: int = 0, mtu: int = MTU, **changes: Any) -> Session:
    """Keypairs 1, 2, 3 are ours; changes are made to all of them."""
    keys = {number: keys_of(number, **deepcopy(changes)) for number in (1, 2, 3)}
    return Session(keys, current, previous, next, PEER, Scan(dict(ALLOWED)), mtu)


def message(keys: Keys, counter: int, content: bytes) -> bytes:
    """As the other side seals it: under our receive key."""
    sealed = ChaCha20Poly1305(keys.receive_key).encrypt(nonce(counter), content, None)
    return header(keys.local_index, counter) + sealed


def packet4(source: str = "10.1.2.3", payload: bytes = b"hello", **more: Any) -> bytes:
    return inner.ipv4(ip_address(source).packed, bytes([192, 0, 2, 1]), payload, **more)


def packet6(source: str = "fd00::3", payload: bytes = b"hello", **more: Any) -> bytes:
    return inner.ipv6(ip_address(source).packed, bytes(15) + b"\1", payload, **more)


GOOD = packet4()

contents = st.one_of(
    st.just(b""),
    st.builds(
        lambda make, source, size, tos, padding: make(source, b"p" * size, tos=tos) + bytes(padding),
        st.just(packet4),
        st.sampled_from(["10.1.2.3", "10.9.0.1", "11.0.0.1", "10.255.255.255"]),
        st.integers(0, 100),
        st.integers(0, 3),
        st.integers(0, 15),
    ),
    st.builds(
        lambda source, size, tos, padding: packet6(source, b"q" * size, tos=tos) + bytes(padding),
        st.sampled_from(["fd00::1", "fd09::1", "fe00::1"]),
        st.integers(0, 100),
        st.integers(0, 3),
        st.integers(0, 15),
    ),
    st.sampled_from([packet4(length=2000), packet4(length=10), packet6(length=9), b"\0" * 40, b"\x45"]),
    st.binary(max_size=50),
)


@st.composite
def messages(draw: st.DrawFn, model: Session) -> bytes:
    keys = model.keys[draw(st.sampled_from([1, 1, 2, 3]))]
    counter = draw(
        st.one_of(
            st.integers(0, 12),
            st.integers(8120, 8145),
            st.integers(0, 30_000),
            st.sampled_from([LIMIT - 1, LIMIT, 2**64 - 1]),
        )
    )
    made = bytearray(message(keys, counter, draw(contents)))
    damage = draw(st.sampled_from(["none"] * 8 + ["bit", "cut", "index", "swap"]))
    if damage == "bit":
        bit = draw(st.integers(32, len(made) * 8 - 1))
        made[bit // 8] ^= 1 << bit % 8
    elif damage == "cut":
        made = made[: draw(st.integers(16, len(made)))]
    elif damage == "index":
        made[4:8] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "little")
    elif damage == "swap":  # addressed to another of our keypairs than it was sealed for
        made[4:8] = model.keys[draw(st.integers(1, 3))].local_index.to_bytes(4, "little")
    return bytes(made)


words = st.sampled_from(
    [(1, 0, 0), (1, 2, 0), (1, 2, 3), (1, 0, 3), (0, 0, 1), (0, 2, 1), (0, 0, 0), (3, 1, 2)]
)
times = st.sampled_from(
    [BIRTH, BIRTH + SECOND]
    + [BIRTH + seconds * SECOND + ns for seconds in (120, 165, 180) for ns in (-1, 0)]
    + [BIRTH + 200 * SECOND]
)


@settings(deadline=None, max_examples=300)
@given(
    data=st.data(),
    provider=st.sampled_from(PROVIDERS),
    word=words,
    initiator=st.booleans(),
    foreign=st.sampled_from([0, 0, 0, 1, 2, 3]),
    late=st.sampled_from([0, 0, 2, 3]),
)
def test_batches(
    data: st.DataObject, provider: int, word: Any, initiator: bool, foreign: int, late: int
) -> None:
    """Opening and sealing in turns, as time goes on."""
    model = session_of(*word, initiator=initiator)
    if foreign:
        model.keys[foreign].ours = False
    if late:
        model.keys[late].birth += 100 * SECOND
    peer = Peer(model, AEADS[provider])
    for now in sorted(data.draw(st.lists(times, min_size=1, max_size=3))):
        batch = data.draw(st.lists(st.tuples(messages(model), st.integers(0, 3)), max_size=12))
        for verdict in peer.open(batch, now).verdicts:
            event(verdict)
        peer.seal(data.draw(st.lists(contents.filter(lambda c: len(c) == 0 or len(c) > 1), max_size=5)), now)


@pytest.fixture(params=PROVIDERS)
def aead(request: pytest.FixtureRequest) -> Any:
    return AEADS[request.param]


def opened(
    peer: Peer, contents: list[bytes], now: int = BIRTH + SECOND, number: int = 1, start: int = 0
) -> Outcome:
    keys = peer.model.keys[number]
    return peer.open([(message(keys, start + i, c), 0) for i, c in enumerate(contents)], now)


def test_a_whole_batch_of_64(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    assert (
        opened(peer, [packet4(payload=bytes([i]) * i * 20) for i in range(64)]).verdicts == ["DELIVER"] * 64
    )
    assert (
        peer.seal([packet4(payload=bytes(i * 20)) for i in range(64)], BIRTH + SECOND).verdicts
        == ["DELIVER"] * 64
    )


def test_forgery_at_each_place_is_refused_alone(aead: Any) -> None:
    for place in range(64):
        peer = Peer(session_of(), aead)
        batch = [(message(peer.model.keys[1], i, GOOD), 0) for i in range(64)]
        batch[place] = (batch[place][0][:-1] + bytes([batch[place][0][-1] ^ 0x80]), 0)
        outcome = peer.open(batch, BIRTH)
        assert [i for i, v in enumerate(outcome.verdicts) if v == "TAG"] == [place]
        # nothing of it was believed: the true message still comes in
        assert peer.open([(message(peer.model.keys[1], place, GOOD), 0)], BIRTH).verdicts == ["DELIVER"]


def test_repeats_in_one_batch_and_the_next(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    once = message(peer.model.keys[1], 5, GOOD)
    assert peer.open([(once, 0), (once, 0)], BIRTH).verdicts == ["DELIVER", "REPLAY"]
    assert peer.open([(once, 0)], BIRTH).verdicts == ["REPLAY"]
    assert peer.open([(once, 0)], BIRTH).news == set()  # a replay moves no endpoint


def test_first_data_on_next_confirms_it(aead: Any) -> None:
    peer = Peer(session_of(1, 2, 3, initiator=False), aead)
    outcome = opened(peer, [b""], number=3)
    assert outcome.verdicts == ["KEEPALIVE"]
    assert outcome.news >= {"CONFIRMED", "KEYS", "AUTHENTICATED"}
    assert (peer.model.current, peer.model.previous, peer.model.next) == (3, 1, 0)
    assert "CONFIRMED" not in opened(peer, [GOOD], number=3, start=1).news
    assert opened(peer, [GOOD], number=2).verdicts == ["KEYPAIR_GONE"]
    assert opened(peer, [GOOD], number=1).verdicts == ["DELIVER"]


def test_a_forged_message_on_next_confirms_nothing(aead: Any) -> None:
    peer = Peer(session_of(1, 0, 3, initiator=False), aead)
    forged = bytearray(message(peer.model.keys[3], 0, GOOD))
    forged[20] ^= 1
    assert peer.open([(bytes(forged), 0)], BIRTH).news == set()
    assert peer.model.next == 3


def test_messages_of_three_keypairs_in_one_batch(aead: Any) -> None:
    """The one that falls out of the word on the way is still opened: it was named as the batch began."""
    peer = Peer(session_of(1, 2, 3, initiator=False), aead)
    keys = peer.model.keys
    batch = [(message(keys[n], c, GOOD), 0) for n, c in ((2, 0), (1, 0), (3, 0), (2, 1), (1, 1), (3, 1))]
    assert peer.open(batch, BIRTH).verdicts == ["DELIVER"] * 6
    assert peer.model.previous == 1


def test_refresh_is_asked_for_once_a_session(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    assert "HANDSHAKE_WANTED" not in opened(peer, [GOOD], BIRTH + 165 * SECOND - 1).news
    assert "HANDSHAKE_WANTED" in opened(peer, [GOOD], BIRTH + 165 * SECOND, start=1).news
    assert "HANDSHAKE_WANTED" not in opened(peer, [GOOD], BIRTH + 166 * SECOND, start=2).news
    responder = Peer(session_of(initiator=False), aead)
    assert "HANDSHAKE_WANTED" not in opened(responder, [GOOD], BIRTH + 170 * SECOND).news


def test_rekey_on_send_after_time_and_after_messages(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    assert peer.seal([GOOD], BIRTH + 120 * SECOND - 1).news == {"TIMER"}
    assert peer.seal([GOOD], BIRTH + 120 * SECOND).news == {"HANDSHAKE_WANTED"}
    assert peer.seal([GOOD], BIRTH + 121 * SECOND).news == {"HANDSHAKE_WANTED"}
    responder = Peer(session_of(initiator=False, send_counter=REKEY_MESSAGES - 1), aead)
    assert responder.seal([GOOD], BIRTH + 121 * SECOND).news == {"TIMER"}
    assert responder.seal([GOOD], BIRTH + 121 * SECOND).news == {"HANDSHAKE_WANTED"}


def test_the_last_nonces(aead: Any) -> None:
    """All or none: a batch that does not fit takes none."""
    peer = Peer(session_of(send_counter=LIMIT - 3), aead)
    assert peer.seal([GOOD] * 4, BIRTH).verdicts == ["NO_SESSION"] * 4
    assert peer.seal([GOOD] * 3, BIRTH).verdicts == ["DELIVER"] * 3
    assert peer.seal([GOOD], BIRTH).verdicts == ["NO_SESSION"]


def test_a_session_ends_to_the_nanosecond(aead: Any) -> None:
    end = BIRTH + 180 * SECOND
    peer = Peer(session_of(), aead)
    assert opened(peer, [GOOD], end - 1).verdicts == peer.seal([GOOD], end - 1).verdicts == ["DELIVER"]
    assert opened(peer, [GOOD], end, start=1).verdicts == ["KEYPAIR_EXPIRED"]
    assert peer.seal([GOOD], end).verdicts == ["NO_SESSION"]


def test_the_last_counters(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    keys = peer.model.keys[1]
    assert peer.open([(message(keys, LIMIT, GOOD), 0)], BIRTH).verdicts == ["KEYPAIR_EXPIRED"]
    batch = [(message(keys, counter, GOOD), 0) for counter in (LIMIT - 2, LIMIT - 1, LIMIT)]
    assert peer.open(batch, BIRTH).verdicts == ["DELIVER", "DELIVER", "KEYPAIR_EXPIRED"]


def test_keepalives(aead: Any) -> None:
    """32 bytes either way; they arm neither of the data timers."""
    peer = Peer(session_of(), aead)
    sealed = peer.seal([b""], BIRTH)
    assert [len(p or b"") for p in sealed.packets] == [32]
    assert sealed.events == ["authenticated_sent"]
    assert opened(peer, [b""]).events == ["authenticated_received"]


def test_lengths_that_are_no_multiple_of_16_are_taken(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    sizes = [packet4(payload=bytes(n)) for n in range(20)]
    assert opened(peer, sizes).verdicts == ["DELIVER"] * 20


def test_numbers_out_of_range_are_no_keypairs(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    batch = [(message(peer.model.keys[1], 0, GOOD), 0)]
    peer.model.current = 0
    peer.word[0] = lib.key_word_of(KEYPAIRS, 2**21 - 1, 0)
    packets = peer._batch(batch, 0)
    lib.session_open(peer.session, aead, packets, 1, BIRTH)
    assert packets[0].verdict == lib.VERDICT_KEYPAIR_GONE
    assert not lib.session_is_usable(peer.session, BIRTH)
    assert lib.session_seal(peer.session, aead, packets, 1, BIRTH) == -1


def test_padding_is_sealed_zeros_up_to_the_mtu(aead: Any) -> None:
    """The other side opens what we seal; spare bytes of the buffer do not leak into the padding."""
    for size in (0, 1, 15, 16, 1390 - 28, 1420 - 28 - 5, 1420 - 28):
        content = packet4(payload=bytes(size))
        for mtu in (1420, 0):
            peer = Peer(session_of(mtu=mtu), aead)
            sealed = peer.seal([content], BIRTH).packets[0]
            assert sealed is not None
            plain = ChaCha20Poly1305(peer.model.keys[1].send_key).decrypt(nonce(0), sealed[16:], None)
            assert plain == content + bytes(len(plain) - len(content))


def test_empty_batches(aead: Any) -> None:
    peer = Peer(session_of(), aead)
    assert peer.open([], BIRTH).news == set()
    assert peer.seal([], BIRTH).news == set()
