/* validate: many threads over one segment, every structure at once.
 *
 * Receivers push chains to a few peers and now and then take an idle peer's token (inline) and
 * drain; consumers drain what is scheduled; a mover changes the peers' consumers and gives
 * orders. Per peer and receiver the packets must come out in the order in which they went in, each
 * exactly once, with their contents; books must be square at the end; and no wake may be lost: a
 * consumer whose long sleep runs out must find nothing to do.
 *
 * What holders keep per peer is plain memory, so ThreadSanitizer checks that the token orders it,
 * as it checks slots and nodes against the queue's publication and the way home.
 *
 * usage: validate [packets of each receiver]
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "world.h"

#define RECEIVERS 2
#define CONSUMERS 2
#define PEERS 3
#define CHAIN 32
#define BUDGET 64
#define LONG_SLEEP 3000000000ull

static struct segment segment;
static uint64_t packets_each = 200000;
static uint32_t receivers_running = RECEIVERS, moving = 1;

/* Plain, the holder's: next number expected of each receiver, orders applied. */
static uint64_t expected[PEERS][RECEIVERS];
static uint32_t applied[PEERS];
static uint64_t taken_total; /* atomic: when to stop */

static uint32_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 32);
}

static void packet_check(uint32_t row, uint32_t number)
{
    const struct node *node = &segment.node[number];
    uint64_t contents;
    CHECK(node->peer == row, "node %u of peer %u in the queue of %u", number, node->peer, row);
    CHECK(node->length < RECEIVERS, "receiver %u", node->length);
    memcpy(&contents, segment.base + node->offset, sizeof contents);
    CHECK(contents >> 56 == node->length, "the slot of another receiver");
    CHECK((contents & 0xffffffffffffff) == expected[row][node->length], "peer %u, receiver %u: %llu instead of %llu",
          row, node->length, (unsigned long long)(contents & 0xffffffffffffff),
          (unsigned long long)expected[row][node->length]);
    expected[row][node->length]++;
}

static void endpoint_make(struct endpoint *endpoint, uint32_t value)
{
    memset(endpoint, 0, sizeof *endpoint);
    endpoint->scope = endpoint->source_ifindex = value;
}

/* Holder. 1 when the budget ran out. */
static int drain(uint32_t mark, uint32_t row)
{
    struct endpoint endpoint;
    endpoint_make(&endpoint, (uint32_t)expected[row][0]);
    endpoint_store(&segment, row, &endpoint);
    uint32_t numbers[BUDGET], budget = BUDGET;
    uint64_t word = orders_read(&segment, row);
    while ((uint32_t)word != 0) {
        applied[row] = __atomic_load_n(&segment.rows[row].installing, __ATOMIC_RELAXED);
        if (orders_clear(&segment, row, word, ORDERS_INBOUND))
            break;
        word = orders_read(&segment, row);
    }
    while (budget > 0) {
        uint32_t taken = queue_pop_sc(&segment, mark, 2 * row, numbers, budget, budget);
        if (taken == 0)
            return 0;
        for (uint32_t i = 0; i < taken; i++)
            packet_check(row, numbers[i]);
        for (uint32_t i = 0; i < taken; i++)
            node_bring_home(&segment, numbers[i]);
        __atomic_fetch_add(&taken_total, taken, __ATOMIC_RELAXED);
        budget -= taken < budget ? taken : budget;
    }
    return 1;
}

static void give(uint32_t row, int again)
{
    if (again)
        queue_give_back(&segment, 2 * row);
    else
        queue_give(&segment, 2 * row, 0);
}

/* A chain of up to `length` packets for one peer; returns how many went out. */
static uint32_t burst(struct pool *pool, uint32_t receiver, uint32_t row, uint64_t from, uint32_t length)
{
    uint32_t nodes[CHAIN], count = 0;
    while (count < length) {
        uint32_t slot = pool_take_small(pool);
        if (slot == 0xffffffff)
            break;
        uint32_t number = pool_issue(pool, slot, row);
        CHECK(number != 0, "a slot without a node");
        struct node *node = &segment.node[number];
        uint8_t *bytes = pool_slot(pool, slot);
        uint64_t contents = (uint64_t)receiver << 56 | (from + count);
        memcpy(bytes, &contents, sizeof contents);
        node->offset = (uint64_t)((char *)bytes - segment.base);
        node->length = receiver;
        node->packets = 1;
        if (count != 0)
            queue_link(&segment, nodes[count - 1], number);
        nodes[count++] = number;
    }
    if (count == 0)
        return 0;
    if (queue_push_mpsc(&segment, WORKER_RECEIVER + receiver, 2 * row, nodes[0], nodes[count - 1], count) == 0)
        return count;
    for (uint32_t i = 0; i < count; i++)
        pool_withdraw(pool, nodes[i]);
    return 0;
}

static void *receiver_run(void *argument)
{
    uint32_t receiver = (uint32_t)(uintptr_t)argument, worker = WORKER_RECEIVER + receiver;
    uint64_t random = 88172645463325252ull + receiver, sent[PEERS] = { 0 }, total = 0;
    struct pool pool;
    CHECK(pool_open(&pool, &segment, 2 * receiver) == 0, "no memory");
    while (total < packets_each) {
        uint32_t row = draw(&random) % PEERS;
        uint64_t left = packets_each - total;
        uint32_t length = 1 + draw(&random) % CHAIN;
        uint32_t out = burst(&pool, receiver, row, sent[row], left < length ? (uint32_t)left : length);
        sent[row] += out;
        total += out;
        if (draw(&random) % 4 == 0 && token_take_idle(&segment, 2 * row, mark_of(&segment, worker)))
            give(row, drain(mark_of(&segment, worker), row));
        else
            queue_schedule(&segment, 2 * row);
        if (pool_sweep(&pool) == 0 && out == 0)
            sched_yield();
    }
    __atomic_fetch_sub(&receivers_running, 1, __ATOMIC_RELEASE);
    while (pool.free_nodes < segment.geometry.nodes_a_pool) { /* all come home in the end */
        if (pool_sweep(&pool) == 0)
            usleep(200);
    }
    CHECK(pool.free_small == segment.geometry.small_slots, "%u slots free", pool.free_small);
    for (uint32_t row = 0; row < PEERS; row++)
        CHECK(pool.peer_slots[row] == 0, "peer %u is charged with %u slots", row, pool.peer_slots[row]);
    pool_close(&pool);
    return NULL;
}

static int is_over(void)
{
    return __atomic_load_n(&receivers_running, __ATOMIC_ACQUIRE) == 0 && !__atomic_load_n(&moving, __ATOMIC_ACQUIRE) &&
           __atomic_load_n(&taken_total, __ATOMIC_RELAXED) == packets_each * RECEIVERS;
}

static void consumer_turn(uint32_t consumer, uint32_t queue)
{
    uint32_t row = queue / DIRECTIONS, owner = __atomic_load_n(&segment.rows[row].consumer[INBOUND], __ATOMIC_ACQUIRE);
    uint32_t mark = mark_of(&segment, WORKER_CONSUMER + consumer);
    if (owner != consumer) {
        ready_set(&segment, 1 + owner, queue);
        bell_ring(&segment, WORKER_CONSUMER + owner, -1);
    } else if (token_take(&segment, queue, mark)) {
        give(row, drain(mark, row));
    }
}

static void *consumer_run(void *argument)
{
    uint32_t consumer = (uint32_t)(uintptr_t)argument, worker = WORKER_CONSUMER + consumer, cursor = 0;
    while (!is_over()) {
        uint32_t queue = ready_take(&segment, 1 + consumer, &cursor);
        if (queue != 0xffffffff) {
            consumer_turn(consumer, queue);
            continue;
        }
        bell_announce(&segment, worker);
        if (!ready_is_empty(&segment, 1 + consumer) || is_over()) {
            bell_cancel(&segment, worker);
            continue;
        }
        if (!bell_wait(&segment, worker, LONG_SLEEP))
            CHECK(ready_is_empty(&segment, 1 + consumer), "consumer %u slept over its work", consumer);
    }
    return NULL;
}

/* Control's part: moves peers, gives orders, sweeps. */
static void *mover_run(void *argument)
{
    uint64_t random = 4101842887655102017ull, mended = 0;
    uint32_t wishes[PEERS] = { 0 };
    (void)argument;
    while (__atomic_load_n(&receivers_running, __ATOMIC_ACQUIRE) != 0) {
        uint32_t row = draw(&random) % PEERS;
        __atomic_store_n(&segment.rows[row].consumer[INBOUND], draw(&random) % CONSUMERS, __ATOMIC_RELEASE);
        row = draw(&random) % PEERS;
        __atomic_store_n(&segment.rows[row].installing, ++wishes[row], __ATOMIC_RELAXED);
        orders_give(&segment, row, ORDER_INSTALL);
        peer_schedule(&segment, row);
        for (int i = 0; i < 100; i++) {
            struct endpoint endpoint;
            endpoint_load(&segment, row, &endpoint);
            CHECK(endpoint.scope == endpoint.source_ifindex, "half of two endpoints: %u and %u", endpoint.scope,
                  endpoint.source_ifindex);
        }
        usleep(50);
    }
    for (uint32_t row = 0; row < PEERS; row++)
        while ((uint32_t)orders_read(&segment, row) != 0)
            usleep(200); /* the alarm ends this when an order is forgotten */
    for (int sweep = 0; sweep < 3; sweep++, usleep(20000))
        mended += schedule_sweep(&segment, 0, PEERS);
    (void)mended; /* the last holders may be at it: only the end's sweep must find nothing */
    for (uint32_t row = 0; row < PEERS; row++) {
        while (!token_take_idle(&segment, 2 * row, mark_of(&segment, WORKER_CONTROL)))
            usleep(200);
        CHECK(applied[row] == wishes[row], "peer %u: order %u of %u", row, applied[row], wishes[row]);
        queue_give(&segment, 2 * row, 0);
    }
    __atomic_store_n(&moving, 0, __ATOMIC_RELEASE);
    return NULL;
}

int main(int count, char **arguments)
{
    struct geometry geometry = {
        .max_peers = 64,
        .max_keypairs = 64,
        .max_receivers = RECEIVERS,
        .max_consumers = CONSUMERS,
        .nodes_a_pool = 128,
        .small_slots = 112,
        .train_slots = 4,
        .mailbox_cells = 16,
        .max_trie_nodes = 64,
        .public_key_buckets = 64,
    };
    pthread_t threads[RECEIVERS + CONSUMERS + 1];
    uint32_t started = 0, numbers[1];
    if (count > 1)
        packets_each = strtoull(arguments[1], NULL, 10);
    alarm(120); /* a wake or a packet lost must not hang the tests */
    world_make(&segment, &geometry, PEERS, MAP_SHARED);
    for (uintptr_t i = 0; i < CONSUMERS; i++)
        CHECK(pthread_create(&threads[started++], NULL, consumer_run, (void *)i) == 0, "no thread");
    for (uintptr_t i = 0; i < RECEIVERS; i++)
        CHECK(pthread_create(&threads[started++], NULL, receiver_run, (void *)i) == 0, "no thread");
    CHECK(pthread_create(&threads[started++], NULL, mover_run, NULL) == 0, "no thread");
    for (uint32_t i = CONSUMERS; i < started; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < CONSUMERS; i++)
        bell_wake(&segment, WORKER_CONSUMER + i);
    for (uint32_t i = 0; i < CONSUMERS; i++)
        pthread_join(threads[i], NULL);

    uint64_t total = 0;
    for (uint32_t row = 0; row < PEERS; row++) {
        CHECK(queue_pop_sc(&segment, 1, 2 * row, numbers, 1, 1) == 0, "a packet is left");
        CHECK(segment.rows[row].ends[0].produced == segment.rows[row].heads[0].consumed, "the counts differ");
        for (uint32_t receiver = 0; receiver < RECEIVERS; receiver++)
            total += expected[row][receiver];
    }
    CHECK(total == packets_each * RECEIVERS, "%llu packets", (unsigned long long)total);
    CHECK(schedule_sweep(&segment, 0, PEERS) + schedule_sweep(&segment, 0, PEERS) == 0, "a wake was lost");
    world_check(&segment);
    printf("%llu packets of %u receivers to %u peers: in order, once, whole\n", (unsigned long long)total, RECEIVERS,
           PEERS);
    return 0;
}
