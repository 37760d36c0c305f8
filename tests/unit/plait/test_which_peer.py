"""Which peer a name, or the start of a key, stands for."""

from __future__ import annotations

import pytest

from plait.failure import Failure
from plait.uapi_client import Peer
from plait.watch.which_peer import LEAST, NoPeer, key_of

ONE, TWO, THREE = ("ab+/" + letter * 39 + "=" for letter in "xyz")
PEERS = [Peer(ONE, name="Alice"), Peer(TWO, name="Bob"), Peer(THREE), Peer(ONE, name="Alice")]  # two engines


@pytest.mark.parametrize("words, key", [
    ("Alice", ONE), ("Bob", TWO), ("ab+/zzzz", THREE), ("ab+/zzzz…", THREE), ("ab+/zzzz...", THREE),
    (THREE[:-1], THREE), (THREE, THREE),
])  # fmt: skip
def test_one_peer_is_meant(words: str, key: str) -> None:
    assert key_of(words, PEERS) == key


@pytest.mark.parametrize("words", ["alice", "Carol", "", "…", "ab+/q", TWO[1:9], "a" * 45])
def test_none_is_meant(words: str) -> None:
    with pytest.raises(NoPeer, match=r"is no peer here: .* See which peers there are"):
        key_of(words, PEERS)


def test_a_name_comes_before_the_start_of_a_key_and_a_short_start_is_none() -> None:
    assert key_of("ab+/z", [*PEERS, Peer(TWO, name="ab+/z")]) == TWO
    with pytest.raises(NoPeer):
        key_of(ONE[: LEAST - 1], PEERS)


def test_several_that_may_be_meant_are_named() -> None:
    with pytest.raises(Failure) as raised:
        key_of("ab+/", PEERS)
    assert str(raised.value).startswith("`ab+/` may be 3 peers: ") and f"{ONE} (Alice), " in str(raised.value)
    many = [Peer(f"{number:043d}=", name="phone\x1b") for number in range(7)]
    with pytest.raises(Failure, match=r"may be 7 peers: .*=\u0020\(phone\?\) and 2 more"):
        key_of("phone\x1b", many)
