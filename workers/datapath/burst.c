/* A burst is sorted by peer in arrival order: per peer one private chain, one publication, one
 * look at its token. */
#include "workers/datapath/burst.h"
#include "workers/datapath/turn.h"

#include "shm/counters.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "shm/schedule.h"
#include "workers/clock.h"
#include "workers/datapath/holder.h"

#include <string.h>

void burst_begin(struct burst *burst, uint32_t direction)
{
    burst->direction = direction;
    burst->chains = 0;
    memset(burst->table, 0, sizeof burst->table);
}

struct burst_chain *burst_chain(struct burst *burst, uint32_t peer)
{
    /* Fibonacci hashing: rows are dense numbers, so any odd spread does. */
    uint32_t at = (peer * 2654435769u) >> 23;

    for (;; at = (at + 1) % (2 * BURST_PEERS)) {
        struct burst_chain *chain;

        if (!burst->table[at]) {
            if (burst->chains == BURST_PEERS)
                return NULL;
            chain = &burst->chain[burst->chains];
            burst->table[at] = (uint16_t)(++burst->chains);
            *chain = (struct burst_chain){ .peer = peer };
            return chain;
        }
        chain = &burst->chain[burst->table[at] - 1];
        if (chain->peer == peer)
            return chain;
    }
}

void burst_add(const struct segment *segment, struct burst_chain *chain, uint32_t node, uint32_t packets)
{
    if (chain->count)
        queue_link(segment, chain->last, node);
    else
        chain->first = node;
    chain->last = node;
    chain->count++;
    chain->packets += packets;
}

/* The queue was full: the chain's nodes serve again. */
static void withdraw(const struct burst_chain *chain, const struct segment *segment, struct pool *pool)
{
    uint32_t node = chain->first;

    for (uint32_t n = 0; n < chain->count; n++) {
        uint32_t next = (uint32_t)segment->node[node].next;

        pool_withdraw(pool, node);
        node = next;
    }
}

void burst_push(struct burst *burst, const struct segment *segment, uint32_t worker, struct pool *pool,
                struct holder *inline_holder)
{
    for (uint32_t i = 0; i < burst->chains; i++) {
        struct burst_chain *chain = &burst->chain[i];
        uint32_t queue = 2 * chain->peer + burst->direction;

        if (!chain->count)
            continue;
        if (queue_push_mpsc(segment, worker, queue, chain->first, chain->last, chain->packets)) {
            counter_add(segment, worker,
                        burst->direction == INBOUND ? DROP_QUEUE_FULL_INBOUND : DROP_QUEUE_FULL_OUTBOUND,
                        chain->packets);
            POINT("push: refused, chain not withdrawn");
            withdraw(chain, segment, pool);
        }
        POINT("push: done, nobody scheduled");
        /* Also after a refusal: whoever found the queue full makes sure somebody empties it. */
        if (inline_holder && holder_take_idle(inline_holder, queue))
            holder_take_turn(inline_holder, queue, clock_now());
        else
            queue_schedule(segment, queue);
    }
}
