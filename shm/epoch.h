/* epoch: when may control reuse what a reader may still hold? */
#ifndef SHM_EPOCH_H
#define SHM_EPOCH_H

#include "segment.h"

/* cdef begin */
/* Worker: odd = awake. Turn: +2 at a point where it holds nothing. Sleep: to even.
 * Wake: to odd, then seq_cst fence, before it looks at anything. The supervisor alone puts the line
 * of an absent worker to sleep: a broken worker may have marked it awake, and then no grace period would end. */
void epoch_turn(const struct segment *segment, uint32_t worker, uint64_t now);
void epoch_sleep(const struct segment *segment, uint32_t worker);
void epoch_wake(const struct segment *segment, uint32_t worker);
/* Control: remembers every worker's word (grace[MAX_WORKERS]); then asks whether each has
 * since turned, slept, or been repaired (incarnation moved on). */
void grace_begin(const struct segment *segment, uint64_t *grace);
int grace_is_over(const struct segment *segment, const uint64_t *grace);
/* cdef end */

#endif
