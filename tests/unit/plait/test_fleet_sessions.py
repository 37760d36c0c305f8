"""Which peers have a session (plait/fleet/sessions.py), and prefixes as the kernel has them."""

from __future__ import annotations

import pytest

from plait.fleet.kernel_routes import Prefix, prefix_of
from plait.fleet.sessions import LIFE, Sessions

S = 1_000_000_000
A, B = b"a" * 32, b"b" * 32
ONE, TWO = prefix_of("10.0.0.1/32"), prefix_of("fd00::2/128")


def seen(handshake: int = 1000 * S, now: float = 50.0, wall: int = 1000 * S) -> Sessions:
    """A and its prefix."""
    sessions = Sessions()
    assert sessions.see(A, handshake, now, wall)
    sessions.set_prefixes(A, [ONE])
    assert sessions.wanted == {ONE: A}
    return sessions


def test_a_session_lasts_for_three_minutes_from_its_handshake() -> None:
    sessions = seen(wall=1100 * S)
    sessions.expire(50 + LIFE - 100 - 0.1)
    assert sessions.wanted
    sessions.touched.clear()
    sessions.expire(50 + LIFE - 100)
    assert not sessions.wanted and not sessions.live and sessions.touched == {ONE}
    assert not sessions.see(A, 1000 * S, 300, 1200 * S) and not sessions.live
    assert not sessions.see(A, 0, 300, 1200 * S) and not sessions.live


def test_a_newer_session_goes_on_with_the_prefixes_that_are_known() -> None:
    sessions = seen()
    assert not sessions.see(A, 1120 * S, 170, 1120 * S)
    sessions.expire(50 + LIFE + 1)
    assert sessions.wanted == {ONE: A}
    sessions.expire(170 + LIFE)
    assert not sessions.wanted


def test_a_wall_clock_that_is_set_ends_no_session() -> None:
    sessions = seen()
    sessions.see_all([(A, 1000 * S)], 60, 1010 * S)
    day = 86400 * S
    assert not sessions.see_all([(A, 1000 * S)], 61, 1011 * S + day)  # ahead
    assert sessions.wanted == {ONE: A}
    # Another handshake, told by the clock before it was set: it came since the last look.
    assert sessions.see_all([(A, 1012 * S), (B, 1012 * S)], 63, 1013 * S + day) == [B]
    assert set(sessions.live) == {A, B}
    assert sessions.live[B].until == 61 + LIFE
    sessions.see_all([(A, 1100 * S), (B, 0)], 150, 1100 * S - day)  # and back
    assert sessions.live[A].until == 150 + LIFE and set(sessions.live) == {A}


def test_peers_that_are_gone_have_no_session() -> None:
    sessions = seen()
    assert sessions.see_all([(B, 1000 * S)], 51, 1001 * S) == [B]
    assert set(sessions.live) == {B} and not sessions.wanted


def test_what_ended_sooner_stays_over_until_a_newer_handshake() -> None:
    sessions = seen()
    sessions.end_before(1000 * S, A)
    assert not sessions.wanted
    for _ in range(2):  # a look keeps it in mind
        assert not sessions.see_all([(A, 1000 * S)], 51, 1001 * S) and not sessions.live
    assert sessions.see_all([(A, 1002 * S)], 53, 1003 * S) == [A]
    sessions.end_before(1001 * S, A)  # an event that came late
    assert set(sessions.live) == {A}
    sessions.end_before(1005 * S)  # the private key was changed: of all
    assert not sessions.live and not sessions.see(A, 1002 * S, 54, 1005 * S)
    assert sessions.see(A, 1006 * S, 55, 1006 * S)


def test_a_prefix_is_the_last_one_s_who_has_it() -> None:
    sessions = seen()
    sessions.see(B, 1000 * S, 50, 1000 * S)
    sessions.set_prefixes(B, [ONE, TWO])
    sessions.touched.clear()
    sessions.set_prefixes(A, [])
    assert sessions.wanted == {ONE: B, TWO: B} and not sessions.touched
    sessions.set_prefixes(B, [TWO])
    assert sessions.wanted == {TWO: B} and sessions.touched >= {ONE}


@pytest.mark.parametrize("text", ["10.0.0.1/32", "10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "::/0"])
def test_a_prefix_is_read_and_shown(text: str) -> None:
    assert str(prefix_of(text)) == text


def test_an_address_alone_is_the_whole_of_it() -> None:
    assert prefix_of("10.0.0.1") == ONE and prefix_of("fd00::2") == TWO
    assert isinstance(ONE, Prefix) and (ONE.length, TWO.length) == (32, 128)


@pytest.mark.parametrize("text", [
    "", "10.0.0.1/33", "10.0.0.1/8", "10.0.0.1/-1", "fd00::1/64", "a/8", "1.2.3/8", "::/x",
])  # fmt: skip
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        prefix_of(text)
