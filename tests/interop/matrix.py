"""The interop matrix: Plait and wireguard-go, each combination of what may differ, bytes checked by hash.

    python -m tests.interop.matrix [--only NAME]... [--covering] [--megabytes 100] [--json]

    initiator 10.200.1.1 fd00:200:1::1 ──── 10.200.1.2 fd00:200:1::2 responder
     wg0 10.0.0.1 fd01::1                               wg0 10.0.0.2 fd01::2

In every cell bytes flow both ways over TCP, and in their midst something happens:

    rekey          Plait's clock is stepped: by 121 s where Plait initiated, so that it takes new keys when it
                   sends; by 181 s where wireguard-go did, so that Plait refuses the session and asks itself
    roam           the initiator's address changes; wireguard-go's port does, for when a sticky source is
                   gone kernels since about 6.17 say ENETUNREACH, and 0.0.20220316 knows only EINVAL
    restart-plait  the engine ends and is started again with what showconf said, and speaks first:
    restart-go     the other would notice only after 15 s without an answer

The connections must survive it and both hashes must be right. The table tells which part of a cell took
longest, and how many datagrams found no room in the receiving engine's socket (UDP's RcvbufErrors), Plait's
and wireguard-go's. Needs root, as all tests with namespaces.
Exit code: 0 when all cells pass, 1 when one fails, 2 when nothing could be run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from plait.failure import Failure
from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Host, Lab, missing
from tests.support.tunnel import PORT, Side, Tunnel, begin_each_way, eventually, two_hosts

EVENTS = ("rekey", "roam", "restart-plait", "restart-go")
MEGABYTE = 10**6
MOVED = {4: "10.200.1.77", 6: "fd00:200:1::77"}


class Cell(NamedTuple):
    """One combination. version: of the outer addresses."""

    initiator: str
    version: int
    psk: bool
    event: str

    @property
    def name(self) -> str:
        """As --only wants it: plait-IPv4-psk-roam, with who initiates in front."""
        return f"{self.initiator}-IPv{self.version}-{'psk' if self.psk else 'none'}-{self.event}"


@dataclass(frozen=True)
class Outcome:
    """How a cell went. why: empty when it passed."""

    cell: str
    passed: bool
    seconds: float
    megabytes: int  # that arrived with the right hash, both ways together
    why: str
    parts: dict[str, float] = field(default_factory=dict)  # seconds of each
    no_room: dict[str, int] = field(default_factory=dict)  # datagrams, by engine


@dataclass
class Course:
    """What is known of a cell while it runs."""

    parts: dict[str, float] = field(default_factory=dict)
    no_room: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = round(time.monotonic() - began, 1)


CELLS = [Cell(*factors) for factors in
         itertools.product(("plait", "go"), (4, 6), (False, True), EVENTS)]


def covering(cells: Sequence[Cell]) -> list[Cell]:
    """A small selection in which every pair of values of cells occurs (greedy, always the same)."""

    def pairs(cell: Cell) -> set[tuple[tuple[int, object], ...]]:
        return set(itertools.combinations(enumerate(cell), 2))

    missing_pairs = set().union(*map(pairs, cells))
    chosen = []
    while missing_pairs:
        best = max(cells, key=lambda cell: len(pairs(cell) & missing_pairs))
        missing_pairs -= pairs(best)
        chosen.append(best)
    return chosen


def run(cell: Cell, count: int, course: Course | None = None) -> int:
    """One cell, at least count bytes each way. How many in all; AssertionError, Failure: it failed."""
    course = course or Course()
    engines = {"plait": PLAIT, "go": WIREGUARD_GO}
    other = "go" if cell.initiator == "plait" else "plait"
    with Lab() as lab:
        with course.part("start"):
            tunnel = two_hosts(lab, engines[cell.initiator], engines[other], version=cell.version,
                               psk=cell.psk, stepped=True)
            initiator, responder = tunnel.sides
            plait, go = tunnel.sides if cell.initiator == "plait" else (responder, initiator)
            assert initiator.echo(responder.address4) == 3, "no handshake"
        flows = begin_each_way(initiator, responder, count, back=6, endless=True)
        try:
            with course.part("flow"):
                eventually(lambda: min(initiator.transfer()) > count // 10)
            with course.part(cell.event):
                match cell.event:
                    case "rekey":
                        rekey(tunnel, plait, 121 if plait is initiator else 181)
                    case "roam":
                        roam(tunnel, cell)
                    case "restart-plait":
                        restart(plait, go, PLAIT)
                    case "restart-go":
                        restart(go, plait, WIREGUARD_GO)
            with course.part("flow again"):
                before = initiator.transfer()
                eventually(lambda: min(map(int.__sub__, initiator.transfer(), before)) > count // 20)
            assert all(flow.is_flowing for flow in flows), "a connection broke"
            with course.part("the rest"):
                # All may end before one is waited for: a flow that goes on for ever takes what the other,
                # which has lost packets and waits out its TCP's timers, needs to come to its end.
                for flow in flows:
                    flow.enough()
                for flow in flows:
                    flow.finish(300)
            assert initiator.echo(responder.address6) == 3, "no answer to the initiator at the end"
            assert responder.echo(initiator.address4) == 3, "no answer to the responder at the end"
            tunnel.check()
        finally:
            course.no_room = {"plait": no_room(plait.host), "go": no_room(go.host)}
        return sum(int(flow.receiver.output().split()[0]) for flow in flows)


def no_room(host: Host) -> int:
    """Datagrams that a socket of the host had no room for: RcvbufErrors of its /proc/net/snmp and snmp6."""
    directory = Path(f"/proc/{host.pid}/net")
    names, values = (line.split() for line in (directory / "snmp").read_text().splitlines()
                     if line.startswith("Udp:"))
    six = dict(line.split() for line in (directory / "snmp6").read_text().splitlines())
    return int(values[names.index("RcvbufErrors")]) + int(six["Udp6RcvbufErrors"])


def rekey(tunnel: Tunnel, plait: Side, seconds: int) -> None:
    """New keys."""
    before = plait.handshake()
    for clock in tunnel.clocks:
        clock.step(seconds)
    eventually(lambda: plait.handshake() > before)


def roam(tunnel: Tunnel, cell: Cell) -> None:
    """The initiator is elsewhere, and the responder hears of it from its packets alone."""
    initiator, responder = tunnel.sides
    handshake = responder.handshake()
    if cell.initiator == "plait":
        address, length = MOVED[cell.version], 64 if cell.version == 6 else 24
        old = tunnel.link.address(initiator.host, cell.version)
        initiator.host.ip(f"address del {old}/{length} dev eth0",
                          f"address add {address}/{length} dev eth0" + " nodad" * (cell.version == 6))
        there = f"[{address}]:{PORT}" if cell.version == 6 else f"{address}:{PORT}"
    else:
        initiator.engine.wg("set", "wg0", "listen-port", "40000")
        there = tunnel.link.endpoint(initiator.host, 40000, cell.version)
    eventually(lambda: responder.get()["endpoint"] == there)
    assert responder.handshake() == handshake, "the session did not survive"


def restart(side: Side, other: Side, command: Sequence[str]) -> None:
    """The engine of side ends; a new one gets the configuration."""
    text = side.engine.wg("showconf", "wg0")
    before = other.handshake()
    code = side.engine.stop()
    assert code == 0 or command is WIREGUARD_GO, f"Plait ended with {code}"
    side.engine = side.host.engine("wg0", command, environment={"PLAIT_CLOCK": "/run/clock"})
    side.engine.wg("setconf", "wg0", "/dev/stdin", text=text)
    side.host.ip("link set wg0 mtu 1420 up", f"address add {side.address4}/24 dev wg0",
                 f"address add {side.address6}/64 dev wg0 nodad")
    # What TCP sends again meets the same moment: an echo may be lost among it, a session may not.
    eventually(lambda: other.handshake() > before)
    eventually(lambda: side.echo(other.address4, timeout=1) == 3)


Runner = Callable[[Cell, int, Course], int]


def outcome(cell: Cell, count: int, run: Runner) -> Outcome:
    """Run a cell whatever happens in it."""
    started, arrived, why, course = time.monotonic(), 0, "", Course()
    try:
        arrived = run(cell, count, course)
    except (AssertionError, Failure, OSError, ValueError, KeyError) as error:
        why = f"{type(error).__name__}: {error}".strip()
    seconds = round(time.monotonic() - started, 1)
    return Outcome(cell.name, not why, seconds, arrived // MEGABYTE, why, course.parts, course.no_room)


def table(outcomes: Sequence[Outcome]) -> str:
    """Columns for people; why a cell failed on a line of its own below it."""
    lines = [f"{'initiator':9}  {'outer':5}  {'key':4}  {'event':13}  {'':4}  {'s':>6}  {'MB':>6}  "
             f"{'no room: plait':>14}  {'go':>6}  longest part"]
    for each in outcomes:
        initiator, outer, key, event = each.cell.split("-", 3)
        lines.append(f"{initiator:9}  {outer:5}  {key:4}  {event:13}  {'pass' if each.passed else 'FAIL'}  "
                     f"{each.seconds:6.1f}  {each.megabytes:6}  {each.no_room.get('plait', 0):14}  "
                     f"{each.no_room.get('go', 0):6}  "
                     + "{1} {0:.1f} s".format(*max((v, k) for k, v in (each.parts or {"-": 0.0}).items())))
        lines += [f"    {line}" for line in each.why.splitlines()[:20]]
    passed = sum(each.passed for each in outcomes)
    seconds = sum(each.seconds for each in outcomes)
    return "\n".join([*lines, f"{passed} of {len(outcomes)} cells pass, {seconds:.0f} s"])


def main(arguments: Sequence[str] | None = None, run: Runner = run) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.matrix", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="cells whose name has this part, as 'go-IPv6' or 'roam'; several: all of them")
    parser.add_argument("--covering", action="store_true", help="a selection with every pair of values")
    parser.add_argument("--megabytes", type=float, default=100, help="to send each way (default: 100)")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    options = parser.parse_args(arguments)
    lacks = missing("wg", "wireguard-go")
    for error in lacks:
        print(f"matrix: {error}", file=sys.stderr)
    cells = [cell for cell in (covering(CELLS) if options.covering else CELLS)
             if all(part in cell.name for part in options.only)]
    if not cells:
        print(f"matrix: no cell has {' and '.join(options.only)} in its name: they are named as "
              f"{CELLS[0].name}. Leave --only out to run all", file=sys.stderr)
    if lacks or not cells:
        return 2
    outcomes = []
    for cell in cells:
        outcomes.append(outcome(cell, int(options.megabytes * MEGABYTE), run))
        last = outcomes[-1]
        print(f"matrix: {len(outcomes)}/{len(cells)} {cell.name} {'pass' if last.passed else 'FAIL'}, "
              f"{last.seconds} s: {', '.join(f'{part} {took}' for part, took in last.parts.items())}",
              file=sys.stderr, flush=True)
    print(json.dumps([asdict(each) for each in outcomes], indent=2) if options.json else table(outcomes))
    return 0 if all(each.passed for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
