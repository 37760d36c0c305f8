"""`plait fleet demo`: what it reads from the router, its tables and its picture, without hosts."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from plait.fleet import demo_picture
from plait.fleet.demo_result import (
    Clients,
    Echoes,
    GatewayResult,
    Lag,
    Result,
    Timeline,
    Times,
    tables,
    times,
)
from plait.fleet.demo_routes import Move, RouterRoutes
from plait.lab.namespaces import how_to_get

SVG = "{http://www.w3.org/2000/svg}"
FIRST, SECOND = "10.200.3.2", "10.200.4.2"  # next hops
AT = 1780250700.0  # 2026-05-31T18:05:00, in UTC
MONITORED = f"""\
[2026-05-31T18:05:00.000000] 10.64.0.2 via {FIRST} dev eth1 proto bird metric 32
[2026-05-31T18:05:00.500000] 10.64.0.3 via {FIRST} dev eth1 proto bird metric 32
[2026-05-31T18:05:01.000000] 10.64.0.4 dev eth1 proto kernel scope link src 10.200.3.1
[2026-05-31T18:05:01.000000] 198.51.100.1 via {FIRST} dev eth1 table 1 proto bird metric 32
[2026-05-31T18:05:01.000000] 198.51.100.1 table 100 proto bird metric 32
\tnexthop via {FIRST} dev eth1 weight 1
\tnexthop via {SECOND} dev eth2 weight 1
[2026-05-31T18:05:02.000000] 10.64.0.3 via {SECOND} dev eth2 proto bird metric 32
[2026-05-31T18:05:02.000001] Deleted 10.64.0.3 via {FIRST} dev eth1 proto bird metric 32
[2026-05-31T18:05:03.250000] Deleted 10.64.0.2 via {FIRST} dev eth1 proto bird metric 32
[2026-05-31T18:05:03.250000] Deleted 198.51.100.1 via {FIRST} dev eth1 table 1 proto bird metric 32
"""
MOVES = [
    Move(AT, "10.64.0.2", FIRST), Move(AT + 0.5, "10.64.0.3", FIRST), Move(AT + 2, "10.64.0.3", SECOND),
    Move(AT + 3.25, "10.64.0.2", ""),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_routes_are_followed_however_the_monitor_s_words_come(size: int) -> None:
    routes = RouterRoutes()
    for begin in range(0, len(MONITORED), size):
        routes.feed(MONITORED[begin : begin + size])
    assert routes.moves == MOVES
    assert (routes.of(FIRST), routes.of(SECOND)) == (set(), {"10.64.0.3"})
    assert routes.via["1"] == {} and "198.51.100.1" in routes.via["100"]


def test_a_quantile_is_the_least_value_that_such_a_share_does_not_exceed() -> None:
    assert times([]) == Times()
    assert times([0.25]) == Times(1, dict.fromkeys(("p50", "p90", "p99", "max"), 0.25))
    assert times(range(200, 0, -1)) == Times(200, {"p50": 100, "p90": 180, "p99": 198, "max": 200})


def example() -> Result:
    """Of a demo in which gateway 2 was killed."""
    found = Result(
        10_000, "postgresql", 2, moved=3334, handshakes=13334, changes=40,
        gaps=times([0.2] * 6666 + [15.4] * 3334), renewals=times([15.4] * 3334),
        withdrawn=times([0.01] * 3334), rerouted=times([15.9] * 3334), sync_lag=times([0.07, 0.09]),
    )  # fmt: skip
    for number in (1, 2, 3):
        is_killed = number == 2
        after = (0, 0, 0) if is_killed else (5000, 1667, 251234)
        found.gateways.append(
            GatewayResult(number, is_killed, 3333, after[0], 3333, after[1], 0, after[2])
        )
    found.timeline = Timeline(
        echoes=[Echoes(at / 4, 50_000, 0 if at == 1 else 50_000) for at in range(-20, 100)],
        clients=[Clients(-6.0, {1: 3333, 2: 3334, 3: 3333}), Clients(0.25, {1: 3333, 2: 0, 3: 3333})],
        lags=[Lag(-1.0, 1, 0.07), Lag(-1.0, 2, 0.09), Lag(-1.0, 3, 0.4)],
    )
    return found


def printed(result: Result, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for made in tables(result):
        console.print(made)
    return out.getvalue()


def test_the_tables_fit_an_ordinary_terminal_and_say_what_was_found() -> None:
    text = printed(example(), 80)
    assert max(map(len, text.splitlines())) <= 80
    rows = {re.split(r"\s{2,}", line.strip(" │┃"))[0]: line for line in text.splitlines()}
    (gaps,) = [line for name, line in rows.items() if name.startswith("longest gap")]
    assert re.findall(r"[\d.]+", gaps) == ["10000", "0.20", "15.40", "15.40", "15.40"]
    (killed,) = [line for name, line in rows.items() if name.startswith("2, killed")]
    assert re.findall(r"\d+|-", killed) == ["2", "3333", "-", "3333", "-", "0", "-"]
    assert printed(Result(6, "nats"), 80).count("-") > 10, "what was not measured is said to be so"


def drawn(result: Result) -> ElementTree.Element:
    text = demo_picture.picture(result)
    assert text == demo_picture.picture(result)
    return ElementTree.fromstring(text)


def test_the_picture_has_the_kill_and_every_gateway_within_its_frame() -> None:
    root = drawn(example())
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert "kill -9 of gateway 2" in words and words.count("gateway 3") == 2
    assert {"-5", "0", "20"} <= set(words), "seconds since the kill"
    assert len(list(root.iter(f"{SVG}circle"))) == 3
    for path in root.iter(f"{SVG}path"):
        for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path.get("d", "")):
            assert 0 <= float(x) <= demo_picture.WIDTH and 0 <= float(y) <= demo_picture.HEIGHT
    # Where no echo is answered the curve is at the plot's foot.
    answered = next(
        path.get("d", "") for path in root.iter(f"{SVG}path")
        if path.get("stroke") == demo_picture.COLOURS[0] and path.get("d", "").count("L") > 100
    )  # fmt: skip
    assert f" {demo_picture.TOP + demo_picture.PLOT:.1f}" in answered


def test_a_picture_of_nothing_is_a_picture() -> None:
    assert drawn(Result(6, "nats")).tag == f"{SVG}svg"


def test_who_lacks_a_program_is_told_its_package() -> None:
    assert how_to_get(["bird", "nsenter", "unshare"]) == (
        "Install Debian's bird2 util-linux: apt install bird2 util-linux"
    )
    assert "apt" not in how_to_get(["no-such-program"])
