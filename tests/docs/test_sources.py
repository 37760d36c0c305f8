"""tests/support/sources.py: a pattern that finds nothing, or too little, is an error; folders below count."""

from __future__ import annotations

import pytest

from tests.support.sources import ROOT, sources


@pytest.mark.parametrize(("patterns", "at_least"), [
    (("no-such/**/*.c",), 0), (("shm/**/*.c", "shm/**/*.cpp"), 5), (("shm/**/*.c",), 10_000),
])  # fmt: skip
def test_what_is_not_found_is_an_error(patterns: tuple[str, ...], at_least: int) -> None:
    with pytest.raises(LookupError):
        sources(*patterns, at_least=at_least)


def test_folders_below_are_looked_into_and_files_come_once() -> None:
    found = sources("tests/**/*.py", "tests/docs/*.py", at_least=200)
    assert ROOT / "tests/docs/test_sources.py" in found and ROOT / "tests/support/sources.py" in found
    assert len(found) == len(set(found))
