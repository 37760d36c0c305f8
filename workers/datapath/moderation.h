/* moderation: small packets, and trains, that come singly and fast are gathered before they are served. */
#ifndef WORKERS_DATAPATH_MODERATION_H
#define WORKERS_DATAPATH_MODERATION_H

#include <stdint.h>

/* cdef begin */
#define MODERATION_HOLD_NS 250000  /* how long a receiver gathers small packets */
#define MODERATION_TRAINS_NS 20000 /* and trains */
#define MODERATION_CLOSE_NS 150000 /* rounds that end within this time of each other are close */
#define MODERATION_ROUNDS 4        /* small rounds in a row, close to each other, after which it gathers */
#define MODERATION_BUSY_ROUNDS 8   /* rounds of any kind in a row, close to each other, after which it gathers trains */
#define MODERATION_SMALL 16        /* a round with fewer messages is small; a train is one message */
#define MODERATION_LEAST 3         /* a hold that gathered fewer messages was not worth it */

struct moderation {
    uint32_t busy_rounds;  /* rounds in a row, each close to the one before, at most MODERATION_BUSY_ROUNDS */
    uint32_t close_rounds; /* small rounds without a train, likewise, at most MODERATION_ROUNDS */
    uint32_t hold;         /* ns for which the next round is held, or the present one was */
    uint64_t round_at;     /* ns of clock_now; when the latest round ended */
};

/* After a round that ended at `now` and brought `messages`, with_train: at least one was a train or a super-packet.
 * Returns the ns for which the next round is to be held: MODERATION_HOLD_NS, MODERATION_TRAINS_NS or 0. */
uint32_t moderation_round(struct moderation *moderation, uint64_t now, uint32_t messages, int with_train);
/* cdef end */

#endif
