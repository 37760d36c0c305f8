/* holder: the work of whoever holds a peer's token: apply orders, open what came in, seal
 * what goes out, in order, and give the token back. */
#ifndef WORKERS_DATAPATH_HOLDER_H
#define WORKERS_DATAPATH_HOLDER_H

#include "engine/session.h"
#include "shm/segment.h"

/* cdef begin */
/* Packets of a batch: with one more node, of up to 64 packets as a rule, it fits SESSION_BATCH. A large batch wastes
 * less, because super-packets (47 packets) and trains (45) rarely align. */
#define BATCH_PACKETS 192

/* A full socket buffer drains within microseconds on any live link; a link that does not in
 * this time loses packets, as a full device queue would. */
#define SEND_WAIT_MS 20
/* A peer whose trains were refused is sent single datagrams for so long: routes and devices change. */
#define TRAINS_AGAIN_NS 1000000000ull
#define TRAINS_REFUSED 256 /* places for such peers, by row; who is displaced is asked about again */

/* Whether a holder lends parts of its batches (sharing.h). */
#define SHARE_NEVER 0
#define SHARE_AUTO 1   /* when it is busy and a core idle */
#define SHARE_ALWAYS 2 /* every batch of two packets, for tests */
/* A helper needs some microseconds, and runs before ordinary processes; repair tells within milliseconds that one died.
 * So this is for helpers that are stopped, or run as ordinary processes beside many others. */
#define PART_WAIT_MS 200

/* How long large batches have taken in a window: whether the holder's core is what limits its peers. */
struct batch_time {
    uint64_t window; /* ns of clock_now: its begin */
    uint64_t large;  /* ns of large batches since */
    uint64_t begun;  /* of the batch in hand, when it is large */
    uint32_t is_busy; /* by the window before */
};

struct holder {
    const struct segment *segment;
    struct aead *aead;
    uint32_t worker;
    uint32_t mark;             /* shm/token.h */
    uint32_t budget;           /* wire-size packets of a peer, each way, in one turn */
    int32_t udp4, udp6, tun;   /* -1 = none */
    uint32_t joins;            /* JOIN_* (engine/coalescing.h): what the TUN takes as super-packets */
    uint32_t trains;           /* 1: the UDP sockets take trains */
    int32_t wait_ms;           /* for a full UDP socket; 0: never. Then what it has no room for stays in its queue
                                * for a holder that may wait */
    struct {
        uint64_t until;
        uint32_t row;
    } single[TRAINS_REFUSED];
    uint32_t share;            /* SHARE_* */
    uint32_t part_wait_ms;     /* for a part that a helper has; then its packets count as lost */
    uint32_t cores;            /* of the engine */
    int32_t loadavg;           /* fd of /proc/loadavg; -1: the kernel does not say how many tasks run */
    uint32_t misses;           /* batches in a row of which nobody took a part */
    uint32_t helper_called;    /* the latest: number + 1 */
    uint64_t helper_look;      /* ns of clock_now: no helper is called before, */
    uint64_t share_again;      /* and nothing is offered before */
    struct batch_time batch_time;
    int32_t bells[MAX_WORKERS]; /* eventfd of each worker, -1 = none */
    uint8_t *gso_buffer;       /* packets cut from super-packets, until they are sent */
};
/* aead from aead_new; the fds stay the caller's. Fills in defaults: no fds, no offloads, a
 * budget of TAKE_BUDGET, a wait of SEND_WAIT_MS. 0, or -1 when memory is refused. */
int holder_initialise(struct holder *holder, const struct segment *segment, struct aead *aead,
                      uint32_t worker);
void holder_release(struct holder *holder);
/* SESSION_* news and EVENT_* bits for control, with its bell. */
void holder_tell(const struct holder *holder, uint32_t row, uint32_t session_news, uint32_t events);
/* cdef end */

/* Room for the packets cut from super-packets before they are sent: a whole one with all that
 * sealing adds to its packets, and what was cut before it. */
#define GSO_BUFFER_BYTES (3u << 17)

/* holder_orders.c, inbound: applies and clears inbound's orders, and asks outbound to look, by an order. ORDER_RETIRE
 * is the caller's to finish, and returned then. */
uint32_t holder_apply_orders(const struct holder *holder, uint32_t row, uint64_t now);
/* Outbound: clears outbound's orders and returns them, ORDER_KEEPALIVE and ORDER_PURGE_STAGED for the caller to finish
 * in this turn; ORDER_RETIRE alone when inbound has retired; ORDERS_WAIT, no bit of an order, while inbound has orders
 * to apply first: nothing may be sealed until then, for the packets may be meant for what was ordered. */
#define ORDERS_WAIT 0x80000000u
uint32_t holder_take_orders(const struct holder *holder, uint32_t row);
/* The engine's view of a row. */
void holder_session(const struct holder *holder, uint32_t row, struct session *session);
void holder_count(const struct holder *holder, uint32_t counter, uint64_t n);

/* holder_outbound.c: whether what is sealed can leave without a wait that this holder may not have. */
int holder_has_room(const struct holder *holder, uint32_t row);
/* holder_inbound.c and holder_outbound.c: one batch, until it has `most` packets; return how many. */
uint32_t holder_open_batch(struct holder *holder, uint32_t row, uint64_t now, uint32_t most);
uint32_t holder_seal_batch(struct holder *holder, uint32_t row, uint64_t now, uint32_t most);
/* Drops the oldest waiting outbound packets until at most `keep` are left. */
void holder_trim_staged(const struct holder *holder, uint32_t row, uint32_t keep, uint32_t counter);
void holder_send_keepalive(struct holder *holder, uint32_t row, uint64_t now);
/* Drops what the queue has (the peer is gone). */
void holder_drop_all(const struct holder *holder, uint32_t queue);

#endif
