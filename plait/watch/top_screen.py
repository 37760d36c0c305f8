"""A picture (top_rates.py) as lines of text, as many and as wide as the terminal has.

Columns have ranks: those of the highest rank leave first when the terminal is narrow. Colours are few,
and without them nothing is lost.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.text import Text

GAP = 2  # blanks between columns
SHORT_KEY = 8  # characters of a public key that are always shown
DASH = "-"
NOTE_LINES = 3


@dataclass
class Choice:
    """What the person at the keys has chosen."""

    sort: str = "rate"
    filter: str = ""
    is_typing: bool = False  # the filter
    is_paused: bool = False
    scroll: int = 0
    hidden: set[str] = field(default_factory=set)  # of `processes`, `drops`, `handshakes`


class Column(NamedTuple):
    """One column: how a row is shown in it; rank 0 stays however narrow the terminal is."""

    title: str
    show: Callable[[dict[str, Any]], str]
    rank: int = 0
    is_left: bool = False


def _rate_of(peer: dict[str, Any]) -> float:
    return float(peer["rx_rate"] + peer["tx_rate"])


# Key to press -> (name, what peers are sorted by, highest first).
SORTS: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
    "b": ("rate", _rate_of),
    "i": ("in", lambda peer: float(peer["rx_rate"])),
    "o": ("out", lambda peer: float(peer["tx_rate"])),
    "t": ("total", lambda peer: float(peer["rx_bytes"] + peer["tx_bytes"])),
    "h": ("handshake", lambda peer: float(peer["latest_handshake"])),
    "w": ("waiting", lambda peer: float(peer["waiting_in"] + peer["waiting_out"])),
}
HELP_SHORT = "q quit  / filter  b i o t h w sort"
HELP = "q quit  / filter  sort: b both i in o out t total h handshake w wait"
HELP_MORE = "  space pause  p processes d drops n handshakes  arrows scroll  tab next interface"


def chosen_peers(picture: dict[str, Any], choice: Choice) -> list[dict[str, Any]]:
    """The busiest peers, sorted and filtered as was chosen."""
    by = next(by for name, by in SORTS.values() if name == choice.sort)
    wanted = choice.filter.lower()
    peers = [peer for peer in picture["busiest"] if not wanted or wanted in _words(peer).lower()]
    return sorted(peers, key=by, reverse=True)


def _words(peer: dict[str, Any]) -> str:
    return " ".join((peer["public_key"], peer.get("name", ""), peer["endpoint"] or "", *peer["allowed_ips"]))


def lines(
    picture: dict[str, Any], choice: Choice, width: int, height: int, notes: Sequence[str] = ()
) -> list[Text]:
    """The whole screen, at most height lines of at most width characters.

    notes: what is to be said above the last line, in at most NOTE_LINES.
    """
    said = [Text(line, style="yellow") for line in _folded(notes, width)[: max(height - 2, 0)]]
    *shown, last = _picture_lines(picture, choice, width, max(height - len(said), 1))
    return [*shown, *said, last][:height]


def _folded(notes: Sequence[str], width: int) -> list[str]:
    folded = [line for note in notes for line in textwrap.wrap(note, width)]
    if len(folded) <= NOTE_LINES:
        return folded
    return [*folded[: NOTE_LINES - 1], folded[NOTE_LINES - 1][: width - 1] + "…"]


def _picture_lines(picture: dict[str, Any], choice: Choice, width: int, height: int) -> list[Text]:
    head = _head(picture, choice)
    whole = [part for line in head for part in _fold(line, width)]
    shown = [*(whole if len(whole) <= height // 3 else (line[:width] for line in head)), Text()]
    if "processes" not in choice.hidden:
        shown += [*table(picture["processes"], _PROCESS_COLUMNS, width), Text()]
    room = height - len(shown) - 2  # the help line and a head of the peers stay
    for name, word in (("drops", "cause"), ("handshakes", "outcome")):
        met = picture[name][: max(min(5, (room - 8) // 2), 1)]
        if name not in choice.hidden and met and room > 8:
            more = [*table(met, _causes(name, word), width), Text()]
            shown += more
            room -= len(more)
    shown = shown[: max(height - 2, 0)]
    peers = chosen_peers(picture, choice)
    most = max(height - len(shown) - 2, 0)
    choice.scroll = max(min(choice.scroll, len(peers) - most), 0)
    shown += table(peers[choice.scroll : choice.scroll + most], _peer_columns(picture, choice, width), width)
    if not peers:
        why = f"no peer among the {len(picture['busiest'])} busiest matches" if choice.filter else "no peers"
        shown.append(Text(why[:width]))
    shown = shown[: height - 1]
    shown += [Text()] * (height - 1 - len(shown))
    return [*shown, _last_line(choice, width)][:height]


def table(rows: Sequence[dict[str, Any]], columns: Sequence[Column], width: int) -> list[Text]:
    """A head and a line for each row. Columns that do not fit are left out, the highest rank first."""
    cells = [[column.title, *(column.show(row) for row in rows)] for column in columns]
    widths = [max(map(len, cell)) for cell in cells]
    kept = list(range(len(columns)))
    while len(kept) > 1 and sum(widths[i] + GAP for i in kept) - GAP > width:
        kept.remove(max(kept, key=lambda i: (columns[i].rank, i)))
    made = []
    for number in range(len(rows) + 1):
        parts = [
            cells[i][number].ljust(widths[i]) if columns[i].is_left else cells[i][number].rjust(widths[i])
            for i in kept
        ]
        line = (" " * GAP).join(parts)[:width]
        made.append(Text(line.rstrip() if number else line.ljust(width), style="" if number else "reverse"))
    return made


# --- the parts ------------------------------------------------------------------------------------


def _fold(text: Text, width: int) -> list[Text]:
    """The text as lines of at most width characters, broken at blanks where there are any."""
    lines = []
    while len(text) > width:
        end = max(text.plain.rfind(" ", 0, width + 1), 0) or width
        lines.append(text[:end])
        text = text[end + len(text.plain[end:]) - len(text.plain[end:].lstrip()) :]
    return [*lines, text]


def _head(picture: dict[str, Any], choice: Choice) -> list[Text]:
    """The first lines, as long as they are."""
    rates, queues = picture["rates"], picture["queues"]
    paused = "  PAUSED" if choice.is_paused else ""
    clock = time.strftime("%H:%M:%S", time.localtime(picture["time"]))
    connected = "" if picture["connected"] is None else f", {picture['connected']:,} connected"
    first = f"{picture['interface']}  {picture['peers']:,} peers{connected}, {picture['active']:,} active"
    made = [Text(f"{first}  {clock}{paused}  AEAD {picture['aead']}", style="bold")]
    for text in (
        f"in   {bits(rates['rx_bytes']):>11}  {number(rates['udp_received']):>7} packets/s from UDP"
        f"  {number(rates['tun_sent']):>7} to TUN",
        f"out  {bits(rates['tx_bytes']):>11}  {number(rates['tun_received']):>7} packets/s from TUN"
        f"  {number(rates['udp_sent']):>7} to UDP",
    ):
        made.append(Text(text))
    waits = "   ".join(
        f"{_SIDE[name]} {number(queue['waiting'])} packets of {number(queue['peers'])} peers"
        for name, queue in queues.items()
    )
    slots = "   ".join(
        f"{_SIDE[name]} {_percent(*sizes['small'])} of small, {_percent(*sizes['train'])} of trains"
        for name, sizes in picture["slots"].items()
    )
    made += [Text(f"queued: {waits}"), Text(f"slots used: {slots}")]
    wrong = "red" if picture["lost_wakes"] else ""
    handshakes = f"handshakes {number(rates['handshakes'])}/s   drops {number(rates['drops'])}/s"
    losses = f"   lost wakes {picture['lost_wakes']}   starved of slots {picture['slots_starved']}"
    made.append(Text.assemble(handshakes, (losses, wrong)))
    if told := picture["on_demand"]:
        rates_of = "   ".join(f"{name} {number(told[name])}/s" for name in ("asked", "answered", "refused"))
        nobody = "" if told["providers"] else "red"
        asked = (f"   providers {told['providers']}", nobody)
        made.append(Text.assemble(f"unknown peers: {rates_of}   parked {told['parked']}", asked))
    return made


_SIDE = {"inbound": "in", "outbound": "out"}
_PROCESS_COLUMNS = (
    Column("PROCESS", lambda p: _title(p), 0, True),
    Column("CORE", lambda p: DASH if p["core"] is None else str(p["core"]), 2),
    Column("RT", lambda p: {True: "yes", False: "no", None: DASH}[p["realtime"]], 5),
    Column("CPU %", lambda p: DASH if p["cpu_percent"] is None else f"{p['cpu_percent']:.1f}"),
    Column("UDP IN/s", lambda p: number(p["rates"]["udp_received"]), 1),
    Column("TUN OUT/s", lambda p: number(p["rates"]["tun_sent"]), 1),
    Column("TUN IN/s", lambda p: number(p["rates"]["tun_received"]), 1),
    Column("UDP OUT/s", lambda p: number(p["rates"]["udp_sent"]), 1),
    Column("MEMORY", lambda p: DASH if p["pss_bytes"] is None else amount(p["pss_bytes"]), 3),
    Column("STATE", lambda p: p["state"], 5, True),
    Column("RESTARTS", lambda p: str(p["restarts"]), 4),
    Column("PID", lambda p: str(p["pid"]), 6),
)


def _title(process: dict[str, Any]) -> str:
    numbered = process["role"] in ("receiver", "consumer")
    return f"{process['role']} {process['number']}" if numbered else str(process["role"])


def _causes(name: str, word: str) -> tuple[Column, ...]:
    title = "DROPS, BY CAUSE" if name == "drops" else "HANDSHAKE MESSAGES, BY OUTCOME"
    return (
        Column(title, lambda row: str(row[word]).ljust(30), 0, True),
        Column("PER SECOND", lambda row: number(row["rate"])),
        Column("SINCE START", lambda row: number(row["total"])),
    )


def _peer_columns(picture: dict[str, Any], choice: Choice, width: int) -> tuple[Column, ...]:
    def head(title: str, name: str) -> str:
        return f"{title}*" if choice.sort == name else title  # what it is sorted by

    letters = 44 if width >= 150 else SHORT_KEY
    names = (Column("NAME", lambda p: p.get("name") or DASH, 1, True),)
    return (
        *(names if any(peer.get("name") for peer in picture["busiest"]) else ()),
        Column("PEER", lambda p: p["public_key"][:letters] + ("" if letters == 44 else "…"), 0, True),
        Column("ALLOWED IPS", lambda p: _ips(p), 2, True),
        Column("ENDPOINT", lambda p: p["endpoint"] or DASH, 3, True),
        Column(head("IN", "in"), lambda p: bits(p["rx_rate"]), 1),
        Column(head("OUT", "out"), lambda p: bits(p["tx_rate"]), 1),
        Column(head("RECEIVED", "total"), lambda p: amount(p["rx_bytes"]), 5),
        Column(head("SENT", "total"), lambda p: amount(p["tx_bytes"]), 5),
        Column(head("HANDSHAKE", "handshake"), lambda p: _age(p["latest_handshake"], picture["time"]), 4),
        Column(head("WAIT", "waiting"), lambda p: number(p["waiting_in"] + p["waiting_out"]), 6),
    )


def _ips(peer: dict[str, Any]) -> str:
    ips = peer["allowed_ips"]
    more = len(ips) - 1 + peer["allowed_ips_more"]
    return (ips[0] + (f" +{more}" if more else "")) if ips else DASH


def _last_line(choice: Choice, width: int) -> Text:
    if choice.is_typing:
        return Text(f"filter: {choice.filter}_   enter keeps it, escape drops it"[:width], style="bold")
    filtered = f"filter: {choice.filter}   " if choice.filter else ""
    texts = [filtered + text for text in (HELP + HELP_MORE, HELP, HELP_SHORT)]
    return Text(next((text for text in texts if len(text) <= width), texts[-1][:width]), style="dim")


# --- numbers for people ---------------------------------------------------------------------------


def number(count: float | None) -> str:
    """A count or rate in at most 6 characters, - for unknown."""
    if count is None:
        return DASH
    if count and count < 10 and count != int(count):
        return f"{count:.1f}"
    for power, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if round(count) < power * 10 and unit == "k":
            return f"{count:.0f}"
        if count < power * 999.5:
            return f"{count / power:.{0 if count >= power * 100 else 1}f}{unit}"
    return f"{count / 1e12:.1f}T"


def bits(bytes_a_second: float | None) -> str:
    """A rate of bytes as bit/s, as network people read it."""
    if bytes_a_second is None:
        return DASH
    rate = bytes_a_second * 8
    for power, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if rate >= power:
            return f"{rate / power:.{2 if rate < power * 10 else 1 if rate < power * 100 else 0}f} {unit}"
    return f"{rate:.0f} bit/s"


def amount(count: int) -> str:
    """Bytes, in units of 1,024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _age(then: int, now: float) -> str:
    if not then:
        return "never"
    seconds = max(int(now) - then, 0)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172800 else f"{seconds // 86400} d"


def _percent(used: int, all_: int) -> str:
    return f"{100 * used / all_:.0f} %" if all_ else DASH
