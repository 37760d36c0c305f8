/* schedule: making sure that a direction of a peer with something to do is looked at. A queue is 2 * row + direction. */
#ifndef SHM_SCHEDULE_H
#define SHM_SCHEDULE_H

#include "segment.h"

/* cdef begin */
/* After a push (also a refused one): seq_cst fence, token idle -> queued, ready bit and bell of the queue's
 * consumer. Cheap when the token is queued or held already. */
void queue_schedule(const struct segment *segment, uint32_t queue);
/* Whether an order waits that this direction may apply now (orders.h says which direction waits for the other). A hint:
 * it may change. */
int queue_has_orders(const struct segment *segment, uint32_t queue);
/* After an order: likewise whichever direction has to apply it first (orders.h). */
void peer_schedule(const struct segment *segment, uint32_t row);
/* Holder, done: held -> idle, seq_cst fence, look again; where there is something poppable or an order for this
 * direction, schedule again. staged = 1 when the outbound queue only waits for a session: staged packets alone
 * do not make it ready, nor does the sweep schedule it for them. */
void queue_give(const struct segment *segment, uint32_t queue, int staged);
/* Holder, budget spent: held -> queued with the ready bit, so that it has its turn again. */
void queue_give_back(const struct segment *segment, uint32_t queue);
/* Whether the last holder left outbound packets waiting for a session. A hint: it may change. */
int peer_is_staged(const struct segment *segment, uint32_t row);
/* Control, once a second: mends wakes that were lost: a direction of rows first..last-1 whose token is idle
 * although it has orders, inbound packets, or outbound ones that are not staged; a queued token
 * without a ready bit anywhere. Acts on what two sweeps in a row have seen without progress of that direction
 * between them, so allow two periods. Returns how many directions it mended (LOST_WAKES). */
uint32_t schedule_sweep(const struct segment *segment, uint32_t first, uint32_t last);
/* Likewise over those rows outside first..last-1 that have a queued token, or packets in a queue as the nodes
 * tell: no row without either is read. seen: a zeroed bit for each peer, to see none twice. */
uint32_t schedule_sweep_waiting(const struct segment *segment, uint32_t first, uint32_t last, uint64_t *seen);
/* Repair: wakes of the row, both directions', may be missing; schedules, or sets bits and rings again. */
void peer_mend(const struct segment *segment, uint32_t row);
/* The consumer is away, or was: whatever is marked ready at it is scheduled with those that have its peers. */
void schedule_pass_on(const struct segment *segment, uint32_t consumer);
/* cdef end */

#endif
