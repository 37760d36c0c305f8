"""One engine for each file of tests; each test brings its own peers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "interop"))

from puppet import Stage
from tunnel import check_words

from plait.lab.namespaces import Lab


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """An engine whose MTU is 1420; at the end it must not have complained of itself."""
    with Lab() as lab:
        made = Stage(lab)
        yield made
        check_words(made.engine.process)
