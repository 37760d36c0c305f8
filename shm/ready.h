/* ready: which places of a set want attention, one bit each in a three-level bitmap.
 * Set 0 is control's (rows with events), 1 + j is consumer j's (queues, 2 * row + direction). */
#ifndef SHM_READY_H
#define SHM_READY_H

#include "segment.h"

/* cdef begin */
uint64_t ready_words_a_set(uint32_t places);
void ready_set(const struct segment *segment, uint32_t set, uint32_t place);
/* Owner of the set: the first place at or after *cursor (wrapping once) whose bit is set;
 * clears the bit and moves the cursor past it. 0xffffffff when the set is empty. */
uint32_t ready_take(const struct segment *segment, uint32_t set, uint32_t *cursor);
/* Owner of the set: whether ready_take would find another place now. ready_is_empty may still say no for a while
 * after the last one was taken. */
int ready_waits(const struct segment *segment, uint32_t set, uint32_t cursor);
/* Whether the taker would find the place; transiently 0 while the taker clears up. */
int ready_is_set(const struct segment *segment, uint32_t set, uint32_t place);
int ready_is_empty(const struct segment *segment, uint32_t set);
/* Repair: sets every summary bit that a process killed half-way left out. */
void ready_mend(const struct segment *segment, uint32_t set);
/* cdef end */

#endif
