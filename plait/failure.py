"""The one error that the command line shows as a sentence: what failed, why, and the next step."""

from __future__ import annotations


class Failure(Exception):
    """What failed, why, and what to do next; printed without a traceback, exit code 1."""

    def __init__(self, what: str, why: str, mend: str) -> None:
        self.what = what
        self.why = why
        self.mend = mend
        super().__init__(f"{what}: {why.rstrip('.')}. {mend}")  # other programs' words end in a full stop
