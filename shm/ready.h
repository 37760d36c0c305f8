/* ready: which peers of a set want attention, one bit each in a three-level bitmap.
 * Set 0 is control's (peers with events), 1 + j is consumer j's. */
#ifndef SHM_READY_H
#define SHM_READY_H

#include "segment.h"

/* cdef begin */
uint64_t ready_words_a_set(uint32_t max_peers);
void ready_set(const struct segment *segment, uint32_t set, uint32_t row);
/* Owner of the set: the first row at or after *cursor (wrapping once) whose bit is set;
 * clears the bit and moves the cursor past it. 0xffffffff when the set is empty. */
uint32_t ready_take(const struct segment *segment, uint32_t set, uint32_t *cursor);
/* Owner of the set: whether ready_take would find another row now. ready_is_empty may still say no for a while
 * after the last one was taken. */
int ready_waits(const struct segment *segment, uint32_t set, uint32_t cursor);
/* Whether the taker would find the row; transiently 0 while the taker clears up. */
int ready_is_set(const struct segment *segment, uint32_t set, uint32_t row);
int ready_is_empty(const struct segment *segment, uint32_t set);
/* Repair: sets every summary bit that a process killed half-way left out. */
void ready_mend(const struct segment *segment, uint32_t set);
/* cdef end */

#endif
