/* holder: the work of whoever holds a peer's token: apply orders, open what came in, seal
 * what goes out, in order, and give the token back. */
#ifndef WORKERS_HOLDER_H
#define WORKERS_HOLDER_H

#include "engine/session.h"
#include "shm/segment.h"

/* cdef begin */
struct holder {
    const struct segment *segment;
    struct aead *aead;
    uint32_t worker;
    uint32_t mark;             /* shm/token.h */
    int32_t udp4, udp6, tun;   /* -1 = none */
    int32_t bells[66];         /* eventfd of each worker, -1 = none */
};
/* aead from aead_new; the fds stay the caller's. Fills in defaults: no fds. */
void holder_initialise(struct holder *holder, const struct segment *segment, struct aead *aead,
                       uint32_t worker);
/* Takes a queued peer's token; 1 when this worker holds it now. */
int holder_take(const struct holder *holder, uint32_t row);
/* One turn of a peer whose token this worker holds: orders first, then up to TAKE_BUDGET
 * packets each way, then the token is given. `now` in ns of clock_now. Returns the packets
 * dealt with. */
uint32_t holder_take_turn(struct holder *holder, uint32_t row, uint64_t now);
/* cdef end */

/* holder_orders.c: applies and clears what control ordered. Returns the bits that are the
 * caller's to finish in this turn: ORDER_KEEPALIVE, ORDER_PURGE_STAGED, ORDER_RETIRE. */
uint32_t holder_apply_orders(const struct holder *holder, uint32_t row, uint64_t now);
/* SESSION_* news and EVENT_* bits for control, with its bell. */
void holder_tell(const struct holder *holder, uint32_t row, uint32_t session_news, uint32_t events);
/* The engine's view of a row. */
void holder_session(const struct holder *holder, uint32_t row, struct session *session);
void holder_count(const struct holder *holder, uint32_t counter, uint64_t n);

/* Copies node `number` once and returns its bytes if they stay inside the packet slots with
 * room_before bytes before them; else NULL. Whatever a receiver wrote there, the holder
 * reads nothing else. */
uint8_t *holder_node_read(const struct segment *segment, uint32_t number, uint32_t room_before,
                          struct node *copy);

/* holder_inbound.c and holder_outbound.c: one batch each; return the wire-size packets taken. */
uint32_t holder_open_batch(const struct holder *holder, uint32_t row, uint64_t now);
uint32_t holder_seal_batch(const struct holder *holder, uint32_t row, uint64_t now);
/* Drops the oldest waiting outbound packets until at most `keep` are left. */
void holder_trim_staged(const struct holder *holder, uint32_t row, uint32_t keep, uint32_t counter);
void holder_send_keepalive(const struct holder *holder, uint32_t row, uint64_t now);
/* Drops both queues (the peer is gone). */
void holder_drop_all(const struct holder *holder, uint32_t row);

#endif
