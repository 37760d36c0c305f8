/* receiver: takes packets in, from UDP sockets and TUN queues, and pushes their
 * descriptors into the queues of the peers they belong to. */
#ifndef WORKERS_DATAPATH_RECEIVER_H
#define WORKERS_DATAPATH_RECEIVER_H

#include "shm/pool.h"

/* cdef begin */
struct receiver;
struct holder;

/* A receiver over an attached segment. channel: fd, -1 for none. bells: MAX_WORKERS entries, bells[n] the
 * eventfd of worker n or -1. NULL with errno when the kernel refuses memory or an epoll descriptor. */
struct receiver *receiver_new(const struct segment *segment, uint32_t number, int channel,
                              const int32_t *bells);
void receiver_free(struct receiver *receiver);
/* Reads these sockets from now on, at most 2 * MAX_RECEIVERS; the caller closes the old fds. 0, or -1 with errno. */
int receiver_use_sockets(struct receiver *receiver, const int32_t *sockets, uint32_t count);
/* Reads these TUN queues from now on, at most MAX_RECEIVERS; the caller closes the old fds. 0, or -1 with errno. */
int receiver_use_queues(struct receiver *receiver, const int32_t *queues, uint32_t count);

/* This process runs before ordinary processes when it wakes (priority.h), and gathers single small packets
 * (moderation.h). 0, or -1 with errno. */
int receiver_wake_at_once(struct receiver *receiver);
/* This process stays on `core` while it has little to do (affinity.h). 0, or -1 with errno. */
int receiver_stay_on(struct receiver *receiver, uint32_t core);

/* The hand-off. With an inline_holder, which the caller owns (run to completion), the receiver itself drains each
 * peer it pushed to, if nobody holds that peer; sends with this holder no longer wait for a full UDP socket. With
 * NULL, the initial state (pipeline), consumers drain. */
void receiver_hand_off(struct receiver *receiver, struct holder *inline_holder);

#define RECEIVER_CHANNEL 1  /* the channel has a message */
#define RECEIVER_TIME 2     /* the clock has reached `until` */
#define RECEIVER_TUN_GONE 4 /* the device was removed */
/* Receives, sorts and pushes packets until there is a reason to return: a mask of RECEIVER_*. `until`: ns of
 * clock_now. */
int receiver_run(struct receiver *receiver, uint64_t until);
/* cdef end */

#endif
