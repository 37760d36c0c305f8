/* queue_bench: a packet is a slot and a node of its own here, as a receiver takes it in. Taking slots
 * and nodes costs more than the queue, so it is done before the clock starts (and has a row of its own,
 * without a queue). Between two looks at the clock stand push, pop, the look at the node and the way home.
 *
 * A burst is one chain. Nobody sleeps: a full or empty queue is waited for by spinning, then by yielding.
 *
 * The sequence number travels in receiver_index; the producer is told by the node's pool.
 */
#include "queue_bench.h"

#include "shm/pool.h"
#include "shm/queue.h"
#include "shm/token.h"

#include <sched.h>
#include <time.h>

#define QUEUE 0
#define ROW 0
#define BATCH 64           /* packets of one pop: TAKE_BUDGET */
#define SPINS 256          /* looks before the core is given away */
#define STUCK 20000000000  /* ns without progress */
#define NOBODY 0xffffffffu

struct wait {
    uint32_t looks;
    int64_t since;
};

/* A producer's section: its packets in order, and how far it is with them. */
struct load {
    uint32_t numbers[BENCH_SECTION];
    uint32_t sent;
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* One look was in vain. -1: the run has failed. */
static int waited(struct bench_area *area, struct wait *wait)
{
    if (++wait->looks < SPINS) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        return 0;
    }
    wait->looks = 0;
    sched_yield();
    int64_t time = now();
    if (wait->since == 0)
        wait->since = time;
    if (time - wait->since > STUCK)
        __atomic_store_n(&area->failed, BENCH_STUCK, __ATOMIC_RELAXED);
    return __atomic_load_n(&area->failed, __ATOMIC_RELAXED) ? -1 : 0;
}

static int meet(struct bench_area *area, uint32_t arrivals)
{
    struct wait wait = { 0 };
    __atomic_fetch_add(&area->arrived, 1, __ATOMIC_ACQ_REL);
    while ((int32_t)(__atomic_load_n(&area->arrived, __ATOMIC_ACQUIRE) - arrivals) < 0)
        if (waited(area, &wait))
            return -1;
    return 0;
}

/* -- pushing -------------------------------------------------------------------------------- */

/* Slots and nodes for a whole section, linked into bursts. */
static void load_take(struct load *load, struct pool *pool, const struct bench_role *role)
{
    const struct segment *segment = pool->segment;
    for (uint32_t i = 0; i < BENCH_SECTION; i++) {
        uint32_t number = pool_issue(pool, pool_take_small(pool), ROW);
        segment->node[number].packets = 1;
        segment->node[number].receiver_index = i;
        load->numbers[i] = number;
        if (i % role->burst)
            queue_link(segment, load->numbers[i - 1], number);
    }
    load->sent = 0;
}

static uint32_t burst_end(const struct load *load, const struct bench_role *role)
{
    uint32_t end = load->sent - load->sent % role->burst + role->burst;
    return end < BENCH_SECTION ? end : BENCH_SECTION;
}

/* The next burst. Returns how many went in: none where there is no room. */
static uint32_t load_push(struct load *load, const struct segment *segment, const struct bench_role *role)
{
    uint32_t began = load->sent, end = burst_end(load, role);
    if (queue_push_mpsc(segment, WORKER_RECEIVER + role->receiver, QUEUE, load->numbers[began],
                        load->numbers[end - 1], end - began))
        return 0;
    load->sent = end;
    return end - began;
}

/* -- taking --------------------------------------------------------------------------------- */

/* Looks at each node as a holder does, and sends it home. -1: a producer's order is broken. */
static int batch_verify(const struct segment *segment, struct bench_area *area, const uint32_t *numbers,
                        uint32_t count, uint32_t *expected)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t receiver = (numbers[i] - 1) / segment->geometry.nodes_a_pool / 2;
        if (receiver >= MAX_RECEIVERS || segment->node[numbers[i]].receiver_index != expected[receiver]++) {
            __atomic_store_n(&area->failed, BENCH_DISORDER, __ATOMIC_RELAXED);
            return -1;
        }
        node_bring_home(segment, numbers[i]);
    }
    return 0;
}

/* -- one section ---------------------------------------------------------------------------- */

static int section_pass(const struct segment *segment, struct bench_area *area,
                        const struct bench_role *role, struct load *load)
{
    uint32_t numbers[BATCH], expected[MAX_RECEIVERS] = { 0 }, taken = 0;
    uint32_t wanted = role->takes ? role->producers * BENCH_SECTION : 0;
    uint32_t mine = role->receiver == NOBODY ? 0 : BENCH_SECTION;
    struct wait wait = { 0 };

    while (taken < wanted || load->sent < mine) {
        uint32_t moved = load->sent < mine ? load_push(load, segment, role) : 0;
        if (taken < wanted) {
            uint32_t count = queue_pop_sc(segment, worker_mark(WORKER_CONSUMER, 1), QUEUE, numbers, BATCH, BATCH);
            if (batch_verify(segment, area, numbers, count, expected))
                return -1;
            taken += count;
            moved += count;
        }
        if (moved)
            wait = (struct wait){ 0 };
        else if (waited(area, &wait))
            return -1;
    }
    return 0;
}

static int load_return(struct pool *pool, struct bench_area *area)
{
    struct wait wait = { 0 };
    while (pool->free_nodes < pool->segment->geometry.nodes_a_pool) {
        pool_sweep(pool);
        if (pool->free_nodes < pool->segment->geometry.nodes_a_pool && waited(area, &wait))
            return -1;
    }
    return 0;
}

/* What the pool costs by itself: a section's slots and nodes out and home again. */
static int section_pool(struct bench_area *area, const struct bench_role *role, struct pool *pool,
                        struct load *load, int64_t *time)
{
    uint32_t expected[MAX_RECEIVERS] = { 0 };
    int64_t began = now();
    load_take(load, pool, role);
    if (batch_verify(pool->segment, area, load->numbers, BENCH_SECTION, expected) || load_return(pool, area))
        return -1;
    *time = now() - began;
    return 0;
}

static int section(const struct segment *segment, struct bench_area *area, const struct bench_role *role,
                   struct pool *pool, struct load *load, uint32_t arrivals, int64_t *time)
{
    if (!role->has_queue)
        return section_pool(area, role, pool, load, time);
    if (role->receiver != NOBODY)
        load_take(load, pool, role);
    if (meet(area, arrivals))
        return -1;
    int64_t began = now();
    if (section_pass(segment, area, role, load))
        return -1;
    if (role->takes)
        *time = now() - began;
    return role->receiver != NOBODY ? load_return(pool, area) : 0;
}

int bench_sections(const struct segment *segment, struct bench_area *area, const struct bench_role *role,
                   uint32_t sections, int64_t *times)
{
    struct load load = { 0 };
    struct pool pool = { 0 };
    int result = 0;

    if (role->burst - 1 >= BATCH)
        return -1;
    if (role->receiver != NOBODY &&
        (pool_open(&pool, segment, 2 * role->receiver + INBOUND) || pool.free_small < BENCH_SECTION))
        return -1;
    /* Everybody has left the last meeting of the run before, or nobody would be here. */
    uint32_t arrivals = __atomic_load_n(&area->arrived, __ATOMIC_ACQUIRE);
    arrivals -= arrivals % role->processes;
    for (uint32_t i = 0; i < sections && result == 0; i++)
        result = section(segment, area, role, &pool, &load, arrivals + (i + 1) * role->processes, &times[i]);
    pool_close(&pool);
    return result;
}
