/* bell: waking a process that announced its sleep, and nobody else. */
#ifndef SHM_BELL_H
#define SHM_BELL_H

#include "segment.h"

/* cdef begin */
/* Sleeper: announce (store 1, seq_cst fence); the caller then looks for work once more,
 * and either cancels or waits. */
void bell_announce(const struct segment *segment, uint32_t worker);
void bell_cancel(const struct segment *segment, uint32_t worker);
/* Sleeper with a futex (consumers): returns when rung or after timeout_ns; 1 when rung. */
int bell_wait(const struct segment *segment, uint32_t worker, uint64_t timeout_ns);
/* Anyone. The caller's publication stands before it; fences, and only if the sleeper had
 * announced itself wakes it: by futex when eventfd < 0, else by writing eventfd.
 * 1 when a system call was made. */
int bell_ring(const struct segment *segment, uint32_t worker, int eventfd);
/* A receiver that waits for slots, or does so no more. After it the receiver looks once more. */
void bell_starve(const struct segment *segment, uint32_t worker, uint32_t starving);
/* Holder, after it brought nodes home: fences, and rings those that wait; nobody waits: one look at one word.
 * eventfds: MAX_WORKERS of them. How many system calls were made. */
uint32_t bell_ring_starving(const struct segment *segment, const int32_t *eventfds);
/* Repair: wakes a futex sleeper whether or not it is known to sleep. */
void bell_wake(const struct segment *segment, uint32_t worker);
/* cdef end */

#endif
