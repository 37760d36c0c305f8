"""The stage (fake_workers.py) of tests whose workers are actors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab
from tests.unit.workers.fake_workers import Stage


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("stage")


@pytest.fixture
def stage(host: Host, tmp_path: Path) -> Iterator[Stage]:
    """Not begun yet; ended and looked after when the test is over."""
    made = Stage(host, tmp_path, "t0")
    yield made
    if made.process is not None:
        made.process.stop()
        made.process.close()
    assert made.leftovers() == []
