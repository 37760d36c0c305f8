"""What a control does again that the one before may have died of: tried three times, then given up.

A set that was committed, and each step of a recovery, is noted in the vault before it begins, with the place
that it has come to: a peer's row, or how many of a set's peers are done. It is cleared when done. The next
control finds in the note what its predecessor died at. The third death in a row at one place ends it: the
set is dropped, the peer or the step is left out. Deaths at different places are nobody's fault here (kills
from outside), and are not counted together. Control alone writes these words.
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


WORDS: Final = {
    Step.SET: "a set",
    Step.PEERS: "the table of peers",
    Step.RETIRING: "peers that were being removed",
    Step.SESSIONS: "the list of sessions",
    Step.ENDPOINTS: "endpoints that were to be ordered",
    Step.ORDERS: "orders that had been given",
}


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
        if (step, place) != (int(header["suspect_step"]), int(header["suspect_place"])):
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

    def begin(self, step: Step) -> None:
        """From here to `done` a death is one of this step."""
        self._header["attempt_place"] = 0
        self._header["attempt_step"] = step

    def at(self, place: int) -> None:
        """The step has come to this place."""
        self._header["attempt_place"] = place

    def done(self) -> None:
        self._header["attempt_step"] = 0

    @contextmanager
    def trying(self, step: Step) -> Iterator[None]:
        """The block is that step. An exception leaves the note for the next control."""
        self.begin(step)
        yield
        self.done()

    def each(self, step: Step, rows: Iterable[int]) -> Iterator[int]:
        """The rows, each noted while the caller works on it."""
        with self.trying(step):
            for row in rows:
                self.at(row + 1)
                yield row
