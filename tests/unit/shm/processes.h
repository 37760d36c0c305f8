/* processes: what processes do to one peer, and what they may find there. For killed.c and stalled.c. */
#ifndef TESTS_PROCESSES_H
#define TESTS_PROCESSES_H

#include <string.h>

#include "world.h"

/* Each of the two programs uses its part of these. */
#pragma GCC diagnostic ignored "-Wunused-function"

#define ROW 3u
#define QUEUE (2 * ROW + INBOUND)
#define DEAD_RECEIVER WORKER_RECEIVER
#define LIVE_RECEIVER (WORKER_RECEIVER + 1)
#define DEAD_CONSUMER WORKER_CONSUMER
#define LIVE_CONSUMER (WORKER_CONSUMER + 1)
#define PACKETS 96 /* numbers below this */

/* What was pushed and delivered, in memory that child and parent share like the segment. Packet
 * numbers: 1.. of the dead receiver, 33.. of the live one. */
struct ledger {
    uint32_t pushed, delivered;
    uint8_t log[2 * PACKETS];
};

static struct segment segment;
static struct ledger *ledger;
static const char *scenario;
static uint32_t step;
static struct pool pool; /* of the child, or of whoever restarts in its place */

/* One chain of `count` packets numbered from `first`, of receiver 0 or 1. */
static int chain_push(struct pool *from, uint32_t worker, uint32_t first, uint32_t count)
{
    uint32_t nodes[PACKETS];
    for (uint32_t i = 0; i < count; i++) {
        nodes[i] = pool_issue(from, pool_take_small(from), ROW);
        segment.node[nodes[i]].length = first + i;
        segment.node[nodes[i]].packets = 1;
        if (i != 0)
            queue_link(&segment, nodes[i - 1], nodes[i]);
    }
    if (queue_push_mpsc(&segment, worker, QUEUE, nodes[0], nodes[count - 1], count) == 0) {
        queue_schedule(&segment, QUEUE);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++)
        pool_withdraw(from, nodes[i]);
    queue_schedule(&segment, QUEUE);
    return -1;
}

static void holder_drain(uint32_t worker, uint32_t batch)
{
    uint32_t numbers[PACKETS], taken;
    while ((taken = queue_pop_sc(&segment, mark_of(&segment, worker), QUEUE, numbers, batch, batch)) != 0) {
        for (uint32_t i = 0; i < taken; i++) { /* written down first: delivered, then home */
            ledger->log[ledger->delivered] = (uint8_t)segment.node[numbers[i]].length;
            __atomic_store_n(&ledger->delivered, ledger->delivered + 1, __ATOMIC_RELEASE);
        }
        for (uint32_t i = 0; i < taken; i++)
            node_bring_home(&segment, numbers[i]);
    }
}

/* What a consumer process does with one peer of its ready set. 1 when there was one. */
static int consumer_turn(uint32_t worker, uint32_t set, uint32_t batch)
{
    uint32_t cursor = 0, queue = ready_take(&segment, set, &cursor);
    if (queue == 0xffffffff)
        return 0;
    CHECK(queue == QUEUE, "%s, step %u: queue %u", scenario, step, queue);
    __atomic_store_n(&segment.workers[worker].peer_in_hand, ROW + 1, __ATOMIC_RELEASE);
    if (token_take(&segment, queue, mark_of(&segment, worker))) {
        holder_drain(worker, batch);
        queue_give(&segment, queue, 0);
    }
    __atomic_store_n(&segment.workers[worker].peer_in_hand, 0, __ATOMIC_RELEASE);
    return 1;
}

/* ---- what the child may be doing ---- */

static void child_push_one(void) { chain_push(&pool, DEAD_RECEIVER, 1, 1); }
static void child_push_chain(void) { chain_push(&pool, DEAD_RECEIVER, 1, 5); }
static void child_push_twice(void)
{
    chain_push(&pool, DEAD_RECEIVER, 1, 2);
    chain_push(&pool, DEAD_RECEIVER, 3, 2);
}
static void child_consume(void) { consumer_turn(DEAD_CONSUMER, 1, PACKETS); }
static void child_consume_by_two(void) { consumer_turn(DEAD_CONSUMER, 1, 2); }
static void child_inline(void)
{
    __atomic_store_n(&segment.workers[DEAD_RECEIVER].peer_in_hand, ROW + 1, __ATOMIC_RELEASE);
    if (token_take_idle(&segment, QUEUE, mark_of(&segment, DEAD_RECEIVER))) {
        holder_drain(DEAD_RECEIVER, 3);
        queue_give(&segment, QUEUE, 0);
    }
}

/* ---- what stands in the queue before ---- */

static struct pool other; /* the live receiver's */

static void before_empty(void) {}
static void before_three(void) { CHECK(chain_push(&other, LIVE_RECEIVER, 33, 3) == 0, "refused"); }

/* The end lags behind a chain, as a producer leaves it that dies between its two steps. */
static void before_lagging(void)
{
    struct queue_producers *ends = &segment.rows[ROW].ends[INBOUND];
    CHECK(chain_push(&other, LIVE_RECEIVER, 33, 1) == 0, "refused");
    uint64_t end = ends->end;
    CHECK(chain_push(&other, LIVE_RECEIVER, 34, 4) == 0, "refused");
    ends->end = end;
}

static void take_some(uint32_t count)
{
    uint32_t numbers[PACKETS], taken;
    CHECK(token_take(&segment, QUEUE, mark_of(&segment, LIVE_CONSUMER)), "not queued");
    taken = queue_pop_sc(&segment, mark_of(&segment, LIVE_CONSUMER), QUEUE, numbers, count, count);
    CHECK(taken == count, "%u taken", taken);
    for (uint32_t i = 0; i < taken; i++) {
        ledger->log[ledger->delivered++] = (uint8_t)segment.node[numbers[i]].length;
        node_bring_home(&segment, numbers[i]);
    }
    queue_give(&segment, QUEUE, 0);
}

/* The head is a real node and the stub is out of the list. */
static void before_no_stub(void)
{
    before_three();
    take_some(2);
}

/* The stub stands in the middle: a holder pushed it and died, then more came. */
static void before_stub_inside(void)
{
    struct queue_producers *ends = &segment.rows[ROW].ends[INBOUND];
    before_no_stub();
    uint32_t last = segment.rows[ROW].heads[INBOUND].head, stub = STUB_FIRST + QUEUE;
    ends->stub_next = ((ends->stub_next >> 32) + 1) << 32;
    segment.node[last].next |= stub;
    ends->end = (ends->stub_next & ~0xffffffffull) | stub;
    CHECK(chain_push(&other, LIVE_RECEIVER, 36, 2) == 0, "refused");
}

static void before_full(void)
{
    before_three();
    segment.rows[ROW].ends[INBOUND].produced += QUEUE_LIMIT;
}

/* A packet came after its last pop: only the look after the give can find it. */
static void before_held(void)
{
    before_three();
    CHECK(token_take(&segment, QUEUE, mark_of(&segment, DEAD_CONSUMER)), "not queued");
    segment.workers[DEAD_CONSUMER].peer_in_hand = ROW + 1;
    uint32_t cursor = 0;
    CHECK(ready_take(&segment, 1, &cursor) == QUEUE, "not in the set");
}

static void child_give(void)
{
    queue_give(&segment, QUEUE, 0);
    __atomic_store_n(&segment.workers[DEAD_CONSUMER].peer_in_hand, 0, __ATOMIC_RELEASE);
}

static void world_begin(int sharing, uint32_t max_peers)
{
    struct geometry geometry = {
        .max_peers = max_peers, .max_keypairs = 64, .max_receivers = 2, .max_consumers = 2, .nodes_a_pool = 12, .small_slots = 12, .train_slots = 0, .mailbox_cells = 4, .max_trie_nodes = 16, .public_key_buckets = 64
    };
    world_make(&segment, &geometry, ROW + 1, sharing);
    memset(ledger, 0, sizeof *ledger);
    CHECK(pool_open(&pool, &segment, 0) == 0 && pool_open(&other, &segment, 2) == 0, "no memory");
}

static void world_end(void)
{
    pool_close(&pool);
    pool_close(&other);
    munmap(segment.base, segment.bytes);
}

/* All packets in order and at most once; returns how many are missing before the latest that came. */
static uint32_t log_missing(uint32_t live_pushed)
{
    uint8_t seen[256] = { 0 }, last[2] = { 0 };
    uint32_t missing = 0;
    for (uint32_t i = 0; i < ledger->delivered; i++) {
        uint8_t packet = ledger->log[i];
        uint32_t receiver = packet >= 33;
        CHECK(packet != 0 && packet < PACKETS, "%s, step %u: packet %u", scenario, step, packet);
        CHECK(!seen[packet]++, "%s, step %u: packet %u twice", scenario, step, packet);
        CHECK(packet > last[receiver], "%s, step %u: packet %u after %u", scenario, step, packet, last[receiver]);
        last[receiver] = packet;
    }
    for (uint32_t packet = 33; packet < 33 + live_pushed; packet++)
        missing += !seen[packet];
    for (uint32_t packet = 1; packet < last[0]; packet++)
        missing += !seen[packet];
    return missing;
}

static void everything_is_home(void)
{
    struct pool again;
    const struct geometry *g = &segment.geometry;
    for (uint32_t number = 0; number < segment.pools; number++) {
        CHECK(pool_open(&again, &segment, number) == 0, "no memory");
        CHECK(again.free_nodes == g->nodes_a_pool && again.free_small == g->small_slots,
              "%s, step %u: pool %u has %u nodes and %u slots free", scenario, step, number, again.free_nodes,
              again.free_small);
        pool_close(&again);
    }
}

/* Nothing waits, nothing is scheduled, nothing is counted that is not there. */
static void everything_is_quiet(void)
{
    uint32_t numbers[1];
    CHECK(queue_is_empty(&segment, QUEUE), "%s, step %u: packets are left", scenario, step);
    CHECK(token_read(&segment, QUEUE) == TOKEN_IDLE, "%s, step %u: token %#x", scenario, step,
          token_read(&segment, QUEUE));
    CHECK(queue_pop_sc(&segment, 1, QUEUE, numbers, 1, 1) == 0 && queue_packets(&segment, QUEUE) == 0,
          "%s, step %u: counted %u, none there", scenario, step, queue_packets(&segment, QUEUE));
    world_check(&segment);
}

#endif
