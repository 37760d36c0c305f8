/* turn: taking the token of one direction of a peer, one turn with it, and giving it back.
 * A queue is 2 * row + direction. */
#ifndef WORKERS_DATAPATH_TURN_H
#define WORKERS_DATAPATH_TURN_H

#include "workers/datapath/holder.h"

/* cdef begin */
/* Takes a queued token; 1 when this worker holds the token now, else 0. */
int holder_take(const struct holder *holder, uint32_t queue);
/* Takes an idle token, for the inline hand-off right after a push; returns as holder_take does. */
int holder_take_idle(const struct holder *holder, uint32_t queue);
/* One turn with a token that this worker holds: applies the direction's orders, then drains its queue up to the
 * budget's packets, then gives the token back. Where the peer's other direction has an order to apply by then and
 * nobody holds its token, a turn with that follows. `now`: ns of clock_now. Returns the number of packets handled. */
uint32_t holder_take_turn(struct holder *holder, uint32_t queue, uint64_t now);
/* cdef end */

#endif
