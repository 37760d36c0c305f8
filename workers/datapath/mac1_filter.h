/* mac1_filter: receivers turn away handshake messages whose mac1 is wrong, before they cost control anything. */
#ifndef WORKERS_DATAPATH_MAC1_FILTER_H
#define WORKERS_DATAPATH_MAC1_FILTER_H

#include "shm/segment.h"

/* cdef begin */
/* Control: the key that macs of messages to us are made with (struct handshake_identity), NULL for none.
 * It follows from our public key and is no secret. Storing the same again changes nothing. */
void mac1_filter_learn(const struct segment *segment, const uint8_t *mac1_key);
/* Anyone: 1 when mac1 of this initiation or response is certainly wrong. 0 when it is right, or when
 * there is no key to tell by: control decides then. */
int mac1_filter_refuses(const struct segment *segment, const uint8_t *message, uint32_t length);
/* cdef end */

#endif
