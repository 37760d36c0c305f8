"""`python -m tests.bench changes`: every figure is there, with either store."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from plait.lab.namespaces import search_path
from plait.lab.postgresql import programs
from tests.bench import changes
from tests.support.needed import needed


@pytest.mark.network
@pytest.mark.parametrize("store", ["postgresql", "nats"])
def test_every_figure_is_there(store: str) -> None:
    needed("postgresql", is_there=programs() is not None)
    needed("nats-server", is_there=shutil.which("nats-server", path=search_path()) is not None)
    found = changes.measure(store, 60, 20, 200, 10, 3, lambda text: None)
    assert (found.store, found.peers, found.changes, found.changed, found.removed) == (store, 60, 20, 10, 3)
    assert all(value > 0 for value in dataclasses.astuple(found)[2:])
    assert found.median <= found.p99 <= found.most
    assert len(list(changes.lines(found))) == 3
