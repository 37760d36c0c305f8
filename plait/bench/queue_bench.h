/* queue_bench: what a packet's way through a queue costs, measured on the functions that ship,
 * beside a ring such as the kernel had for each peer before its own list. */
#ifndef PLAIT_BENCH_QUEUE_BENCH_H
#define PLAIT_BENCH_QUEUE_BENCH_H

#include "shm/segment.h"

/* cdef begin */
#define BENCH_RING_PLACES 1024
#define BENCH_SECTION 4096  /* packets of one producer in one section */

enum bench_design {
    BENCH_QUEUE,         /* what ships */
    BENCH_QUEUE_COUNTED, /* the same, and a count shared by both ends, bumped per packet */
    BENCH_RING,          /* the ring; producers lock it for each packet, the only consumer does not */
    BENCH_RING_LOCKED,   /* the same; the consumer takes its own lock for each packet */
    BENCH_POOL,          /* no queue: slot and node taken, brought home, swept */
    BENCH_DESIGNS
};

/* bench_area.failed */
#define BENCH_STUCK 1     /* nothing moved for 20 s */
#define BENCH_DISORDER 2  /* a producer's packets came out of order, twice or not at all */

/* 1,024 pointers and a lock for either end, each end on a line of its own. */
struct bench_ring {
    uint32_t producer_lock;
    uint32_t put;
    uint32_t reserved0[14];
    uint32_t consumer_lock;
    uint32_t got;
    uint32_t cleared;
    uint32_t reserved1[13];
    uint64_t place[1024];
};

/* In a second segment: where processes meet before each section, and the ring. */
struct bench_area {
    uint32_t arrived;
    uint32_t failed;         /* whoever cannot go on says why, and everybody stops */
    uint32_t reserved[14];
    struct bench_ring ring;
};

/* What one process does in every section. */
struct bench_role {
    uint32_t design;
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
