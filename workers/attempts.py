"""Steps that a control repeats although the one before may have died of them: given up after three tries.

A committed set, each step of a recovery, and work that the loop finds again after a kill are noted in the
vault before they begin, with the place that has been reached: a peer's row, or how many of a set's peers are
done. The note is cleared at the end. The next control finds there what its predecessor died at. After the
third death in a row at one place the set is dropped, or the peer or the step is left out. Deaths at
different places have causes outside (kills) and are not counted together; nor are deaths at one place that
was passed in between. A step within a step (in a turn between two slices of a set) has the note while it
lasts. Control alone writes these words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final, NamedTuple

log = logging.getLogger(__name__)

DEATHS: Final = 3  # at one place, in a row


class Step(IntEnum):
    """What is repeated. The vault has these numbers."""

    SET = 1  # place: of its peers, how many are done
    PEERS = 2  # place of these: row + 1
    RETIRING = 3
    SESSIONS = 4  # as a whole: place 0
    ENDPOINTS = 5
    ORDERS = 6
    TRIE = 7  # as a whole
    # In turns of the loop, to which each control comes as well:
    PASSES = 8  # which pass (workers/control/vault.py), and 8 for each of its slices that is done
    EVENTS = 9  # row + 1, or 0 for one of many
    PENDING_ENDPOINTS = 10  # row + 1
    FREEING = 11  # row + 1
    PARKED = 12  # as a whole: finding those that the control before had parked
    ASKING = 13  # place in the parking + 1 (workers/control/parking.py)


WORDS: Final = {
    Step.SET: "a set",
    Step.PEERS: "the table of peers",
    Step.RETIRING: "peers that were being removed",
    Step.SESSIONS: "the list of sessions",
    Step.ENDPOINTS: "endpoints that were to be ordered",
    Step.ORDERS: "orders that had been given",
    Step.TRIE: "allowed IPs",
    Step.PENDING_ENDPOINTS: "endpoints that were to be ordered",
    Step.FREEING: "peers that were removed",
    Step.PARKED: "initiations that were parked",
    Step.ASKING: "a question about an initiation that was parked",
    Step.EVENTS: "what holders told of a peer",
    Step.PASSES: "what all peers were to know of the interface or the private key",
}
LEAVES_OUT: Final = (
    Step.PEERS, Step.RETIRING, Step.ENDPOINTS, Step.ORDERS, Step.PENDING_ENDPOINTS, Step.FREEING,
)  # fmt: skip


class GivenUp(NamedTuple):
    """What no control tries again. place: as of its step."""

    step: Step
    place: int


class Attempts:
    """header: the vault's record, with the words attempt_step, attempt_place (under way, 0 = nothing),
    suspect_step, suspect_place and suspect_deaths (what the controls before died at)."""

    def __init__(self, header: Any) -> None:
        self._header = header

    def judge(self) -> GivenUp | None:
        """Once in a control's life, before anything is repeated: what is not tried again."""
        header = self._header
        step, place = int(header["attempt_step"]), int(header["attempt_place"])
        if step not in set(Step):
            header["suspect_deaths"] = 0
            return None
        known = int(header["suspect_step"]), int(header["suspect_place"])
        is_same = (step, place) == known or (step == Step.EVENTS and known == (Step.EVENTS, 0))
        if not is_same:
            header["suspect_deaths"] = 0
        header["suspect_step"], header["suspect_place"] = step, place
        header["suspect_deaths"] += 1
        header["attempt_step"] = 0
        found = GivenUp(Step(step), place)
        if int(header["suspect_deaths"]) < DEATHS:
            log.warning(
                "the control process died at %s (place %d), %d of %d times until it is left out",
                WORDS[found.step], place, int(header["suspect_deaths"]), DEATHS,
            )  # fmt: skip
            return None
        header["suspect_deaths"] = 0
        return found

    def suspects(self, step: Step) -> bool:
        """After `judge`: whether the control before died at that step."""
        return int(self._header["suspect_step"]) == step and int(self._header["suspect_deaths"]) > 0

    def begin(self, step: Step) -> None:
        """From here to `done` a death is one of this step."""
        self.note(step, 0)

    def note(self, step: int, place: int) -> tuple[int, int]:
        """That step has come to this place. Returns what was noted before."""
        header = self._header
        before = int(header["attempt_step"]), int(header["attempt_place"])
        header["attempt_step"] = 0  # a kill between these is one of nobody
        header["attempt_place"] = place
        header["attempt_step"] = step
        return before

    def at(self, place: int) -> None:
        """The step has come to this place, and past the one before."""
        self._clear(int(self._header["attempt_step"]), int(self._header["attempt_place"]))
        self._header["attempt_place"] = place

    def over(self, before: tuple[int, int]) -> None:
        """The place that was noted is passed. before: what `note` returned."""
        self._clear(int(self._header["attempt_step"]), int(self._header["attempt_place"]))
        self.note(*before)

    def done(self, step: Step) -> None:
        """The whole step is."""
        self._clear(step)
        self._header["attempt_step"] = 0

    def stop(self) -> None:
        """Control was told to end: it does not die of what it leaves."""
        self._header["attempt_step"] = 0

    def _clear(self, step: int, place: int | None = None) -> None:
        header = self._header
        if not int(header["suspect_deaths"]) or int(header["suspect_step"]) != step:
            return
        if place is None or int(header["suspect_place"]) == place:
            header["suspect_deaths"] = 0

    @contextmanager
    def trying(self, step: Step) -> Iterator[None]:
        """The block is the whole step; then the note says what it said before. An exception leaves it for
        the next control."""
        before = self.note(step, 0)
        yield
        self.done(step)
        self.note(*before)

    def each(self, step: Step, rows: Iterable[int]) -> Iterator[int]:
        """The rows, each noted while the caller works on it."""
        with self.trying(step):
            for row in rows:
                self.at(row + 1)
                yield row
