"""Every interleaving of a queue's publication: producers, holders, recycling, kills and repair.

The oracle of docs/adr/0001-publication-of-a-chain.md and of shm/queue.c and shm/repair.c: the same steps, one
access to shared memory a move, walked to the last state for two candidates:

- `link-first` (what ships): compare-exchange the last node's tagged next from nil to first, then swing the
  tagged end; whoever finds the end lagging helps. Repair helps until the end names the last node, then looks
  at the chain's.
- `journalled`: compare-exchange the end from prev to last, then store prev's next. The journal line holds
  prev, written before each try; repair decides from end, lines and next what happened, and stores what is
  missing.

Producers issue their nodes from home with a new generation, push them, and push the same nodes again when
they have come home. Of several holders each may take the token whenever it is free, so that the role moves
after each pop. Up to two kills fall between any two moves; the supervisor repairs the dead in any order, and
their replacements go on.

Simplifications, none of which hides an interleaving. Words that nobody else can read meanwhile are written in
one move (a journal line before the word that makes it valid, a node and its link while it is issued, the
states that repair finds behind a head nobody holds). Of two idle holders only the first takes, since the
other would do the same under another number. An idle process that is killed leaves nothing, so it is not
killed. The bound of 1,024 is left out: a refused push changes nothing. So are orders weaker than sequential
consistency: tests/robustness/weak walks those.

Some bytes are ghosts, which no process reads: the queue that a node is truly in, its place in its producer's
order, how far a dead push had come. Invariants compare the memory with them: a node is taken once, from the
queue that holds it, after all older ones of its producer; repair undoes no published chain and keeps no
other; no node is issued or sent home while a queue holds it. And from every state the end can be reached: all
pushed, all taken, all nodes home, all tokens free, the counts even.

usage: python -m tests.robustness.model.publication [--large]
"""

# ruff: noqa: I001 (a name a line would be longer than what it is for)

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from tests.robustness.model.memory import (
    AT, BEGIN, CLEAR, CUR, DEAD, E, FAULTS, FIRST, IDLE, JQUEUE, NAMES, NEXT, PC, PUBLISHED, STORE_NEXT,
    SWING, Scenario, UNLINKED, UNPUBLISHED,
)
from tests.robustness.model.repair import Repair
from tests.robustness.model.space import Fault, Move, Space

# Classes of moves: holders' and the supervisor's; producers'; a live producer's past its publication; kills.
OURS, PRODUCERS, PAST, KILLS = range(4)


class Publication(Repair):
    """The state space of one scenario (`tests.robustness.model.space.Model`)."""

    def moves(self, state: bytes) -> list[Move]:
        """Return what each process can do next, and each kill."""
        found: list[Move] = []
        for p in range(self.producers):
            pc = state[self.block[p] + PC]
            if pc == DEAD:
                continue
            s = bytearray(state)
            if self.produce(s, p):
                kind = PAST if pc in (STORE_NEXT, SWING, CLEAR) else PRODUCERS
                found.append((f"producer {p}: {NAMES[pc]}", kind, bytes(s)))
        may_take = True
        for h in range(self.scenario.holders):
            b = self.block[self.producers + h]
            pc = state[b + PC]
            if pc == IDLE and may_take:
                may_take = False
                for queue in range(self.scenario.queues):
                    if state[self.token + queue] == 0:
                        s = bytearray(state)
                        s[self.token + queue] = 1 + h
                        s[b + PC], s[b + AT] = NEXT, queue
                        s[b + CUR] = s[self.head + queue]
                        found.append((f"holder {h}: take the token of queue {queue}", OURS, bytes(s)))
            elif pc not in (IDLE, DEAD):
                s = bytearray(state)
                self.hold(s, h)
                found.append((f"holder {h}: {NAMES[pc]}", OURS, bytes(s)))
        if self.scenario.repaired:
            found += self.supervise(state)
        if state[self.kills] < self.scenario.kills:
            found += self.murders(state)
        return found

    def supervise(self, state: bytes) -> list[Move]:
        """Return the supervisor's next move: which of the dead to repair, or the next move of a repair."""
        b = self.supervisor
        found: list[Move] = []
        if state[b + PC] != IDLE:
            s = bytearray(state)
            self.repair(s)
            return [(f"supervisor: {NAMES[state[b + PC]]}", OURS, bytes(s))]
        for w, block in enumerate(self.block):
            if state[block + PC] == DEAD:
                s = bytearray(state)
                s[b + PC], s[b + AT] = BEGIN, w + 1
                found.append((f"supervisor: reap {self.title(w)}", OURS, bytes(s)))
        return found

    def murders(self, state: bytes) -> list[Move]:
        """Return every way to kill one process where it stands. Its registers are gone, its words stay."""
        found: list[Move] = []
        for w, b in enumerate(self.block):
            pc = state[b + PC]
            if pc == DEAD or (pc == IDLE and not state[b + FIRST]):
                continue
            s = bytearray(state)
            s[self.kills] += 1
            turn, e = (s[b + AT] if w < self.producers else 0), s[b + E]
            s[b : b + self.width[w]] = bytes(self.width[w])
            s[b + PC], s[b + AT] = DEAD, turn
            if s[self.journal + 4 * w + JQUEUE]:
                if pc == STORE_NEXT:
                    s[self.stage + w], s[b + E] = UNLINKED, e  # a ghost here, no register any more
                else:
                    s[self.stage + w] = PUBLISHED if pc in (SWING, CLEAR) else UNPUBLISHED
            found.append((f"kill {self.title(w)} before: {NAMES[pc]}", KILLS, bytes(s)))
        return found

    def title(self, w: int) -> str:
        """Return a worker's name."""
        return f"producer {w}" if w < self.producers else f"holder {w - self.producers}"

    def broken(self, state: bytes) -> str:
        """Return the invariant that the latest move broke, in words."""
        return FAULTS[state[self.fault]]

    def shortage(self, state: bytes) -> int:
        """Return by how many packets the worst queue's count is below what the queue holds."""
        worst = 0
        for queue in range(self.scenario.queues):
            held = state[self.inside : self.order].count(queue + 1)
            difference = (state[self.put + queue] - state[self.got + queue] + 128) % 256 - 128
            worst = max(worst, held - difference)
        return worst

    def ended(self, state: bytes) -> bool:
        """Whether all is done: every push made, every node home, every token free, every count even."""
        queues = self.scenario.queues
        return (
            not any(state[self.inside : self.order])
            and not any(state[self.state : self.journal])
            and not any(state[self.token : self.token + queues])
            and state[self.put : self.put + queues] == state[self.got : self.got + queues]
            and state[self.supervisor + PC] == IDLE
            and all(state[b + PC] == IDLE for b in self.block)
            and all(state[self.block[p] + AT] == len(self.scenario.pushes[p]) for p in range(self.producers))
        )

    def drained(self, state: bytes) -> bool:
        """Whether everything that was published has been taken."""
        return not any(state[self.inside : self.order])


@dataclass(frozen=True)
class Verdict:
    """What a walk to the last state found; every invariant held."""

    states: int
    moves: int
    seconds: float
    shortage: int
    """By how many packets a count was ever below what its queue held."""
    stuck: tuple[str, ...]
    """The history of a state from which the end cannot be reached; empty: there is none."""
    waiting: int
    """States in which holders and the supervisor alone cannot empty the queues: a live one is waited for."""


def judge(scenario: Scenario) -> Verdict:
    """Walk the scenario to its last state. Raises Fault for a broken invariant."""
    began = time.perf_counter()
    model = Publication(scenario)
    space = Space.walk(model)
    stuck = next(space.cannot_reach(model.ended, (OURS, PRODUCERS, PAST)), None)
    return Verdict(
        len(space.states),
        len(space.sources),
        time.perf_counter() - began,
        max(map(model.shortage, space.states)),
        tuple(space.history(model, stuck)) if stuck is not None else (),
        sum(1 for _ in space.cannot_reach(model.drained, (OURS,))),
    )


def undecidable(scenario: Scenario) -> tuple[int, int]:
    """Return (memories with one producer dead inside a push, those of them that need different repairs).

    A memory is all that a supervisor can read. Two histories that leave the same memory while one needs
    its chain undone and the other needs it linked, or linked elsewhere, cannot both be repaired.
    """
    model = Publication(scenario)
    needs: dict[tuple[int, bytes], set[tuple[int, int]]] = {}
    for state in Space.walk(model).states:
        for p in range(model.producers):
            if state[model.block[p] + PC] == DEAD and state[model.stage + p]:
                memory = (p, state[: model.shared])
                needs.setdefault(memory, set()).add((state[model.stage + p], state[model.block[p] + E]))
    return len(needs), sum(len(repairs) > 1 for repairs in needs.values())


ONE_ONE = (((0, 1),), ((0, 1),))
TWO_ONE = (((0, 2),), ((0, 1),))
AGAIN = (((0, 1), (0, 1)), ((0, 1),))  # producer 0 pushes its only node twice
ELSEWHERE = (((0, 1), (1, 1)), ((0, 1),))  # the second time to another queue
TWO_AGAIN = (((0, 2), (0, 1)), ((0, 1),))


def scenarios(candidate: str, large: bool = False) -> list[Scenario]:
    """Return what is walked for a candidate: by the test suite, or with minutes and gigabytes to spend."""
    if not large:
        return [
            Scenario(candidate, ONE_ONE, (1, 1), holders=1, batch=1, kills=2),
            Scenario(candidate, TWO_ONE, (2, 1), holders=2, kills=1),
            Scenario(candidate, AGAIN, (1, 1), holders=1, batch=1, kills=1),
            Scenario(candidate, ELSEWHERE, (1, 1), queues=2, holders=1, batch=1, kills=0),
        ]
    return [
        Scenario(candidate, TWO_ONE, (2, 1), kills=2),
        Scenario(candidate, TWO_AGAIN, (2, 1), holders=1, kills=1),
        Scenario(candidate, AGAIN, (1, 1), holders=1, batch=1, kills=2),
        Scenario(candidate, ELSEWHERE, (1, 1), queues=2, holders=1, batch=1, kills=1),
    ]


MUTANTS = {
    "untagged": Scenario(
        "link-first", ELSEWHERE, (1, 1), queues=2, holders=1, batch=1, kills=0, mutant="untagged"
    ),
    "unhelped": Scenario("link-first", TWO_ONE, (2, 1), holders=1, kills=1, mutant="unhelped"),
    "stub before head": Scenario(
        "link-first", TWO_ONE, (2, 1), holders=1, kills=1, mutant="stub before head"
    ),
}
"""Link-first with one rule of queue.c broken: no generations; the head moved past a lagging end; the stub
pushed behind the last node while the stored head is still the stub."""


def dead_push(candidate: str, mutant: str = "") -> Scenario:
    """Return what `undecidable` looks at. Mutant `blind`: a blind exchange, and a journal without prev."""
    return Scenario(candidate, TWO_ONE, (2, 1), holders=1, kills=1, mutant=mutant, repaired=False)


def main(arguments: list[str]) -> int:
    """Walk everything and print it, a scenario a line."""
    if set(arguments) - {"--large"}:
        print((__doc__ or "").rsplit("\n\n", 1)[-1], end="", file=sys.stderr)
        return 2
    sound = True
    for candidate in ("link-first", "journalled"):
        print(f"{candidate}: {'states':>56} {'moves':>11} {'seconds':>8} {'count low by':>13} {'waiting':>8}")
        for scenario in scenarios(candidate, large="--large" in arguments):
            try:
                found = judge(scenario)
            except Fault as fault:
                sound = False
                print(f"  {scenario.name}: {fault}")
                continue
            sound = sound and not found.stuck
            print(
                f"  {scenario.name:<60} {found.states:>11,} {found.moves:>11,} {found.seconds:>8.1f}"
                f" {found.shortage:>13} {found.waiting:>8,}{'  STUCK' if found.stuck else ''}",
                flush=True,
            )
            if found.stuck:
                print("\n".join(found.stuck))
    for name, scenario in MUTANTS.items():
        try:
            stuck = judge(scenario).stuck
            print(f"mutant {name}: " + (f"stuck after {len(stuck)} moves" if stuck else "NOT FOUND"))
            sound = sound and bool(stuck)
        except Fault as fault:
            text = str(fault).split("\n")
            print(f"mutant {name}: {text[0]}, after {len(text) - 1} moves")
    for candidate, mutant in (("link-first", ""), ("journalled", ""), ("journalled", "blind")):
        memories, different = undecidable(dead_push(candidate, mutant))
        print(
            f"a producer dead in its push, {candidate}{' without prev' if mutant else ''}: "
            f"{memories:,} memories, {different:,} of them need different repairs"
        )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
