"""What belongs to an interface is found by its name, and a name may have a full stop in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait import uapi_client
from plait.fleet import drain, ready
from plait.sync import state

NAMES = ("lan", "lan.7", "/run/elsewhere/lan.7.sock")


@pytest.mark.parametrize(("name", "interface"), [*zip(NAMES, ("lan", "lan.7", "lan.7"), strict=True)])
def test_a_name_or_the_path_of_a_socket_names_one_interface(name: str, interface: str) -> None:
    assert uapi_client.interface_of(name) == interface
    assert drain._place(name) == drain.DIRECTORY / interface
    assert state.path_of("/run", name) == Path(f"/run/{interface}.state")


def test_the_link_that_is_looked_at_is_the_interface_s() -> None:
    assert ready._link("lo").found == "up"
    assert ready._link("lo.7").found == "No such device"
