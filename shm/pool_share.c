/* Who may have more slots of a pool. pool.c keeps the books; what follows from them stands here.
 *
 * - A peer that is alone may have all. Beside others it may have an eighth of each kind of slot, but never so
 *   few large ones that a small pool slows its only user down.
 * - Packets that wait for a session (staged) may do so for long. A peer that has some, or that has no keys so
 *   that what comes will wait, gets more only while less than half of the pool is out, and beside others, less
 *   than an eighth of the large slots: a thousand such peers leave room for what moves, even if each has one
 *   packet only.
 */
#include "pool.h"

#include "schedule.h"

#define TRAINS_AT_LEAST 8

static uint32_t trains_share(uint32_t trains)
{
    uint32_t least = trains < TRAINS_AT_LEAST ? trains : TRAINS_AT_LEAST;
    return (trains + 7) / 8 > least ? (trains + 7) / 8 : least;
}

static int others_hold_slots(const struct pool *pool, uint32_t peer)
{
    return pool->peers_out - (pool->peer_slots[peer] != 0 || pool->peer_trains[peer] != 0) != 0;
}

/* Whether the peer's packets wait for a session, and those may have no more slots. */
static int waits_too_long(const struct pool *pool, uint32_t peer)
{
    const struct geometry *g = &pool->segment->geometry;
    uint32_t part = others_hold_slots(pool, peer) ? 8 : 2;
    if (pool->number % DIRECTIONS != OUTBOUND)
        return 0;
    if (!peer_is_staged(pool->segment, peer) &&
        __atomic_load_n(&pool->segment->rows[peer].key_word, __ATOMIC_RELAXED) != 0)
        return 0;
    return 2 * pool->smalls_out >= g->small_slots || (g->train_slots && part * pool->trains_out >= g->train_slots);
}

int pool_share_is_spent(const struct pool *pool, uint32_t peer)
{
    const struct geometry *g = &pool->segment->geometry;
    if (peer >= g->max_peers || waits_too_long(pool, peer))
        return 1;
    if (!others_hold_slots(pool, peer))
        return 0; /* nobody else wants any */
    return pool->peer_slots[peer] >= (g->small_slots + 7) / 8 ||
           (g->train_slots != 0 && pool->peer_trains[peer] >= trains_share(g->train_slots));
}
