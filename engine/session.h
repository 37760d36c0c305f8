/* session: what the protocol decides for a batch of one peer's data messages: open or
 * seal, in order, with keys, nonces, window and timers. Pure: memory of the caller and
 * `now`. This is what the holder calls, and what the protocol simulator drives. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "aead.h"
#include "allowedips.h"
#include "keypair.h"
#include "packet.h"
#include "timers.h"

/* cdef begin */
#define SESSION_BATCH 256

enum verdict {
    VERDICT_DELIVER,          /* inbound: an inner packet for the TUN; outbound: ready to send */
    VERDICT_KEEPALIVE,        /* inbound: authenticated, empty */
    VERDICT_KEYPAIR_GONE,
    VERDICT_KEYPAIR_EXPIRED,
    VERDICT_TAG,
    VERDICT_REPLAY,
    VERDICT_INNER_HEADER,
    VERDICT_INNER_SOURCE,
    VERDICT_ECN,
    VERDICT_NO_SESSION,       /* outbound: nothing may be sealed now */
};

/* What the batch asks of others; the caller turns it into events. */
#define SESSION_HANDSHAKE_WANTED 1
#define SESSION_CONFIRMED 2
#define SESSION_TIMER 4
#define SESSION_KEYS 8        /* a keypair left the key word */
#define SESSION_AUTHENTICATED 16  /* at least one packet was authenticated: the endpoint may move */

/* One message, in place. Inbound: data points at the message header; after VERDICT_DELIVER
 * data/length are the inner packet. Outbound: data points at the inner packet, with
 * DATA_HEADER_BYTES writable before it and padding + tag after it; afterwards data/length are the
 * whole message. length 0 outbound is a keepalive. */
struct packet {
    uint8_t *data;
    uint32_t length;
    uint32_t verdict;
    uint8_t ecn;              /* inbound: outer bits; outbound: bits for the outer header, out */
    uint8_t hops;             /* outbound, the caller's: hop limit of the outer header; 0: the host's */
    uint8_t reserved[6];
};

struct session {
    uint64_t *key_word;
    struct keypair *keypairs;     /* number 0 is not used */
    uint32_t max_keypairs;
    uint32_t peer;                /* row */
    uint32_t peer_generation;
    uint32_t *columns;            /* timers */
    uint32_t stride;
    const struct trie_node *trie;
    uint32_t max_trie_nodes;
    uint32_t root4, root6;
    uint32_t mtu;
    uint32_t news;                /* out: SESSION_* */
    uint32_t last_authenticated;  /* out: index in the batch of the latest authenticated packet */
};

/* Up to SESSION_BATCH messages in order of arrival. Window bits of the whole batch are set
 * before this returns, so before any delivery. */
void session_open(struct session *session, struct aead *aead, struct packet *packets,
                  uint32_t count, uint64_t now);
/* Up to SESSION_BATCH inner packets of one peer, in order. All or none: 0; or -1 when no keypair
 * may send now (each verdict is VERDICT_NO_SESSION, memory untouched, handshake asked for). */
int session_seal(struct session *session, struct aead *aead, struct packet *packets,
                 uint32_t count, uint64_t now);
/* The receiver index that session_seal writes, where it could work. */
uint32_t session_remote_index(const struct session *session);
/* Whether session_seal could work now. */
int session_is_usable(const struct session *session, uint64_t now);
/* cdef end */

#endif
