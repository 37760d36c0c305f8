/* repair: making whole what a killed process left, and proving that it is whole. */
#ifndef SHM_REPAIR_H
#define SHM_REPAIR_H

#include "segment.h"

/* cdef begin */
struct repair {
    uint32_t pushes_finished;   /* journalled chains found published */
    uint32_t pushes_undone;     /* never published: nodes brought home */
    uint32_t tokens_requeued;
    uint32_t nodes_home;        /* mine, or in hand and unreachable */
    uint32_t nodes_requeued;    /* in hand and still reachable */
    uint32_t packets_lost;      /* of nodes_home, and received without a node; also added to DROP_KILLED */
};
/* Supervisor. `worker` has been reaped and not yet replaced. Afterwards its incarnation is
 * one higher, so that its mark means nobody. Counts go to the supervisor's counter line.
 * Consumers are woken here; the caller then writes every eventfd, since a ringer may have died with an
 * announcement that it took (bell.h), and nodes may have come home. */
void repair_worker(const struct segment *segment, uint32_t worker, struct repair *repair);

/* Nobody else runs, or a test: 0 when every structure is whole, else the number of faults,
 * the first of them described in words (what, where) in text. */
uint32_t segment_valid(const struct segment *segment, char *text, uint32_t text_bytes);
/* cdef end */

#endif
