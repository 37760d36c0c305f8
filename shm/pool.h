/* pool: the nodes and slots that one receiver issues, one pool per direction.
 * Everything in struct pool is private to the receiver; what others see is
 * segment->states alone. */
#ifndef SHM_POOL_H
#define SHM_POOL_H

#include "segment.h"

/* cdef begin */
struct pool {
    const struct segment *segment;
    uint32_t number;          /* 2 * receiver + direction */
    uint32_t first_node;
    uint32_t first_slot;      /* global number of small slot 0 of this pool */
    uint32_t first_train;
    uint32_t cursor;          /* sweep position, in issue order */
    uint32_t free_nodes, free_small, free_trains;
    uint32_t *node_stack;     /* free node numbers */
    uint32_t *small_stack;    /* free slot numbers, 0..small_slots-1 */
    uint32_t *train_stack;    /* small_slots.. */
    uint16_t *slot_nodes;     /* nodes out, per slot */
    uint32_t *slot_peers;     /* peer that the slot was last charged to */
    uint32_t peers_out;       /* peers that hold any slot */
    uint32_t smalls_out, trains_out;  /* slots with nodes that are not home */
    uint16_t *peer_slots;     /* small slots held by each peer row, for the 1/8 share */
    uint16_t *peer_trains;    /* train slots likewise */
    uint32_t *node_slots;     /* slot of each node that is out */
    uint32_t *node_peers;     /* peer charged with that slot through this node */
    uint32_t *order;          /* nodes in issue order, a ring with holes */
    uint32_t order_put, order_got, order_mask;
};

/* Takes stock of the states as they are (a restarted receiver's nodes may be out).
 * Nodes that are `owned` come home: they were in hand of the dead. 0 or -1 (no memory). */
int pool_open(struct pool *pool, const struct segment *segment, uint32_t number);
void pool_close(struct pool *pool);

/* One free slot of either kind, a slot number, or 0xffffffff when there is none. */
uint32_t pool_take_small(struct pool *pool);
uint32_t pool_take_train(struct pool *pool);
void pool_put_slot(struct pool *pool, uint32_t slot);   /* unused: back at once */
/* Start of the slot's bytes (its SLOT_ROOM included), and its size. */
uint8_t *pool_slot(const struct pool *pool, uint32_t slot);
uint32_t pool_slot_bytes(const struct pool *pool, uint32_t slot);

/* A node for (part of) a taken slot: free -> owned, next generation, slot and peer noted;
 * 0 when none is free. The slot is free again when the last of its nodes is: issue all nodes
 * of a slot before any of them is withdrawn or a sweep is made. */
uint32_t pool_issue(struct pool *pool, uint32_t slot, uint32_t peer);
/* owned -> free again: the push was refused or the packet dropped. */
void pool_withdraw(struct pool *pool, uint32_t number);
/* Collects what came home; returns the number of nodes collected. */
uint32_t pool_sweep(struct pool *pool);
/* Whether the peer may have no more. A share is 1/8 of the small slots and 1/8 of the train slots
 * (eight at least); it binds a peer while others hold slots too: one that is alone may have all.
 * A peer with packets that wait for a session, or without keys, may not have more once half of the
 * pool is out, or, beside others, an eighth of the train slots. */
int pool_share_is_spent(const struct pool *pool, uint32_t peer);
/* cdef end */

#endif
