/* aead_provider: what a provider implements for aead.c. Private to engine/aead*.c. */
#ifndef ENGINE_AEAD_PROVIDER_H
#define ENGINE_AEAD_PROVIDER_H

#include "aead.h"

/* The first member of each provider's own struct. */
struct aead {
    int provider;
    const char *name;
    void (*seal)(struct aead *aead, struct aead_job *jobs, uint32_t count);
    void (*open)(struct aead *aead, struct aead_job *jobs, uint32_t count);
    void (*free)(struct aead *aead);
};

/* The constructors. Each returns NULL when this build, library or CPU lacks the provider. */
#define AEAD_DECLARE(number, new, ...) struct aead *new(void);
AEAD_PROVIDERS(AEAD_DECLARE)

#define NONCE_BYTES 12

/* RFC 8439's nonce has 96 bits: here 32 zero bits, then the message counter in little-endian. */
static inline void nonce_write(uint8_t nonce[NONCE_BYTES], uint64_t counter)
{
    for (int i = 0; i < 4; i++)
        nonce[i] = 0;
    for (int i = 0; i < 8; i++)
        nonce[4 + i] = (uint8_t)(counter >> (8 * i));
}

#endif
