/* schedule: making sure that a peer with something to do is looked at. */
#ifndef SHM_SCHEDULE_H
#define SHM_SCHEDULE_H

#include "segment.h"

/* cdef begin */
/* After a push (also a refused one) or an order: seq_cst fence, token idle -> queued, ready
 * bit and bell of the peer's consumer. Cheap when the token is queued or held already. */
void peer_schedule(const struct segment *segment, uint32_t row);
/* Holder, done: held -> idle, seq_cst fence, look again; where there is something poppable,
 * schedule again. staged = 1 when the outbound queue only waits for a session: staged packets alone
 * do not make the peer ready, nor does the sweep schedule it for them. Orders always make it ready. */
void peer_give(const struct segment *segment, uint32_t row, int staged);
/* Holder, budget spent: held -> queued with the ready bit, so that it has its turn again. */
void peer_give_back(const struct segment *segment, uint32_t row);
/* Whether the last holder left outbound packets waiting for a session. A hint: it may change. */
int peer_is_staged(const struct segment *segment, uint32_t row);
/* Control, once a second: mends wakes that were lost: a row of first..last-1 whose token is idle
 * although it has orders, inbound packets, or outbound ones that are not staged; a queued token
 * without a ready bit anywhere. Acts on what two sweeps in a row have seen without progress
 * between them, so allow two periods. Returns how many it mended (LOST_WAKES). */
uint32_t schedule_sweep(const struct segment *segment, uint32_t first, uint32_t last);
/* Likewise over those rows outside first..last-1 that have a queued token, or packets in a queue as the nodes
 * tell: no row without either is read. seen: a zeroed bit for each peer, to see none twice. */
uint32_t schedule_sweep_waiting(const struct segment *segment, uint32_t first, uint32_t last, uint64_t *seen);
/* Repair: the row's wake may be missing; schedules it, or sets its bit and rings again. */
void peer_mend(const struct segment *segment, uint32_t row);
/* The consumer is away, or was: whatever is marked ready at it is scheduled with those that have its peers. */
void schedule_pass_on(const struct segment *segment, uint32_t consumer);
/* cdef end */

#endif
