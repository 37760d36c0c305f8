/* aead: chooses a provider and passes calls on to it. */
#include "aead_provider.h"

#include <stddef.h>
#include <string.h>

/* Deeper than any frame that could hold key material spilled from registers: those of callers, of providers, and of a
 * send (workers/udp.c, the largest). */
#define STACK_BYTES 131072

/* By what was measured (docs/performance.md): ipsec-mb with AVX-512, BoringSSL, ipsec-mb with AVX2, EVP. */
static struct aead *fastest(void)
{
    struct aead *wide = aead_ipsec_mb_new();
    int speed = wide ? aead_ipsec_mb_speed(wide) : 0;
    struct aead *other;

    if (speed == 2)
        return wide;
    other = aead_boringssl_new();
    if (!other && speed == 1)
        return wide;
    if (!other)
        other = aead_evp_new();
    if (!other)
        return wide;
    aead_free(wide);
    return other;
}

#define AEAD_MAKE(number, new, ...) new,
#define AEAD_ROW(number, new, ...) { __VA_ARGS__ },

const struct aead_provider *aead_provider(uint32_t number)
{
    static const struct aead_provider rows[] = { AEAD_PROVIDERS(AEAD_ROW) };

    return number < AEAD_PROVIDERS_COUNT ? &rows[number] : NULL;
}

struct aead *aead_new(int provider)
{
    static struct aead *(*const make[])(void) = { AEAD_PROVIDERS(AEAD_MAKE) };

    if (provider == -1)
        return fastest();
    return provider >= 0 && provider < AEAD_PROVIDERS_COUNT ? make[provider]() : NULL;
}

void aead_free(struct aead *aead)
{
    if (aead)
        aead->free(aead);
}

int aead_which(const struct aead *aead)
{
    return aead->provider;
}

const char *aead_name(const struct aead *aead)
{
    return aead->name;
}

void aead_seal(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    aead->seal(aead, jobs, count);
}

void aead_open(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    aead->open(aead, jobs, count);
}

/* Not inlined, so that its frame overwrites the stack of calls that have returned. */
static __attribute__((noinline)) void stack_wipe(void)
{
    uint8_t room[STACK_BYTES];

    explicit_bzero(room, sizeof room);
}

void aead_forget(struct aead *aead)
{
    static const uint8_t no_key[AEAD_KEY_BYTES];
    uint8_t nothing[AEAD_TAG_BYTES];
    struct aead_job job = { .data = nothing, .key = no_key };

    aead->seal(aead, &job, 1);
    stack_wipe();
}
