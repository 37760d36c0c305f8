/* receiver: takes packets in, from UDP sockets and TUN queues, and pushes their
 * descriptors into the queues of the peers they belong to. */
#ifndef WORKERS_DATAPATH_RECEIVER_H
#define WORKERS_DATAPATH_RECEIVER_H

#include "shm/pool.h"

/* cdef begin */
struct receiver;
struct holder;

/* A receiver over an attached segment. fds: -1 where there is none. bells[n] is worker n's
 * eventfd or -1 (MAX_WORKERS of them). NULL when memory or epoll is refused (errno). */
struct receiver *receiver_new(const struct segment *segment, uint32_t number, int channel,
                              const int32_t *bells);
void receiver_free(struct receiver *receiver);
/* Sockets from now on, at most 2 * MAX_RECEIVERS; the old fds are the caller's to close. 0, or -1 with errno. */
int receiver_use_sockets(struct receiver *receiver, const int32_t *sockets, uint32_t count);
/* Likewise TUN queues, at most MAX_RECEIVERS. */
int receiver_use_queues(struct receiver *receiver, const int32_t *queues, uint32_t count);

/* The hand-off. inline_holder (the caller's): run to completion, the receiver drains with it on the spot what
 * it has pushed to a peer that nobody holds; it never waits for a full UDP socket from now on. NULL, as at
 * first: pipeline, consumers drain. */
void receiver_hand_off(struct receiver *receiver, struct holder *inline_holder);

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

#define BURST_MAX 64        /* messages of one receive call */
#define BURST_PEERS 256     /* a train has up to 128 datagrams (UDP_MAX_SEGMENTS) */
#define TRAIN_PEERS_MOST 128

struct burst {
    uint32_t direction;
    uint32_t chains;
    struct burst_chain chain[BURST_PEERS];
    uint16_t table[2 * BURST_PEERS];  /* open addressing: chain number + 1 */
};

void burst_begin(struct burst *burst, uint32_t direction);
/* The chain of that peer, new with count 0 if this is its first packet; NULL when there are
 * BURST_PEERS chains of others. */
struct burst_chain *burst_chain(struct burst *burst, uint32_t peer);
void burst_add(const struct segment *segment, struct burst_chain *chain, uint32_t node, uint32_t packets);
/* Pushes each chain; refused chains go back to the pool, counted. Each peer is then scheduled, or
 * drained on the spot if inline_holder is given and nobody holds the peer. */
void burst_push(struct burst *burst, const struct segment *segment, uint32_t worker, struct pool *pool,
                struct holder *inline_holder);

/* Token bucket. */
struct allowance {
    uint32_t left;
    uint64_t since;             /* ns; when `left` was last topped up */
};

/* `most` at once, then one each period (ns): 1 when there is one left, which the caller takes (left--). */
int allowance_has(struct allowance *allowance, uint32_t most, uint64_t period, uint64_t now);

/* intake.c: slots that packets are received into, and the nodes that they become. */
#define INTAKE_TRAINS 16
#define TRAINS_REMEMBERED 64

struct intake {
    const struct segment *segment;
    uint32_t worker;
    uint32_t number;
    const int32_t *bells;
    struct pool *pool;
    struct holder *inline_holder;  /* drains on the spot what was pushed; NULL: consumers do */
    uint32_t slots[BURST_MAX];  /* small ones, taken and not yet used: message i begins in slots[i] */
    uint32_t slots_held;
    uint32_t trains[INTAKE_TRAINS];  /* large ones: message i goes on in trains[i] */
    uint32_t trains_held;
    int saw_trains;             /* calls for which a train is still expected (intake_room) */
    uint32_t latest_peer;       /* that got a node */
    uint32_t expected;          /* messages that the next call makes ready for (intake_expect) */
    struct allowance answers;   /* ICMP errors */
    struct allowance refusals;  /* messages with a wrong mac1 that control is shown, so that it can tell of them */
};

/* A received message whose bytes stand in one piece. */
struct arrival {
    uint8_t *data;              /* SLOT_ROOM bytes stand before it */
    uint32_t length;
    uint32_t slot;
    uint32_t nodes;             /* issued so far */
    uint32_t at;                /* its number in the receive call */
};

/* Takes slots until `count` small ones and some large ones are held or none is free; returns how
 * many small ones are held. */
uint32_t intake_refill(struct intake *intake, uint32_t count);
/* How many messages, `most` at the most, to receive into the slots held: 0 means to wait for some to
 * come home. */
uint32_t intake_room(const struct intake *intake, uint32_t direction, uint32_t most);
/* Of `room` messages, how many the next call makes ready for: as many as lately came at once, and one more.
 * A packet alone costs no more memory and no more calls than it needs. */
uint32_t intake_expect(const struct intake *intake, uint32_t room);
/* The call was ready for `count` and brought `got`. */
void intake_learn(struct intake *intake, uint32_t got, uint32_t count);
/* The bytes where message i of the next call begins, and how many fit there. */
uint8_t *intake_place(const struct intake *intake, uint32_t i, uint32_t *room);
/* Where its rest goes: behind the place of a large slot's first `room` bytes; NULL if none is held. */
uint8_t *intake_rest(const struct intake *intake, uint32_t i, uint32_t room);
/* Message i has length bytes, what did not fit its place stands at rest: makes it one piece.
 * 0, or -1 when it needs a large slot and none is free (not counted yet). */
int intake_accept(struct intake *intake, uint32_t i, uint32_t length, uint32_t room, const uint8_t *rest,
                  struct arrival *arrival);
/* A node for bytes [offset, offset + length) of the arrival, packets of `gso_size` bytes each but
 * the last; 0 when the peer or the pool has none to give (counted). */
uint32_t intake_issue(struct intake *intake, struct arrival *arrival, uint32_t offset, uint32_t length,
                      uint32_t gso_size, uint32_t packets, uint32_t peer, uint32_t direction);
/* The arrival is dealt with: its slot is used up if it has nodes. */
void intake_finish(struct intake *intake, const struct arrival *arrival);
/* After the call: slots used up leave the lists. */
void intake_settle(struct intake *intake);
/* Packets of the receive call that have no nodes yet: what nobody else would know of after a kill. */
void intake_note_arriving(const struct intake *intake, uint32_t packets);
/* Counts packets dropped for want of a slot. */
void intake_count_no_slot(const struct intake *intake, uint32_t direction, uint32_t packets);

/* receive_udp.c and receive_tun.c: one batch; packets received, or a negative errno. */
struct udp_inbox;
int32_t receive_udp(struct intake *intake, int fd, struct udp_inbox *inbox);
int32_t receive_tun(struct intake *intake, int fd, uint8_t *spill);

#endif
