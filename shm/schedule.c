/* schedule: nobody who publishes work goes without knowing that somebody will look.
 *
 * Publisher: publish, fence, read the token. Idle: make it queued, set the ready bit, ring.
 * Anything else: the present or next holder will give the token and look afterwards.
 * Holder: token := idle, fence, look once more. Again a store-then-load pair on both sides: either
 * the publisher sees idle or the holder sees what was published.
 *
 * The two directions of a peer tell each other something by an order alone (orders.h): whoever gives the token of
 * one looks for orders too, so that no change of the other's goes unseen.
 *
 * The sweep is for the kill between two of these steps. What it sees may also be somebody in
 * the midst of them, so it mends only what it has found in the same state, without progress,
 * on two sweeps in a row: the count it returns is of wakes that were really lost.
 */
#include "schedule.h"

#include "bell.h"
#include "fence.h"
#include "orders.h"
#include "point.h"
#include "queue.h"
#include "ready.h"
#include "token.h"

#define FLAG_STAGED 1u
#define SUSPECTED (1u << 31)
#define NOBODY 0xffffffffu

/* The queue's consumer, from control's word: read once, never out of range. */
static uint32_t consumer_of(const struct segment *segment, uint32_t queue)
{
    const uint32_t *consumers = segment->rows[queue / DIRECTIONS].consumer;
    uint32_t consumer = __atomic_load_n(&consumers[queue % DIRECTIONS], __ATOMIC_ACQUIRE);
    return consumer < segment->geometry.max_consumers ? consumer : 0;
}

static void consumer_call(const struct segment *segment, uint32_t queue)
{
    uint32_t consumer = consumer_of(segment, queue);
    POINT("schedule: token queued, no ready bit");
    ready_set(segment, 1 + consumer, queue);
    POINT("schedule: ready bit set, bell not rung");
    bell_ring(segment, WORKER_CONSUMER + consumer, -1);
}

int queue_has_orders(const struct segment *segment, uint32_t queue)
{
    uint32_t bits = (uint32_t)__atomic_load_n(&segment->rows[queue / DIRECTIONS].orders, __ATOMIC_RELAXED);
    if (queue % DIRECTIONS == INBOUND)
        return (bits & ORDERS_INBOUND) != 0;
    if (bits & ORDER_RETIRE)
        return token_read(segment, queue - OUTBOUND + INBOUND) == TOKEN_DEAD;
    return (bits & ORDERS_OUTBOUND) != 0 && (bits & ORDERS_INBOUND) == 0;
}

static void schedule_idle(const struct segment *segment, uint32_t queue)
{
    /* relaxed: the look alone decides whether to try */
    if (__atomic_load_n(&segment->tokens[token_place(queue)], __ATOMIC_RELAXED) != TOKEN_IDLE)
        return;
    POINT("schedule: published, token still idle");
    if (token_schedule(segment, queue))
        consumer_call(segment, queue);
}

void queue_schedule(const struct segment *segment, uint32_t queue)
{
    if (queue / DIRECTIONS >= segment->geometry.max_peers)
        return;
    fence_seq_cst(); /* the publication, then the token */
    schedule_idle(segment, queue);
}

void peer_schedule(const struct segment *segment, uint32_t row)
{
    if (row >= segment->geometry.max_peers)
        return;
    fence_seq_cst(); /* the order, then the tokens */
    for (uint32_t direction = 0; direction < DIRECTIONS; direction++)
        if (queue_has_orders(segment, DIRECTIONS * row + direction))
            schedule_idle(segment, DIRECTIONS * row + direction);
}

int peer_is_staged(const struct segment *segment, uint32_t row)
{
    return row < segment->geometry.max_peers &&
           (__atomic_load_n(&segment->rows[row].holder_flags, __ATOMIC_RELAXED) & FLAG_STAGED) != 0;
}

static int has_work(const struct segment *segment, uint32_t queue, int staged)
{
    return queue_has_orders(segment, queue) || (!staged && !queue_is_empty(segment, queue));
}

void queue_give(const struct segment *segment, uint32_t queue, int staged)
{
    if (queue % DIRECTIONS == OUTBOUND) {
        uint32_t *flags = &segment->rows[queue / DIRECTIONS].holder_flags;
        uint32_t seen = __atomic_load_n(flags, __ATOMIC_RELAXED); /* the outbound holder's own word */
        uint32_t wanted = (seen & ~FLAG_STAGED) | (staged ? FLAG_STAGED : 0);
        if (seen != wanted)
            __atomic_store_n(flags, wanted, __ATOMIC_RELAXED);
    }
    POINT("give: all done, token still held");
    token_give_idle(segment, queue);
    POINT("give: token idle, last look not taken");
    fence_seq_cst(); /* idle, then the last look */
    if (has_work(segment, queue, staged) && token_schedule(segment, queue))
        consumer_call(segment, queue);
}

void queue_give_back(const struct segment *segment, uint32_t queue)
{
    token_give_queued(segment, queue);
    POINT("give: token queued again, no ready bit");
    consumer_call(segment, queue);
}

/* A bit that is at another consumer than the queue's is passed on by that one. */
static int bit_is_anywhere(const struct segment *segment, uint32_t queue)
{
    if (ready_is_set(segment, 1 + consumer_of(segment, queue), queue))
        return 1;
    for (uint32_t consumer = 0; consumer < segment->geometry.max_consumers; consumer++)
        if (ready_is_set(segment, 1 + consumer, queue))
            return 1;
    return 0;
}

static int wake_is_missing(const struct segment *segment, uint32_t queue)
{
    uint32_t token = token_read(segment, queue);
    if (token == TOKEN_IDLE)
        return has_work(segment, queue, queue % DIRECTIONS == OUTBOUND && peer_is_staged(segment, queue / DIRECTIONS));
    return token == TOKEN_QUEUED && !bit_is_anywhere(segment, queue);
}

static void queue_mend(const struct segment *segment, uint32_t queue)
{
    uint32_t token = token_read(segment, queue);
    if (token == TOKEN_QUEUED)
        consumer_call(segment, queue); /* setting a bit twice is harmless */
    else if (token == TOKEN_IDLE && has_work(segment, queue, 0) && token_schedule(segment, queue))
        consumer_call(segment, queue);
}

void peer_mend(const struct segment *segment, uint32_t row)
{
    if (row >= segment->geometry.max_peers)
        return;
    fence_seq_cst(); /* what the dead did, then the tokens: a holder that gives one now looks behind its own fence */
    for (uint32_t direction = 0; direction < DIRECTIONS; direction++)
        queue_mend(segment, DIRECTIONS * row + direction);
}

void schedule_pass_on(const struct segment *segment, uint32_t consumer)
{
    uint32_t cursor = 0, queue;

    /* Bounded: who sets bits again and again is not followed. */
    for (uint32_t i = 0; i < DIRECTIONS * segment->geometry.max_peers; i++) {
        queue = ready_take(segment, 1 + consumer, &cursor);
        if (queue == NOBODY)
            return;
        queue_mend(segment, queue);
    }
}

/* What is suspected of a queue, with what changes whenever its holder gets anything done; 0: nothing. What the other
 * direction gets done says nothing of this one. */
static uint32_t suspicion_of(const struct segment *segment, uint32_t queue)
{
    const struct peer_row *peer = &segment->rows[queue / DIRECTIONS];
    uint32_t consumed = __atomic_load_n(&peer->heads[queue % DIRECTIONS].consumed, __ATOMIC_RELAXED);
    uint64_t orders = __atomic_load_n(&peer->orders, __ATOMIC_RELAXED);

    if (!wake_is_missing(segment, queue))
        return 0;
    return SUSPECTED | (consumed ^ (uint32_t)(orders * 0x9e3779b97f4a7c15ull >> 32));
}

/* Returns how many directions of the row it mended. */
static uint32_t row_sweep(const struct segment *segment, uint32_t row)
{
    uint32_t *swept = segment->rows[row].swept; /* the sweeper's own words */
    uint32_t mended = 0;

    for (uint32_t direction = 0; direction < DIRECTIONS; direction++) {
        uint32_t suspicion = suspicion_of(segment, DIRECTIONS * row + direction);
        if (suspicion && suspicion == swept[direction]) {
            suspicion = 0;
            queue_mend(segment, DIRECTIONS * row + direction);
            mended++;
        }
        if (swept[direction] != suspicion)
            swept[direction] = suspicion;
    }
    return mended;
}

/* A ring lost with its ringer: the set has members, its consumer sleeps. */
static void consumers_ring(const struct segment *segment)
{
    for (uint32_t consumer = 0; consumer < segment->geometry.max_consumers; consumer++)
        if (!ready_is_empty(segment, 1 + consumer))
            bell_ring(segment, WORKER_CONSUMER + consumer, -1);
}

uint32_t schedule_sweep(const struct segment *segment, uint32_t first, uint32_t last)
{
    uint32_t mended = 0;
    if (last > segment->geometry.max_peers)
        last = segment->geometry.max_peers;
    for (uint32_t row = first; row < last; row++)
        mended += row_sweep(segment, row);
    consumers_ring(segment);
    return mended;
}

uint32_t schedule_sweep_waiting(const struct segment *segment, uint32_t first, uint32_t last, uint64_t *seen)
{
    uint32_t mended = 0, rows = segment->device->rows_used;
    if (rows > segment->geometry.max_peers)
        rows = segment->geometry.max_peers;
    for (uint32_t place = 0; place < DIRECTIONS * rows || place % TOKEN_BLOCK; place++) {
        uint32_t row = token_place(place) / DIRECTIONS;
        if (row < rows && __atomic_load_n(&segment->tokens[place], __ATOMIC_RELAXED) == TOKEN_QUEUED)
            seen[row / 64] |= 1ull << row % 64;
    }
    for (uint32_t number = 1; number <= segment->nodes; number++) {
        if (__atomic_load_n(&segment->states[number], __ATOMIC_ACQUIRE) != NODE_QUEUED)
            continue;
        uint32_t row = __atomic_load_n(&segment->node[number].peer, __ATOMIC_RELAXED);
        if (row < rows)
            seen[row / 64] |= 1ull << row % 64;
    }
    for (uint32_t word = 0; word < (rows + 63) / 64; word++)
        for (uint64_t bits = seen[word]; bits; bits &= bits - 1) {
            uint32_t row = word * 64 + (uint32_t)__builtin_ctzll(bits);
            if (row < first || row >= last)
                mended += row_sweep(segment, row);
        }
    consumers_ring(segment);
    return mended;
}
