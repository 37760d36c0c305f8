/* aead_provider: what a provider of aead.h gives to aead.c. Private to engine/aead*.c. */
#ifndef ENGINE_AEAD_PROVIDER_H
#define ENGINE_AEAD_PROVIDER_H

#include "aead.h"

/* A provider's own struct begins with this one. */
struct aead {
    int provider;
    const char *name;
    void (*seal)(struct aead *aead, struct aead_job *jobs, uint32_t count);
    void (*open)(struct aead *aead, struct aead_job *jobs, uint32_t count);
    void (*free)(struct aead *aead);
};

/* Each NULL when this build, library or CPU cannot. */
#define AEAD_DECLARE(number, new, ...) struct aead *new(void);
AEAD_PROVIDERS(AEAD_DECLARE)
/* Which code ipsec-mb chose here: 2 its AVX-512 one, the fastest of all; 1 AVX2; 0 older, no faster than EVP. */
int aead_ipsec_mb_speed(const struct aead *aead);

#define NONCE_BYTES 12

/* RFC 8439 wants 96 bits; the protocol gives 32 zero bits and the counter, little-endian. */
static inline void nonce_write(uint8_t nonce[NONCE_BYTES], uint64_t counter)
{
    for (int i = 0; i < 4; i++)
        nonce[i] = 0;
    for (int i = 0; i < 8; i++)
        nonce[4 + i] = (uint8_t)(counter >> (8 * i));
}

#endif
