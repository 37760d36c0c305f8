/* segment: the mapped data segment as this process sees it. */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include "layout.h"

/* cdef begin */
#define COUNTERS_A_WORKER 96

/* Pointers into this process's mapping and a private copy of the geometry: numbers that
 * come from shared memory later are checked against this copy, never against the header. */
struct segment {
    char *base;
    uint64_t bytes;
    struct geometry geometry;
    uint32_t pools;           /* 2 * max_receivers */
    uint32_t nodes;           /* node numbers are 1..nodes */
    struct header *header;
    struct worker *workers;
    struct bell *bells;
    struct starving *starving;
    uint64_t *counters;
    struct device *device;
    uint32_t *tokens;
    uint64_t *ready;
    uint64_t ready_words;     /* of one set, all levels */
    struct peer_row *rows;
    uint32_t *columns;
    uint8_t *index;
    uint32_t *public_keys;
    uint8_t *trie;
    uint8_t *keypairs;
    struct lending *lending;
    struct part *parts;       /* PARTS of each lender (parts.h) */
    uint8_t *part_rooms;
    struct mailbox_ring *mailbox;
    struct mailbox_cell *cells;
    uint32_t *states;
    struct node *node;
    uint8_t *small_slots;
    uint8_t *train_slots;
};

/* Fills header->bytes, ->geometry and ->offset for this geometry (or, with header NULL, only
 * computes). Returns the bytes the segment needs, or 0 for a geometry out of bounds. */
uint64_t segment_lay_out(const struct geometry *geometry, struct header *header);

/* Fills *segment from the header mapped at base. 0, or -1 when the header is not one of
 * ours or its regions do not fit in bytes; *segment is then untouched. */
int segment_attach(struct segment *segment, char *base, uint64_t bytes);

/* Bytes of one region, its rounding up to whole pages left out. */
uint64_t segment_region_bytes(const struct geometry *geometry, uint32_t region);

/* Receivers and consumers: header, device, trie and index become read-only in this mapping and the
 * public-key table unreachable. 0, or -1 with errno. */
int segment_protect(const struct segment *segment);
/* cdef end */

/* The worker number after this one of those that there is room for; MAX_WORKERS after the last. */
static inline uint32_t segment_next_worker(const struct segment *segment, uint32_t worker)
{
    worker++;
    if (worker == WORKER_RECEIVER + segment->geometry.max_receivers)
        return WORKER_CONSUMER;
    return worker == WORKER_CONSUMER + segment->geometry.max_consumers ? MAX_WORKERS : worker;
}

#endif
