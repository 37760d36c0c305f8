/* turn: taking a peer's token, one turn with it, and giving it back. */
#ifndef WORKERS_DATAPATH_TURN_H
#define WORKERS_DATAPATH_TURN_H

#include "workers/datapath/holder.h"

/* cdef begin */
/* Takes the token of a queued peer; 1 when this worker holds the token now, else 0. */
int holder_take(const struct holder *holder, uint32_t row);
/* Takes the token of an idle peer, for the inline hand-off right after a push; returns as holder_take does. */
int holder_take_idle(const struct holder *holder, uint32_t row);
/* One turn of a peer whose token this worker holds: applies orders, then drains up to the budget's
 * packets each way, then gives the token back. `now`: ns of clock_now. Returns the number of packets
 * handled. */
uint32_t holder_take_turn(struct holder *holder, uint32_t row, uint64_t now);
/* cdef end */

#endif
