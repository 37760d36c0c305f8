"""The view of `plait top` without an engine: pictures of two reports, lines on any terminal, keys."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.watch.top import press
from plait.watch.top_keyboard import split
from plait.watch.top_rates import picture
from plait.watch.top_screen import Choice, Column, amount, bits, chosen_peers, lines, number, table


def process(role: str, count: int, pid: int, **packets: int) -> dict[str, Any]:
    flows = dict.fromkeys(("udp_received", "udp_sent", "tun_received", "tun_sent"), 0)
    return {
        "role": role, "number": count, "pid": pid, "cpu": 0, "state": "running", "asleep": True,
        "incarnation": 2, "beat_ms": 1.0, "packets": flows | packets,
        "cpu_seconds": 1.0, "realtime": True, "pss_bytes": 9 << 20,
    }  # fmt: skip


def report(at: float, **counters: int) -> dict[str, Any]:
    names = (
        "udp_received", "udp_sent", "tun_received", "tun_sent", "drop_no_peer", "drop_replay", "lost_wakes",
        "slots_starved", "hs_initiation_accepted", "hs_response_accepted", "hs_mac1_bad",
    )  # fmt: skip
    queue = {"waiting": 0, "peers": 0, "longest": 0}
    pool = {"small_slots": 100, "small_out": 7, "train_slots": 4, "train_out": 1}
    return {
        "aead": "OpenSSL EVP", "peers": 500_000, "at": at, "queues": {"inbound": queue, "outbound": queue},
        "processes": [process("control", 0, 10), process("receiver", 0, 11), process("consumer", 0, 12)],
        "pools": [pool | {"direction": name} for name in ("inbound", "outbound", "inbound", "outbound")],
        "counters": dict.fromkeys(names, 0) | counters,
    }  # fmt: skip


def peer(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "public_key": f"{n:043d}=", "endpoint": f"192.0.2.{n}:51820", "allowed_ips": [f"10.0.{n}.0/24"],
        "allowed_ips_more": 0, "latest_handshake": 0, "rx_bytes": 0, "tx_bytes": 0, "rx_rate": 0.0,
        "tx_rate": 0.0, "waiting_in": 0, "waiting_out": 0,
    } | changes  # fmt: skip


BUSIEST = {
    "interval_ms": 1000.0, "active": 2, "rx_rate": 10.0, "tx_rate": 2.0,
    "peers": [peer(1, rx_rate=10.0, tx_bytes=5), peer(2, tx_rate=2.0, latest_handshake=7, waiting_out=3),
              peer(3, rx_bytes=100)],
}  # fmt: skip


@pytest.fixture
def shown() -> dict[str, Any]:
    before = report(100.0, udp_received=50, drop_no_peer=4)
    before["processes"][1] = process("receiver", 0, 11, udp_received=40)
    now = report(
        102.0, udp_received=250, drop_no_peer=4, drop_replay=6, hs_mac1_bad=9, hs_response_accepted=3
    )
    now["processes"][1] = process("receiver", 0, 11, udp_received=240) | {"cpu_seconds": 1.5}
    now["processes"][2] = process("consumer", 0, 99) | {"cpu_seconds": 0.1}
    return picture("wg0", now, BUSIEST, before)


def test_names_have_a_column_where_there_are_some_and_are_found_by_the_filter(shown: dict[str, Any]) -> None:
    plain = "\n".join(line.plain for line in lines(shown, Choice(), 160, 60))
    assert "NAME" not in plain
    first, *others = shown["busiest"]
    shown["busiest"] = [first | {"name": "Alice's phone"}, *others]
    plain = "\n".join(line.plain for line in lines(shown, Choice(), 160, 60))
    assert "NAME" in plain and "Alice's phone" in plain
    assert [each.get("name") for each in chosen_peers(shown, Choice(filter="alice"))] == ["Alice's phone"]



def test_rates_are_differences_over_the_time_between(shown: dict[str, Any]) -> None:
    rates = shown["rates"]
    assert (rates["udp_received"], rates["drops"], rates["handshakes"]) == (100, 3, 1.5)
    receiver, consumer = shown["processes"][1:]
    assert (receiver["cpu_percent"], receiver["rates"]["udp_received"]) == (25, 100)
    assert (consumer["cpu_percent"], consumer["restarts"]) == (None, 1), "another process has the place now"
    assert [(each["cause"], each["rate"]) for each in shown["drops"]] == [("replay", 3), ("no_peer", 0)]
    assert [each["outcome"] for each in shown["handshakes"]] == ["mac1_bad", "response_accepted"]
    assert shown["slots"]["inbound"] == {"small": [14, 200], "train": [2, 8]}


def test_no_rates_at_first_and_across_a_restart() -> None:
    first = picture("wg0", report(1.0), BUSIEST | {"interval_ms": None}, None)
    again = picture("wg0", report(2.0, udp_received=3), BUSIEST, report(1.0, udp_received=9))
    assert first["interval"] is again["interval"] is None
    assert (
        first["rates"]["udp_received"] is first["rates"]["rx_bytes"] is again["rates"]["udp_received"] is None
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 240), st.integers(1, 80), st.sets(st.sampled_from(["processes", "drops", "handshakes"])),
    st.text("abc10.", max_size=8), st.booleans(), st.integers(-5, 50), st.integers(0, 40),
    st.lists(st.text("ab :", max_size=99), max_size=3),
)  # fmt: skip
def test_no_line_is_wider_and_no_screen_higher_than_the_terminal(
    width: int, height: int, hidden: set[str], words: str, typing: bool, scroll: int, peers: int,
    notes: list[str],
) -> None:  # fmt: skip
    told = BUSIEST | {"peers": [peer(n) for n in range(peers)]}
    made = picture("wg0", report(2.0, drop_no_peer=5, hs_mac1_bad=2), told, report(1.0))
    screen = lines(made, Choice("rate", words, typing, False, scroll, hidden), width, height, notes)
    assert len(screen) <= height
    assert all(line.cell_len <= width and "\n" not in line.plain for line in screen)


def test_a_wide_screen_has_everything(shown: dict[str, Any]) -> None:
    text = "\n".join(line.plain for line in lines(shown, Choice(), 160, 50))
    for words in ("500,000 peers, 2 active", "receiver 0", "25.0", "replay", "mac1_bad", "192.0.2.2:51820",
                  "10.0.1.0/24", "80 bit/s", "q quit", "7 % of small, 25 % of trains"):  # fmt: skip
        assert words in text, text


def test_peers_with_a_session_are_told_beside_those_that_move_something() -> None:
    made = picture("wg0", report(2.0) | {"connected": 400_000}, BUSIEST, report(1.0))
    first = lines(made, Choice(), 160, 50)[0].plain
    assert first.startswith("wg0  500,000 peers, 400,000 connected, 2 active")


def test_questions_about_unknown_peers_have_a_line_where_there_are_any(shown: dict[str, Any]) -> None:
    assert shown["on_demand"] is None and "unknown peers" not in lines(shown, Choice(), 160, 50)[5].plain
    names = ("unknown_asked", "unknown_answered", "unknown_refused", "unknown_cached")
    before, now = (report(at, **dict.fromkeys(names, count)) for at, count in ((1.0, 10), (3.0, 14)))
    now["on_demand"] = {"providers": 0, "parked": 7}
    made = picture("wg0", now, BUSIEST, before)
    (line,) = [line for line in lines(made, Choice(), 160, 50) if "unknown peers" in line.plain]
    assert line.plain == "unknown peers: asked 2/s   answered 2/s   refused 4/s   parked 7   providers 0"


def test_what_is_missing_stands_above_the_keys(shown: dict[str, Any]) -> None:
    note = "wg1 does not tell its inside: its engine does not know the question"
    for width, height, said in (
        (160, 50, [note]),
        (40, 24, ["wg1 does not tell its inside: its engine", "does not know the question"]),
        (20, 24, ["wg1 does not tell", "its inside: its", "engine does not kno…"]),
    ):
        screen = [line.plain for line in lines(shown, Choice(), width, height, [note])]
        assert len(screen) == height and screen[-1 - len(said) : -1] == said
        assert screen[-1].startswith("q quit") and screen[0].startswith("wg0")
    assert lines(shown, Choice(), 40, 1, [note])[0].plain.startswith("q quit")


def test_the_first_lines_are_folded_where_there_is_room(shown: dict[str, Any]) -> None:
    words = "handshakes 1.5/s drops 3/s lost wakes 0 starved of slots 0"
    for width, height, is_whole in ((160, 24, True), (40, 60, True), (40, 24, False)):
        text = " ".join(" ".join(line.plain for line in lines(shown, Choice(), width, height)).split())
        assert (words in text and "25 % of trains" in text) is is_whole


def test_narrow_tables_lose_whole_columns_by_rank() -> None:
    columns = [Column(title, lambda row: "12345", rank) for title, rank in (("A", 0), ("B", 2), ("C", 1))]
    heads = [table([{}], columns, width)[0].plain.split() for width in (19, 18, 12, 11, 5)]
    assert heads == [["A", "B", "C"], ["A", "C"], ["A", "C"], ["A"], ["A"]]


@pytest.mark.parametrize(("key", "first"), [("b", 1), ("i", 1), ("o", 2), ("t", 3), ("h", 2), ("w", 2)])
def test_sorting(shown: dict[str, Any], key: str, first: int) -> None:
    choice = Choice(scroll=3)
    press(choice, key)
    assert chosen_peers(shown, choice)[0]["public_key"] == peer(first)["public_key"]
    assert choice.scroll == 0


def test_a_filter_is_typed_kept_and_dropped(shown: dict[str, Any]) -> None:
    choice = Choice()
    for key in split(b"/10.0.2x\x7f.\r"):
        press(choice, key)
    assert (choice.filter, choice.is_typing) == ("10.0.2.", False)
    assert [each["public_key"] for each in chosen_peers(shown, choice)] == [peer(2)["public_key"]]
    press(choice, "escape")
    assert len(chosen_peers(shown, choice)) == 3
    for key in split(b"/q\x1b"):
        press(choice, key)
    assert choice == Choice(), "q is a letter while a filter is typed, and escape drops it"


def test_keys_of_a_terminal() -> None:
    assert list(split(b"a\x1b[A\x1bOB\x1b[5~\x1b[1;5C\t\x1b")) == [
        "a",
        "up",
        "down",
        "page up",
        "tab",
        "escape",
    ]
    assert list(split("é\x00z".encode())) == ["z"]


def test_parts_are_hidden_and_shown(shown: dict[str, Any]) -> None:
    choice, other = Choice(), copy.deepcopy(shown)
    press(choice, "p")
    assert "PROCESS" not in "".join(line.plain for line in lines(other, choice, 120, 40))
    press(choice, "p")
    assert "PROCESS" in "".join(line.plain for line in lines(other, choice, 120, 40))


def test_numbers_are_short_and_right() -> None:
    assert [number(n) for n in (None, 0, 0.5, 9.94, 42.4, 9999, 10_000, 123_456, 1e6, 2.5e9, 3e12)] == [
        "-", "0", "0.5", "9.9", "42", "9999", "10.0k", "123k", "1.0M", "2.5G", "3.0T",
    ]  # fmt: skip
    assert [bits(b) for b in (None, 0, 124, 125, 12_500, 1_250_000, 687.5e6)] == [
        "-", "0 bit/s", "992 bit/s", "1.00 kbit/s", "100 kbit/s", "10.0 Mbit/s", "5.50 Gbit/s",
    ]  # fmt: skip
    assert [amount(n) for n in (0, 1023, 1024, 200_000, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "195 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip
