/* intake: slots that packets are received into, and the nodes that they become. */
#ifndef WORKERS_DATAPATH_INTAKE_H
#define WORKERS_DATAPATH_INTAKE_H

#include "workers/datapath/burst.h"

/* Token bucket. */
struct allowance {
    uint32_t left;
    uint64_t since;             /* ns; when `left` was last topped up */
};

/* Tops the bucket up by one token each `period` (ns), to `most` tokens. Non-zero when a token is left; the caller
 * takes the token (left--). */
int allowance_has(struct allowance *allowance, uint32_t most, uint64_t period, uint64_t now);

#define INTAKE_TRAINS 16
#define KNOCK_GROUPS 256
#define TRAINS_REMEMBERED 64

struct intake {
    const struct segment *segment;
    uint32_t worker;
    uint32_t number;
    const int32_t *bells;
    struct pool *pool;
    struct holder *inline_holder;  /* drains what was pushed at once; NULL: consumers drain */
    uint32_t slots[BURST_MAX];  /* free small slots: message i begins in slots[i] */
    uint32_t slots_held;
    uint32_t trains[INTAKE_TRAINS];  /* free large slots: message i continues in trains[i] */
    uint32_t trains_held;
    int saw_trains;             /* calls for which a train is still expected (intake_room) */
    uint32_t latest_peer;       /* to which a node was issued */
    uint32_t expected;          /* messages that the next call makes room for (intake_expect) */
    struct allowance answers;   /* rate of ICMP errors that are sent */
    struct allowance refusals;  /* rate of messages with a wrong mac1 that control reports */
    uint32_t knocks[KNOCK_GROUPS]; /* by index: the period in which control was last told of one of the group */
};

/* A received message whose bytes are contiguous. */
struct arrival {
    uint8_t *data;              /* behind SLOT_ROOM bytes of headroom */
    uint32_t length;
    uint32_t slot;
    uint32_t nodes;             /* nodes issued for it so far */
    uint32_t at;                /* its number in the receive call */
};

/* Takes slots from the pool until `count` small and INTAKE_TRAINS large slots are held, or none is free. Returns
 * how many small slots are held. */
uint32_t intake_refill(struct intake *intake, uint32_t count);
/* How many messages to receive into the slots held, at most `most`. 0: wait until slots come home. */
uint32_t intake_room(const struct intake *intake, uint32_t direction, uint32_t most);
/* For how many messages, at most `room`, the next call makes room: one more than the latest call brought, or
 * twice as many if that call was full. So single packets cost no more memory or calls than they need. */
uint32_t intake_expect(const struct intake *intake, uint32_t room);
/* After a call that made room for `count` messages and brought `got` of them. */
void intake_learn(struct intake *intake, uint32_t got, uint32_t count);
/* Where message i of the next call begins; *room: bytes that fit there. */
uint8_t *intake_place(const struct intake *intake, uint32_t i, uint32_t *room);
/* Where message i continues after `room` bytes: in a large slot, behind space for those bytes. NULL if no large
 * slot is held for it. */
uint8_t *intake_rest(const struct intake *intake, uint32_t i, uint32_t room);
/* Makes message i, of `length` bytes, contiguous: its first `room` bytes stand at intake_place, the others at
 * `rest`. 0, or -1 when the message needs a large slot and none is free (the caller counts the drop). */
int intake_accept(struct intake *intake, uint32_t i, uint32_t length, uint32_t room, const uint8_t *rest,
                  struct arrival *arrival);
/* Issues a node for bytes [offset, offset + length) of the arrival: `packets` packets of `gso_size` bytes, the last
 * may be shorter. 0 when the peer's share is spent or the pool has no node; the drop is then counted. */
uint32_t intake_issue(struct intake *intake, struct arrival *arrival, uint32_t offset, uint32_t length,
                      uint32_t gso_size, uint32_t packets, uint32_t peer, uint32_t direction);
/* No more nodes follow for this arrival. If it has nodes, its slot belongs to them; if not, the slot serves again. */
void intake_finish(struct intake *intake, const struct arrival *arrival);
/* After a receive call: removes the slots that now belong to nodes from slots[] and trains[]. */
void intake_settle(struct intake *intake);
/* Notes how many packets of the receive call have no node yet: after a kill, nothing else tells of these packets. */
void intake_note_arriving(const struct intake *intake, uint32_t packets);
/* Counts packets dropped because no slot was free. */
void intake_count_no_slot(const struct intake *intake, uint32_t direction, uint32_t packets);

#endif
