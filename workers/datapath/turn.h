/* turn: taking a peer's token, one turn with it, and giving it back. */
#ifndef WORKERS_DATAPATH_TURN_H
#define WORKERS_DATAPATH_TURN_H

#include "workers/datapath/holder.h"

/* cdef begin */
/* Takes a queued peer's token; 1 when this worker holds it now. */
int holder_take(const struct holder *holder, uint32_t row);
/* The same of an idle peer's token: inline, right after a push. */
int holder_take_idle(const struct holder *holder, uint32_t row);
/* One turn of a peer whose token this worker holds: orders first, then up to the budget's
 * packets each way, then the token is given. `now` in ns of clock_now. Returns the packets
 * dealt with. */
uint32_t holder_take_turn(struct holder *holder, uint32_t row, uint64_t now);
/* cdef end */

#endif
