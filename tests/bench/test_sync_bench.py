"""`python -m tests.bench sync`: every figure is there."""

from __future__ import annotations

import dataclasses

import pytest

from tests.bench import sync


@pytest.mark.network
def test_every_figure_is_there() -> None:
    found = sync.measure(300, 40)
    assert (found.peers, found.changes) == (300, 40)
    assert all(value > 0 for name, value in dataclasses.asdict(found).items() if name != "lost")
