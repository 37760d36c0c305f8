"""The generator's C against plain models: keys, histogram buckets, when events are due."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import noise
from plait.failure import Failure
from plait.load._generator import ffi, lib
from plait.load.key_derivation import Keys, inner_network, peer_address, seed_bytes, setconf_text, uapi_text
from tests.unit.plait.load.gateway import derived, private_key, public_key

NEVER = 2**64 - 1


@settings(max_examples=20)
@given(st.text(max_size=40), st.integers(0, 2**20 - 1), st.integers(1, 3))
def test_keys_follow_from_seed_and_number(seed: str, first: int, count: int) -> None:
    buffers = [ffi.new("uint8_t[]", 32 * count) for _ in range(3)]
    assert lib.load_keys(seed_bytes(seed), first, count, *buffers) == 0
    privates, publics, psks = (bytes(ffi.buffer(buffer)) for buffer in buffers)
    for i in range(count):
        part = slice(32 * i, 32 * i + 32)
        assert privates[part] == private_key(seed, first + i)
        assert publics[part] == public_key(privates[part])
        assert psks[part] == derived(seed, b"psk-----", first + i)


def test_configuration_is_the_same_each_time_and_names_each_peer_once() -> None:
    keys, network = Keys(seed_bytes("a")), inner_network("10.64.0.0/10", 300)
    groups = [(range(300), network)]
    text = "".join(setconf_text(keys, groups, psk=True))
    assert text == "".join(setconf_text(keys, groups, psk=True))
    assert text != "".join(setconf_text(Keys(seed_bytes("b")), groups, psk=True))
    public = [line.split(" = ")[1] for line in text.splitlines() if line.startswith("PublicKey")]
    assert len(set(public)) == 300
    assert f"AllowedIPs = {peer_address(network, 299)}/32" in text and "10.64.1.45/32" in text
    assert noise.Identity(keys.gateway()[0]).public_key == keys.gateway()[1]


def test_both_forms_of_a_configuration_say_the_same() -> None:
    import base64

    keys, network = Keys(seed_bytes("a")), inner_network("10.64.0.0/10", 5)
    groups = [(range(5), network)]
    text = "".join(uapi_text(keys, groups))
    assert text.startswith("set=1\n") and text.endswith("\n\n")
    hexes = [line.partition("=")[2] for line in text.splitlines() if line.startswith("public_key")]
    wg = "".join(setconf_text(keys, groups))
    bases = [line.split(" = ")[1] for line in wg.splitlines() if line.startswith("PublicKey")]
    assert [bytes.fromhex(each) for each in hexes] == [base64.b64decode(each) for each in bases]


@given(st.integers(0, 2**40 - 1))
@example(255)
@example(256)
@example(2**40 - 1)
def test_a_bucket_is_within_its_share(ns: int) -> None:
    bucket = lib.load_bucket(ns)
    assert 0 <= bucket < lib.LOAD_BUCKETS
    assert abs(lib.load_bucket_middle(bucket) - ns) <= ns / 256


def test_buckets_are_in_order_and_none_is_left_out() -> None:
    middles = [lib.load_bucket_middle(i) for i in range(lib.LOAD_BUCKETS)]
    assert all(low < high for low, high in pairwise(middles))
    assert [lib.load_bucket(middle) for middle in middles] == list(range(lib.LOAD_BUCKETS))
    assert lib.load_bucket(NEVER) == lib.LOAD_BUCKETS - 1


@given(st.integers(0, 2**40 - 1))
@example(6144 * 2**22 - 1)
@example(6144 * 2**22)
def test_a_bucket_of_recoveries_is_within_5_ms_or_its_share(ns: int) -> None:
    bucket = lib.load_recovery_bucket(ns)
    assert 0 <= bucket < lib.LOAD_BUCKETS
    assert abs(lib.load_recovery_bucket_middle(bucket) - ns) <= max(2**21, ns / 128)
    assert lib.load_recovery_bucket(NEVER) == lib.load_recovery_bucket(2**40 - 1) < lib.LOAD_BUCKETS


_rate = st.floats(0, 1e6).map(lambda rate: round(rate, 3))


@given(_rate, _rate, st.floats(0.01, 100), st.integers(0, 10**6))
def test_events_are_due_where_the_area_under_the_rate_says(
    first: float, last: float, seconds: float, k: int
) -> None:
    """A model by bisection: the first moment at which k events have happened."""

    def happened(t: float) -> float:
        return first * t + (last - first) * t * t / (2 * seconds)

    due = lib.load_pace([first, last], int(seconds * 1e9), float(k))
    total = happened(seconds)
    if due == NEVER:
        assert k >= total - 1e-3 * max(total, 1)
        return
    assert due < seconds * 1e9
    steps = range(0, 10**6 + 1)
    at = bisect_left(steps, k, key=lambda step: happened(seconds * step / 10**6))
    assert abs(due / 1e9 - seconds * at / 10**6) <= seconds * 2e-6 + 1e-9


@given(_rate.filter(lambda rate: rate > 0), st.integers(0, 10**6))
def test_an_endless_rate_is_even(rate: float, k: int) -> None:
    due = lib.load_pace([rate, 0], 0, float(k))
    assert abs(due - k / rate * 1e9) <= 1 + k / rate
    assert lib.load_pace([0, 0], 10**9, float(k)) == NEVER


@pytest.mark.parametrize("text", ["127.0.0.0/8", "0.0.0.0/0", "224.0.0.0/8", "::/0", "ff02::/16", "::/64"])
def test_addresses_that_no_host_answers_from_a_tunnel_are_refused(text: str) -> None:
    with pytest.raises(Failure, match="a host drops some of its addresses"):
        inner_network(text, 9)
