"""Source files of this checkout, for what compiles, reads or counts them.

A pattern that finds nothing is an error: a test of no files is green, whatever the files say.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def sources(*patterns: str, at_least: int) -> list[Path]:
    """The files of patterns such as "shm/**/*.c", which goes into every folder below shm/; each once, sorted.

    LookupError when a pattern finds none, or all of them find fewer than at_least files.
    """
    found: set[Path] = set()
    for pattern in patterns:
        files = {path for path in ROOT.glob(pattern) if path.is_file()}
        if not files:
            raise LookupError(f"no file is called {pattern}: the files were moved, and the pattern was not")
        found |= files
    if len(found) < at_least:
        raise LookupError(f"{len(found)} files are called {' or '.join(patterns)}, not {at_least} or more")
    return sorted(found)
