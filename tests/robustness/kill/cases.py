"""Which process passes which marked point, and what makes it do so.

A point that stands in the sources and not here, or the other way round, fails test_matrix.py; one that
is never reached fails the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.handoffs import HANDOFFS, INLINE, PIPELINE

RECEIVER, CONSUMER, CONTROL = "receiver 0", "consumer 0", "control"

# What makes a process pass: packets in bursts (always there), and besides:
TRAFFIC = "traffic"
SESSION = "session"  # strand 1 makes new sessions
ROAM = "roam"  # strand 1 speaks from another port
PEERS = "peers"  # a third peer comes and goes
FULL = "full"  # a consumer stands still until the queue is full
STARVE = "starve"  # ... until the receiver has no slot left

# The engines that are killed: both hand-offs, and inline with batches shared (workers/datapath/sharing.h).
SHARED = "shared"
MODES = (*HANDOFFS, SHARED)

# Who drains: the consumer of every packet's peer, or the receiver that takes an idle peer's token itself.
HOLDER = {PIPELINE: CONSUMER, INLINE: RECEIVER}


@dataclass(frozen=True)
class Case:
    """One kill."""

    point: str
    victim: str
    cause: str
    handoff: str

    def __str__(self) -> str:
        return f"{self.handoff:8} {self.victim:10} {self.point}"


_RECEIVING = {
    "receive: datagrams in slots, no node": TRAFFIC,
    "receive: packet read from the TUN, no node": TRAFFIC,
    "receive: nodes linked, nothing pushed": TRAFFIC,
    "slot: taken, node still home": TRAFFIC,
    "slot: node mine, not filled": TRAFFIC,
    "slot: came home, not on the free stack": TRAFFIC,
    "push: journal written, not valid": TRAFFIC,
    "push: journal valid, states still mine": TRAFFIC,
    "push: states queued, not counted": TRAFFIC,
    "push: counted, not linked": TRAFFIC,
    "push: linked, end not moved": TRAFFIC,
    "push: end moved, journal open": TRAFFIC,
    "push: done, nobody scheduled": TRAFFIC,
    "mailbox: cell filled, not counted": SESSION,
    "mailbox: counted, control not rung": SESSION,
}
_HANDING_OFF = {
    "schedule: published, token still idle": TRAFFIC,
    "schedule: token queued, no ready bit": TRAFFIC,
    "schedule: ready bit set, no summary": TRAFFIC,
    "schedule: ready bit set, half of its summaries": TRAFFIC,
    "schedule: ready bit set, bell not rung": TRAFFIC,
    "ring: announcement taken, sleeper not woken": TRAFFIC,
}
_HOLDING = {
    "pop: stub begun anew, not pushed": TRAFFIC,
    "pop: one marked in hand, the rest queued": TRAFFIC,
    "pop: marked in hand, head not moved": TRAFFIC,
    "pop: head moved, not counted out": TRAFFIC,
    "pop: counted out, nothing done": TRAFFIC,
    "open: in hand, nothing opened": TRAFFIC,
    "open: accepted, nothing delivered": TRAFFIC,
    "open: some delivered, not counted": TRAFFIC,
    "open: delivered, nodes not home": TRAFFIC,
    "open: first node home": TRAFFIC,
    "seal: in hand, no nonce taken": TRAFFIC,
    "seal: nonces taken, nothing sealed": TRAFFIC,
    "seal: sealed, nothing sent": TRAFFIC,
    "seal: sent, news not kept": TRAFFIC,
    "seal: sent, nodes not home": TRAFFIC,
    "seal: first node home": TRAFFIC,
    "give: all done, token still held": TRAFFIC,
    "give: token idle, last look not taken": TRAFFIC,
    "give: given, still noted in hand": TRAFFIC,
    "rotation: confirmed by data, control not told": SESSION,
    "event: known, not given": SESSION,
    "event: given, control's set without it": SESSION,
    "event: given, bell not rung": SESSION,
    "endpoint: copy written, not selected": ROAM,
}
_CONSUMING = {
    "take: ready bit cleared, token not taken": SESSION,
    "take: noted in hand, token not taken": SESSION,
    "take: token held, nothing done": SESSION,
    "take: summary cleared, second look not taken": SESSION,
    "sleep: announced, not looked once more": SESSION,
    "order: applied, not cleared": SESSION,
    "order: cleared, outbound not asked to look": SESSION,
    "order: cleared, control not told": SESSION,
    "order: the other direction's, its token not taken": SESSION,
    "order: the other direction's, its token held": SESSION,
    "rotation: keypair found, key word as before": SESSION,
    "rotation: key word stored, order not cleared": SESSION,
    "retire: queue dropped, token held": PEERS,
    "retire: token dead, control not told": PEERS,
}
_CONTROLLING = {
    "mailbox: cell read, not given back": SESSION,
    "publication: keypair wiped, not written": SESSION,
    "publication: keypair written, row does not name it": SESSION,
    "publication: row names the keypair, not ordered": SESSION,
    "order: given, holder not scheduled": SESSION,
    "schedule: published, token still idle": SESSION,
    "schedule: token queued, no ready bit": SESSION,
    "schedule: ready bit set, bell not rung": SESSION,
    "publication: ordered and scheduled, peer not told": SESSION,
    "publication: message sent, not noted": SESSION,
    "event: applied, not cleared": SESSION,
    "publication: row wiped, not filled": PEERS,
    "publication: row filled, token still dead": PEERS,
    "publication: token idle, row not live": PEERS,
    "publication: row live, in no table": PEERS,
    "removal: out of the trie, still live": PEERS,
    "removal: retiring, secrets there": PEERS,
    "removal: token dead, row not wiped": PEERS,
    "removal: row wiped, not free": PEERS,
}
_PIPELINE_ALONE = (
    (CONSUMER, "push: linked, end not moved", TRAFFIC),  # the stub
    (CONSUMER, "push: end moved, journal open", TRAFFIC),
    (RECEIVER, "push: refused, chain not withdrawn", FULL),
    (RECEIVER, "slot: withdrawn, not on the free stack", FULL),
    (CONSUMER, "give: token queued again, no ready bit", FULL),
    (CONSUMER, "ring: starving word taken, no bell looked at", STARVE),
    (CONSUMER, "ring: starving taken, receiver not woken", STARVE),
    (RECEIVER, "starve: announced on the bell, not in the word", STARVE),
)
_INLINE_ALONE = (
    (RECEIVER, "inline: noted in hand, token not taken", TRAFFIC),
    (RECEIVER, "inline: token held, nothing done", TRAFFIC),
)
_SHARED_ALONE = (
    (RECEIVER, "part: written, not offered", TRAFFIC),
    (RECEIVER, "share: one part done here", TRAFFIC),
    (RECEIVER, "share: nothing offered, helpers not waited for", TRAFFIC),
    (CONSUMER, "part: taken, nothing done", TRAFFIC),
    (CONSUMER, "part: in the room, nothing sealed", TRAFFIC),
    (CONSUMER, "part: all done, still taken", TRAFFIC),
    (CONSUMER, "part: done", TRAFFIC),
)


def cases(handoff: str) -> list[Case]:
    """All kills of one of MODES; neighbours differ in their victims where they can."""
    if handoff == SHARED:
        return _spread([Case(point, victim, cause, handoff) for victim, point, cause in _SHARED_ALONE])
    found = [(RECEIVER, point, cause) for point, cause in _RECEIVING.items()]
    found += [(HOLDER[handoff], point, cause) for point, cause in _HOLDING.items()]
    found += [(CONSUMER, point, cause) for point, cause in _CONSUMING.items()]
    found += [(CONTROL, point, cause) for point, cause in _CONTROLLING.items()]
    if handoff == PIPELINE:
        found += [(RECEIVER, point, cause) for point, cause in _HANDING_OFF.items()]
    found += _PIPELINE_ALONE if handoff == PIPELINE else _INLINE_ALONE
    return _spread([Case(point, victim, cause, handoff) for victim, point, cause in found])


def _spread(found: list[Case]) -> list[Case]:
    """Neighbours of different victims: whoever died is left to run a while before he dies again."""
    waiting: dict[str, list[Case]] = {}
    for case in reversed(found):
        waiting.setdefault(case.victim, []).append(case)
    spread: list[Case] = []
    while waiting:
        last = spread[-1].victim if spread else None
        victim = max(waiting, key=lambda victim: (victim != last, len(waiting[victim])))
        spread.append(waiting[victim].pop())
        if not waiting[victim]:
            del waiting[victim]
    return spread
