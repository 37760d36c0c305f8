"""New keys while bytes flow. Plait's clock is stepped; nobody waits two minutes.

    initiator (plaitd, PLAIT_CLOCK=/run/clock)  10.200.1.1 ──── 10.200.1.2  responder
     wg0 10.0.0.1 fd01::1                                        wg0 10.0.0.2 fd01::2

An initiator takes new keys when its session is 120 s old and it sends, so the stepped engine is the
initiator; where both are Plait, both are stepped by the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab
from tests.support.tunnel import begin_each_way, eventually, two_hosts

pytestmark = pytest.mark.network

BYTES = 20_000_000  # at least, of both directions; the streams go on until there are new keys
TICKS_WRAP = 1 << 56  # ns after the boot: engine/timers.h


@pytest.mark.parametrize("responder", [WIREGUARD_GO, PLAIT], ids=["go", "plait"])
@pytest.mark.parametrize("steps", [(121, 121), (181,), (600,)], ids=["old", "expired", "forgotten"])
def test_bytes_flow_across_new_keys(responder: Sequence[str], steps: Sequence[int]) -> None:
    """old: new keys while the old ones still work. expired: they do not. forgotten: they are wiped."""
    bytes_flow(responder, steps)


@pytest.mark.parametrize("steps", [(121, 121), (600,)], ids=["old", "forgotten"])
def test_bytes_flow_while_ticks_wrap(steps: Sequence[int]) -> None:
    """Both engines have run for 834 days; the first step takes them over the end of the stamps."""
    bytes_flow(PLAIT, steps, TICKS_WRAP - 100 * 10**9)


def bytes_flow(responder: Sequence[str], steps: Sequence[int], boottime: int | None = None) -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, responder, psk=True, stepped=True, boottime=boottime)
        initiator, target = tunnel.sides
        flows = begin_each_way(initiator, target, BYTES // 2, endless=True)
        eventually(lambda: min(initiator.transfer()) > BYTES // 10)
        for step in steps:
            handshake = initiator.handshake()
            assert handshake != (0, 0)
            for clock in tunnel.clocks:
                clock.step(step)
            eventually(lambda before=handshake: initiator.handshake() > before)
            moved = initiator.transfer()
            eventually(lambda before=moved: min(map(int.__sub__, initiator.transfer(), before)) > 10**6)
        assert all(flow.is_flowing for flow in flows)
        for flow in flows:
            flow.finish()
        # Either end may have asked for the new keys, or both at once.
        accepted = ("hs_response_accepted", "hs_initiation_accepted")
        assert sum(initiator.counters()[name] for name in accepted) >= 1 + len(steps)
        tunnel.check()


def test_responder_whose_session_expired_initiates_itself() -> None:
    """wireguard-go initiated and believes its keys; Plait's clock says they are 181 s old."""
    with Lab() as lab:
        tunnel = two_hosts(lab, WIREGUARD_GO, PLAIT, stepped=True)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 3) == 3
        tunnel.clocks[1].step(181)
        assert responder.echo(initiator.address4, 3) == 3
        assert responder.counters()["hs_response_accepted"] == 1
        assert initiator.echo(responder.address4, 3) == 3
        tunnel.check()


def test_idle_session_is_forgotten_and_made_again() -> None:
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, stepped=True)
        initiator, responder = tunnel.sides
        assert initiator.echo(responder.address4, 3) == 3
        before = initiator.handshake()
        for clock in tunnel.clocks:
            clock.step(541)
        # Nothing may travel under the old keys. Who begins is open: the side whose last data went
        # unanswered is due to ask as well, and the clocks did not step at one instant.
        assert initiator.echo(responder.address6, 3) == 3
        assert initiator.handshake() > before
        assert sum(side.counters()["hs_response_accepted"] for side in tunnel.sides) >= 2
        tunnel.check()
