/* A burst of up to 64 packets is sorted by peer in arrival order: per peer one private chain,
 * one publication, one look at its token. */
#include "workers/receiver.h"

#include "shm/counters.h"
#include "shm/queue.h"
#include "shm/schedule.h"

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
    uint32_t at = (peer * 2654435769u) >> 25;

    for (;; at = (at + 1) % (2 * BURST_MAX)) {
        struct burst_chain *chain;

        if (!burst->table[at]) {
            burst->table[at] = (uint8_t)(++burst->chains);
            chain = &burst->chain[burst->chains - 1];
            *chain = (struct burst_chain){ .peer = peer };
            return chain;
        }
        chain = &burst->chain[burst->table[at] - 1];
        if (chain->peer == peer)
            return chain;
    }
}

void burst_add(struct burst *burst, const struct segment *segment, uint32_t node, uint32_t peer,
               uint32_t packets)
{
    struct burst_chain *chain = burst_chain(burst, peer);

    if (chain->count)
        queue_link(segment, chain->last, node);
    else
        chain->first = node;
    chain->last = node;
    chain->count++;
    chain->packets += packets;
}

void burst_push(struct burst *burst, const struct segment *segment, uint32_t worker, struct pool *pool)
{
    for (uint32_t i = 0; i < burst->chains; i++) {
        struct burst_chain *chain = &burst->chain[i];
        uint32_t queue = 2 * chain->peer + burst->direction;

        if (!chain->count)
            continue;
        if (queue_push_mpsc(segment, worker, queue, chain->first, chain->last, chain->packets)) {
            uint32_t node = chain->first;

            counter_add(segment, worker,
                        burst->direction == INBOUND ? DROP_QUEUE_FULL_INBOUND : DROP_QUEUE_FULL_OUTBOUND,
                        chain->packets);
            for (uint32_t n = 0; n < chain->count; n++) {
                uint32_t next = (uint32_t)segment->node[node].next;

                pool_withdraw(pool, node);
                node = next;
            }
        }
        /* Also after a refusal: whoever found the queue full makes sure somebody empties it. */
        peer_schedule(segment, chain->peer);
    }
}
