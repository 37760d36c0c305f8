/* queue_bench: what a packet's way through a queue costs, measured on the functions that ship. */
#ifndef TESTS_BENCH_QUEUE_BENCH_H
#define TESTS_BENCH_QUEUE_BENCH_H

#include "shm/segment.h"

/* cdef begin */
#define BENCH_SECTION 4096  /* packets of one producer in one section */

/* bench_area.failed */
#define BENCH_STUCK 1     /* nothing moved for 20 s */
#define BENCH_DISORDER 2  /* a producer's packets came out of order, twice or not at all */

/* In a second segment: where processes meet before each section. */
struct bench_area {
    uint32_t arrived;
    uint32_t failed;         /* whoever cannot go on says why, and everybody stops */
};

/* What one process does in every section. */
struct bench_role {
    uint32_t has_queue;      /* 0: slot and node taken, brought home, swept, and nothing else */
    uint32_t burst;          /* packets of one chain, 64 at most */
    uint32_t producers;      /* of all processes together */
    uint32_t processes;
    uint32_t receiver;       /* pushes from this receiver's inbound pool; 0xffffffff: does not push */
    uint32_t takes;          /* 1: is the consumer */
};

/* Repeats a section: take slots and nodes and link the bursts, meet; from here on timed: all producers
 * push BENCH_SECTION packets each into queue 0 and the consumer takes them, looks at every node, verifies
 * each producer's order and brings home; until the consumer has all. A process that does both does a
 * burst of each by turns. Then producers wait until all is home.
 * times[section]: nanoseconds, in the consumer only. 0, or -1: failed, here or elsewhere. */
int bench_sections(const struct segment *segment, struct bench_area *area, const struct bench_role *role,
                   uint32_t sections, int64_t *times);
/* cdef end */

#endif
