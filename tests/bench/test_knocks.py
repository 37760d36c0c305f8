"""`python -m tests.bench knocks`: every figure is there."""

from __future__ import annotations

import pytest

from plait.lab.namespaces import Lab
from tests.bench import knocks
from tests.support.knocked_gateway import KnockedGateway


@pytest.mark.network
def test_every_figure_is_there() -> None:
    with Lab() as lab:
        scene = KnockedGateway(lab, 40)
        found = knocks.measure(scene, "no index", 1000, 1, 1)
    assert found.sent > 0 and found.alone_mbit > 0 and found.kept > 0 and found.initiations == 0
    assert set(found.counted) <= {"knock_unknown", "knock_held_back"} and found.counted["knock_unknown"]
    assert len(knocks.table([found])) > 5
