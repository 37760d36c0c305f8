"""The one error that a user sees as a sentence: what failed, why, and the next step."""

from __future__ import annotations


class Failure(Exception):
    """What failed, why, and what to do next: the only exception that Plait raises for what a user can cause.

    The three parts are attributes; `str()` makes a sentence of them. The command line prints that sentence
    without a traceback, with exit code 1.

    >>> try:
    ...     Key("rubbish")
    ... except Failure as failure:
    ...     print(failure.what)
    the key is refused
    """

    def __init__(self, what: str, why: str, next_step: str) -> None:
        self.what = what
        self.why = why
        self.next_step = next_step
        super().__init__(what, why, next_step)

    def __str__(self) -> str:
        return f"{self.what}: {self.why.rstrip('.')}. {self.next_step}"  # others' words end in a full stop
