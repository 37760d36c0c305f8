"""The moves of queue_push_mpsc, pool_issue and the walks that help the end, for both candidates."""

# ruff: noqa: I001 (a name a line would be longer than what it is for)

from __future__ import annotations

from tests.robustness.model.memory import (
    AT, CLEAR, COUNT, E, EXCHANGE, F, FIRST, HELP_END, HELP_WALK, HOME, IDLE, JOURNAL, JPREV, LAST, LINK,
    LOAD_END, LOAD_NEXT, M, MARK, MINE, Memory, NOTE_PREV, PC, PLACES, QUEUED, STORE_NEXT, SWING,
)


class Push(Memory):
    """What producers do, and the publication that holders and the supervisor share with them."""

    def produce(self, s: bytearray, p: int) -> bool:
        """Make producer p's next move. False: it has none (done, or too few of its nodes are home)."""
        b = self.block[p]
        pc, turn = s[b + PC], s[b + AT]
        pushes = self.scenario.pushes[p]
        if turn == len(pushes):
            return False
        queue, count = pushes[turn]
        line = self.journal + 4 * p
        if pc == IDLE:
            return self.issue(s, p, count)
        if pc == JOURNAL:
            s[line : line + 4] = bytes((queue + 1, s[b + FIRST], s[b + LAST], 0))
            s[b + PC], s[b + M] = MARK, s[b + FIRST]
        elif pc == MARK:
            s[self.state + s[b + M]] = QUEUED
            s[b + M] = s[self.next + s[b + M]] & 15
            if s[b + M] == 0:
                s[b + PC] = COUNT
        elif pc == COUNT:
            s[self.put + queue] += count
            s[b + PC] = self.publication
        elif pc == CLEAR:
            s[line : line + 4] = bytes(4)
            s[b : b + 7] = bytes((IDLE, turn + 1, 0, 0, 0, 0, 0))
        else:
            self.push(s, p, queue, CLEAR)
        return True

    @property
    def publication(self) -> int:
        """Return where a publication begins."""
        return EXCHANGE if self.mutant == "blind" else LOAD_END

    def issue(self, s: bytearray, p: int, wanted: int) -> bool:
        """Take a node from home to the end of the private chain (pool_issue, queue_link)."""
        b = self.block[p]
        first, last = s[b + FIRST], s[b + LAST] & 15
        home = [n for n in range(1, self.nodes + 1) if self.owner[n] == p and s[self.state + n] == HOME]
        place = (s[self.order + last] - 1) % PLACES + 1 if first else 0
        if len(home) < wanted - place:
            return False
        node = home[0]
        if s[self.inside + node]:
            s[self.fault] = 7
        s[self.state + node] = MINE
        self.renew(s, node)
        s[self.order + node] = s[b + AT] * PLACES + place + 1
        if first:
            s[self.next + last] |= node
        else:
            s[b + FIRST] = node
        s[b + LAST] = self.tag(s, node)
        if place + 1 == wanted:
            s[b + PC] = JOURNAL
        return True

    def push(self, s: bytearray, w: int, queue: int, after: int) -> None:
        """Make worker w's next move inside a publication of the chain FIRST..LAST, or, where FIRST is nil, in
        helping the end until it names the last node. Then its program counter is `after`."""
        b = self.block[w] if w >= 0 else self.supervisor
        pc, first, e, end = s[b + PC], s[b + FIRST], s[b + E], self.end + queue
        if pc == LOAD_END:
            s[b + E] = s[end]
            s[b + PC] = NOTE_PREV if self.journalled else LOAD_NEXT
        elif pc == LOAD_NEXT:
            word = s[self.next + (e & 15)]
            if (word ^ e) & 0xF0:  # that node has left since, and the end before it
                s[b + PC], s[b + E] = LOAD_END, 0
            elif word & 15:
                s[b + PC], s[b + M] = HELP_WALK, word & 15
            elif first:
                s[b + PC] = LINK
            else:
                s[b + PC] = after
        elif pc == HELP_WALK:
            word = s[self.next + s[b + M]]
            s[b + F], s[b + M] = (word & 0xF0) | s[b + M], word & 15
            if not word & 15:
                s[b + PC] = HELP_END
        elif pc == HELP_END:
            if s[end] == e:
                s[end] = s[b + F]
            s[b + PC], s[b + E], s[b + F] = LOAD_END, 0, 0
        elif pc == LINK:
            if s[self.next + (e & 15)] == e & 0xF0:
                s[self.next + (e & 15)] |= first
                self.publish(s, queue, first)
                s[b + PC] = SWING
            else:
                s[b + PC], s[b + E] = LOAD_END, 0
        elif pc == SWING:
            if s[end] == e:
                s[end] = s[b + LAST]
            s[b + PC], s[b + E] = after, 0
        elif pc == NOTE_PREV:
            s[self.journal + 4 * w + JPREV] = e
            s[b + PC] = EXCHANGE
        elif pc == EXCHANGE:
            if self.mutant == "blind":  # an exchange, whatever the end is
                s[b + E] = e = s[end]
            if s[end] == e:
                s[end] = s[b + LAST]
                self.publish(s, queue, first)
                s[b + PC] = STORE_NEXT
            else:
                s[b + PC], s[b + E] = LOAD_END, 0
        elif pc == STORE_NEXT:
            s[self.next + (e & 15)] = (e & 0xF0) | first
            s[b + PC], s[b + E] = after, 0
