/* allowedips: which peer an inner address belongs to. A path-compressed binary trie per
 * family in caller's memory. Control alone writes; readers take no lock: each change is
 * published by one release store, and a replaced node is reused only after a grace period. */
#ifndef ENGINE_ALLOWEDIPS_H
#define ENGINE_ALLOWEDIPS_H

#include <stdint.h>

/* cdef begin */
struct trie_node {
    uint8_t address[16];   /* masked to cidr */
    uint32_t child[2];     /* node numbers, 0 = none */
    uint32_t peer;         /* row + 1; 0 = a branch only */
    uint32_t parent;       /* writer's: number * 2 + side, of the link that names this node */
    uint32_t peer_next;    /* writer's: list of the nodes of one peer */
    uint32_t peer_previous;
    uint8_t cidr;
    uint8_t bits;          /* 32 or 128 */
    uint16_t state;        /* writer's: free, live, waiting for grace */
    uint32_t waiting_next; /* writer's: list of the nodes that wait for grace */
    uint32_t reserved[4];
};

/* The writer's view, in process memory of control; allowedips_recover rebuilds it. */
struct allowedips {
    struct trie_node *nodes;      /* node 0 is none; its peer_next keeps `used` over a restart */
    uint32_t max_nodes;
    uint32_t *root4;
    uint32_t *root6;
    uint32_t used;                /* high-water mark: no node above was ever used */
    uint32_t free_head;           /* linked by child[0] */
    uint32_t waiting_head;        /* removed, waiting for a grace period; linked by waiting_next */
    uint32_t live;                /* nodes in the trees, branches included */
    uint32_t free;                /* nodes linked from free_head */
    struct allowedips_place *places;  /* held by who goes through a list in pieces */
};
/* A place in the list of one peer's nodes, for a walk through the list in pieces. Nodes may be added and removed
 * meanwhile: the walk steps over a removed node and meets each node that stays once. */
struct allowedips_place {
    uint32_t number;              /* of the node that comes next; 0 = the end */
    struct allowedips_place *following;
};
/* Over memory that is zero or was left by a writer that ended (then recover follows). */
void allowedips_open(struct allowedips *ips, struct trie_node *nodes, uint32_t max_nodes,
                     uint32_t *root4, uint32_t *root6);
/* After control's restart, wherever it was killed: lists of free nodes and of each peer's from the
 * trees themselves. Rows 0 to rows-1 may own nodes. What no tree names waits for a grace
 * period: allowedips_reclaim after it. */
void allowedips_recover(struct allowedips *ips, uint32_t rows, uint8_t *first, uint32_t stride);
/* address/cidr now belongs to peer (moving it from another if need be). first_of(peer) lists
 * are kept through *first, an array of list heads (u32 node number, 0 = empty; on by
 * peer_next, in order of insertion) with the given stride in bytes, row 0's head at first.
 * 0, or -1 when no node is left (nothing changed; waiting nodes come back by reclaim). */
int allowedips_insert(struct allowedips *ips, const uint8_t *address, uint32_t bits, uint32_t cidr,
                      uint32_t peer, uint8_t *first, uint32_t stride);
/* Removes exactly that prefix if it belongs to peer. 1 when it did. */
int allowedips_remove(struct allowedips *ips, const uint8_t *address, uint32_t bits, uint32_t cidr,
                      uint32_t peer, uint8_t *first, uint32_t stride);
uint32_t allowedips_remove_peer(struct allowedips *ips, uint32_t peer, uint8_t *first, uint32_t stride);
/* At most so many of the peer's prefixes; how many it had up to there. */
uint32_t allowedips_remove_some(struct allowedips *ips, uint32_t peer, uint32_t most, uint8_t *first,
                                uint32_t stride);
/* After the grace period: what waited may be used again. */
void allowedips_reclaim(struct allowedips *ips);
/* Likewise at most so many nodes; 1 while there are more. */
int allowedips_reclaim_some(struct allowedips *ips, uint32_t most);
/* From here to allowedips_let_go the place is kept right whatever is removed. */
void allowedips_hold(struct allowedips *ips, struct allowedips_place *place);
void allowedips_let_go(struct allowedips *ips, struct allowedips_place *place);
/* Readers. Longest match: row, or 0xffffffff. bits is 32 or 128. */
uint32_t allowedips_lookup(const struct trie_node *nodes, uint32_t max_nodes, uint32_t root,
                           const uint8_t *address, uint32_t bits);
/* cdef end */

#endif
