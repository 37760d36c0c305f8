"""A state space, walked to its last state: breadth first, so that a fault has the shortest history."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np

Move = tuple[str, int, bytes]
"""What happened (for the history), the class of the move (see `Model`), the state after it."""


class Fault(Exception):
    """An invariant that does not hold, and below it the interleaving that broke it, a move a line."""


class Model(Protocol):
    """What can be walked. States are `bytes`: hashed and compared as a whole."""

    def initial(self) -> bytes: ...
    def moves(self, state: bytes) -> Iterable[Move]:
        """Return every move that any process can make next."""
        ...

    def broken(self, state: bytes) -> str:
        """Return the invariant that this state breaks, in words, or nothing."""
        ...


@dataclass
class Space:
    """All reachable states of a model, and the moves between them as three parallel columns."""

    states: list[bytes] = field(default_factory=list)
    parents: array[int] = field(default_factory=lambda: array("i"))
    sources: array[int] = field(default_factory=lambda: array("i"))
    targets: array[int] = field(default_factory=lambda: array("i"))
    classes: array[int] = field(default_factory=lambda: array("b"))

    @classmethod
    def walk(cls, model: Model, limit: int = 20_000_000) -> Space:
        """Walk every interleaving. Raises Fault with its history at the first broken invariant."""
        space = cls()
        first = model.initial()
        number = {first: 0}
        space.states.append(first)
        space.parents.append(-1)
        here = 0
        while here < len(space.states):
            for _, kind, after in model.moves(space.states[here]):
                there = number.get(after)
                if there is None:
                    there = number[after] = len(space.states)
                    space.states.append(after)
                    space.parents.append(here)
                    broken = model.broken(after)
                    if broken:
                        raise Fault("\n".join([broken, *space.history(model, there)]))
                space.sources.append(here)
                space.targets.append(there)
                space.classes.append(kind)
            here += 1
            if here > limit:
                raise Fault(f"more than {limit:,} states: the scenario is larger than it was meant to be")
        return space

    def history(self, model: Model, state: int) -> list[str]:
        """Return the moves from the start to this state, in order."""
        path = [state]
        while self.parents[path[-1]] >= 0:
            path.append(self.parents[path[-1]])
        path.reverse()
        return [
            next(name for name, _, after in model.moves(self.states[a]) if after == self.states[b])
            for a, b in pairwise(path)
        ]

    def cannot_reach(self, goal: Callable[[bytes], bool], classes: Iterable[int]) -> Iterator[int]:
        """Yield the states from which no path of moves of these classes leads to a goal."""
        wanted = np.isin(np.frombuffer(self.classes, np.int8), list(classes))
        source = np.frombuffer(self.sources, np.int32)[wanted]
        target = np.frombuffer(self.targets, np.int32)[wanted]
        order = np.argsort(target, kind="stable")
        source = source[order]
        starts = np.searchsorted(target[order], np.arange(len(self.states) + 1))
        reached = np.fromiter((goal(s) for s in self.states), bool, len(self.states))
        front = np.flatnonzero(reached)
        while len(front):
            count = starts[front + 1] - starts[front]
            offset = np.repeat(starts[front] - np.concatenate(([0], np.cumsum(count)[:-1])), count)
            before = np.unique(source[offset + np.arange(len(offset))])
            front = before[~reached[before]]
            reached[front] = True
        yield from (int(i) for i in np.flatnonzero(~reached))
