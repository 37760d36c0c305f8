/* consumer: takes the turns of the peers that belong to it, for as long as there are any. */
#ifndef WORKERS_DATAPATH_CONSUMER_H
#define WORKERS_DATAPATH_CONSUMER_H

#include "workers/datapath/holder.h"

/* cdef begin */
struct consumer;
/* holder is filled in by the caller (fds, bells) and stays the caller's; it may change fds
 * between calls of consumer_run. NULL when memory is refused. */
struct consumer *consumer_new(struct holder *holder, uint32_t number, int channel);
void consumer_free(struct consumer *consumer);
#define CONSUMER_CHANNEL 1  /* the channel has a message */
#define CONSUMER_TIME 2     /* `until` has come */
/* This process runs before ordinary processes when it wakes (priority.h). 0, or -1 with errno. */
int consumer_wake_at_once(struct consumer *consumer);
/* This process stays on `core` while it has little to do (affinity.h). 0, or -1 with errno. */
int consumer_stay_on(struct consumer *consumer, uint32_t core);
int consumer_run(struct consumer *consumer, uint64_t until);
/* cdef end */

#endif
