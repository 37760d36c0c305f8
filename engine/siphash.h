/* siphash: the round of SipHash (Aumasson, Bernstein, 2012), shared by publickeys.c and
 * index.c. Private to engine/. */
#ifndef ENGINE_SIPHASH_H
#define ENGINE_SIPHASH_H

#include <stdint.h>

struct siphash {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t siphash_rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline struct siphash siphash_begin(const uint64_t key[2])
{
    return (struct siphash){ key[0] ^ 0x736f6d6570736575ull, key[1] ^ 0x646f72616e646f6dull,
                             key[0] ^ 0x6c7967656e657261ull, key[1] ^ 0x7465646279746573ull };
}

static inline void siphash_round(struct siphash *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = siphash_rotate(s->v1, 13) ^ s->v0;
    s->v3 = siphash_rotate(s->v3, 16) ^ s->v2;
    s->v0 = siphash_rotate(s->v0, 32) + s->v3;
    s->v2 += s->v1;
    s->v3 = siphash_rotate(s->v3, 21) ^ s->v0;
    s->v1 = siphash_rotate(s->v1, 17) ^ s->v2;
    s->v2 = siphash_rotate(s->v2, 32);
}

static inline uint64_t siphash_end(const struct siphash *s)
{
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

#endif
