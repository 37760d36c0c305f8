"""The shared structures against plain Python models, driven by hypothesis in one process."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict, deque
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shm._shm import ffi, lib
from tests.support.small_segment import GEOMETRY, faults, make, mark

NONE = 0xFFFFFFFF
BUDGET = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


class QueuesAndPools(RuleBasedStateMachine):
    """Model: a deque a queue, a set of free nodes and slots a pool, a list of what is in hand."""

    ROWS = 3

    @initialize()
    def begin(self) -> None:
        self.data = make(self.ROWS)
        self.segment = self.data.segment
        self.mark = mark(self.data, lib.WORKER_CONSUMER)
        self.pools = [ffi.new("struct pool *") for _ in range(4)]
        for row in range(0, self.ROWS, 2):
            self.segment.rows[row].key_word = 1
        for number, pool in enumerate(self.pools):
            assert lib.pool_open(pool, self.segment, number) == 0
        self.queues: dict[int, deque[int]] = defaultdict(deque)
        self.in_hand: list[int] = []
        self.home: set[int] = set()  # brought home, not yet swept
        self.books: dict[int, tuple[int, int, int]] = {}  # node: pool, slot, packets

    def teardown(self) -> None:
        if hasattr(self, "data"):
            for pool in self.pools:
                lib.pool_close(pool)
            self.data.close()

    def issue(self, number: int, row: int, count: int, packets: int, train: bool) -> list[int]:
        pool, nodes = self.pools[number], []
        for _ in range(count):
            slot = lib.pool_take_train(pool) if train else lib.pool_take_small(pool)
            if slot == NONE:
                break
            busy = {s for n, s, _ in self.books.values() if n == number}
            assert slot not in busy, "a slot was given out twice"
            node = lib.pool_issue(pool, slot, row)
            assert node and node not in self.books, "a node was given out twice"
            self.books[node] = (number, slot, packets)
            self.segment.node[node].packets = packets
            assert self.segment.states[node] == lib.NODE_OWNED
            if nodes:
                lib.queue_link(self.segment, nodes[-1], node)
            nodes.append(node)
        return nodes

    @rule(
        receiver=st.integers(0, 1), row=st.integers(0, ROWS - 1), direction=st.integers(0, 1),
        count=st.integers(1, 40), packets=st.integers(1, 45), train=st.booleans(),
    )  # fmt: skip
    def push(self, receiver: int, row: int, direction: int, count: int, packets: int, train: bool) -> None:
        queue, number = 2 * row + direction, 2 * receiver + direction
        waiting = self.packets(queue)
        nodes = self.issue(number, row, count, packets, train)
        if not nodes:
            return
        refused = lib.queue_push_mpsc(
            self.segment, lib.WORKER_RECEIVER + receiver, queue, nodes[0], nodes[-1], packets * len(nodes)
        )
        assert bool(refused) == (waiting >= lib.QUEUE_LIMIT)
        if not refused:
            self.queues[queue].extend(nodes)
            return
        for node in nodes:
            assert self.segment.states[node] == lib.NODE_OWNED
            lib.pool_withdraw(self.pools[number], node)
            del self.books[node]

    @rule(
        row=st.integers(0, ROWS - 1), direction=st.integers(0, 1), most=st.integers(1, 64),
        most_packets=st.integers(1, 200),
    )  # fmt: skip
    def pop(self, row: int, direction: int, most: int, most_packets: int) -> None:
        queue = 2 * row + direction
        expected, packets = [], 0
        while self.queues[queue] and len(expected) < most and (packets < most_packets or not expected):
            expected.append(self.queues[queue].popleft())
            packets += self.books[expected[-1]][2]
        numbers = ffi.new("uint32_t[64]")
        taken = lib.queue_pop_sc(self.segment, self.mark, queue, numbers, most, most_packets)
        assert list(numbers[0:taken]) == expected
        assert all(self.segment.states[node] == lib.NODE_IN_HAND | self.mark for node in expected)
        self.in_hand += expected

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def bring_home(self, data: st.DataObject) -> None:
        for node in data.draw(st.lists(st.sampled_from(self.in_hand), unique=True, max_size=64)):
            lib.node_bring_home(self.segment, node)
            self.in_hand.remove(node)
            self.home.add(node)

    @rule(number=st.integers(0, 3))
    def sweep(self, number: int) -> None:
        pool = self.pools[number]
        short = pool.free_nodes == 0 or pool.free_small == 0 or pool.free_trains == 0
        swept = lib.pool_sweep(pool)
        free = {pool.node_stack[i] for i in range(pool.free_nodes)}
        found = free & self.books.keys()
        assert len(free) == pool.free_nodes and len(found) == swept
        assert found <= self.home
        if short:
            assert not {node for node in self.home - found if self.books[node][0] == number}
        self.home -= found
        for node in found:
            del self.books[node]

    @rule(receiver=st.integers(0, 1))
    def restart_receiver(self, receiver: int) -> None:
        """Another process takes stock of what stands in the segment; nodes that are `mine` are its own."""
        for number in (2 * receiver, 2 * receiver + 1):
            lib.pool_close(self.pools[number])
            self.issue_and_forget(number)
            assert lib.pool_open(self.pools[number], self.segment, number) == 0
            gone = {node for node in self.home if self.books[node][0] == number}
            self.home -= gone
            for node in gone:
                del self.books[node]

    def issue_and_forget(self, number: int) -> None:
        node = 1 + number * GEOMETRY["nodes_a_pool"]
        if self.segment.states[node] == lib.NODE_FREE and node not in self.home:
            self.segment.states[node] = lib.NODE_OWNED

    def packets(self, queue: int) -> int:
        return sum(self.books[node][2] for node in self.queues[queue])

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "data"):
            return
        for queue in range(2 * self.ROWS):
            assert bool(lib.queue_is_empty(self.segment, queue)) == (not self.queues[queue])
            assert lib.queue_packets(self.segment, queue) == self.packets(queue)
        for number, pool in enumerate(self.pools):
            out = [book for book in self.books.values() if book[0] == number]
            assert pool.free_nodes == GEOMETRY["nodes_a_pool"] - len(out)
            small = sum(slot < GEOMETRY["small_slots"] for _, slot, _ in out)
            assert pool.free_small == GEOMETRY["small_slots"] - small
            assert pool.free_trains == GEOMETRY["train_slots"] - (len(out) - small)
            self.check_shares(number, pool)

    def check_shares(self, number: int, pool: Any) -> None:
        peers = {self.peer(node) for node, (n, _, _) in self.books.items() if n == number}
        for row in range(self.ROWS):
            slots = [s for node, (n, s, _) in self.books.items() if n == number and self.peer(node) == row]
            small = sum(slot < GEOMETRY["small_slots"] for slot in slots)
            trains = max(min(8, GEOMETRY["train_slots"]), -(-GEOMETRY["train_slots"] // 8))
            spent = small >= GEOMETRY["small_slots"] / 8 or len(slots) - small >= trains
            others = bool(peers - {row})
            is_late = self.waits(row, number) and self.is_scarce(number, others)
            expected = (spent and others) or is_late
            assert bool(lib.pool_share_is_spent(pool, row)) == expected

    @staticmethod
    def waits(row: int, number: int) -> bool:
        """Every other row has no keys: what comes for it from inside would wait for a session."""
        return number % lib.DIRECTIONS == lib.OUTBOUND and row % 2 == 1

    def is_scarce(self, number: int, others: bool) -> bool:
        """Half of the slots are out, or beside others an eighth of the large ones."""
        slots = {slot for n, slot, _ in self.books.values() if n == number}
        small = sum(slot < GEOMETRY["small_slots"] for slot in slots)
        trains = len(slots) - small
        is_half = 2 * small >= GEOMETRY["small_slots"]
        return is_half or (8 if others else 2) * trains >= GEOMETRY["train_slots"]

    def peer(self, node: int) -> int:
        peer: int = self.segment.node[node].peer
        return peer

    @invariant()
    def is_valid(self) -> None:
        if hasattr(self, "data"):
            held = {self.peer(node) for node in self.in_hand}
            for queue in range(2 * self.ROWS):  # what is in hand belongs to a holder
                token = lib.TOKEN_HELD | self.mark if queue // 2 in held else lib.TOKEN_IDLE
                self.segment.tokens[lib.token_place(queue)] = token
            assert faults(self.data) == ""


class Scheduling(RuleBasedStateMachine):
    """Model: a token and work flags for each direction of a row, a set of bits a consumer. Rows, queues on
    all edges of the bitmap."""

    ROWS = (0, 1, 31, 32, 63, 64, 2047, 2048, 4095, 4096, 8191)
    QUEUES = tuple(2 * row + direction for row in ROWS for direction in range(2))
    row, queue = st.sampled_from(ROWS), st.sampled_from(QUEUES)

    @initialize()
    def begin(self) -> None:
        self.data = make(8192, max_peers=8192)
        self.segment = self.data.segment
        self.pools = [ffi.new("struct pool *") for _ in range(4)]
        for number, pool in enumerate(self.pools):
            assert lib.pool_open(pool, self.segment, number) == 0
        self.token = dict.fromkeys(self.QUEUES, lib.TOKEN_IDLE)
        self.consumer = dict.fromkeys(self.QUEUES, 0)
        self.bits: list[set[int]] = [set(), set(), set()]
        self.cursor = [ffi.new("uint32_t *") for _ in range(3)]
        self.holder: dict[int, int] = {}
        self.waiting: dict[int, int] = defaultdict(int)  # queue: nodes
        self.orders = dict.fromkeys(self.ROWS, 0)
        self.events = dict.fromkeys(self.ROWS, 0)
        self.staged = dict.fromkeys(self.ROWS, False)

    def teardown(self) -> None:
        if hasattr(self, "data"):
            for pool in self.pools:
                lib.pool_close(pool)
            self.data.close()

    def scheduled(self, queue: int) -> None:
        if self.token[queue] == lib.TOKEN_IDLE:
            self.token[queue] = lib.TOKEN_QUEUED
            self.bits[1 + self.consumer[queue]].add(queue)

    def has_orders(self, queue: int) -> bool:
        """Inbound's first; outbound's when none of those is left, RETIRE when inbound has retired."""
        bits = self.orders[queue // 2]
        if queue % 2 == lib.INBOUND:
            return bool(bits & lib.ORDERS_INBOUND)
        if bits & lib.ORDER_RETIRE:
            return self.token[queue - 1] == lib.TOKEN_DEAD
        return bool(bits & lib.ORDERS_OUTBOUND and not bits & lib.ORDERS_INBOUND)

    def has_work(self, queue: int, staged: bool) -> bool:
        return self.has_orders(queue) or bool(self.waiting[queue] and not staged)

    @rule(queue=queue, schedule=st.booleans())
    def push(self, queue: int, schedule: bool) -> None:
        """Without `schedule` the producer was killed in between."""
        pool = self.pools[queue % 2]
        lib.pool_sweep(pool)
        slot = lib.pool_take_small(pool)
        if slot == NONE:
            return
        node = lib.pool_issue(pool, slot, queue // 2)
        self.segment.node[node].packets = 1
        assert lib.queue_push_mpsc(self.segment, lib.WORKER_RECEIVER, queue, node, node, 1) == 0
        self.waiting[queue] += 1
        if schedule:
            lib.queue_schedule(self.segment, queue)
            self.scheduled(queue)

    @rule(row=row, bits=st.integers(1, 8191))
    def order(self, row: int, bits: int) -> None:
        lib.orders_give(self.segment, row, bits)
        lib.peer_schedule(self.segment, row)
        self.orders[row] |= bits
        for queue in (2 * row, 2 * row + 1):
            if self.has_orders(queue):
                self.scheduled(queue)

    @rule(queue=queue, consumer=st.integers(0, 1))
    def move(self, queue: int, consumer: int) -> None:
        self.segment.rows[queue // 2].consumer[queue % 2] = self.consumer[queue] = consumer

    @rule(set_=st.integers(0, 2))
    def take(self, set_: int) -> None:
        cursor = self.cursor[set_]
        expected = min(self.bits[set_], key=lambda place: (place < cursor[0], place), default=NONE)
        place = lib.ready_take(self.segment, set_, cursor)
        assert place == expected
        if place == NONE:
            assert lib.ready_is_empty(self.segment, set_)
            return
        self.bits[set_].remove(place)
        if set_ == 0:
            word = lib.events_read(self.segment, place)
            assert word & 0xFFFFFFFF == self.events[place]
            assert lib.events_clear(self.segment, place, word)
            self.events[place] = 0
            return
        taken = lib.token_take(self.segment, place, mark(self.data, lib.WORKER_CONSUMER + set_ - 1))
        assert bool(taken) == (self.token[place] == lib.TOKEN_QUEUED)
        if taken:
            self.hold(place, lib.WORKER_CONSUMER + set_ - 1)

    @rule(row=row)
    def ready_without_news(self, row: int) -> None:
        """Control took the word between its change and the bit."""
        lib.ready_set(self.segment, 0, row)
        self.bits[0].add(row)

    @rule(
        most=st.integers(1, 4),
        more=st.dictionaries(row, st.integers(1, 31), max_size=3),
        left=st.integers(0, 2),
    )
    def take_events(self, most: int, more: dict[int, int], left: int) -> None:
        """Control takes several rows; some are told `more` before it is done, the last few it leaves."""
        cursor, taken = self.cursor[0], []
        for row in sorted(self.bits[0], key=lambda row: (row < cursor[0], row)):
            if len(taken) < most:
                self.bits[0].remove(row)
                taken += [row] if self.events[row] else []
        rows, words = ffi.new("uint32_t[]", most), ffi.new("uint64_t[]", most)
        count = lib.events_take(self.segment, cursor, rows, words, most)
        assert list(rows[0:count]) == taken
        assert [word & 0xFFFFFFFF for word in words[0:count]] == [self.events[row] for row in taken]
        for row, event in more.items():
            lib.events_give(self.segment, row, event)
            self.events[row] |= event
            self.bits[0].add(row)
        for at in range(max(count - left, 0), count):
            words[at] = (1 << 64) - 1
            self.bits[0].add(taken[at])
        lib.events_settle(self.segment, rows, words, count)
        for row in set(taken[: max(count - left, 0)]) - set(more):
            self.events[row] = 0

    @rule(queue=queue)
    def take_idle(self, queue: int) -> None:
        taken = lib.token_take_idle(self.segment, queue, mark(self.data, lib.WORKER_RECEIVER))
        assert bool(taken) == (self.token[queue] == lib.TOKEN_IDLE)
        if taken:
            self.hold(queue, lib.WORKER_RECEIVER)

    def hold(self, queue: int, worker: int) -> None:
        self.token[queue] = lib.TOKEN_HELD | mark(self.data, worker)
        self.holder[queue] = worker

    @precondition(lambda self: self.holder)
    @rule(
        data=st.data(), again=st.booleans(), staged=st.booleans(), apply=st.booleans(), drain=st.booleans(),
        event=st.integers(0, 31),
    )  # fmt: skip
    def give(
        self, data: st.DataObject, again: bool, staged: bool, apply: bool, drain: bool, event: int
    ) -> None:
        queue = data.draw(st.sampled_from(sorted(self.holder)))
        row, worker = queue // 2, self.holder.pop(queue)
        staged = staged and queue % 2 == lib.OUTBOUND
        if apply:
            word = lib.orders_read(self.segment, row)
            assert word & 0xFFFFFFFF == self.orders[row]
            bits = (lib.ORDERS_INBOUND, lib.ORDERS_OUTBOUND)[queue % 2]
            assert lib.orders_clear(self.segment, row, word, bits)
            assert not self.orders[row] & bits or not lib.orders_clear(self.segment, row, word, bits)
            self.orders[row] &= ~bits
        if drain and not staged:
            self.drain(queue, mark(self.data, worker))
        if event:
            lib.events_give(self.segment, row, event)
            self.events[row] |= event
            self.bits[0].add(row)
        self.token[queue] = lib.TOKEN_IDLE
        if again:
            lib.queue_give_back(self.segment, queue)
            self.scheduled(queue)
            return
        lib.queue_give(self.segment, queue, staged)
        if queue % 2 == lib.OUTBOUND:
            self.staged[row] = staged
        if self.has_work(queue, staged):
            self.scheduled(queue)

    @precondition(lambda self: self.holder)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        """Its holder sets the token dead, and schedules the other direction."""
        queue = data.draw(st.sampled_from(sorted(self.holder)))
        del self.holder[queue]
        lib.token_give_dead(self.segment, queue)
        self.token[queue] = lib.TOKEN_DEAD
        lib.peer_schedule(self.segment, queue // 2)
        for either in (queue, queue ^ 1):
            if self.has_orders(either):
                self.scheduled(either)

    @rule(row=row)
    def live_again(self, row: int) -> None:
        """Control uses a dead row again."""
        for queue in (2 * row, 2 * row + 1):
            if self.token[queue] == lib.TOKEN_DEAD:
                lib.token_initialise(self.segment, queue)
                self.token[queue] = lib.TOKEN_IDLE

    def drain(self, queue: int, mark_: int) -> None:
        numbers = ffi.new("uint32_t[64]")
        taken = lib.queue_pop_sc(self.segment, mark_, queue, numbers, 64, 64)
        assert taken == min(64, self.waiting[queue])
        self.waiting[queue] -= taken
        for number in numbers[0:taken]:
            lib.node_bring_home(self.segment, number)

    @rule(queue=queue)
    def lose_a_bit(self, queue: int) -> None:
        """A taker killed between the bit and the token."""
        for consumer in range(2):
            if queue in self.bits[1 + consumer]:
                word = (1 + consumer) * self.segment.ready_words + queue // 64
                self.segment.ready[word] &= ~(1 << queue % 64)
                self.bits[1 + consumer].remove(queue)

    def lost(self, queue: int) -> bool:
        if self.token[queue] == lib.TOKEN_IDLE:
            return self.has_work(queue, queue % 2 == lib.OUTBOUND and self.staged[queue // 2])
        return self.token[queue] == lib.TOKEN_QUEUED and not any(queue in bits for bits in self.bits[1:])

    def mend(self, row: int) -> None:
        """Both directions: queued ones have their bit again, idle ones with anything to do are scheduled."""
        for queue in (2 * row, 2 * row + 1):
            self.mend_queue(queue)

    def mend_queue(self, queue: int) -> None:
        if self.token[queue] == lib.TOKEN_QUEUED:
            self.bits[1 + self.consumer[queue]].add(queue)
        elif self.has_work(queue, False):
            self.scheduled(queue)

    @rule()
    def sweep_twice(self) -> None:
        """Nothing moves in between, so the second look mends exactly the queues where something was lost."""
        lost = [queue for queue in self.QUEUES if self.lost(queue)]
        lib.schedule_sweep(self.segment, 0, 8192)
        mended = lib.schedule_sweep(self.segment, 0, 8192)
        assert mended <= len(lost)
        for queue in lost:
            self.mend_queue(queue)

    @rule(worker=st.sampled_from([lib.WORKER_CONSUMER, lib.WORKER_CONSUMER + 1]))
    def kill(self, worker: int) -> None:
        """A holder dies with its queues in hand; its tokens, all bits must be there again, control told."""
        self.segment.workers[worker].journal_latest = 0
        repair = ffi.new("struct repair *")
        lib.repair_worker(self.segment, worker, repair)
        held = [queue for queue, holder in self.holder.items() if holder == worker]
        assert repair.tokens_requeued == len(held)
        for row in self.ROWS:
            if lib.TOKEN_QUEUED in (self.token[2 * row], self.token[2 * row + 1]):
                self.mend(row)
            for queue in {2 * row, 2 * row + 1} & set(held):
                del self.holder[queue]
                self.token[queue] = lib.TOKEN_QUEUED
                self.bits[1 + self.consumer[queue]].add(queue)
                self.events[row] |= lib.EVENT_HOLDER_DIED
                self.bits[0].add(row)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "data"):
            return
        for row in self.ROWS:
            assert bool(lib.ready_is_set(self.segment, 0, row)) == (row in self.bits[0])
            for queue in (2 * row, 2 * row + 1):
                assert lib.token_read(self.segment, queue) == self.token[queue]
                for set_ in (1, 2):
                    assert bool(lib.ready_is_set(self.segment, set_, queue)) == (queue in self.bits[set_])
            assert lib.orders_read(self.segment, row) & 0xFFFFFFFF == self.orders[row]
        for set_ in range(3):
            assert not (self.bits[set_] and lib.ready_is_empty(self.segment, set_))


class Mailbox(RuleBasedStateMachine):
    """Model: a deque of messages a receiver."""

    CELLS = GEOMETRY["mailbox_cells"]

    @initialize()
    def begin(self) -> None:
        self.data = make(1)
        self.rings: list[deque[tuple[int, bytes]]] = [deque(), deque()]
        self.taken = 0

    def teardown(self) -> None:
        if hasattr(self, "data"):
            self.data.close()

    @rule(receiver=st.integers(0, 2), port=st.integers(0, 65535), message=st.binary(max_size=200))
    def put(self, receiver: int, port: int, message: bytes) -> None:
        endpoint = ffi.new("struct endpoint *", {"family": 2, "port": port, "scope": receiver})
        refused = lib.mailbox_put(self.data.segment, receiver, endpoint, message, len(message))
        too_long = len(message) > lib.MAILBOX_MESSAGE_BYTES
        assert bool(refused) == (receiver == 2 or too_long or len(self.rings[receiver]) == self.CELLS)
        if not refused:
            self.rings[receiver].append((port, message))

    @rule(most=st.integers(0, 20))
    def take(self, most: int) -> None:
        cells = ffi.new("struct mailbox_cell[20]")
        taken = lib.mailbox_take(self.data.segment, cells, most)
        assert taken == min(most, sum(map(len, self.rings)))
        self.taken += taken
        before = [len(ring) for ring in self.rings]
        for cell in cells[0:taken]:
            sender = getattr(cell, "from")
            message = bytes(ffi.buffer(cell.message, cell.length))
            assert self.rings[sender.scope].popleft() == (sender.port, message)
        used = [start - len(ring) for start, ring in zip(before, self.rings, strict=True)]
        if min(before) >= max(used):  # both had enough: turns
            assert abs(used[0] - used[1]) <= 1

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "data"):
            assert lib.mailbox_waiting(self.data.segment) == sum(map(len, self.rings))
            assert lib.mailbox_taken(self.data.segment) == self.taken


class Parts(RuleBasedStateMachine):
    """Model: of each part its state and its helper; of each worker whether it says it offers or helps."""

    RECEIVERS = (lib.WORKER_RECEIVER, lib.WORKER_RECEIVER + 1)
    WORKERS = (*RECEIVERS, lib.WORKER_CONSUMER, lib.WORKER_CONSUMER + 1)
    NUMBERS = range(lib.PARTS)
    worker, number = st.sampled_from(WORKERS), st.sampled_from(NUMBERS)

    @initialize(without=st.none() | worker)
    def begin(self, without: int | None) -> None:
        """without: the worker that has no memory for parts."""
        self.data = make(1)
        self.segment = self.data.segment
        self.state = {(lender, n): "free" for lender in self.WORKERS for n in self.NUMBERS}
        self.helper: dict[tuple[int, int], int] = {}
        self.offering: set[int] = set()
        self.helping: set[int] = set()
        self.without = without
        for lender in self.WORKERS:
            self.segment.workers[lender].lends = lender != without
        places = {int(ffi.cast("uintptr_t", lib.part_of(self.segment, *part))) for part in self.state}
        rooms = sorted(int(ffi.cast("uintptr_t", lib.part_room(self.segment, w))) for w in self.WORKERS)
        assert len(places) == len(self.state)
        assert all(b - a >= lib.PART_ROOM_BYTES for a, b in itertools.pairwise(rooms))

    def teardown(self) -> None:
        if hasattr(self, "data"):
            self.data.close()

    def bit(self, workers: set[int]) -> int:
        return sum(1 << self.WORKERS.index(worker) for worker in workers)

    @rule(lender=worker, number=number)
    def offer(self, lender: int, number: int) -> None:
        if lender == self.without or self.state[lender, number] != "free":
            return
        lib.part_offer(self.segment, lender, number)
        self.state[lender, number] = "offered"

    @rule(lender=worker, number=number)
    def take_back(self, lender: int, number: int) -> None:
        is_back = self.state[lender, number] == "offered"
        assert bool(lib.part_take_back(self.segment, lender, number)) == is_back
        if is_back:
            self.state[lender, number] = "free"

    @rule(lender=worker, says=st.booleans())
    def say_offering(self, lender: int, says: bool) -> None:
        lib.parts_say_offering(self.segment, lender, says)
        (self.offering.add if says else self.offering.discard)(lender)

    @rule(helper=worker, says=st.booleans())
    def say_helping(self, helper: int, says: bool) -> None:
        lib.parts_say_helping(self.segment, helper, says)
        (self.helping.add if says else self.helping.discard)(helper)

    @rule(helper=worker)
    def take(self, helper: int) -> None:
        """The last part that is offered by the first lender that says so."""
        found = [
            (lender, n)
            for lender in self.WORKERS
            for n in reversed(self.NUMBERS)
            if lender in self.offering and self.state[lender, n] == "offered"
        ]
        lender, number = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        taken = lib.part_take(self.segment, mark(self.data, helper), lender, number)
        assert bool(taken) == bool(found)
        if found:
            assert (lender[0], number[0]) == found[0]
            self.state[found[0]], self.helper[found[0]] = "taken", helper

    @precondition(lambda self: self.helper)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        part = data.draw(st.sampled_from(sorted(self.helper)))
        lib.part_done(self.segment, *part)
        del self.helper[part]
        self.state[part] = "done"

    @rule(lender=worker)
    def are_free(self, lender: int) -> None:
        own = [self.state[lender, n] for n in self.NUMBERS]
        is_free = not {"offered", "taken"} & set(own)
        assert bool(lib.parts_are_free(self.segment, lender)) == is_free
        for n in self.NUMBERS:  # up to the first that is not
            if own[n] in ("offered", "taken"):
                break
            self.state[lender, n] = "free"

    @rule(worker=worker)
    def kill(self, worker: int) -> None:
        """What it offered is free, what it had taken is lost, what others have of it stays theirs."""
        lib.repair_worker(self.segment, worker, ffi.new("struct repair *"))
        for n in self.NUMBERS:
            if self.state[worker, n] == "offered":
                self.state[worker, n] = "free"
        for part in [part for part, helper in self.helper.items() if helper == worker]:
            del self.helper[part]
            self.state[part] = "lost"
        if worker != self.without:
            self.offering.discard(worker)
            self.helping.discard(worker)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "data"):
            return
        assert self.segment.lending.offering == self.bit(self.offering)
        assert lib.parts_helpers(self.segment) == self.bit(self.helping)
        words = {word: getattr(lib, f"PART_{word.upper()}") for word in ("free", "offered", "done", "lost")}
        for part, state in self.state.items():
            taken = lib.PART_TAKEN | mark(self.data, self.helper.get(part, 0))
            assert lib.part_of(self.segment, *part).state == words.get(state, taken)
            read = lib.part_read(self.segment, *part)
            assert read == (words[state] if state in ("done", "lost") else lib.PART_TAKEN)


TestQueuesAndPools = QueuesAndPools.TestCase
TestQueuesAndPools.settings = BUDGET
TestScheduling = Scheduling.TestCase
TestScheduling.settings = BUDGET
TestParts = Parts.TestCase
TestParts.settings = BUDGET
TestMailbox = Mailbox.TestCase
TestMailbox.settings = BUDGET


def test_nothing_is_taken_from_who_has_no_memory_for_parts() -> None:
    """Workers share a bit of the hint with those 64 further on."""
    data = make(1)
    lib.parts_say_offering(data.segment, lib.WORKER_CONSUMER, True)
    part = lib.part_of(data.segment, lib.WORKER_CONSUMER, 0)
    part.state = lib.PART_OFFERED
    lender, number = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    for lends in (0, 1):
        data.segment.workers[lib.WORKER_CONSUMER].lends = lends
        assert lib.part_take(data.segment, mark(data, lib.WORKER_RECEIVER), lender, number) == lends
    data.close()


def test_a_row_without_news_does_not_end_the_round_early() -> None:
    """Found by Scheduling: the first row taken was only looked for among those with news."""
    data = make(8192, max_peers=8192)
    cursor = ffi.new("uint32_t *", 4096)
    for row in (0, 1):
        lib.events_give(data.segment, row, 1)
    lib.ready_set(data.segment, 0, 8191)
    rows, words = ffi.new("uint32_t[4]"), ffi.new("uint64_t[4]")
    assert list(rows[0 : lib.events_take(data.segment, cursor, rows, words, 4)]) == [0, 1]
    data.close()


def test_a_row_that_is_told_more_all_the_time_is_taken_once() -> None:
    """The others have their turn, and the row stays ready."""
    rows_ready, most, times = 1024, 4096, 1 << 15
    data = make(rows_ready, max_peers=rows_ready)
    for row in range(rows_ready):
        lib.events_give(data.segment, row, 1)
    # What is settled by words that are old by now is ready once more: many rows at one call, without the GIL.
    old = ffi.new("uint64_t[]", [(1 << 64) - 1] * times)
    every, row_0 = ffi.new("uint32_t[]", list(range(rows_ready))), ffi.new("uint32_t[]", times)
    is_over = threading.Event()

    def tell() -> None:
        while not is_over.is_set():
            lib.events_settle(data.segment, row_0, old, times)

    teller = threading.Thread(target=tell)
    teller.start()
    rows, words = ffi.new("uint32_t[]", most), ffi.new("uint64_t[]", most)
    try:
        for _ in range(500):
            lib.events_settle(data.segment, every, old, rows_ready)
            count = lib.events_take(data.segment, ffi.new("uint32_t *"), rows, words, most)
            assert count == len(set(rows[0:count])) == rows_ready
    finally:
        is_over.set()
        teller.join()
    data.close()
