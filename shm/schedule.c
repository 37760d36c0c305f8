/* schedule: nobody who publishes work goes without knowing that somebody will look.
 *
 * Publisher: publish, fence, read the token. Idle: make it queued, set the ready bit, ring.
 * Anything else: the present or next holder will give the token and look afterwards.
 * Holder: token := idle, fence, look once more. Again a store-then-load pair on both sides: either
 * the publisher sees idle or the holder sees what was published.
 *
 * The sweep is for the kill between two of these steps. What it sees may also be somebody in
 * the midst of them, so it mends only what it has found in the same state, without progress,
 * on two sweeps in a row: the count it returns is of wakes that were really lost.
 */
#include "schedule.h"

#include "bell.h"
#include "fence.h"
#include "point.h"
#include "queue.h"
#include "ready.h"
#include "token.h"

#define FLAG_STAGED 1u
#define SUSPECTED (1ull << 63)
#define NOBODY 0xffffffffu

/* The row's consumer, from control's word: read once, never out of range. */
static uint32_t consumer_of(const struct segment *segment, uint32_t row)
{
    uint32_t consumer = __atomic_load_n(&segment->rows[row].consumer, __ATOMIC_ACQUIRE);
    return consumer < segment->geometry.max_consumers ? consumer : 0;
}

static void consumer_call(const struct segment *segment, uint32_t row)
{
    uint32_t consumer = consumer_of(segment, row);
    POINT("schedule: token queued, no ready bit");
    ready_set(segment, 1 + consumer, row);
    POINT("schedule: ready bit set, bell not rung");
    bell_ring(segment, WORKER_CONSUMER + consumer, -1);
}

void peer_schedule(const struct segment *segment, uint32_t row)
{
    if (row >= segment->geometry.max_peers)
        return;
    fence_seq_cst(); /* the publication, then the token */
    /* relaxed: the look alone decides whether to try */
    if (__atomic_load_n(&segment->tokens[token_place(row)], __ATOMIC_RELAXED) != TOKEN_IDLE)
        return;
    POINT("schedule: published, token still idle");
    if (token_schedule(segment, row))
        consumer_call(segment, row);
}

int peer_is_staged(const struct segment *segment, uint32_t row)
{
    return row < segment->geometry.max_peers &&
           (__atomic_load_n(&segment->rows[row].holder_flags, __ATOMIC_RELAXED) & FLAG_STAGED) != 0;
}

static int has_work(const struct segment *segment, uint32_t row, int staged)
{
    return (uint32_t)__atomic_load_n(&segment->rows[row].orders, __ATOMIC_RELAXED) != 0 ||
           !queue_is_empty(segment, 2 * row + INBOUND) ||
           (!staged && !queue_is_empty(segment, 2 * row + OUTBOUND));
}

void peer_give(const struct segment *segment, uint32_t row, int staged)
{
    uint32_t *flags = &segment->rows[row].holder_flags;
    uint32_t seen = __atomic_load_n(flags, __ATOMIC_RELAXED); /* the holder's own word */
    uint32_t wanted = (seen & ~FLAG_STAGED) | (staged ? FLAG_STAGED : 0);
    if (seen != wanted)
        __atomic_store_n(flags, wanted, __ATOMIC_RELAXED);
    POINT("give: all done, token still held");
    token_give_idle(segment, row);
    POINT("give: token idle, last look not taken");
    fence_seq_cst(); /* idle, then the last look */
    if (has_work(segment, row, staged) && token_schedule(segment, row))
        consumer_call(segment, row);
}

void peer_give_back(const struct segment *segment, uint32_t row)
{
    token_give_queued(segment, row);
    POINT("give: token queued again, no ready bit");
    consumer_call(segment, row);
}

/* A bit that is at another consumer than the row's is passed on by that one. */
static int bit_is_anywhere(const struct segment *segment, uint32_t row)
{
    if (ready_is_set(segment, 1 + consumer_of(segment, row), row))
        return 1;
    for (uint32_t consumer = 0; consumer < segment->geometry.max_consumers; consumer++)
        if (ready_is_set(segment, 1 + consumer, row))
            return 1;
    return 0;
}

static int wake_is_missing(const struct segment *segment, uint32_t row)
{
    uint32_t token = token_read(segment, row);
    if (token == TOKEN_IDLE) {
        uint32_t flags = __atomic_load_n(&segment->rows[row].holder_flags, __ATOMIC_RELAXED);
        return has_work(segment, row, (flags & FLAG_STAGED) != 0);
    }
    return token == TOKEN_QUEUED && !bit_is_anywhere(segment, row);
}

void peer_mend(const struct segment *segment, uint32_t row)
{
    if (row >= segment->geometry.max_peers)
        return;
    uint32_t token = token_read(segment, row);
    if (token == TOKEN_QUEUED)
        consumer_call(segment, row); /* setting a bit twice is harmless */
    else if (token == TOKEN_IDLE && has_work(segment, row, 0) && token_schedule(segment, row))
        consumer_call(segment, row);
}

void schedule_pass_on(const struct segment *segment, uint32_t consumer)
{
    uint32_t cursor = 0, row;

    /* Bounded: who sets bits again and again is not followed. */
    for (uint32_t i = 0; i < segment->geometry.max_peers; i++) {
        row = ready_take(segment, 1 + consumer, &cursor);
        if (row == NOBODY)
            return;
        peer_mend(segment, row);
    }
}

/* What changes whenever a holder gets anything done. */
static uint64_t progress_of(const struct segment *segment, uint32_t row)
{
    const struct peer_row *peer = &segment->rows[row];
    uint64_t in = __atomic_load_n(&peer->heads[INBOUND].consumed, __ATOMIC_RELAXED);
    uint64_t out = __atomic_load_n(&peer->heads[OUTBOUND].consumed, __ATOMIC_RELAXED);
    uint64_t orders = __atomic_load_n(&peer->orders, __ATOMIC_RELAXED);
    return (in ^ out << 31 ^ orders * 0x9e3779b97f4a7c15ull) & ~SUSPECTED;
}

/* Returns 1 when it mended the row. */
static uint32_t row_sweep(const struct segment *segment, uint32_t row)
{
    uint64_t *swept = &segment->rows[row].swept; /* the sweeper's own word */
    if (!wake_is_missing(segment, row)) {
        if (*swept != 0)
            *swept = 0;
        return 0;
    }
    uint64_t suspicion = SUSPECTED | progress_of(segment, row);
    if (*swept != suspicion) {
        *swept = suspicion;
        return 0;
    }
    *swept = 0;
    peer_mend(segment, row);
    return 1;
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
    for (uint32_t place = 0; place < rows || place % TOKEN_BLOCK; place++) {
        uint32_t row = token_place(place);
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
