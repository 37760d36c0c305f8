/* handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, both roles, over arrays (kernel: noise.c, cookie.c).
 *
 * One struct handshake is one handshake at one of its two ends; a call takes many of them through
 * one step. The caller owns the memory, which holds keys from the first step on: it wipes it
 * (handshake_wipe). A step works on those whose result is HANDSHAKE_FINE and passes over the rest,
 * so that steps can follow each other without looking in between. */
#ifndef ENGINE_HANDSHAKE_H
#define ENGINE_HANDSHAKE_H

#include <stdint.h>

#include "packet.h"

/* cdef begin */
#define MAC_BYTES 16
#define TIMESTAMP_BYTES 12

enum handshake_result {
    HANDSHAKE_FINE,
    HANDSHAKE_LOW_ORDER,      /* an X25519 result is zero: nothing would be secret */
    HANDSHAKE_STATIC_TAG,     /* the sender's static key does not open: not for our key, or altered */
    HANDSHAKE_TIMESTAMP_TAG,  /* the sender does not hold the static key that it shows */
    HANDSHAKE_RESPONSE_TAG,   /* another handshake's, altered, or the preshared keys differ */
    HANDSHAKE_PASSED_OVER     /* for the caller: no step touches it */
};

/* A static key with everything that follows from it alone. */
struct handshake_identity {
    uint8_t private_key[32];  /* clamped */
    uint8_t public_key[32];
    uint8_t greeting[32];     /* h when a handshake with us as responder begins */
    uint8_t mac1_key[32];     /* of messages to us */
    uint8_t cookie_key[32];
};

struct handshake {
    const struct handshake_identity *identity;  /* ours; many may share one */
    uint32_t result;             /* enum handshake_result */
    uint32_t local_index;        /* the index that we give in our message */
    uint32_t remote_index;       /* the other side's, from its message */
    uint8_t has_static_static;   /* 0: the step computes it, and the caller may keep it */
    uint8_t has_ephemeral;       /* 0: the step draws the private key */
    uint8_t has_cookie;          /* 1: our message gets a mac2 */
    uint8_t reserved;
    uint8_t remote_public[32];   /* the peer's static key */
    uint8_t static_static[32];
    uint8_t preshared_key[32];
    uint8_t ephemeral[32];       /* private */
    uint8_t cookie[MAC_BYTES];
    uint8_t timestamp[TIMESTAMP_BYTES];
    uint8_t initiation[INITIATION_BYTES];
    uint8_t response[RESPONSE_BYTES];
    uint8_t hash[32];
    uint8_t chain[32];
    uint8_t key[32];             /* between the two steps of an initiation */
    uint8_t send_key[32];        /* a finished handshake's transport keys */
    uint8_t receive_key[32];
};

/* libcrypto's contexts: one a thread. NULL when libcrypto lacks something or memory. */
struct handshake_crypto;
struct handshake_crypto *handshake_crypto_new(void);
void handshake_crypto_free(struct handshake_crypto *crypto);

/* From 32 bytes of private key, clamped here as the kernel does. */
void handshake_identity(struct handshake_crypto *crypto, const uint8_t private_key[32],
                        struct handshake_identity *identity);
/* 0, or -1 when the secret is zero (a public key of low order); secret is zeros then. */
int handshake_exchange(struct handshake_crypto *crypto, const uint8_t private_key[32],
                       const uint8_t public_key[32], uint8_t secret[32]);
void handshake_wipe(struct handshake *handshakes, uint32_t count);

/* Initiator. In: identity, remote_public, local_index, timestamp; static_static, ephemeral and
 * cookie where the flags say so. Out: initiation, whole with its macs, and the state that its response
 * needs. LOW_ORDER. */
void handshake_create_initiation(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count);
/* The same of one handshake, without X25519: its static_static is there, and ephemeral_public and secret (of
 * ephemeral and remote_public) were computed before. Of its identity only the public key is read. */
void handshake_create_prepared(struct handshake_crypto *crypto, struct handshake *handshake,
                               const uint8_t ephemeral_public[32], const uint8_t secret[32]);
/* Initiator, after it. In: response, preshared_key. Out: both transport keys, remote_index.
 * LOW_ORDER or RESPONSE_TAG; with result set to FINE again, the state takes another response. */
void handshake_consume_response(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count);

/* Responder, in two steps because the static-static secret belongs to the peer, who is known
 * only after the first. Macs are not looked at here.
 * In: identity, initiation. Out: remote_public (whom the caller looks up), remote_index. LOW_ORDER
 * or STATIC_TAG. */
void handshake_open_initiation(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count);
/* In: static_static where the flag says so. Out: static_static and its flag, timestamp. The sender is authentic
 * then, but the message may be a replay. LOW_ORDER (static_static is zeros) or TIMESTAMP_TAG. */
void handshake_open_timestamp(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count);
/* In: preshared_key, local_index; ephemeral and cookie where the flags say so. Out: response, whole with
 * its macs, and both transport keys. LOW_ORDER. */
void handshake_create_response(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count);

/* cdef end */

#endif
