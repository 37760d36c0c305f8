/* token: who may touch a peer's hot state. One u32 per peer, a dense column. */
#ifndef SHM_TOKEN_H
#define SHM_TOKEN_H

#include "segment.h"

/* cdef begin */
/* incarnation (21 bits) << 10 | worker number: names one life of one worker. */
uint32_t worker_mark(uint32_t worker, uint32_t incarnation);
uint32_t mark_worker(uint32_t mark);

/* Place of a row's token in segment->tokens, and row of a place: sixteen neighbours stand on sixteen lines. */
uint32_t token_place(uint32_t row);
void token_initialise(const struct segment *segment, uint32_t row);  /* control: idle */
/* idle -> queued. 1 when this call did it. The caller fences before (schedule.h). */
int token_schedule(const struct segment *segment, uint32_t row);
/* queued -> held (acquire). 1 when taken. */
int token_take(const struct segment *segment, uint32_t row, uint32_t mark);
/* idle -> held (acquire): an inline hand-off. 1 when taken. */
int token_take_idle(const struct segment *segment, uint32_t row, uint32_t mark);
/* held -> idle / queued / dead (release). Only by the holder. */
void token_give_idle(const struct segment *segment, uint32_t row);
void token_give_queued(const struct segment *segment, uint32_t row);
void token_give_dead(const struct segment *segment, uint32_t row);
uint32_t token_read(const struct segment *segment, uint32_t row);
/* cdef end */

#endif
