"""The two hand-offs: who drains a peer's queue once a receiver has pushed packets into it (docs/adr/0011).

Words of earlier versions are still taken wherever a hand-off is named: in settings files, in options, and in
what an engine describes to the program that takes its place.
"""

from __future__ import annotations

from typing import Literal

Handoff = Literal["inline", "pipeline"]
INLINE: Handoff = "inline"  # run to completion: the receiver drains a peer that nobody holds
PIPELINE: Handoff = "pipeline"  # every packet goes to its peer's consumer
HANDOFFS: tuple[Handoff, ...] = (INLINE, PIPELINE)
_RENAMED = {"lend": INLINE, "split": PIPELINE}
_GONE = {"auto": INLINE}


def current(word: str) -> tuple[str, str]:
    """A hand-off by its word of today, and what is to be said of an earlier word, else "". An unknown word
    comes back as it is."""
    if word in _RENAMED:
        return _RENAMED[word], f'"{word}" is called "{_RENAMED[word]}" now: write that'
    if word in _GONE:
        return _GONE[word], f'"{word}" is gone, "{_GONE[word]}" takes its place: write that'
    return word, ""
