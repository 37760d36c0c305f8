"""The marks of shm/counters.h, from which every balance of packets takes its lists."""

from __future__ import annotations

import pytest

from shm import marks
from shm.layout import COUNTERS
from workers._workers import lib
from workers.control.losses import WATCHED

ENDS = ("end in", "end out", "end both", "end message")


def test_every_counter_is_read() -> None:
    assert tuple(name.upper() for name in marks.marks()) == COUNTERS


def test_a_drop_ends_a_packet_in_one_direction_and_a_refusal_a_message() -> None:
    for name, words in marks.marks().items():
        ends = words.intersection(ENDS)
        assert len(ends) <= 1, name
        if name.startswith("drop_"):
            assert ends and "end message" not in ends, name
        if name.startswith("hs_"):
            assert ends <= {"end message"}, name


def test_control_tells_of_what_is_marked_so() -> None:
    watched = {counter for _, counters in WATCHED for counter in counters}
    assert watched == {getattr(lib, name.upper()) for name in marks.marked("event")}


def test_a_mark_that_is_not_known_is_refused() -> None:
    lines = ("UDP_RECEIVED,", "DROP_A,   /* (end in, fine) why */", "DROP_B,   /* (edn) */")
    text = "\n    ".join(("enum counter {", *lines))
    with pytest.raises(ValueError, match=r"drop_b.*edn"):
        marks.read(text)
    found = marks.read(text.replace("edn", "wire"))
    assert found == {"udp_received": set(), "drop_a": {"end in", "fine"}, "drop_b": {"wire"}}
