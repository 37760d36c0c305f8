/* handshake_batch: what control has done in C with a batch of handshake messages; the order of
 * it, and what is refused, is workers/control/handshakes.py's to say. */
#ifndef WORKERS_CONTROL_HANDSHAKE_BATCH_H
#define WORKERS_CONTROL_HANDSHAKE_BATCH_H

#include "engine/handshake.h"
#include "engine/publickeys.h"
#include "shm/segment.h"

/* cdef begin */
#define HANDSHAKE_BATCH 64

/* What the macs and the length of a message say. */
enum check_result {
    CHECK_INITIATION,  /* may go on, as the next two */
    CHECK_RESPONSE,
    CHECK_COOKIE,
    CHECK_LENGTH,      /* no such message, or of no address */
    CHECK_MAC1_BAD,
    CHECK_NO_COOKIE,   /* under load: mac1 is right, mac2 is zeros; to be answered with a cookie */
    CHECK_OLD_COOKIE,  /* likewise, but mac2 is something else */
    CHECK_KNOCK        /* the head of a data message for a dead gateway */
};

/* A message to be sent, or one that was. */
struct outgoing {
    struct endpoint to;
    uint32_t length;
    int32_t error;            /* out: 0, or the errno that it was not sent for */
    uint32_t source_refused;  /* out: 1 when to.source is not ours any more; sent without it */
    uint32_t cell;            /* the caller's: what it answers */
    uint8_t message[MAILBOX_MESSAGE_BYTES];
};

/* Fills check_results. identity NULL: macs are not looked at. secret: of cookies, NULL when not under load. */
void batch_check(const struct handshake_identity *identity, const uint8_t *secret,
                 const struct mailbox_cell *cells, uint32_t count, uint8_t *check_results);
/* Cookie replies to those of the cells that are CHECK_NO_COOKIE or CHECK_OLD_COOKIE; returns how many. */
uint32_t batch_answer_with_cookies(struct handshake_crypto *crypto, const struct handshake_identity *identity,
                                   const uint8_t secret[32], const struct mailbox_cell *cells, uint32_t count,
                                   const uint8_t *check_results, struct outgoing *outgoing);
/* Begins a handshake for each CHECK_INITIATION, where[] the cell it came in; returns how many. */
uint32_t batch_begin(const struct handshake_identity *identity, const struct mailbox_cell *cells, uint32_t count,
                     const uint8_t *check_results, struct handshake *handshakes, uint32_t *where);
/* Rows of the peers whose static keys were opened; 0xffffffff where there is none. */
void batch_find_peers(const struct publickeys *keys, const struct handshake *handshakes, uint32_t count,
                      uint32_t *rows);
/* 1 for each row that is reached where its message came from, source and all. */
void batch_compare_endpoints(const struct segment *segment, const uint32_t *rows, const struct mailbox_cell *cells,
                             const uint32_t *where, uint32_t count, uint8_t *same);
/* Writes the keypair and orders the peer's holder to install it, with the other bits of orders[i].
 * Only handshakes that are HANDSHAKE_FINE. */
void batch_install(const struct segment *segment, const struct handshake *handshakes, const uint32_t *rows,
                   const uint32_t *numbers, const uint32_t *orders, uint32_t count, uint64_t now, uint32_t flags);
/* Messages with the responses of handshakes that are HANDSHAKE_FINE; returns how many. */
uint32_t batch_write_responses(const struct handshake *handshakes, const struct mailbox_cell *cells,
                               const uint32_t *where, uint32_t count, struct outgoing *outgoing);
/* Sends them with the class of handshakes (DSCP AF41), never waiting; a socket is -1 when there is none. */
void handshakes_send(int udp4, int udp6, struct outgoing *outgoing, uint32_t count);
/* Takes out of the rows' lists of keypair numbers (linked by `follow` from first[row] on) those that neither the
 * row's key word nor an order to install names, keep[i] aside; their indices are nobody's any more. Stops after
 * `most`. Returns how many. */
uint32_t keypairs_collect(const struct segment *segment, uint32_t *first, uint32_t *follow, const uint32_t *rows,
                          const uint32_t *keep, uint32_t count, uint32_t *numbers, uint32_t most);
/* cdef end */

#endif
