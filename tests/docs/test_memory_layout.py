"""docs/memory-layout.md against the compiled structs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers._workers import ffi, lib
from workers.control import vault

PAGE = Path(__file__).parents[2] / "docs" / "memory-layout.md"
TEXT = PAGE.read_text()
STRUCTS = re.findall(r"^## [^\n]*?`struct (\w+)`, (\d+) bytes\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)


@pytest.mark.parametrize(("name", "size", "table"), STRUCTS, ids=[name for name, _, _ in STRUCTS])
def test_a_struct_is_as_its_table_says(name: str, size: str, table: str) -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", table, re.M)
    fields = [
        (str(field.offset), str(ffi.sizeof(field.type)), name)
        for name, field in ffi.typeof(f"struct {name}").fields
        if "reserved" not in name
    ]
    assert rows == fields, f"mend the table of struct {name} in docs/{PAGE.name}"
    assert int(size) == ffi.sizeof(f"struct {name}")


def test_every_struct_that_a_region_is_made_of_has_a_table() -> None:
    tables = {name for name, _, _ in STRUCTS}
    in_regions = set(re.findall(r"^\| [\w ]+ \| `struct (\w+)` \|", TEXT, re.M))
    assert in_regions - tables == {"header", "device"}


def test_element_sizes_of_the_regions() -> None:
    sizes = dict(re.findall(r"^\| ([\w ]+) \| [^|]+ \| (\d+) \|", TEXT.split("## Bytes")[0], re.M))
    assert {name: int(size) for name, size in sizes.items()} == {
        "header": 4096,
        "workers": ffi.sizeof("struct worker"),
        "bells": ffi.sizeof("struct bell"),
        "starving": ffi.sizeof("struct starving"),
        "counters": 8 * lib.COUNTERS_A_WORKER,
        "device": ffi.sizeof("struct device"),
        "tokens": 4,
        "rows": lib.PEER_ROW_BYTES,
        "timer columns": 4 * lib.TIMER_COLUMNS,
        "index": lib.INDEX_ENTRY_BYTES,
        "public keys": 4,
        "trie": lib.TRIE_NODE_BYTES,
        "keypairs": lib.KEYPAIR_BYTES,
        "parts": ffi.sizeof("struct part"),
        "part rooms": lib.PART_ROOM_BYTES,
        "mailbox": lib.MAILBOX_CELL_BYTES,
        "states": 4,
        "nodes": ffi.sizeof("struct node"),
        "small slots": lib.SMALL_SLOT_BYTES,
        "train slots": lib.TRAIN_SLOT_BYTES,
    }


def test_bytes_per_peer() -> None:
    parts = {
        name: (int(idle), int(active))
        for name, idle, active in re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \|$", TEXT, re.M)
        if not name.isdigit()
    }
    total = parts.pop("sum")
    assert total == (sum(idle for idle, _ in parts.values()), sum(active for _, active in parts.values()))
    session = lib.INDEX_ENTRY_BYTES + lib.KEYPAIR_BYTES
    # a bucket table of the next power of two has at most two a peer
    idle = lib.PEER_ROW_BYTES + 2 * 4 + 4 * lib.TIMER_COLUMNS
    idle += 2 * lib.TRIE_NODE_BYTES + 8 + vault.ROW.itemsize
    assert total == (idle, idle + session)
    queues = 2 * (ffi.sizeof("struct queue_producers") + ffi.sizeof("struct queue_holder"))
    assert f"the two queues take {queues} bytes of the row" in TEXT
