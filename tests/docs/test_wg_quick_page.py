"""docs/wg-quick.md: each linked test exists, no row is without one, and no part of the script is left out."""

from __future__ import annotations

import pytest

from tests.docs import tables

PAGE = "wg-quick.md"
FUNCTIONS = (  # of wg-quick for Linux, 1.0.20260223, in its order
    "cmd", "die", "parse_options", "read_bool", "auto_su", "add_if", "del_if", "add_addr", "set_mtu_up",
    "resolvconf_iface_prefix", "set_dns", "unset_dns", "add_route", "get_fwmark", "remove_firewall",
    "add_default", "set_config", "save_config", "execute_hooks", "cmd_usage", "cmd_up", "cmd_down",
    "cmd_save", "cmd_strip",
)  # fmt: skip


@pytest.mark.parametrize("link", tables.links(PAGE), ids="::".join)
def test_a_linked_test_exists(link: tables.Link) -> None:
    tables.check_link(link)


def test_every_named_test_has_a_place_and_every_place_a_name() -> None:
    tables.check_names(PAGE)


def test_every_row_has_a_test_and_all_its_columns() -> None:
    rows = tables.rows(PAGE)
    assert len(rows) > 60
    for row in rows:
        if row[0] != "wg-quick":
            assert len(row) == 3 and all(cell.strip() for cell in row), row
            assert tables.LINK.search(row[2]), row[0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_of_the_script_has_a_row(function: str) -> None:
    assert any(f"`{function}`" in row[0] for row in tables.rows(PAGE))
