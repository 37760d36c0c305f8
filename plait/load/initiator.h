/* initiator: the initiator's half of the handshake with one gateway, as a load generator needs it.
 *
 * All of it is engine/handshake.c. What depends on an ephemeral and the gateway (a public key, a secret)
 * may be computed before the clock starts. An ephemeral is used once. */
#ifndef PLAIT_LOAD_INITIATOR_H
#define PLAIT_LOAD_INITIATOR_H

#include <stdint.h>

#include "engine/handshake.h"

#define NOISE_KEY 32

struct noise;  /* libcrypto's contexts and the gateway's keys; one a process */
struct noise *noise_new(const uint8_t gateway_key[NOISE_KEY]);
void noise_free(struct noise *noise);

struct noise_ephemeral {
    uint8_t private_key[NOISE_KEY], public_key[NOISE_KEY];
    uint8_t secret[NOISE_KEY];  /* of it and the gateway's static key */
};

/* The initiator's state while it waits for the response. */
struct noise_flight {
    uint8_t ephemeral[NOISE_KEY];  /* private */
    uint8_t chain[NOISE_KEY], hash[NOISE_KEY];
};

/* The public key of a private one. */
void noise_public(struct handshake_crypto *crypto, uint8_t public_key[NOISE_KEY],
                  const uint8_t private_key[NOISE_KEY]);
/* Public key, and the secret with the gateway's static key. 0, or -1: the secret is zero. */
int noise_derive(struct noise *noise, const uint8_t *private_key, uint8_t public_key[NOISE_KEY],
                 uint8_t secret[NOISE_KEY]);
/* Draws an ephemeral and computes its secret. 0, or -1. */
int noise_draw(struct noise *noise, struct noise_ephemeral *ephemeral);

/* Writes an initiation, whole with its macs; cookie NULL: mac2 is zeros. */
void noise_initiation(struct noise *noise, uint8_t message[INITIATION_BYTES], struct noise_flight *flight,
                      const uint8_t *public_key, const uint8_t *static_static,
                      const struct noise_ephemeral *ephemeral, uint32_t index,
                      const uint8_t timestamp[TIMESTAMP_BYTES], const uint8_t *cookie);
/* Opens a response to our index. 0 with both keys, or -1: another's, altered, or of low order. psk
 * NULL: none. */
int noise_response(struct noise *noise, const uint8_t message[RESPONSE_BYTES], uint32_t index,
                   const struct noise_flight *flight, const uint8_t *private_key, const uint8_t *psk,
                   uint8_t send_key[NOISE_KEY], uint8_t receive_key[NOISE_KEY]);
/* Opens a cookie reply with the mac1 that was sent last. 0, or -1. */
int noise_cookie(struct noise *noise, const uint8_t message[COOKIE_BYTES], const uint8_t mac1[MAC_BYTES],
                 uint8_t cookie[MAC_BYTES]);

#endif
