/* mailbox: handshake messages from receivers to control, a ring per receiver. */
#ifndef SHM_MAILBOX_H
#define SHM_MAILBOX_H

#include "segment.h"

/* cdef begin */
/* Receiver: 0, or -1 when its ring is full. The caller rings control. */
int mailbox_put(const struct segment *segment, uint32_t receiver, const struct endpoint *from,
                const uint8_t *message, uint32_t length);
/* Control: copies up to max cells into out, taking turns between rings; returns how many. What a broken worker
 * wrote may have any length. */
uint32_t mailbox_take(const struct segment *segment, struct mailbox_cell *out, uint32_t max);
/* Messages ever taken, from all rings; comes round. */
uint32_t mailbox_taken(const struct segment *segment);
/* Messages waiting in all rings. */
uint32_t mailbox_waiting(const struct segment *segment);
/* cdef end */

#endif
