"""The moves of repair_worker, one of the dead at a time, while everybody else goes on."""

# ruff: noqa: I001 (a name a line would be longer than what it is for)

from __future__ import annotations

from tests.robustness.model.memory import (
    AT, BEGIN, COLLECT, E, FINISH, GIVE_BACK, HOME, IDLE, IN_HAND, JFIRST, JLAST, JPREV, JQUEUE, LINES,
    LOAD_END, M, MINE, PC, QUEUED, READ_LAST, REGISTERS, REQUEUE, UNPUBLISHED,
)
from tests.robustness.model.pop import Pop


class Repair(Pop):
    """What the supervisor does for a worker that it has reaped."""

    def repair(self, s: bytearray) -> None:
        """Make the next move of the repair under way."""
        b = self.supervisor
        w = s[b + AT] - 1
        line = self.journal + 4 * w
        queue, first, last, prev = s[line + JQUEUE] - 1, s[line + JFIRST], s[line + JLAST], s[line + JPREV]
        pc = s[b + PC]
        if pc == BEGIN:
            if queue < 0:
                self.journal_done(s, w, None)
            elif not self.journalled:
                s[b + PC] = LOAD_END
            elif prev == 0:
                self.journal_done(s, w, False)
            else:  # the end, then the lines, then next: whoever moved on has left a trace in the later one
                s[b + PC] = FINISH if s[self.end + queue] == last else LINES
        elif pc == LINES:
            other = self.journal + 4 * s[b + M]
            if s[b + M] != w and s[other + JQUEUE] == queue + 1 and s[other + JPREV] == last:
                s[b + PC], s[b + M] = FINISH, 0
            else:
                s[b + M] += 1
                if s[b + M] == self.workers:
                    s[b + PC], s[b + M] = READ_LAST, 0
        elif pc == READ_LAST:
            # link-first: E, the end as queue_is_published found it, named the last node of the list just now.
            word = s[self.next + (last & 15)]
            published = s[b + E] == last or bool((word ^ last) & 0xF0 or word & 15)
            s[b + E] = 0
            if published and self.journalled:
                s[b + PC] = FINISH
            else:
                self.journal_done(s, w, published)
        elif pc == FINISH:
            if s[self.next + (prev & 15)] == prev & 0xF0:
                s[self.next + (prev & 15)] |= first
            self.journal_done(s, w, True)
        elif pc == REQUEUE:
            self.requeue(s, w)
            s[b + PC] = GIVE_BACK
        elif pc == GIVE_BACK:
            for q in range(self.scenario.queues):
                if s[self.token + q] == 1 + w - self.producers:
                    s[self.token + q] = 0
            s[b + PC] = COLLECT
        elif pc == COLLECT:
            self.collect(s, w)
        else:
            self.push(s, -1, queue, READ_LAST)

    def journal_done(self, s: bytearray, w: int, published: bool | None) -> None:
        """End the push of the dead; a chain that was never published, and what was only `mine`, come home. No
        other process reads these words: in one move."""
        line, stage = self.journal + 4 * w, s[self.stage + w]
        if stage and published is False and stage != UNPUBLISHED:
            s[self.fault] = 3
        if stage == UNPUBLISHED and published:
            s[self.fault] = 4
        if w < self.producers:
            number = s[line + JFIRST] if published is False else 0
            for _ in range(self.nodes):
                if number:
                    s[self.state + number] = HOME
                    number = s[self.next + number] & 15
            for node in range(1, self.nodes + 1):
                if self.owner[node] == w and s[self.state + node] == MINE:
                    s[self.state + node] = HOME
        s[line : line + 4] = bytes(4)
        s[self.stage + w] = 0
        if w < self.producers:
            self.restart(s, w)
        else:
            s[self.supervisor + PC] = REQUEUE

    def requeue(self, s: bytearray, w: int) -> None:
        """What the dead had marked and can still be reached from a head that it held is queued again. Nobody
        moves this head or reads these states while the token is the dead one's: in one move."""
        for queue in range(self.scenario.queues):
            if s[self.token + queue] == 1 + w - self.producers:
                number = s[self.head + queue]
                for _ in range(self.things):
                    if 0 < number <= self.nodes and s[self.state + number] == IN_HAND + w - self.producers:
                        s[self.state + number] = QUEUED
                    number = s[self.next + number] & 15 if number else 0

    def collect(self, s: bytearray, w: int) -> None:
        """Send home the next node that was in hand of the dead; after the last, restart."""
        for node in range(1, self.nodes + 1):
            if s[self.state + node] == IN_HAND + w - self.producers:
                if s[self.inside + node]:
                    s[self.fault] = 6
                s[self.state + node] = HOME
                return
        self.restart(s, w)

    def restart(self, s: bytearray, w: int) -> None:
        """Start the replacement: a producer goes on with its next push."""
        b = self.block[w]
        turn = s[b + AT] + 1 if w < self.producers else 0
        s[b : b + self.width[w]] = bytes(self.width[w])
        s[b + PC], s[b + AT] = IDLE, turn
        s[self.supervisor : self.supervisor + REGISTERS] = bytes(REGISTERS)
