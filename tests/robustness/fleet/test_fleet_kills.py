"""Kills at random in a small fleet, for a short time."""

from __future__ import annotations

import random
import shutil

import pytest

from plait.lab.namespaces import search_path
from plait.lab.postgresql import programs
from tests.robustness.fleet import kills
from tests.support.needed import needed


@pytest.mark.long
@pytest.mark.network
def test_everything_comes_back_and_the_engines_have_the_table() -> None:
    for program, package in (("bird", "bird2"), ("nft", "nftables")):
        needed(package, is_there=shutil.which(program, path=search_path()) is not None)
    needed("postgresql", is_there=programs() is not None)
    said: list[str] = []
    found = kills.run(12, 10.0, random.randrange(1 << 31), said.append)
    assert not found.wrong, (found.wrong, said)
    assert sum(found.kills.values()) > 1 and found.rows >= 12 and found.written and found.longest > 0
