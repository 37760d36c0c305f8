/* burst: packets of one receive call sorted by peer, so that each peer's queue is touched once. */
#ifndef WORKERS_DATAPATH_BURST_H
#define WORKERS_DATAPATH_BURST_H

#include "shm/pool.h"

struct holder;

struct burst_chain {
    uint32_t peer;
    uint32_t first, last;   /* nodes, linked in order of arrival, not yet in a queue */
    uint32_t count;         /* nodes */
    uint32_t packets;       /* wire-size packets */
};

#define BURST_MAX 64        /* messages of one receive call */
#define BURST_PEERS 256     /* a train has up to 128 datagrams (UDP_MAX_SEGMENTS) */
#define TRAIN_PEERS_MOST 128

struct burst {
    uint32_t direction;
    uint32_t chains;
    struct burst_chain chain[BURST_PEERS];
    uint16_t table[2 * BURST_PEERS];  /* open addressing: chain number + 1 */
};

void burst_begin(struct burst *burst, uint32_t direction);
/* The chain of this peer, a new one with count 0 at the peer's first packet; NULL when BURST_PEERS other peers
 * have chains already. */
struct burst_chain *burst_chain(struct burst *burst, uint32_t peer);
void burst_add(const struct segment *segment, struct burst_chain *chain, uint32_t node, uint32_t packets);
/* Pushes each chain into its peer's queue. A full queue refuses the chain: its packets are counted as dropped and
 * its nodes return to the pool. Each peer is then scheduled, or, with an inline_holder, drained at once if nobody
 * holds the peer. */
void burst_push(struct burst *burst, const struct segment *segment, uint32_t worker, struct pool *pool,
                struct holder *inline_holder);

#endif
