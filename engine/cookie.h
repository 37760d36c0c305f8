/* cookie: the macs at the end of handshake messages, and cookie replies (kernel: cookie.c). */
#ifndef ENGINE_COOKIE_H
#define ENGINE_COOKIE_H

#include <stdint.h>

#include "handshake.h"

/* cdef begin */
#define COOKIE_NONCE_BYTES 24
#define COOKIE_SECRET_SECONDS 120   /* a responder's secret lives for so long */
#define COOKIE_LATENCY_SECONDS 5    /* a cookie is shown for so much less: the way back takes time */

/* The first `length` bytes of a message with mac1, mac2 behind: 0 when mac1 is right for key. */
int handshake_mac1_differs(const uint8_t mac1_key[32], const uint8_t *message, uint32_t length);
/* Likewise mac2, made with the cookie of this source (address of 4 or 16 bytes, port in network order). */
int handshake_mac2_differs(const uint8_t secret[32], const uint8_t *message, uint32_t length,
                           const uint8_t *address, uint32_t address_length, uint16_t port);
/* Random bytes. */
void handshake_draw(uint8_t *bytes, uint32_t count);
/* What to answer a message whose mac1 is right: XChaCha20-Poly1305 of the source's cookie, nonce
 * (COOKIE_NONCE_BYTES) drawn here unless given. */
void handshake_cookie_reply(struct handshake_crypto *crypto, const struct handshake_identity *identity,
                            const uint8_t secret[32], const uint8_t *message, uint32_t length,
                            const uint8_t *address, uint32_t address_length, uint16_t port,
                            const uint8_t *nonce, uint8_t reply[COOKIE_BYTES]);
/* Opens such a reply of that responder to the message with that mac1. 0, or -1 and cookie as it was. */
int handshake_open_cookie(struct handshake_crypto *crypto, const uint8_t responder[32],
                          const uint8_t reply[COOKIE_BYTES], const uint8_t mac1[MAC_BYTES],
                          uint8_t cookie[MAC_BYTES]);
/* cdef end */

#endif
