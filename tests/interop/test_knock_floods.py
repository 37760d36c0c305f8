"""10,000 forged knocks a second: what they may force, on the wire. What they cost: `tests.bench knocks`."""

from __future__ import annotations

import pytest

from plait.lab.namespaces import Lab
from tests.support.knocked_gateway import SOURCES, KnockedGateway
from tests.support.waiting import until

pytestmark = pytest.mark.network

RATE, SECONDS = 10_000, 2
PEERS = 256  # more than initiations, of which a peer gets one in 5 s


def test_a_flood_of_forged_knocks_moves_nothing_and_forces_20_initiations_a_second() -> None:
    with Lab() as lab:
        scene = KnockedGateway(lab, PEERS)
        scene.tell()
        endpoints, before = scene.engine.wg("show", "wg0", "endpoints"), scene.engine.counters()

        def gained() -> dict[str, int]:
            return {name: count - before[name] for name, count in scene.engine.counters().items()}

        told = scene.forged(scene.forge(PEERS, RATE, SECONDS))
        assert set(told.initiations) == set(SOURCES)
        for source, count in told.initiations.items():
            # One at the beginning, and one more where the engine's turn began earlier than the forger.
            assert 0 < count <= 20 * told.seconds + 2, source
        answered = sum(told.initiations.values()) // 2
        until(lambda: gained()["hs_response_tag"] >= answered, "they were answered, as well as a forger can")

        def knocks() -> int:
            return sum(count for name, count in gained().items() if name.startswith("knock_"))

        until(lambda: 0 < knocks() == gained()["drop_index_unknown"], "each has its end")
        assert gained()["knock_initiated"] == gained()["hs_initiation_sent"]
        assert gained()["hs_response_accepted"] == 0
        assert scene.engine.wg("show", "wg0", "endpoints") == endpoints, "no endpoint moved"
