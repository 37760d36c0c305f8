/* node: the bytes of a node, checked against the packet slot that they must stand in. */
#ifndef SHM_NODE_H
#define SHM_NODE_H

#include "segment.h"

/* cdef begin */
/* Copies node `number` once and returns its bytes if they stand inside one packet slot, with
 * room_before bytes before them and room_after behind; else NULL. Whatever a receiver wrote there,
 * the holder reads and writes nothing else. */
uint8_t *node_read(const struct segment *segment, uint32_t number, uint32_t room_before, uint32_t room_after,
                   struct node *copy);
/* The start of the slot that these bytes of node_read stand in, where their sender's endpoint is. */
const uint8_t *node_slot(const struct segment *segment, const uint8_t *data);
/* cdef end */

#endif
