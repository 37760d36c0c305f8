/* handshake_crypto: what handshake.c, cookie.c and x25519.c share of libcrypto. Not for others. */
#ifndef ENGINE_HANDSHAKE_CRYPTO_H
#define ENGINE_HANDSHAKE_CRYPTO_H

#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "handshake.h"

#define KEY 32
#define TAG 16

/* A private key ready for exchanges. */
struct scalar {
    uint8_t bytes[KEY];
    EVP_PKEY *key;
    EVP_PKEY_CTX *exchange;
};

struct handshake_crypto {
    EVP_CIPHER *aead_cipher, *stream_cipher;
    EVP_CIPHER_CTX *aead, *stream;
    EVP_PKEY_CTX *maker;
    EVP_PKEY *other;       /* the public key of the exchange at hand, rewritten each time */
    struct scalar own;     /* the static key that was used last: mostly the only one */
    struct scalar drawn;   /* an ephemeral */
};

/* For what cannot fail on valid arguments. If it does all the same (no memory in libcrypto), a key might be
 * missing from what is sealed: ends the process. */
static inline void handshake_must(int done)
{
    if (done == 1)
        return;
    fputs("handshake: libcrypto refused a computation that cannot fail; "
          "ending this process. Look for a shortage of memory.\n",
          stderr);
    abort();
}

/* sealed = plain and tag under key, nonce and associated data. */
void handshake_seal(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[12],
                    const uint8_t *associated, int associated_length, const uint8_t *plain, int length,
                    uint8_t *sealed);
/* 0, or -1 when the tag is wrong; length is that of the plaintext. */
int handshake_unseal(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[12],
                     const uint8_t *associated, int associated_length, const uint8_t *sealed, int length,
                     uint8_t *plain);
/* key = hash of a label of 8 characters and a public key. */
void handshake_label_key(const char label[9], const uint8_t public_key[KEY], uint8_t key[KEY]);

/* Makes the private key ready for exchanges; nothing is done when it is already. */
void x25519_set(struct handshake_crypto *crypto, struct scalar *scalar, const uint8_t bytes[KEY]);
void x25519_clear(struct scalar *scalar);
/* 0, or -1 when the result is zero: secret is zeros then. */
int x25519(struct handshake_crypto *crypto, struct scalar *scalar, const uint8_t public_key[KEY],
           uint8_t secret[KEY]);
void x25519_public(struct handshake_crypto *crypto, struct scalar *scalar, uint8_t public_key[KEY]);

#endif
