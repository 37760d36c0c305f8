"""The fake workers (fake_workers.py) of tests of the supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab
from tests.unit.workers.fake_workers import FakeWorkers


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("fakes")


@pytest.fixture
def fakes(host: Host, tmp_path: Path) -> Iterator[FakeWorkers]:
    """Not begun yet; ended and looked after when the test is over."""
    made = FakeWorkers(host, tmp_path, "t0")
    yield made
    if made.process is not None:
        made.process.stop()
        made.process.close()
    assert made.leftovers() == []
