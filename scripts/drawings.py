"""Print a drawing of the documents as SVG.

usage: drawings.py processes|outwards|inwards > docs/NAME.svg

What the drawings say stands in the tables at the top, with the files that do it; below is how they are drawn.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from plait.drawing import STRONG, WEAK, Drawing

# --- the processes, and what memory each maps -------------------------------------------------------

PROCESSES = (  # title, what it does, file
    ("control", ("handshakes, timers,", "configuration, events"), "workers/control/process.py"),
    ("receiver 0, 1, …", ("read UDP and TUN; open,", "seal and send what they read"),
     "workers/datapath/receiver.c"),
    ("consumer 0, 1, …", ("open, seal and send what", "receivers leave to them"),
     "workers/datapath/consumer.c"),
)
SUPERVISOR = (
    "supervisor",
    "opens TUN, sockets and memory; forks, watches, repairs, replaces, scales, upgrades",
    "workers/supervisor/process.py",
)
REGIONS = (  # of the data segment, and the vault, which is a segment of its own
    ("header", "device", "trie, index"),
    ("public keys",),
    ("peers: rows,", "tokens, timers,", "ready sets"),
    ("session", "keys"),
    ("mailbox,", "bells,", "counters"),
    ("packets:", "nodes, slots"),
    ("vault:", "private and", "preshared keys"),
)
WRITES, READS, NONE, PAGE = "reads, writes", "reads", "no access", "its first page"
RIGHTS = (  # of each process, a region each
    ("supervisor", (READS, NONE, WRITES, WRITES, WRITES, WRITES, PAGE)),
    ("control", (WRITES,) * 7),
    ("receiver", (READS, NONE, WRITES, WRITES, WRITES, WRITES, NONE)),
    ("consumer", (READS, NONE, WRITES, WRITES, WRITES, WRITES, NONE)),
)

# --- a packet each way ------------------------------------------------------------------------------


class Step(NamedTuple):
    """From a lane to a lane (the same: it happens there; none: a heading), what happens, in which files."""

    source: str
    target: str
    what: str
    files: str


TUN, UDP, RECEIVER, CONSUMER, MEMORY, CONTROL = "TUN", "UDP", "receiver", "consumer", "memory", "control"
LANES = {
    TUN: ("TUN queue", "(kernel)"),
    UDP: ("UDP socket", "(kernel)"),
    RECEIVER: ("receiver", ""),
    MEMORY: ("shared", "memory"),
    CONSUMER: ("consumer", ""),
    CONTROL: ("control", ""),
}
OUTWARDS = (
    Step(TUN, RECEIVER, "readable: up to 64 packets, each read into slots",
         "workers/datapath/receiver.c, workers/datapath/receive_tun.c, workers/datapath/tun.c"),
    Step(RECEIVER, RECEIVER, "destination to peer, by the trie of allowed IPs",
         "engine/packet.c, engine/allowedips.c"),
    Step(RECEIVER, MEMORY, "packets of one peer: one chain, pushed at once",
         "workers/datapath/burst.c, shm/queue.c, shm/pool.c"),
    Step(RECEIVER, MEMORY, "token idle to held: this receiver is outbound's holder",
         "workers/datapath/turn.c (holder_take_idle), shm/token.c"),
    Step(MEMORY, RECEIVER, "orders: a keepalive; what waits is dropped",
         "workers/datapath/holder_orders.c, shm/orders.h"),
    Step(MEMORY, RECEIVER, "pop a batch, mark it in hand", "workers/datapath/holder_outbound.c, shm/queue.c"),
    Step(RECEIVER, RECEIVER, "cut super-packets, take nonces, seal",
         "engine/segmentation.c, engine/session.c, engine/aead.c"),
    Step(RECEIVER, UDP, "one sendmmsg, in trains of equal datagrams", "workers/udp.c"),
    Step(RECEIVER, MEMORY, "nodes home, token back", "shm/queue.c, shm/schedule.c"),
)
TO_CONSUMER = (  # either way, where the receiver does not drain itself
    Step("", "", "else, as when another process holds the token or the budget is spent:", ""),
    Step(RECEIVER, MEMORY, "token queued, ready bit, bell", "shm/schedule.c, shm/ready.c, shm/bell.c"),
    Step(MEMORY, CONSUMER, "wakes, takes the token, does the same turn",
         "workers/datapath/consumer.c, workers/datapath/turn.c"),
)
INWARDS = (
    Step(UDP, RECEIVER, "readable: up to 64 messages, into slots",
         "workers/datapath/receiver.c, workers/datapath/receive_udp.c, workers/udp.c"),
    Step(RECEIVER, CONTROL, "handshakes of right mac1: mailbox and bell",
         "workers/datapath/mac1_filter.c, shm/mailbox.c, shm/bell.c"),
    Step(RECEIVER, RECEIVER, "data: receiver index to session and peer", "engine/index.c"),
    Step(RECEIVER, MEMORY, "packets of one peer: one chain, pushed at once",
         "workers/datapath/burst.c, shm/queue.c, shm/pool.c"),
    Step(RECEIVER, MEMORY, "token idle to held: this receiver is inbound's holder",
         "workers/datapath/turn.c (holder_take_idle), shm/token.c"),
    Step(MEMORY, RECEIVER, "orders: a new session, an endpoint; then pop a batch",
         "workers/datapath/holder_orders.c, workers/datapath/holder_inbound.c"),
    Step(RECEIVER, RECEIVER, "tags, replay window, source, endpoint",
         "engine/session.c, engine/aead.c, engine/window.c"),
    Step(RECEIVER, TUN, "neighbours of one flow joined, one writev",
         "engine/coalescing.c, workers/datapath/tun.c"),
    Step(RECEIVER, MEMORY, "nodes home", "shm/queue.c"),
    Step(RECEIVER, CONTROL, "news for control: its bell; then the token back",
         "workers/datapath/holder.c, shm/orders.h, shm/bell.c, shm/schedule.c"),
)

# --- how they are drawn -----------------------------------------------------------------------------

def processes() -> Drawing:
    drawing = Drawing(940, 560, "The processes of one interface, and what memory each maps")
    left, width, gap = 40, 260, 40
    drawing.box(left, 20, 860, 64)
    title, does, file = SUPERVISOR
    drawing.text(60, 43, title, "head")
    drawing.text(60, 62, does)
    drawing.text(60, 78, file, "file")
    outside = ("wg, plait: configuration socket", "UDP sockets and TUN queues", "UDP sockets and TUN queues")
    for i, (title, lines, file) in enumerate(PROCESSES):
        x = left + i * (width + gap)
        drawing.arrow(x + width / 2, 84, x + width / 2, 130)
        drawing.text(x + width / 2 + 8, 112, "forks")
        drawing.box(x, 132, width, 92)
        drawing.text(x + 14, 153, title, "head")
        for row, line in enumerate(lines):
            drawing.text(x + 14, 173 + 17 * row, line)
        drawing.text(x + 14, 214, file, "file")
        drawing.arrow(x + width / 2, 224, x + width / 2, 256, both=True)
        drawing.text(x + width / 2, 272, outside[i], anchor="middle")
    drawing.text(left, 312, "What memory each maps", "head")
    first, wide = 140, 108.0
    drawing.box(first, 324, 6 * wide, 22, "white")
    drawing.text(first + 3 * wide, 340, "data segment", anchor="middle")
    drawing.box(first + 6 * wide + 6, 324, wide, 22, "white")
    drawing.text(first + 6.5 * wide + 6, 340, "vault", anchor="middle")
    for column, names in enumerate(REGIONS):
        for row, name in enumerate(names):
            at = first + (column + 0.5) * wide + (6 if column == 6 else 0)
            drawing.text(at, 364 + 15 * row, name, anchor="middle")
    for row, (name, rights) in enumerate(RIGHTS):
        y = 408 + row * 36
        drawing.text(left, y + 21, name, "head")
        for column, right in enumerate(rights):
            at = first + column * wide + (6 if column == 6 else 0)
            drawing.box(at, y, wide, 32, {WRITES: STRONG, READS: WEAK, PAGE: WEAK, NONE: "white"}[right])
            drawing.text(at + wide / 2, y + 21, right, anchor="middle")
    return drawing


def sequence(title: str, lanes: tuple[str, ...], steps: tuple[Step, ...]) -> Drawing:
    spread, top, high = 96, 64, 40
    places = {lane: 50 + spread * i for i, lane in enumerate(lanes)}
    words = 50 + spread * (len(lanes) - 1) + 62
    height = top + high * len(steps) + 14
    longest = max(max(7 * len(step.what), 6.7 * len(step.files)) for step in steps)
    drawing = Drawing(words + int(longest) + 20, height, title)
    for lane, x in places.items():
        for row, line in enumerate(LANES[lane]):
            drawing.text(x, 22 + 16 * row, line, "head" if not row else "", anchor="middle")
        drawing.lane(x, 46, height - 8)
    number = 0
    for row, step in enumerate(steps):
        y = top + high * row + 14
        if not step.source:
            drawing.text(words - 20, y + 8, step.what)
            continue
        number += 1
        source, target = places[step.source], places[step.target]
        if source == target:
            drawing.box(source - 7, y - 8, 14, 16, STRONG)
        else:
            drawing.arrow(source, y, target, y)
        drawing.text(words - 8, y, f"{number}", "head", anchor="end")
        drawing.text(words, y, step.what)
        drawing.text(words, y + 15, step.files, "file")
    return drawing


def drawings() -> dict[str, Drawing]:
    return {
        "processes": processes(),
        "outwards": sequence("A packet from the TUN to the UDP socket",
                             (TUN, RECEIVER, MEMORY, CONSUMER, UDP),
                             (*OUTWARDS, *TO_CONSUMER, Step(CONSUMER, UDP, "one sendmmsg", "workers/udp.c"))),
        "inwards": sequence("A packet from the UDP socket to the TUN",
                            (UDP, RECEIVER, MEMORY, CONSUMER, TUN, CONTROL),
                            (*INWARDS, *TO_CONSUMER,
                             Step(CONSUMER, TUN, "one writev", "workers/datapath/tun.c"))),
    }  # fmt: skip


if __name__ == "__main__":
    every = drawings()
    if len(sys.argv) != 2 or sys.argv[1] not in every:
        raise SystemExit(f"usage: drawings.py {'|'.join(every)} > docs/NAME.svg")
    print(every[sys.argv[1]], end="")
