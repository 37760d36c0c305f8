"""docs/protocol.md: each linked test exists, and no row of its tables is without one."""

from __future__ import annotations

import pytest

from tests.docs import tables

PAGE = "protocol.md"


@pytest.mark.parametrize("link", tables.links(PAGE), ids="::".join)
def test_a_linked_test_exists(link: tables.Link) -> None:
    tables.check_link(link)


def test_every_named_test_has_a_place_and_every_place_a_name() -> None:
    tables.check_names(PAGE)


def test_every_row_has_a_test_and_all_its_columns() -> None:
    rows = tables.rows(PAGE)
    assert len(rows) > 100
    for row in rows:
        if row[0] in ("behaviour", "set", "section"):
            continue
        assert tables.LINK.search(row[-1]), row[0]
        assert len(row) in (2, 4, 6) and all(cell.strip() for cell in row), row[0]
