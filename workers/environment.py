"""Words in environment variables that nobody knows: they are told once, with those that are known.

What a variable that names a file or a descriptor cannot mean is refused where it is read; a word that only
chooses how something looks, or how much is said, must not keep a tunnel down.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence


def unknown(name: str, value: str, known: Sequence[str], instead: str) -> str:
    """The sentence about a word that is none of the known ones. instead: what is done now."""
    words = f"{', '.join(known[:-1])} or {known[-1]}"
    return f"cannot use {name}={value}: it is not known, so {instead}; set it to {words}, or unset it"


@functools.cache
def tell(program: str, sentence: str) -> None:
    """Say it on stderr, once in this process."""
    print(f"{program}: {sentence}", file=sys.stderr)


def choice(program: str, name: str, value: str, known: Sequence[str], default: str, instead: str) -> str:
    """The value, or the default where it is empty or, which is told, none of the known ones."""
    if value and value not in known:
        tell(program, unknown(name, value, known, instead))
    return value if value in known else default
