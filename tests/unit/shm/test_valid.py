"""segment_valid finds each way in which a structure can be broken, and nothing in one that is whole.

In a whole segment row 1 has two nodes each way and is held, and the last inbound queue is queued. Then a word
changes.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shm._shm import ffi, lib
from shm.segment import DataSegment
from tests.support.small_segment import GEOMETRY, faults, make

LAST, SETS = GEOMETRY["max_peers"] - 1, GEOMETRY["max_consumers"]  # set 0 is control's
LAST_QUEUE = 2 * LAST
A_POOL = 65
NODES = 2 * GEOMETRY["max_receivers"] * A_POOL
GENERATION = 7 << 32
IN, OUT = 2, 3  # the queues of row 1
INS, OUTS = (1, 2 * A_POOL + 2), (A_POOL + 1, NODES)  # the first and the last node of a pool among them
STUB = lib.STUB_FIRST + IN
LENDER = lib.WORKER_CONSUMER + SETS - 1
TURNS = NODES + 2  # of a walk that does not end by itself
HELD = lib.TOKEN_HELD | lib.worker_mark(lib.WORKER_CONSUMER, 1)
IN_HAND, IN_OTHERS = (lib.NODE_IN_HAND | lib.worker_mark(lib.WORKER_CONSUMER + n, 1) for n in (0, 1))
BURIED = lib.worker_mark(lib.WORKER_CONSUMER, 2)
NOBODY = lib.worker_mark(lib.MAX_WORKERS, 0)
NOBODY_ALIVE = "the token is held by nobody alive"


def link(segment: Any, queue: int, nodes: tuple[int, ...]) -> None:
    """A list of these alone."""
    for node, following in zip(nodes, (*nodes[1:], lib.NODE_NIL), strict=True):
        segment.states[node] = lib.NODE_QUEUED
        segment.node[node].peer = queue // 2
        segment.node[node].next = GENERATION | following
    segment.rows[queue // 2].heads[queue % 2].head = nodes[0]
    segment.rows[queue // 2].ends[queue % 2].end = GENERATION | nodes[-1]


def token(segment: Any, queue: int, word: int) -> None:
    segment.tokens[lib.token_place(queue)] = word


@pytest.fixture
def data() -> Iterator[DataSegment]:
    made = make(LAST + 1, train_slots=1, nodes_a_pool=A_POOL)
    link(made.segment, IN, INS)
    link(made.segment, OUT, OUTS)
    for queue in (IN, OUT):
        token(made.segment, queue, HELD)
    token(made.segment, LAST_QUEUE, lib.TOKEN_QUEUED)
    lib.ready_set(made.segment, 1, LAST_QUEUE)
    assert faults(made) == ""
    yield made
    made.close()


def to_stub(segment: Any, following: int) -> None:
    """The stub behind the first node, and behind it that."""
    segment.node[INS[0]].next = GENERATION | STUB
    segment.rows[1].ends[0].stub_next = GENERATION | following


def unready(segment: Any) -> None:
    """The last inbound queue is in no set any more."""
    cursor: Any = ffi.new("uint32_t *")
    assert lib.ready_take(segment, 1, cursor) == LAST_QUEUE


def forget(segment: Any) -> None:
    """Row 5 as no peer ever used it."""
    segment.rows[5].heads[0].head = lib.NODE_NIL
    segment.rows[5].ends[0].end = 0


Act = Callable[[Any], object]


def acts(*each: Act) -> Act:
    return lambda segment: [act(segment) for act in each]


def part(word: int, lends: int = 1) -> Act:
    """The last part of the last worker."""

    def act(segment: Any) -> None:
        segment.workers[LENDER].lends = lends
        last = lib.part_of(segment, LENDER, lib.PARTS - 1)
        last.state = word

    return act


WHOLE: dict[str, Act] = {
    "the holder has a node in hand that head still names":
        lambda s: s.states.__setitem__(INS[0], IN_HAND),
    "somebody alive has a node in hand that no list names":
        lambda s: s.states.__setitem__(NODES - 1, IN_OTHERS),
    "a node that is being filled": lambda s: s.states.__setitem__(5, lib.NODE_OWNED),
    "the end lags behind": lambda s: setattr(s.rows[1].ends[0], "end", GENERATION | INS[0]),
    "the stub in the middle": lambda s: to_stub(s, INS[1]),
    "a row that was never used": forget,
    "a dead queue": lambda s: token(s, LAST_QUEUE, lib.TOKEN_DEAD),
    "a part that somebody alive has": part(lib.PART_TAKEN | lib.worker_mark(lib.WORKER_RECEIVER, 1)),
    "a part that is lost": part(lib.PART_LOST),
    "a part of a worker without parts": part(99, lends=0),
    "a full mailbox": lambda s: setattr(s.mailbox[1], "put", GEOMETRY["mailbox_cells"]),
    "a message in the first cell": lambda s: setattr(getattr(s.cells[0], "from"), "port", 9),
    "a mailbox whose counts wrapped": acts(lambda s: setattr(s.mailbox[0], "put", 2),
                                           lambda s: setattr(s.mailbox[0], "got", 0xFFFFFFFE)),
    "queued at the last consumer": acts(unready, lambda s: lib.ready_set(s, SETS, LAST_QUEUE)),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_what_may_be_is_no_fault(data: DataSegment, name: str) -> None:
    WHOLE[name](data.segment)
    assert faults(data) == ""


def state(node: int, word: int) -> Act:
    return lambda segment: segment.states.__setitem__(node, word)


def following(node: int, word: int) -> Act:
    return lambda segment: setattr(segment.node[node], "next", word)


def listed(word: int) -> tuple[Act, str]:
    what = f"node {INS[1]} is listed, but its state is {word and hex(word)}"
    return state(INS[1], word), f"1: queue {IN}: {what}"


def bit(place: int, ready_set: int) -> tuple[Act, str]:
    """Of the lowest level alone."""

    def act(segment: Any) -> None:
        segment.ready[ready_set * segment.ready_words + place // 64] |= 1 << place % 64

    return act, f"1: ready set {ready_set}: place {place} is set without its summaries"


def steal(segment: Any) -> None:
    """Row 3's list begins with a node of row 1's."""
    segment.rows[3].heads[0].head = segment.rows[3].ends[0].end = INS[1]
    segment.node[INS[1]].next = 0
    segment.rows[1].ends[0].end = INS[1]


BROKEN: dict[str, tuple[Act, str]] = {
    "a node in two lists": (steal, f"2: queue 6: node {INS[1]} stands in a list twice"),
    "a ring": (following(INS[1], GENERATION | INS[0]),
               f"{TURNS - 2 + 1}: queue {IN}: node {INS[0]} stands in a list twice"),
    "a ring of the stub": (lambda s: to_stub(s, STUB),
                           f"{TURNS - 2 + 1 + 1 + 1}: queue {IN}: the stub stands in the list twice"),
    "a number behind the last node": (following(INS[1], GENERATION | NODES + 1),
                                      f"1: queue {IN}: {NODES + 1:#x} is no node"),
    "another queue's stub": (following(INS[1], GENERATION | STUB + 1),
                             f"1: queue {IN}: {STUB + 1:#x} is no node"),
    "a listed node that is free": listed(lib.NODE_FREE),
    "a listed node that is being filled": listed(lib.NODE_OWNED),
    "a listed node in another's hand": listed(IN_OTHERS),
    "a listed node in hand, of no holder": (
        acts(state(INS[0], IN_HAND), lambda s: token(s, IN, lib.TOKEN_IDLE)),
        f"1: queue {IN}: node {INS[0]} is listed, but its state is {IN_HAND:#x}"),
    "a node of another peer": (lambda s: setattr(s.node[OUTS[1]], "peer", 2),
                               f"1: queue {OUT}: node {OUTS[1]} names peer 2"),
    "nodes of the other direction": (acts(lambda s: link(s, IN, OUTS), lambda s: link(s, OUT, INS)),
                                     f"4: queue {IN}: node {OUTS[0]} is of the other direction"),
    "an end of another generation": (lambda s: setattr(s.rows[1].ends[1], "end", 6 << 32 | OUTS[1]),
                                     f"1: queue {OUT}: the end names another generation of node {OUTS[1]}"),
    "a lagging end of another generation": (
        lambda s: setattr(s.rows[1].ends[0], "end", 8 << 32 | INS[0]),
        f"1: queue {IN}: the end names another generation of node {INS[0]}"),
    "an end that is not reached": (lambda s: setattr(s.rows[1].ends[0], "end", GENERATION | 9),
                                   f"1: queue {IN}: the end names 0x9, which head does not reach"),
    "an end without a head": (acts(forget, lambda s: setattr(s.rows[5].ends[0], "end", 9)),
                              "1: queue 10: the end names 0x9, which head does not reach"),
    "a head without an end": (lambda s: setattr(s.rows[5].ends[1], "end", 0),
                              "1: queue 11: the end names 0, which head does not reach"),
    "a token of a former life": (lambda s: token(s, 7, lib.TOKEN_HELD | BURIED),
                                 f"1: queue 7: {NOBODY_ALIVE} ({lib.TOKEN_HELD | BURIED:#x})"),
    "a token of no worker": (lambda s: token(s, 7, lib.TOKEN_HELD | NOBODY),
                             f"1: queue 7: {NOBODY_ALIVE} ({lib.TOKEN_HELD | NOBODY:#x})"),
    "a token without meaning": (lambda s: token(s, LAST_QUEUE, 3),
                                f"1: queue {LAST_QUEUE}: the token reads 0x3"),
    "queued nowhere": (unready, f"1: queue {LAST_QUEUE}: queued, but in no consumer's ready set"),
    "queued at control alone": (acts(lambda s: lib.ready_set(s, 0, 4),
                                     lambda s: token(s, 4, lib.TOKEN_QUEUED)),
                                "1: queue 4: queued, but in no consumer's ready set"),
    "in hand of a former life": (state(NODES, lib.NODE_IN_HAND | BURIED),
                                 f"2: queue {OUT}: node {NODES} is listed, but its state is "
                                 f"{lib.NODE_IN_HAND | BURIED:#x}"),
    "unlisted, in hand of a former life": (
        state(NODES - 1, lib.NODE_IN_HAND | BURIED),
        f"1: node {NODES - 1}: in hand of nobody alive ({lib.NODE_IN_HAND | BURIED:#x})"),
    "a state without meaning": (state(2, 3), "1: node 2: state 0x3"),
    "a queued node that no list reaches": (state(2, lib.NODE_QUEUED),
                                           "1: node 2: queued, but no list reaches it"),
    "control's first row without summaries": bit(0, 0),
    "the last consumer's last queue without summaries": bit(2 * LAST + 1, SETS),
    "a part of a former life": (part(lib.PART_TAKEN | BURIED),
                                f"1: worker {LENDER}: part 7 is taken by nobody alive "
                                f"({lib.PART_TAKEN | BURIED:#x})"),
    "a part without meaning": (part(4), f"1: worker {LENDER}: part 7 reads 0x4"),
    "too many messages": (lambda s: setattr(s.mailbox[1], "put", GEOMETRY["mailbox_cells"] + 1),
                          "1: mailbox 1: more messages than cells"),
    "more read than written": (lambda s: setattr(s.mailbox[0], "got", 1),
                               "1: mailbox 0: more messages than cells"),
    "more rows than there are": (lambda s: setattr(s.device, "rows_used", LAST + 2),
                                 f"1: device: {LAST + 2} rows used of {LAST + 1}"),
    "two faults": (acts(lambda s: token(s, 7, 3), lambda s: setattr(s.mailbox[0], "got", 1)),
                   "2: queue 7: the token reads 0x3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_must_not_be_is_told(data: DataSegment, name: str) -> None:
    act, words = BROKEN[name]
    act(data.segment)
    assert faults(data) == words


def test_a_row_behind_those_in_use_is_not_looked_at(data: DataSegment) -> None:
    data.segment.device.rows_used = LAST
    token(data.segment, LAST_QUEUE, 3)
    assert faults(data) == ""


@pytest.mark.parametrize("room", [0, 1, 8])
def test_the_words_keep_to_their_room(data: DataSegment, room: int) -> None:
    token(data.segment, 7, 3)
    text: Any = ffi.new("char[]", b"0123456789abcde")
    assert lib.segment_valid(data.segment, text, room) == 1
    words = b"queue 7: the token"[: max(room - 1, 0)] + b"\0" * (room > 0)
    assert bytes(ffi.buffer(text)) == words + b"0123456789abcde\0"[room:]


def test_no_memory_for_the_check_is_a_fault(data: DataSegment) -> None:
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
            data.segment.nodes = 0xFFFFFFFF
            os._exit(faults(data) != "1: no memory for the check itself")
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
