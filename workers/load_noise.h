/* load_noise: the initiator's half of the handshake with one gateway (kernel: noise.c, cookie.c).
 *
 * What depends on the gateway alone (its greeting, mac keys and public key) is computed once; what
 * depends on an ephemeral and the gateway (a public key, a secret) may be computed before the
 * clock starts. An ephemeral is used once. */
#ifndef WORKERS_LOAD_NOISE_H
#define WORKERS_LOAD_NOISE_H

#include <stdint.h>

#define NOISE_KEY 32
#define NOISE_MAC 16

struct noise;  /* libcrypto's contexts and the gateway's keys; one a process */
struct noise *noise_new(const uint8_t gateway_key[NOISE_KEY]);
void noise_free(struct noise *noise);

struct noise_ephemeral {
    uint8_t private_key[NOISE_KEY], public_key[NOISE_KEY];
    uint8_t secret[NOISE_KEY];  /* of it and the gateway's static key */
};

/* The initiator's state while it waits for the response. */
struct noise_flight {
    uint8_t private_key[NOISE_KEY], public_key[NOISE_KEY];  /* the ephemeral's */
    uint8_t chain[NOISE_KEY], hash[NOISE_KEY];
};

/* BLAKE2s of two parts (either may be empty) with an optional key; out: 1 to 32 bytes. */
void noise_blake2s(uint8_t *out, uint32_t out_bytes, const uint8_t *key, uint32_t key_bytes, const uint8_t *a,
                   uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes);

/* The public key of a private one. */
void noise_public(uint8_t public_key[NOISE_KEY], const uint8_t private_key[NOISE_KEY]);
/* The secret of our key pair and the gateway's static key. 0, or -1: it is zero. */
int noise_with_gateway(struct noise *noise, uint8_t secret[NOISE_KEY], const uint8_t *private_key,
                       const uint8_t *public_key);
/* Draws an ephemeral and computes its secret. 0, or -1. */
int noise_draw(struct noise *noise, struct noise_ephemeral *ephemeral);

/* Writes an initiation up to mac1 (116 of 148 bytes). */
void noise_initiation(struct noise *noise, uint8_t *message, struct noise_flight *flight,
                      const uint8_t *public_key, const uint8_t *static_static,
                      const struct noise_ephemeral *ephemeral, uint32_t index, const uint8_t timestamp[12]);
/* Adds both macs to a message of `length` bytes; cookie NULL: mac2 is zeros. */
void noise_macs(const struct noise *noise, uint8_t *message, uint32_t length, const uint8_t *cookie);
/* Opens a response of 92 bytes. 0 with both keys, or -1: another's, altered, or of low order. */
int noise_response(struct noise *noise, const uint8_t *message, const struct noise_flight *flight,
                   const uint8_t *private_key, const uint8_t *public_key, const uint8_t *psk,
                   uint8_t send_key[NOISE_KEY], uint8_t receive_key[NOISE_KEY]);
/* Opens a cookie reply of 64 bytes with the mac1 that was sent last. 0, or -1. */
int noise_cookie(struct noise *noise, const uint8_t *message, const uint8_t mac1[NOISE_MAC],
                 uint8_t cookie[NOISE_MAC]);

#endif
