"""Making, growing, attaching to and protecting segments; the layout as Python sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm import segment
from shm._shm import ffi, lib
from shm.columns import Columns
from shm.layout import COUNTERS, REGIONS, dtype, layout_hash
from tests.support import own_path
from tests.support.small_segment import GEOMETRY, faults, make


def test_what_is_made_is_private_nameless_and_whole() -> None:
    before = set(os.listdir("/dev/shm"))
    data = make(4)
    status = os.fstat(data.fd)
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "plait-test" in name]
    assert status.st_nlink == 0
    assert status.st_mode & 0o777 == 0o600
    assert not os.get_inheritable(data.fd)
    assert status.st_size == data.bytes == data.segment.bytes
    assert faults(data) == ""
    data.close()


NAME = f"/plait-test-{os.urandom(8).hex()}"


@pytest.mark.parametrize("opened", [segment.open_nameless, lambda: segment.open_by_posix_ipc(NAME)])
def test_a_file_is_made_in_the_same_way_with_and_without_posix_ipc(opened: Callable[[], int]) -> None:
    fd = opened()
    status = os.fstat(fd)
    assert (status.st_mode & 0o777, status.st_nlink, status.st_size) == (0o600, 0, 0)
    assert status.st_dev == os.stat("/dev/shm").st_dev and not os.path.exists(f"/dev/shm{NAME}")
    os.ftruncate(fd, 4096)
    assert os.pwrite(fd, b"x", 4095) == 1 and os.pread(fd, 4096, 0) == bytes(4095) + b"x"
    os.close(fd)


def test_a_name_that_is_there_is_not_taken() -> None:
    Path(f"/dev/shm{NAME}").touch()
    try:
        with pytest.raises(OSError):
            segment.open_by_posix_ipc(NAME)
    finally:
        os.unlink(f"/dev/shm{NAME}")


OPENED = """
import os, sys
flags = []
def note(event, args):
    if event == "open" and "/dev/shm" in str(args[0]):
        flags.append(args[2])
sys.addaudithook(note)
from tests.support.small_segment import make
make(4).close()
print(all(each & os.O_TMPFILE == os.O_TMPFILE for each in flags), len(flags) > 0, "posix_ipc" in sys.modules)
"""


def test_a_segment_has_no_name_at_any_moment() -> None:
    """So a kill at any moment leaves nothing."""
    command = [sys.executable, "-c", OPENED]
    done = subprocess.run(command, env=own_path.environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "True True False\n", (done.stdout, done.stderr)


def test_segments_are_made_where_there_is_no_posix_ipc() -> None:
    script = (
        "import sys; sys.modules['posix_ipc'] = None\n"
        "from tests.support.small_segment import faults, make\n"
        "data = make(4); print(repr(faults(data))); data.close()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=own_path.environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "''\n", done.stderr


def test_another_process_finds_the_same_at_its_own_address() -> None:
    data = make(4)
    lib.orders_give(data.segment, 3, 5)
    script = (
        "import sys; from shm import segment; from shm._shm import lib\n"
        "data = segment.DataSegment.attach(int(sys.argv[1]), int(sys.argv[2]))\n"
        "assert 'numpy' not in sys.modules\n"
        "print(lib.orders_read(data.segment, 3)); lib.orders_give(data.segment, 3, 8)"
    )
    command = [sys.executable, "-c", script, str(data.fd), str(data.bytes)]
    done = subprocess.run(command, pass_fds=[data.fd], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(1 << 32 | 5)], done.stderr
    assert lib.orders_read(data.segment, 3) == 2 << 32 | 13
    data.close()


@pytest.mark.parametrize(
    "change",
    [
        {"max_peers": 65}, {"max_peers": (1 << 20) + 64}, {"max_keypairs": 3}, {"max_keypairs": 1 << 22},
        {"max_receivers": 0}, {"max_receivers": lib.MAX_RECEIVERS + 1},
        {"max_consumers": lib.MAX_CONSUMERS + 1}, {"nodes_a_pool": 71},
        {"small_slots": 0}, {"mailbox_cells": 6}, {"public_key_buckets": 0}, {"train_slots": 1 << 33},
    ],
)  # fmt: skip
def test_numbers_out_of_bounds_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(segment.SegmentError, match="out of bounds"):
        segment.create(GEOMETRY | change)


def test_a_missing_or_unknown_number_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="max_peers"):
        segment.create({k: v for k, v in GEOMETRY.items() if k != "max_peers"})
    with pytest.raises(ValueError, match="colour"):
        segment.create(GEOMETRY | {"colour": 1})


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small /dev/shm in a namespace of its own")
@pytest.mark.parametrize("grow", [False, True])
def test_a_small_dev_shm_is_an_error_not_a_signal(grow: bool) -> None:
    script = (
        "from shm import segment; from shm._shm import lib; import sys\n"
        f"geometry = {GEOMETRY | {'max_peers': 1 << 16}!r}\n"
        f"geometry['train_slots'], geometry['nodes_a_pool'] = {(4, 68) if grow else (300, 400)}\n"
        "try:\n"
        "    data = segment.create(geometry)\n"
        "    print('made')\n"
        "    data.ensure(lib.REGION_ROWS, 1 << 16)\n"
        "except segment.SegmentError as error: print(error)"
    )
    inner = f'mount -t tmpfs -o size=12m tmpfs /dev/shm && exec {sys.executable} -c "$SCRIPT"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inner],
        capture_output=True, text=True, timeout=60, env=os.environ | {"SCRIPT": script},
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("made" in done.stdout) == grow
    assert "MiB free" in done.stdout and "--shm-size" in done.stdout


def test_growing_allocates_before_use_and_knows_its_limits() -> None:
    data = segment.create(GEOMETRY | {"max_peers": 1 << 16})
    data.ensure(lib.REGION_ROWS, 20000)
    data.ensure(lib.REGION_COLUMNS, 20000)
    data.ensure(lib.REGION_TOKENS, 20000)
    assert os.fstat(data.fd).st_blocks * 512 >= 20000 * (lib.PEER_ROW_BYTES + 4 * lib.TIMER_COLUMNS)
    assert os.fstat(data.fd).st_blocks * 512 < data.bytes
    with pytest.raises(segment.SegmentError, match=f"room for {1 << 16}"):
        data.ensure(lib.REGION_ROWS, (1 << 16) + 1)
    with pytest.raises(ValueError, match="from the start"):
        data.ensure(lib.REGION_READY, 1)
    data.close()


@pytest.mark.parametrize("receivers", [1, 2])
def test_what_a_start_takes_is_known_before(receivers: int) -> None:
    data = segment.create(GEOMETRY, receivers=receivers)
    assert os.fstat(data.fd).st_blocks * 512 == segment.bytes_at_start(GEOMETRY, receivers)
    data.close()


def test_peers_that_may_come_take_no_memory_yet() -> None:
    """But for their bits in the ready sets."""
    few, many = GEOMETRY, GEOMETRY | {"max_peers": 1 << 20, "max_keypairs": 1 << 21}
    many |= {"max_trie_nodes": 1 << 23, "public_key_buckets": 1 << 20}
    sets = (1 + few["max_consumers"]) * lib.ready_words_a_set(lib.DIRECTIONS << 20) * 8
    assert segment.bytes_at_start(many, 1) - segment.bytes_at_start(few, 1) <= sets


def test_receivers_have_memory_before_they_start() -> None:
    """Mailbox, nodes and slots of so many, and not of those that may come."""
    few, all_ = (segment.create(GEOMETRY, receivers=n) for n in (1, None))
    geometry = few.segment.geometry
    pools = geometry.max_receivers - 1
    slots = geometry.small_slots * lib.SMALL_SLOT_BYTES + geometry.train_slots * lib.TRAIN_SLOT_BYTES
    blocks = [os.fstat(data.fd).st_blocks * 512 for data in (few, all_)]
    assert blocks[1] - blocks[0] >= pools * 2 * slots
    before = bytes(few.buffer[:4096])
    few.ensure_receivers(2)
    assert os.fstat(few.fd).st_blocks * 512 == blocks[1]
    assert bytes(few.buffer[:4096]) == before
    for number in range(1, few.segment.nodes + 1):  # the last byte of everything is there
        few.segment.node[number].reserved[3] = 1
    few.segment.cells[geometry.max_receivers * geometry.mailbox_cells - 1].message[191] = 1
    few.segment.train_slots[geometry.max_receivers * 2 * geometry.train_slots * lib.TRAIN_SLOT_BYTES - 1] = 1
    assert os.fstat(few.fd).st_blocks * 512 == blocks[1]
    few.close()
    all_.close()


@pytest.mark.parametrize("field", ["magic", "layout_hash", "bytes"])
def test_a_foreign_segment_is_refused(field: str) -> None:
    data = make(1)
    setattr(data.segment.header, field, getattr(data.segment.header, field) + 1)
    with pytest.raises(segment.SegmentError, match="restart the interface"):
        segment.DataSegment.attach(os.dup(data.fd), data.bytes)
    data.close()


def test_a_segment_of_another_size_is_refused() -> None:
    data = make(1)
    with pytest.raises(segment.SegmentError, match="instead of"):
        segment.DataSegment.attach(data.fd, data.bytes + 4096)
    data.close()


def laid_out() -> tuple[Any, Any, int]:
    """The header of a segment, all of its memory, and its size."""
    whole = ffi.new("struct header *")
    size = int(lib.segment_lay_out(ffi.new("struct geometry *", GEOMETRY), whole))
    whole.magic = lib.LAYOUT_MAGIC
    memory = ffi.new("char[]", max(size, 4096))
    ffi.memmove(memory, whole, ffi.sizeof("struct header"))
    return ffi.cast("struct header *", memory), memory, size


@pytest.mark.parametrize("field, value", [("magic", 1), ("bytes", 0)])
def test_a_header_that_is_none_is_refused(field: str, value: int) -> None:
    """Also where a right one was just looked at: nothing of it is left on the stack to be compared with."""
    header, memory, size = laid_out()
    attached = ffi.new("struct segment *")
    assert lib.segment_attach(attached, memory, size) == 0
    if field == "bytes":
        header.geometry.max_peers = 1  # has no layout, of no size
    setattr(header, field, value)
    assert lib.segment_attach(attached, memory, size) == -1


def test_a_segment_that_is_longer_than_its_mapping_is_refused() -> None:
    _, memory, size = laid_out()
    attached = ffi.new("struct segment *")
    for shorter in (size - 1, 4096, 4095, 0):
        assert lib.segment_attach(attached, memory, shorter) == -1


def test_a_row_that_does_not_exist_has_no_token() -> None:
    data = make(1)
    mark = lib.worker_mark(lib.WORKER_CONSUMER, 1)
    row = 2 * data.segment.geometry.max_peers  # a queue, in truth
    assert lib.token_take_idle(data.segment, row - 1, mark) == 1
    assert data.segment.tokens[row] == lib.TOKEN_IDLE  # of the next region, or between both
    assert lib.token_take_idle(data.segment, row, mark) == 0
    assert data.segment.tokens[row] == lib.TOKEN_IDLE
    data.close()


def test_the_check_looks_at_no_worker_beyond_the_last() -> None:
    data = make(1)
    last = lib.WORKER_CONSUMER + data.segment.geometry.max_consumers - 1
    for number, is_fault in ((last, True), (last + 1, False), (lib.MAX_WORKERS, False)):
        worker = data.segment.workers[number]
        worker.journal_queue = 1
        assert ("a push in its journal" in faults(data)) is is_fault
        worker.journal_queue = 0
    data.close()


def test_a_pool_that_is_closed_holds_nothing() -> None:
    data = make(1)
    pool = ffi.new("struct pool *")
    assert lib.pool_open(pool, data.segment, 0) == 0
    for _ in range(2):
        lib.pool_close(pool)
        assert bytes(ffi.buffer(pool)) == bytes(ffi.sizeof("struct pool"))
    data.close()


HEADER_WORDS = ffi.sizeof("struct header") // 4


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, HEADER_WORDS - 1), st.integers(0, 2**32 - 1), min_size=1, max_size=3))
def test_no_scribbled_header_leads_out_of_the_mapping(scribbles: dict[int, int]) -> None:
    _, memory, size = laid_out()
    words = ffi.cast("uint32_t *", memory)
    for place, value in scribbles.items():
        words[place] = value
    attached = ffi.new("struct segment *")
    if lib.segment_attach(attached, memory, size) != 0:
        assert attached.base == ffi.NULL
        return
    assert attached.bytes <= size
    end = int(ffi.cast("uintptr_t", memory)) + size
    g = attached.geometry
    last = lib.segment_region_bytes(ffi.addressof(g), lib.REGION_TRAIN_SLOTS)
    assert int(ffi.cast("uintptr_t", attached.train_slots)) + last <= end


def test_protected_tables_cannot_be_written() -> None:
    script = (
        "import sys; from shm import segment; from shm._shm import ffi, lib\n"
        "data = segment.DataSegment.attach(int(sys.argv[1]), int(sys.argv[2])); data.protect()\n"
        "data.segment.tokens[0]; data.segment.index[0]; data.segment.trie[0]; print('reads', flush=True)\n"
        "exec(sys.argv[3])"
    )
    data = make(1)
    for act, died in [
        ("data.segment.rows[0].rx_bytes = 1", False), ("data.segment.keypairs[0] = 1", False),
        ("data.segment.trie[0] = 1", True), ("data.segment.index[0] = 1", True),
        ("data.segment.header.offset[3] = 1", True), ("data.segment.device.trie_root4 = 1", True),
        ("data.segment.device.rows_used = 1", True),
        ("data.segment.public_keys[0]", True),
    ]:  # fmt: skip
        command = [sys.executable, "-c", script, str(data.fd), str(data.bytes), act]
        done = subprocess.run(command, pass_fds=[data.fd], capture_output=True, text=True, timeout=60)
        assert done.stdout == "reads\n", done.stderr
        assert (done.returncode == -11) == died, act
    data.close()


def test_numpy_sees_what_c_sees() -> None:
    data = make(4)
    columns = Columns(data)
    lib.orders_give(data.segment, 2, 7)
    assert columns.rows["orders"][2] == 1 << 32 | 7
    columns.rows["endpoints"]["port"][3, 1] = 443
    assert data.segment.rows[3].endpoints[1].port == 443
    columns.timers[lib.TIMER_COLUMNS - 1, -1] = 9
    assert data.segment.columns[lib.TIMER_COLUMNS * GEOMETRY["max_peers"] - 1] == 9
    lib.counter_add(data.segment, lib.WORKER_RECEIVER, lib.UDP_SENT, 3)
    lib.counter_add(data.segment, lib.WORKER_CONSUMER + 1, lib.UDP_SENT, 4)
    assert (
        columns.counters[:, COUNTERS.index("UDP_SENT")].sum()
        == lib.counter_sum(data.segment, lib.UDP_SENT)
        == 7
    )
    del columns
    data.close()


@pytest.mark.parametrize("name", ["peer_row", "node", "worker", "bell", "header", "device", "mailbox_cell"])
def test_dtypes_are_the_compilers(name: str) -> None:
    ctype: Any = ffi.typeof(f"struct {name}")
    derived = dtype(f"struct {name}")
    assert derived.itemsize == ffi.sizeof(ctype)
    for field, described in ctype.fields:
        assert derived.fields is not None
        assert derived.fields[field][1] == described.offset
        assert derived.fields[field][0].itemsize == ffi.sizeof(described.type)
    assert len(REGIONS) == lib.REGIONS and len(COUNTERS) == lib.COUNTERS


def test_the_layout_hash_is_the_same_in_every_process() -> None:
    script = "from shm.layout import layout_hash; print(layout_hash())"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert int(done.stdout) == layout_hash() != 0


def test_a_plain_segment_is_zero_and_shared() -> None:
    vault = segment.create_plain(1 << 20)
    vault.ensure(0, 8192)
    again = segment.PlainSegment.attach(os.dup(vault.fd), 1 << 20)
    assert not np.frombuffer(again.buffer, np.uint8, 8192).any()
    with vault.buffer as view:
        view[5] = 77
    with again.buffer as view:
        assert view[5] == 77
    again.close()
    vault.close()


def region_bytes(g: dict[str, int]) -> list[int]:
    """Of each region, from what layout.h says of it."""
    pools = 2 * g["max_receivers"]
    nodes = 1 + pools * g["nodes_a_pool"]
    lenders = g["max_receivers"] + g["max_consumers"]
    words = -(-lib.DIRECTIONS * g["max_peers"] // 64)
    words += -(-words // 64) + -(-words // 4096)
    rings = -(-g["max_receivers"] * ffi.sizeof("struct mailbox_ring") // lib.MAILBOX_CELL_BYTES)
    return [
        lib.MAX_WORKERS * ffi.sizeof("struct worker"),
        lib.MAX_WORKERS * ffi.sizeof("struct bell"),
        ffi.sizeof("struct starving"),
        lib.MAX_WORKERS * lib.COUNTERS_A_WORKER * 8,
        ffi.sizeof("struct device"),
        -(-lib.DIRECTIONS * g["max_peers"] // lib.TOKEN_BLOCK) * lib.TOKEN_BLOCK * 4,
        (1 + g["max_consumers"]) * words * 8,
        g["max_peers"] * lib.PEER_ROW_BYTES,
        g["max_peers"] * lib.TIMER_COLUMNS * 4,
        g["max_keypairs"] * lib.INDEX_ENTRY_BYTES,
        g["public_key_buckets"] * 4,
        g["max_trie_nodes"] * lib.TRIE_NODE_BYTES,
        g["max_keypairs"] * lib.KEYPAIR_BYTES,
        ffi.sizeof("struct lending") + lenders * lib.PARTS * ffi.sizeof("struct part"),
        lenders * lib.PART_ROOM_BYTES,
        (rings + g["max_receivers"] * g["mailbox_cells"]) * lib.MAILBOX_CELL_BYTES,
        nodes * 4,
        nodes * ffi.sizeof("struct node"),
        pools * g["small_slots"] * lib.SMALL_SLOT_BYTES,
        pools * g["train_slots"] * lib.TRAIN_SLOT_BYTES,
    ]


LIMITS = {  # the least and the most of each number
    "max_peers": (64, 1 << 20), "max_keypairs": (1, 1 << 21), "max_receivers": (1, lib.MAX_RECEIVERS),
    "max_consumers": (1, lib.MAX_CONSUMERS), "nodes_a_pool": (1, 65535), "small_slots": (1, 32767),
    "train_slots": (0, 32767), "mailbox_cells": (1, 65536), "max_trie_nodes": (1, 1 << 24),
    "public_key_buckets": (1, 1 << 24),
}  # fmt: skip
POWERS = ("max_keypairs", "mailbox_cells", "public_key_buckets")


def is_sound(g: dict[str, int]) -> bool:
    return (
        all(least <= g[name] <= most for name, (least, most) in LIMITS.items())
        and g["max_peers"] % 64 == 0
        and all(g[name].bit_count() == 1 for name in POWERS)
        and g["nodes_a_pool"] >= g["small_slots"] + g["train_slots"]
    )


def numbers(name: str) -> st.SearchStrategy[int]:
    """Mostly allowed ones, and what borders on the limits."""
    least, most = LIMITS[name]
    if name in POWERS:
        return st.sampled_from([1 << n for n in range(most.bit_length())] * 2 + [0, 3, most - 1, 2 * most])
    if name == "max_peers":
        return st.sampled_from([64, 128, 192, 4096, 4160, most] * 2 + [0, 63, 65, most + 64])
    ordinary = st.integers(least, min(most, 40))
    return ordinary | ordinary | st.sampled_from([least, most, max(least - 1, 0), most + 1, 2**32 - 1])


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, int]:
    drawn = {name: draw(numbers(name)) for name in LIMITS}
    if draw(st.integers(0, 3)):  # mostly room for nodes, to the last
        drawn["nodes_a_pool"] = drawn["small_slots"] + drawn["train_slots"]
    return {name: min(number, 2**32 - 1) for name, number in drawn.items()}


@given(geometries())
def test_regions_follow_each_other_in_whole_pages(geometry: dict[str, int]) -> None:
    whole = ffi.new("struct header *")
    size = int(lib.segment_lay_out(ffi.new("struct geometry *", geometry), whole))
    assert (size != 0) == is_sound(geometry)
    if size:
        place = 4096
        for region, length in enumerate(region_bytes(geometry)):
            assert lib.segment_region_bytes(ffi.addressof(whole.geometry), region) == length, REGIONS[region]
            assert whole.offset[region] == place
            place += -(-length // 4096) * 4096
        assert whole.bytes == size == place
