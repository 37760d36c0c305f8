/* endpoints: where a peer is reached, and control's orders to move it. Control alone calls these.
 *
 * The inbound holder owns a peer's endpoint. Control asks for a change by writing `ordered_endpoint` and giving
 * ORDER_ENDPOINT, but only while that bit is clear, since the holder may be reading the words. What comes
 * meanwhile waits in words of control's own in the row, the latest alone and without its source, so that a
 * killed control does not lose what was configured. */
#ifndef WORKERS_CONTROL_ENDPOINTS_H
#define WORKERS_CONTROL_ENDPOINTS_H

#include "shm/segment.h"

/* cdef begin */
enum endpoint_moved {
    ENDPOINT_STAYS,    /* the peer is there already */
    ENDPOINT_ORDERED,  /* the caller gives ORDER_ENDPOINT */
    ENDPOINT_WAITS     /* until the order before it is applied: see endpoint_move_waiting */
};

/* Where the peer is reached: the endpoint that waits, else the ordered one, else the holder's. */
void endpoint_read(const struct segment *segment, uint32_t row, struct endpoint *endpoint);
/* The peer is to be reached there. Without a source, the same place keeps the source that it was heard at. */
enum endpoint_moved endpoint_move(const struct segment *segment, uint32_t row, const struct endpoint *endpoint);
/* Gives the order for the endpoint that waits, once the order before it is applied. 1 when none waits any more. */
int endpoint_move_waiting(const struct segment *segment, uint32_t row);
/* No endpoint waits any more. */
void endpoint_forget(const struct segment *segment, uint32_t row);
/* cdef end */

#endif
