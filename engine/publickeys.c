/* publickeys: insert and remove change a chain by one store, so a kill leaves a chain with or without the row,
 * never a broken one. Both calls may be repeated.
 *
 * Linear hashing: let p be the power of two at or above the number of buckets. A row's bucket is its hash modulo p,
 * or modulo p / 2 if that bucket does not exist yet. So a new bucket takes rows from one other bucket only. A kill
 * during this split loses rows from both chains; the next control fills all buckets again
 * (workers/control/peers.py). */
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

/* For a hash modulo the power of two at or above count. */
static uint32_t mask_of(uint32_t count)
{
    return count > 1 ? UINT32_MAX >> __builtin_clz(count - 1) : 0;
}

static uint32_t *bucket_of(const struct publickeys *keys, const uint8_t public_key[32])
{
    uint32_t mask = mask_of(keys->bucket_count);
    uint32_t bucket = (uint32_t)hash_of(keys, public_key) & mask;

    return &keys->buckets[bucket < keys->bucket_count ? bucket : bucket & mask >> 1];
}

static const uint8_t *key_of(const struct publickeys *keys, uint32_t row)
{
    return keys->rows + (uint64_t)row * keys->stride + keys->key_offset;
}

static uint32_t *chain_of(const struct publickeys *keys, uint32_t row)
{
    return (uint32_t *)(void *)(keys->rows + (uint64_t)row * keys->stride + keys->chain_offset);
}

/* The link that names the row, or the link at the chain's end. NULL if the chain is damaged: it has a
 * number out of range, or is a ring. */
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
        return;  /* the chain has this row already */
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

void publickeys_grow(struct publickeys *keys)
{
    uint32_t fresh = keys->bucket_count, mask = mask_of(fresh + 1);
    uint32_t *stays = &keys->buckets[fresh & mask >> 1], *goes = &keys->buckets[fresh];
    uint32_t named = *stays;

    for (uint32_t step = 0; step < keys->max_rows && named && named <= keys->max_rows; step++) {
        uint32_t *chain = chain_of(keys, named - 1), next = *chain;
        uint32_t **end = ((uint32_t)hash_of(keys, key_of(keys, named - 1)) & mask) == fresh ? &goes : &stays;

        **end = named;
        *end = chain;
        named = next;
    }
    *stays = *goes = 0;
    keys->bucket_count = fresh + 1;
}
