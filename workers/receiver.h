/* receiver: takes packets in, from one UDP socket pair and one TUN queue, and pushes their
 * descriptors into the queues of the peers they belong to. */
#ifndef WORKERS_RECEIVER_H
#define WORKERS_RECEIVER_H

#include "shm/pool.h"

/* cdef begin */
struct receiver;

/* A receiver over an attached segment. fds: -1 where there is none. bells[n] is worker n's
 * eventfd or -1 (MAX_WORKERS of them). NULL when memory or epoll is refused (errno). */
struct receiver *receiver_new(const struct segment *segment, uint32_t number, int channel,
                              int tun, const int32_t *bells);
void receiver_free(struct receiver *receiver);
/* Sockets from now on; the old fds are the caller's to close. 0, or -1 with errno. */
int receiver_use_sockets(struct receiver *receiver, int udp4, int udp6);

#define RECEIVER_CHANNEL 1  /* the channel has a message */
#define RECEIVER_TIME 2     /* `until` has come */
#define RECEIVER_TUN_GONE 4 /* the device was removed */
/* Receives, sorts and pushes until one of the above; returns it. `until` in ns of clock_now. */
int receiver_run(struct receiver *receiver, uint64_t until);
/* cdef end */

/* burst.c: a burst of packets sorted by peer, so that each peer's queue is touched once. */
struct burst_chain {
    uint32_t peer;
    uint32_t first, last;   /* nodes, linked privately in order of arrival */
    uint32_t count;         /* nodes */
    uint32_t packets;       /* wire-size packets */
};

#define BURST_MAX 64

struct burst {
    uint32_t direction;
    uint32_t chains;
    struct burst_chain chain[BURST_MAX];
    uint8_t table[2 * BURST_MAX];  /* open addressing: chain number + 1 */
};

void burst_begin(struct burst *burst, uint32_t direction);
/* The chain of that peer, new with count 0 if this is its first packet; the burst has had
 * fewer than BURST_MAX packets. */
struct burst_chain *burst_chain(struct burst *burst, uint32_t peer);
void burst_add(struct burst *burst, const struct segment *segment, uint32_t node, uint32_t peer,
               uint32_t packets);
/* Pushes each chain and schedules its peer; refused chains go back to the pool, counted. */
void burst_push(struct burst *burst, const struct segment *segment, uint32_t worker, struct pool *pool);

/* receive_udp.c and receive_tun.c: one batch; packets received, or a negative errno. */
struct udp_inbox;
struct intake {
    const struct segment *segment;
    uint32_t worker;
    uint32_t number;
    const int32_t *bells;
    struct pool *pool;
    uint32_t slots[BURST_MAX];  /* taken, not yet used: packets are received into them */
    uint32_t slots_held;
    uint32_t answers;           /* ICMP errors that may still be written */
    uint64_t answers_since;     /* ns; when `answers` was last topped up */
};

/* Takes slots until `count` are held or none is free; returns how many are held. */
uint32_t intake_refill(struct intake *intake, uint32_t count);
/* The bytes where packet i of the next call goes, and how many fit there. */
uint8_t *intake_place(const struct intake *intake, uint32_t i, uint32_t *room);
/* A packet in slots[i] (its first `room` bytes) and in spill becomes a node for peer: as it
 * stands, or copied into a train slot if it is larger. 0 when there is no room (counted). */
uint32_t intake_issue(struct intake *intake, uint32_t i, uint32_t length, uint32_t room,
                      const uint8_t *spill, uint32_t peer, uint32_t direction);
/* Slots used up by nodes leave the list. */
void intake_settle(struct intake *intake);

int32_t receive_udp(struct intake *intake, int fd, struct udp_inbox *inbox);
int32_t receive_tun(struct intake *intake, int fd, uint8_t *spill);

#endif
