"""The memory of the model: what shm/layout.h has of a queue, and ghosts that no process reads.

A state is a string of bytes. A tagged word is generation << 4 | number; number 0 is nil, nodes count from 1,
and the stubs of the queues come after the nodes."""

from __future__ import annotations

from dataclasses import dataclass

HOME, MINE, QUEUED, IN_HAND = 0, 1, 2, 3  # IN_HAND + h: in hand of holder h

# Registers of every process: bytes of its block. AT: a producer's turn, a holder's queue, the supervisor's
# patient + 1. LAST is tagged. E, M, F: end as read, the number looked at, the furthest node found (tagged).
PC, AT, FIRST, LAST, E, M, F = range(7)
REGISTERS = 7
# A holder's own: produced as read, the node it looks at, has it moved on from the stored head, nodes in its
# batch, how many of them are out of the queue (a ghost), and the batch.
PRODUCED, CUR, MOVED, N, GONE, BATCH = range(7, 13)

JQUEUE, JFIRST, JLAST, JPREV = range(4)  # a journal line; prev is the journalled candidate's alone

# Program counters of all. A push goes through the first ones in this order.
(
    IDLE, JOURNAL, MARK, COUNT, LOAD_END, NOTE_PREV, EXCHANGE, STORE_NEXT, LOAD_NEXT, HELP_WALK, HELP_END,
    LINK, SWING, CLEAR, DEAD,
    NEXT, READ_END, HAND, NEXT_AGAIN, STUB_AGAIN, ADVANCE, CONSUMED, BRING, READ_PRODUCED, LOOK_AGAIN, GIVE,
    BEGIN, READ_LAST, LINES, FINISH, REQUEUE, GIVE_BACK, COLLECT,
) = range(33)  # fmt: skip
NAMES = (
    "start", "journal", "mark queued", "count", "load end", "note prev", "exchange end", "store prev's next",
    "load next of end", "help: walk", "help: swing end", "link first", "swing end", "clear journal", "dead",
    "load next", "look at the end", "mark in hand", "load next again", "renew stub", "store head",
    "store consumed", "bring home", "load produced", "look again", "give",
    "begin", "read next of last", "read a line", "store what is missing", "requeue", "give back", "collect",
)  # fmt: skip

UNPUBLISHED, UNLINKED, PUBLISHED = 1, 2, 3  # ghost: how far a dead push had come

FAULTS = (
    "",
    "a node was taken that this queue does not hold",
    "a node was taken before an older one of its producer",
    "repair undid a chain that was published",
    "repair left a chain that was never published",
    "a generation ran over: the scenario is too long for four bits",
    "repair sent home a node that its queue still holds",
    "a node was issued that a queue still holds",
)
PLACES = 4  # nodes of a chain at most, for the order of a producer's nodes


@dataclass(frozen=True)
class Scenario:
    """Who does what. `pushes[p]` are the chains of producer p as (queue, nodes); `nodes[p]` its pool."""

    candidate: str  # "link-first" or "journalled"
    pushes: tuple[tuple[tuple[int, int], ...], ...]
    nodes: tuple[int, ...]
    queues: int = 1
    holders: int = 2
    batch: int = 2
    kills: int = 2
    mutant: str = ""
    repaired: bool = True  # False: no supervisor, to look at what the dead leave

    @property
    def name(self) -> str:
        """Return the scenario in one line."""
        pushes = " | ".join(
            ", ".join(f"{count} to q{queue}" for queue, count in chains) for chains in self.pushes
        )
        return (
            f"{pushes}; {self.holders} holder{'s' * (self.holders > 1)}, batch {self.batch}, "
            f"{self.kills} kill{'s' * (self.kills != 1)}"
        )


class Memory:
    """Where each word of a scenario's state stands, and what several processes do with them."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.journalled = scenario.candidate == "journalled"
        self.mutant = scenario.mutant
        self.producers = len(scenario.pushes)
        self.workers = self.producers + scenario.holders
        self.owner = (0, *(p for p, count in enumerate(scenario.nodes) for _ in range(count)))
        self.nodes = len(self.owner) - 1
        self.things = self.nodes + scenario.queues
        if self.things > 15:
            raise ValueError(f"{self.things} nodes and stubs do not fit in four bits. Take at most 15.")
        self.size = 0
        queues = scenario.queues
        self.end, self.head, self.token = self.words(queues), self.words(queues), self.words(queues)
        self.put, self.got = self.words(queues), self.words(queues)  # produced and consumed
        self.next, self.state = self.words(self.things + 1), self.words(self.nodes + 1)
        self.journal = self.words(4 * self.workers)
        self.shared = self.size  # what follows no process can read of another
        self.inside = self.words(self.nodes + 1)  # ghost: queue + 1 that the node is in
        self.order = self.words(self.nodes + 1)  # ghost: its place in its producer's order
        self.stage = self.words(self.workers)  # ghost: UNPUBLISHED … of a dead push
        self.kills, self.fault = self.words(1), self.words(1)
        self.width = [REGISTERS] * self.producers + [BATCH + scenario.batch] * scenario.holders
        self.block = [self.words(width) for width in self.width]
        self.supervisor = self.words(REGISTERS)

    def words(self, count: int) -> int:
        """Return the place of so many new bytes."""
        self.size += count
        return self.size - count

    def initial(self) -> bytes:
        """Return the state in which nothing has happened: empty queues, all nodes home."""
        s = bytearray(self.size)
        for queue in range(self.scenario.queues):
            s[self.end + queue] = s[self.head + queue] = self.stub(queue)
        return bytes(s)

    def stub(self, queue: int) -> int:
        """Return the number of a queue's stub."""
        return self.nodes + 1 + queue

    def tag(self, s: bytearray, number: int) -> int:
        """Return the number with the node's present generation."""
        return (s[self.next + number] & 0xF0) | number

    def renew(self, s: bytearray, number: int) -> None:
        """Give the node its next generation and no successor."""
        generation = (s[self.next + number] >> 4) + (self.mutant != "untagged")
        if generation > 15:
            s[self.fault] = 5
        s[self.next + number] = (generation & 15) << 4

    def publish(self, s: bytearray, queue: int, number: int) -> None:
        """Ghost: from this move on the chain is in the queue."""
        for _ in range(self.nodes):
            if not 0 < number <= self.nodes:
                return
            s[self.inside + number] = queue + 1
            number = s[self.next + number] & 15

    def take(self, s: bytearray, queue: int, node: int) -> None:
        """Ghost: the node leaves the queue; once, and after every older one of its producer."""
        if s[self.inside + node] != queue + 1:
            s[self.fault] = 1
        s[self.inside + node] = 0
        for other in range(1, self.nodes + 1):
            if (
                s[self.inside + other] == queue + 1
                and self.owner[other] == self.owner[node]
                and s[self.order + other] < s[self.order + node]
            ):
                s[self.fault] = 2
        s[self.order + node] = 0
