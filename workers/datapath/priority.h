/* priority: a worker that wakes runs before ordinary processes, until it has been busy for too long. */
#ifndef WORKERS_DATAPATH_PRIORITY_H
#define WORKERS_DATAPATH_PRIORITY_H

#include <stdint.h>

/* cdef begin */
#define PRIORITY_BUSY_NS 10000000  /* how long a worker may be busy before it gives real-time priority up */
#define PRIORITY_PAUSE_NS 2000000  /* and for how long, the first time after a sleep; each next time twice as long, */
#define PRIORITY_PAUSE_MOST 64000000 /* up to this */

enum priority_state {
    PRIORITY_NORMAL,   /* SCHED_OTHER, always */
    PRIORITY_REALTIME, /* SCHED_RR */
    PRIORITY_GIVEN_UP, /* SCHED_OTHER, until the pause is over or the worker sleeps */
};

struct priority {
    uint32_t state; /* enum priority_state */
    uint64_t since; /* ns of clock_now: latest sleep or change of the state */
    uint64_t pause; /* ns; the next one */
};

/* This process, which may have real-time priority (RLIMIT_RTPRIO), has it from now on when it wakes. 0, or -1
 * with errno and PRIORITY_NORMAL. */
int priority_open(struct priority *priority, uint64_t now);
/* Gives real-time priority up after PRIORITY_BUSY_NS without sleep, and takes it again after the pause. */
void priority_check(struct priority *priority, uint64_t now);
/* The worker is about to sleep: it has real-time priority when it wakes. */
void priority_before_sleep(struct priority *priority);
/* The worker has slept until now. */
void priority_after_sleep(struct priority *priority, uint64_t now);
/* cdef end */

#endif
