/* schedule: making sure that a peer with something to do is looked at. */
#ifndef SHM_SCHEDULE_H
#define SHM_SCHEDULE_H

#include "segment.h"

/* cdef begin */
/* After a push (also a refused one) or an order: seq_cst fence, token idle -> queued, ready
 * bit and bell of the peer's consumer. Cheap when the token is queued or held already. */
void peer_schedule(const struct segment *segment, uint32_t row);
/* Holder, done: held -> idle, seq_cst fence, look again; where there is something poppable,
 * schedule anew. `waiting` = 1 when the outbound queue is only staged (no session): then it
 * alone is no reason to be scheduled. Orders are always a reason. */
void peer_give(const struct segment *segment, uint32_t row, int staged);
/* Holder, budget spent: held -> queued with the ready bit, so that it has its turn again. */
void peer_give_back(const struct segment *segment, uint32_t row);
/* Control, once a second: mends a wake that was lost. A row whose token is idle although it
 * has orders or an inbound queue or outbound packets and `usable(row)`, and a queued token
 * without a ready bit anywhere. Returns how many it mended in first..last-1. */
uint32_t schedule_sweep(const struct segment *segment, uint32_t first, uint32_t last);
/* cdef end */

#endif
