/* affinity: a worker with little to do stays on one core, which it shares with others; a busy one runs anywhere. */
#ifndef WORKERS_DATAPATH_AFFINITY_H
#define WORKERS_DATAPATH_AFFINITY_H

#include <stdint.h>

/* cdef begin */
#define AFFINITY_TURN_NS 500000      /* a worker that has been busy for longer than this may run anywhere, */
#define AFFINITY_WINDOW_NS 100000000 /* and one that was busy for more of such a window */
#define AFFINITY_SPREAD_NS 6250000   /* than this; it goes back when it was busy for less of one */
#define AFFINITY_GATHER_NS 1562500   /* than this */
#define AFFINITY_WAIT_NS 1562500     /* a worker that waited for its core for longer than this in a window leaves it */
#define AFFINITY_AWAY_NS 10000000000 /* for so long */
#define AFFINITY_WORDS 128           /* of 64 CPUs each: 8,192, the most that Linux has */

struct affinity {
    uint32_t core;      /* the shared one */
    uint32_t is_open;   /* 0: nothing is ever changed */
    uint32_t is_spread; /* it may run on all CPUs that it had when it began */
    uint64_t woken;     /* ns of clock_now: end of the latest sleep */
    uint64_t window;    /* and when the window began */
    uint64_t busy;      /* ns in the window */
    uint64_t waited;    /* ns: for the core, in this process's life, by the window's begin */
    uint64_t away_until; /* it does not go back before */
    int32_t schedstat;  /* the fd of its own /proc/self/schedstat; -1: the kernel does not say how it waited */
    uint64_t bytes;     /* of the mask */
    uint64_t mask[AFFINITY_WORDS];
};

/* This process stays on `core` from now on while it has little to do. 0, or -1 with errno, and then it runs as it did. */
int affinity_open(struct affinity *affinity, uint32_t core, uint64_t now);
void affinity_close(struct affinity *affinity);
/* Looks whether the worker is busy. */
void affinity_check(struct affinity *affinity, uint64_t now);
/* The worker is going to be busy: it may run anywhere at once. */
void affinity_leave(struct affinity *affinity);
/* The worker has slept from `begin` until now. */
void affinity_slept(struct affinity *affinity, uint64_t begin, uint64_t now);
/* cdef end */

#endif
