/* orders and events: what control and the holders of a peer's two directions tell each other without packets.
 * A word is count << 32 | bits. The giver adds bits and bumps the count in one
 * compare-exchange; the taker applies what it read (idempotent) and clears exactly that by
 * compare-exchange: if the word moved meanwhile, it reads again. */
#ifndef SHM_ORDERS_H
#define SHM_ORDERS_H

#include "segment.h"

/* Bits have no order, but what they ask for has. So the holder applies them in an order of its
 * own, below, and whoever gives one that cancels another takes that one's object away first:
 *
 *   ZERO          before both INSTALLs. orders_give(ZERO) empties row.installing and installing_next: a
 *                 session that was ordered before ends too, one that is ordered afterwards stands.
 *   STOP_SENDING  before both INSTALLs, and not for what they name. Control itself stops the
 *                 keypair of an INSTALL that waits (workers/control/keypairs.py).
 *   INSTALL_NEXT  before INSTALL. Where both ends begin a handshake at once, both are ordered at once:
 *                 our own session is sent with, the other end's stays as the previous one.
 *   EXPIRE        after both INSTALLs; goes by age, so it cancels nothing that is new.
 *   CLEAR_SOURCE  after ENDPOINT. At worst a source is forgotten that the next packet brings back.
 *   PURGE_STAGED  after the queues were drained of what has a session, before KEEPALIVE; LOOK and it
 *                 together drop what waits, also what came in between.
 *   RETIRE        last: nothing survives it.
 *
 * Each order is applied by the holder of one direction. Inbound has the key word and the endpoint, so it applies
 * what changes them, and outbound's orders wait until none of inbound's is there: a KEEPALIVE is sent with the
 * session of the INSTALL beside it. RETIRE is both's: inbound lets go of the keys, empties its queue and sets its
 * token dead; outbound does so afterwards, and tells control. A holder gives orders, too, for the other
 * direction: LOOK when the key word was changed, CLEAR_SOURCE when the kernel refused our address. */
/* cdef begin */
/* orders: control -> holder, and one direction's holder -> the other's */
#define ORDER_INSTALL 1        /* row.installing, of a handshake that we began, becomes current */
#define ORDER_KEEPALIVE 2      /* send an empty data message if there is a session, or ask for a handshake */
#define ORDER_ENDPOINT 4       /* endpoint := row.ordered_endpoint */
#define ORDER_EXPIRE 8         /* drop keypairs past 180 s from the key word */
#define ORDER_ZERO 16          /* drop all keypairs */
#define ORDER_RETIRE 32        /* free everything, token := dead */
#define ORDER_AUTHENTICATED_RECEIVED 64   /* control opened a handshake message of this peer */
#define ORDER_AUTHENTICATED_SENT 128      /* control sent one */
#define ORDER_CLEAR_SOURCE 256 /* forget the sticky source */
#define ORDER_PURGE_STAGED 512 /* the handshake was given up, or the interface went down: drop what waits */
#define ORDER_STOP_SENDING 1024 /* private key changed: drop current and next for sending */
#define ORDER_LOOK 2048        /* nothing but a turn: e.g. the outbound queue became usable */
#define ORDER_INSTALL_NEXT 4096 /* row.installing_next, of a handshake that we answered, becomes next */

#define ORDERS_OUTBOUND 2562    /* KEEPALIVE, PURGE_STAGED, LOOK */
#define ORDERS_INBOUND 5629     /* all others */

/* events: holder -> control */
#define EVENT_HANDSHAKE_WANTED 1
#define EVENT_CONFIRMED 2      /* first data on `next`: the responder's handshake is complete */
#define EVENT_TIMER 4          /* next_due must be computed again */
#define EVENT_KEYS 8           /* a keypair left the key word */
#define EVENT_RETIRED 16
#define EVENT_ENDPOINT 32      /* the endpoint moved to where data came from */
#define EVENT_HOLDER_DIED 64   /* repair: whatever the holder had to tell or was ordered last may be lost */
#define EVENT_LOOP 128         /* DROP_LOOP was counted; also a receiver's; control sees it when it next looks */

void orders_give(const struct segment *segment, uint32_t row, uint32_t bits);  /* then peer_schedule */
uint64_t orders_read(const struct segment *segment, uint32_t row);             /* acquire */
/* Of the word that was read, these bits. 1 when cleared, 0 when the word is another by now. */
int orders_clear(const struct segment *segment, uint32_t row, uint64_t word, uint32_t bits);
void events_give(const struct segment *segment, uint32_t row, uint32_t bits);  /* ready set 0 too; the caller rings */
uint64_t events_read(const struct segment *segment, uint32_t row);
int events_clear(const struct segment *segment, uint32_t row, uint64_t word);
/* Control: rows of its ready set that were told something, each once, and their words; up to `most`. */
uint32_t events_take(const struct segment *segment, uint32_t *cursor, uint32_t *rows, uint64_t *words, uint32_t most);
/* They are dealt with: cleared. A row whose word is another by now is ready again. */
void events_settle(const struct segment *segment, const uint32_t *rows, const uint64_t *words, uint32_t count);
/* Holder: a new endpoint into the copy not selected, then the turn. Anyone: a whole copy. */
void endpoint_store(const struct segment *segment, uint32_t row, const struct endpoint *endpoint);
void endpoint_load(const struct segment *segment, uint32_t row, struct endpoint *endpoint);
/* cdef end */

#endif
