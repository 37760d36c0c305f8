/* aead: chooses a provider and passes calls on to it. */
#include "aead_provider.h"

#include <stddef.h>
#include <string.h>

/* Deeper than any frame that could hold key material spilled from registers: those of callers, of providers, and of a
 * send (workers/udp.c, the largest). */
#define STACK_BYTES 131072

/* Fastest first, by what was measured (docs/adr/0005-boringssl-without-avx512.md). */
enum cpu {
    WITH_AVX512,
    WITH_AVX2,
    WITH_NEITHER,
    UNMEASURED
};
static const int orders[][AEAD_PROVIDERS_COUNT] = {
    [WITH_AVX512] = { AEAD_IPSEC_MB, AEAD_BORINGSSL, AEAD_EVP },
    [WITH_AVX2] = { AEAD_BORINGSSL, AEAD_IPSEC_MB, AEAD_EVP },
    [WITH_NEITHER] = { AEAD_BORINGSSL, AEAD_EVP, AEAD_IPSEC_MB },
    [UNMEASURED] = { AEAD_EVP, AEAD_BORINGSSL, AEAD_IPSEC_MB },
};

static enum cpu cpu(void)
{
#if defined(__x86_64__)
    /* The five of AVX-512 without which libipsec-mb takes its code for AVX2. */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return WITH_AVX512;
    return __builtin_cpu_supports("avx2") ? WITH_AVX2 : WITH_NEITHER;
#elif defined(__aarch64__)
    return WITH_NEITHER;
#else
    return UNMEASURED;
#endif
}

int aead_best(void)
{
    return orders[cpu()][0];
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

    if (provider != -1)
        return provider >= 0 && provider < AEAD_PROVIDERS_COUNT ? make[provider]() : NULL;
    for (uint32_t i = 0; i < AEAD_PROVIDERS_COUNT; i++) {
        struct aead *made = make[orders[cpu()][i]]();
        if (made)
            return made;
    }
    return NULL;
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
