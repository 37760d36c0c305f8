/* session: opens or seals a batch of one peer's data messages in order, and decides all that the
 * protocol asks for them: keypair, nonces, replay window, timers. Pure: works on the caller's memory and
 * `now` alone. The holder and the protocol simulator call it. */
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
    VERDICT_KEEPALIVE,        /* inbound: authenticated, without an inner packet */
    VERDICT_KEYPAIR_GONE,
    VERDICT_KEYPAIR_EXPIRED,
    VERDICT_TAG,
    VERDICT_REPLAY,
    VERDICT_INNER_HEADER,
    VERDICT_INNER_SOURCE,
    VERDICT_ECN,
    VERDICT_LOST,             /* whoever was to open or seal it died */
    VERDICT_NO_SESSION,       /* outbound: no keypair may send now */
};

/* session.news: what the batch asks of control and the holder; the caller turns it into events. */
#define SESSION_HANDSHAKE_WANTED 1
#define SESSION_CONFIRMED 2
#define SESSION_TIMER 4
#define SESSION_KEYS 8        /* a keypair left the key word */
#define SESSION_AUTHENTICATED 16  /* at least one packet was authenticated: the endpoint may move */

/* One message, opened or sealed in place. Inbound: data/length are the message; after VERDICT_DELIVER they are
 * the inner packet. Outbound: data/length are the inner packet, length 0 for a keepalive, with DATA_HEADER_BYTES
 * writable before it and room for padding and tag after it; after session_seal they are the message. */
struct packet {
    uint8_t *data;
    uint32_t length;
    uint32_t verdict;
    uint8_t ecn;              /* of the outer header; in when inbound, out when outbound */
    uint8_t hops;             /* outbound, set by the caller: hop limit of the outer header; 0: the host's default */
    uint8_t reserved[6];
};

struct session {
    uint64_t *key_word;
    struct keypair *keypairs;     /* by number; number 0 means none */
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

/* Opens up to SESSION_BATCH messages in order of arrival, and sets each one's verdict. The window bits of the
 * whole batch are set on return, so before any packet is delivered. */
void session_open(struct session *session, struct aead *aead, struct packet *packets,
                  uint32_t count, uint64_t now);
/* Seals up to SESSION_BATCH inner packets, in order: all of them (0), or none (-1) when no keypair may send now.
 * After -1 each verdict is VERDICT_NO_SESSION, the packets' bytes are unchanged, and news asks for a handshake. */
int session_seal(struct session *session, struct aead *aead, struct packet *packets,
                 uint32_t count, uint64_t now);
/* The receiver index of the current keypair, which session_seal writes into messages; 0 without a keypair. */
uint32_t session_remote_index(const struct session *session);
/* Whether session_seal would find a keypair that may send now. */
int session_is_usable(const struct session *session, uint64_t now);
/* cdef end */

/* The two halves of session_open and session_seal, with the AEAD of `jobs` between them: whoever seals or opens may
 * leave a message elsewhere than it stood, and says so in its job. */
struct session_jobs {
    struct aead_job jobs[SESSION_BATCH];
    struct packet *packets[SESSION_BATCH]; /* that the jobs are of */
    uint32_t numbers[SESSION_BATCH];       /* of their keypairs */
    uint32_t count;
    uint64_t found_word;                   /* opening: the key word */
    uint64_t first;                        /* sealing: the first nonce */
};
void session_open_begin(struct session *session, struct packet *packets, uint32_t count, uint64_t now,
                        struct session_jobs *jobs);
void session_open_end(struct session *session, const struct packet *packets, uint64_t now, struct session_jobs *jobs);
/* 0, or -1 as session_seal; then there are no jobs. The nonces of all are taken: none may be used a second time. */
int session_seal_begin(struct session *session, struct packet *packets, uint32_t count, uint64_t now,
                       struct session_jobs *jobs);
void session_seal_end(struct session *session, uint64_t now, struct session_jobs *jobs);

#endif
