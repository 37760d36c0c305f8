/* token: who may touch the hot state of one direction of a peer. One u32 a queue (2 * row + direction). */
#ifndef SHM_TOKEN_H
#define SHM_TOKEN_H

#include "segment.h"

/* cdef begin */
/* incarnation (21 bits) << 10 | worker number: names one life of one worker. */
uint32_t worker_mark(uint32_t worker, uint32_t incarnation);
uint32_t mark_worker(uint32_t mark);

/* Place of a queue's token in segment->tokens, and queue of a place: sixteen neighbours stand on sixteen lines. */
uint32_t token_place(uint32_t queue);
void token_initialise(const struct segment *segment, uint32_t queue);  /* control: idle */
/* idle -> queued. 1 when this call did it. The caller fences before (schedule.h). */
int token_schedule(const struct segment *segment, uint32_t queue);
/* queued -> held (acquire). 1 when taken. */
int token_take(const struct segment *segment, uint32_t queue, uint32_t mark);
/* idle -> held (acquire): an inline hand-off. 1 when taken. */
int token_take_idle(const struct segment *segment, uint32_t queue, uint32_t mark);
/* held -> idle / queued / dead (release). Only by the holder. */
void token_give_idle(const struct segment *segment, uint32_t queue);
void token_give_queued(const struct segment *segment, uint32_t queue);
void token_give_dead(const struct segment *segment, uint32_t queue);
uint32_t token_read(const struct segment *segment, uint32_t queue);
/* cdef end */

#endif
