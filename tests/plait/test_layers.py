"""Who may include whom in C: `engine` and `shm` do not know each other, `workers` joins them.

Python's imports are held by import-linter (scripts/test); this is the same line for C.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sources import sources

ROOT = Path(__file__).resolve().parents[2]
MAY_INCLUDE = {"engine": {"engine"}, "shm": {"shm"}, "workers": {"engine", "shm", "workers"}}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


def foreign(package: str, path: Path, text: str) -> list[str]:
    """The includes in a file's text that its package may not have."""
    found = []
    for name in INCLUDE.findall(text):
        near = path.parent / name
        target = near if near.exists() else ROOT / name
        home = target.resolve().relative_to(ROOT).parts[0] if target.exists() else f"nothing at {name}"
        if home not in MAY_INCLUDE[package]:
            found.append(name)
    return found


@pytest.mark.parametrize("package", MAY_INCLUDE)
def test_c_files_include_only_what_their_package_may(package: str) -> None:
    files = sources(f"{package}/**/*.c", f"{package}/**/*.h", f"{package}/**/*.c.in", at_least=25)
    wrong = {str(path.relative_to(ROOT)): foreign(package, path, path.read_text()) for path in files}
    assert {name: includes for name, includes in wrong.items() if includes} == {}


def test_a_foreign_include_is_seen() -> None:
    text = '#include <stdint.h>\n#include "aead.h"\n  # include "../shm/queue.h"\n#include "shm/layout.h"\n'
    assert foreign("engine", ROOT / "engine/x.c", text) == ["../shm/queue.h", "shm/layout.h"]
    text = '#include "shm/layout.h"\n#include "engine/aead.h"\n'
    assert foreign("workers", ROOT / "workers/x.c", text) == []
    assert foreign("shm", ROOT / "shm/x.c", '#include "no-such.h"\n') == ["no-such.h"]
