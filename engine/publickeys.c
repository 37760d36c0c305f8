/* publickeys: each change is one store into the chain, so a kill in between leaves a chain
 * with or without the row, never a broken one; both calls may be repeated. */
#include "publickeys.h"
#include "siphash.h"

#include <string.h>

static uint64_t load_word(const uint8_t *from)
{
    uint64_t word = 0;

    for (int i = 0; i < 8; i++)
        word |= (uint64_t)from[i] << (8 * i);
    return word;
}

/* SipHash-2-4 of 32 bytes. */
static uint64_t hash_of(const struct publickeys *keys, const uint8_t public_key[32])
{
    struct siphash state = siphash_begin(keys->key);

    for (int i = 0; i < 5; i++) {
        uint64_t word = i < 4 ? load_word(public_key + 8 * i) : (uint64_t)32 << 56;
        state.v3 ^= word;
        siphash_round(&state);
        siphash_round(&state);
        state.v0 ^= word;
    }
    state.v2 ^= 0xff;
    for (int i = 0; i < 4; i++)
        siphash_round(&state);
    return siphash_end(&state);
}

static uint32_t *bucket_of(const struct publickeys *keys, const uint8_t public_key[32])
{
    return &keys->buckets[hash_of(keys, public_key) & (keys->bucket_count - 1)];
}

static const uint8_t *key_of(const struct publickeys *keys, uint32_t row)
{
    return keys->rows + (uint64_t)row * keys->stride + keys->key_offset;
}

static uint32_t *chain_of(const struct publickeys *keys, uint32_t row)
{
    return (uint32_t *)(void *)(keys->rows + (uint64_t)row * keys->stride + keys->chain_offset);
}

/* The link that names row, or the chain's end. NULL if the chain is damaged: a number out
 * of range, or a ring. */
static uint32_t *find_row(const struct publickeys *keys, uint32_t row)
{
    uint32_t *link = bucket_of(keys, key_of(keys, row));

    for (uint32_t step = 0; step <= keys->max_rows; step++) {
        uint32_t named = *link;
        if (!named || named == row + 1)
            return link;
        if (named > keys->max_rows)
            return NULL;
        link = chain_of(keys, named - 1);
    }
    return NULL;
}

uint32_t publickeys_lookup(const struct publickeys *keys, const uint8_t public_key[32])
{
    uint32_t named = *bucket_of(keys, public_key);

    for (uint32_t step = 0; step < keys->max_rows && named && named <= keys->max_rows; step++) {
        if (memcmp(key_of(keys, named - 1), public_key, 32) == 0)
            return named - 1;
        named = *chain_of(keys, named - 1);
    }
    return UINT32_MAX;
}

void publickeys_insert(struct publickeys *keys, uint32_t row)
{
    uint32_t *bucket = bucket_of(keys, key_of(keys, row));
    const uint32_t *link = find_row(keys, row);

    if (link && *link)
        return;  /* there already */
    *chain_of(keys, row) = *bucket;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);  /* a row is whole before the bucket names it */
    *bucket = row + 1;
}

void publickeys_remove(struct publickeys *keys, uint32_t row)
{
    uint32_t *link = find_row(keys, row);

    if (link && *link)
        *link = *chain_of(keys, row);
}
