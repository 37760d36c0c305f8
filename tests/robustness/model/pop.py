"""The moves of a holder: take the token, queue_pop_sc, bring home, give."""

# ruff: noqa: I001 (a name a line would be longer than what it is for)

from __future__ import annotations

from tests.robustness.model.memory import (
    ADVANCE, AT, BATCH, BRING, CLEAR, CONSUMED, CUR, E, FIRST, GIVE, GONE, HAND, HOME, IN_HAND, LAST,
    LOAD_END, LOOK_AGAIN, M, MOVED, N, NEXT, NEXT_AGAIN, PC, PRODUCED, READ_END, READ_PRODUCED, STUB_AGAIN,
)
from tests.robustness.model.push import Push

STUB_NEXT, FINAL = 1, 2  # MOVED while head_move runs: in the loop, before the stub's push; and after the loop


class Pop(Push):
    """What holders do."""

    def hold(self, s: bytearray, h: int) -> None:
        """Make holder h's next move; it holds a token."""
        w = self.producers + h
        b = self.block[w]
        pc, queue, cur, n = s[b + PC], s[b + AT], s[b + CUR], s[b + N]
        stub = self.stub(queue)
        if pc == NEXT:
            following = s[self.next + cur] & 15
            if cur == stub and following:
                s[b + CUR], s[b + MOVED] = following, 1
            elif cur == stub:
                self.leave(s, b)
            elif following:
                s[b + PC], s[b + M] = HAND, following
            elif self.journalled:
                s[b + PC] = READ_END
            else:
                self.stub_wanted(s, b)
        elif pc == READ_END:
            if s[self.end + queue] == self.tag(s, cur):
                self.stub_wanted(s, b)
            else:
                self.leave(s, b)  # something is published behind it, and was not linked yet
        elif pc == HAND:
            s[self.state + cur] = IN_HAND + h
            s[b + BATCH + n], s[b + N] = cur, n + 1
            s[b + CUR], s[b + MOVED], s[b + M] = s[b + M], 1, 0
            s[b + PC] = NEXT
            if n + 1 == self.scenario.batch:
                self.leave(s, b)
        elif pc == STUB_AGAIN:
            self.renew(s, stub)
            s[b + FIRST], s[b + LAST] = stub, self.tag(s, stub)
            s[b + PC] = self.publication
            if self.journalled:
                line = self.journal + 4 * w
                s[line : line + 4] = bytes((queue + 1, stub, s[b + LAST], 0))
        elif pc == CLEAR:
            s[self.journal + 4 * w : self.journal + 4 * w + 4] = bytes(4)
            s[b + PC] = NEXT_AGAIN
        elif pc == NEXT_AGAIN:
            s[b + FIRST] = s[b + LAST] = 0
            following = s[self.next + cur] & 15  # the stub, or a chain before it
            s[b + PC], s[b + M] = (HAND, following) if following else (NEXT, 0)
            if not following:  # journalled: that chain is not linked yet
                self.leave(s, b)
        elif pc == ADVANCE:
            s[b + E] = 0
            for node in s[b + BATCH + s[b + GONE] : b + BATCH + n]:
                self.take(s, queue, node)
            s[self.head + queue], s[b + GONE] = cur, n
            if s[b + MOVED] == STUB_NEXT:
                s[b + PC], s[b + MOVED] = STUB_AGAIN, 0
            else:
                s[b + PC] = CONSUMED if n else GIVE
                s[b + CUR] = s[b + MOVED] = s[b + GONE] = 0
        elif pc == CONSUMED:
            s[self.got + queue] += n
            s[b + PC], s[b + N] = BRING, 0
        elif pc == BRING:
            s[self.state + s[b + BATCH]] = HOME
            rest = bytes(s[b + BATCH + 1 : b + self.width[w]]) + b"\0"
            s[b + BATCH : b + self.width[w]] = rest
            if not rest[0]:
                s[b + PC] = GIVE
        elif pc == READ_PRODUCED:
            s[b + PRODUCED] = s[self.put + queue]
            s[b + PC] = LOOK_AGAIN if s[b + PRODUCED] != s[self.got + queue] and cur == stub else GIVE
        elif pc == LOOK_AGAIN:
            empty = not s[self.next + stub] & 15
            if self.journalled:  # there only the end says that nothing is published
                empty = s[self.end + queue] == self.tag(s, stub)
            if empty:
                s[self.got + queue] = s[b + PRODUCED]
            s[b + PC], s[b + PRODUCED] = GIVE, 0
        elif pc == GIVE:
            s[self.token + queue] = 0
            s[b : b + self.width[w]] = bytes(self.width[w])
        else:
            helping = not s[b + FIRST]
            self.push(s, w, queue, ADVANCE if helping else CLEAR if self.journalled else NEXT_AGAIN)

    def leave(self, s: bytearray, b: int) -> None:
        """End the loop of a pop: store the head if it has moved, else look whether the count is right."""
        if s[b + MOVED]:
            s[b + MOVED] = FINAL
            self.head_move(s, b)
        elif s[b + N]:  # journalled: taken, and nothing linked behind
            s[b + PC], s[b + CUR], s[b + GONE] = CONSUMED, 0, 0
        else:
            s[b + PC] = READ_PRODUCED

    def stub_wanted(self, s: bytearray, b: int) -> None:
        """Push the stub behind the last node, once the stored head is that node."""
        if s[b + MOVED] and self.mutant != "stub before head":
            s[b + MOVED] = STUB_NEXT
            self.head_move(s, b)
        else:
            s[b + PC] = STUB_AGAIN

    def head_move(self, s: bytearray, b: int) -> None:
        """Begin head_move: help the end past all that is taken, then store the head."""
        s[b + PC] = ADVANCE if self.journalled or self.mutant == "unhelped" else LOAD_END
