"""One engine for each file of tests; each test brings its own peers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Lab
from tests.support.fake_peer import Network
from tests.support.tunnel import check_words


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """An engine whose MTU is 1420; at the end it must not have complained of itself."""
    with Lab() as lab:
        made = Network(lab)
        yield made
        check_words(made.engine.process)
