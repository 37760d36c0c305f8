/* token: one word for each direction of a peer decides who may touch that direction's hot state.
 *
 *   idle --schedule--> queued --take--> held --give--> idle | queued | dead
 *   idle --take_idle--------------------> held           (inline)
 *
 * All steps out of idle and queued are compare-exchanges, so that two never succeed and a
 * repeated one does nothing; only the holder leaves held, by a plain store. Taking is
 * acquire and giving is release: a holder sees everything that the holder before it did.
 */
#include "token.h"

#define WORKER_BITS 10

_Static_assert(MAX_WORKERS <= 1u << WORKER_BITS, "a mark has no room for the last worker");

uint32_t worker_mark(uint32_t worker, uint32_t incarnation)
{
    return (incarnation & 0x1fffff) << WORKER_BITS | (worker & ((1u << WORKER_BITS) - 1));
}

uint32_t mark_worker(uint32_t mark)
{
    return mark & ((1u << WORKER_BITS) - 1);
}

uint32_t token_place(uint32_t queue)
{
    return (queue & ~(TOKEN_BLOCK - 1u)) | (queue & 15) << 4 | (queue >> 4 & 15);
}

/* Inlined always: an order that is no constant would become the strongest. */
static inline __attribute__((always_inline)) int token_swap(const struct segment *segment, uint32_t queue, uint32_t from, uint32_t to, int order)
{
    if (queue / DIRECTIONS >= segment->geometry.max_peers)
        return 0;
    /* failure is relaxed: nothing is read on the strength of it */
    return __atomic_compare_exchange_n(&segment->tokens[token_place(queue)], &from, to, 0, order, __ATOMIC_RELAXED);
}

static void token_store(const struct segment *segment, uint32_t queue, uint32_t value)
{
    /* release: the next holder's acquire sees all that this one did */
    __atomic_store_n(&segment->tokens[token_place(queue)], value, __ATOMIC_RELEASE);
}

void token_initialise(const struct segment *segment, uint32_t queue)
{
    token_store(segment, queue, TOKEN_IDLE);
}

int token_schedule(const struct segment *segment, uint32_t queue)
{
    /* acq_rel keeps the chain from the last holder's release to the next holder's acquire
     * through this write by a third process */
    return token_swap(segment, queue, TOKEN_IDLE, TOKEN_QUEUED, __ATOMIC_ACQ_REL);
}

int token_take(const struct segment *segment, uint32_t queue, uint32_t mark)
{
    return token_swap(segment, queue, TOKEN_QUEUED, TOKEN_HELD | mark, __ATOMIC_ACQUIRE);
}

int token_take_idle(const struct segment *segment, uint32_t queue, uint32_t mark)
{
    return token_swap(segment, queue, TOKEN_IDLE, TOKEN_HELD | mark, __ATOMIC_ACQUIRE);
}

void token_give_idle(const struct segment *segment, uint32_t queue)
{
    token_store(segment, queue, TOKEN_IDLE);
}

void token_give_queued(const struct segment *segment, uint32_t queue)
{
    token_store(segment, queue, TOKEN_QUEUED);
}

void token_give_dead(const struct segment *segment, uint32_t queue)
{
    token_store(segment, queue, TOKEN_DEAD);
}

uint32_t token_read(const struct segment *segment, uint32_t queue)
{
    return __atomic_load_n(&segment->tokens[token_place(queue)], __ATOMIC_ACQUIRE);
}
