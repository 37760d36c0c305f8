/* sharing: sealing and opening of one batch by its holder and by workers that have nothing else to do. */
#ifndef WORKERS_DATAPATH_SHARING_H
#define WORKERS_DATAPATH_SHARING_H

#include "workers/datapath/holder.h"

/* cdef begin */
/* Whether to lend parts of the batch of these nodes, which is about to be sealed or opened; then super-packets are
 * cut into the lender's room (shm/parts.h). Nothing shared is looked at unless the batch is large and the holder busy. */
int sharing_begins(struct holder *holder, const uint32_t *nodes, uint32_t count);
/* The batch is sent or delivered. */
void sharing_ends(struct holder *holder);
/* A worker with nothing to do: a part of anybody's batch. 1 when it did one, 0 when there was none. */
int sharing_help(const struct holder *holder);
/* A helper that finds nothing: whether others want its core more. */
int sharing_core_is_wanted(const struct holder *holder);
/* cdef end */

/* Seals or opens all jobs: here, and with `shared`, the answer of sharing_begins, by helpers too. `jobs` says
 * afterwards where each message stands, and which are lost. `used`: bytes of the room that the batch has already. */
void sharing_seal(struct holder *holder, struct session_jobs *jobs, int shared, uint32_t used);
void sharing_open(struct holder *holder, struct session_jobs *jobs, int shared);

#endif
