/* index: a Feistel network of six rounds over two halves of 16 bits, or of fewer beside a gateway's
 * number. Its round function is SipHash-1-1 of the half and the round's number, so whoever sees indices
 * cannot compute the next one; a network is a bijection whatever its round function is, so no two
 * keypairs ever share an index. */
#include "index.h"
#include "keypair.h"
#include "siphash.h"

#define ROUNDS 6
#define GENERATION_MASK ((1u << (32 - KEYPAIR_NUMBER_BITS)) - 1)

/* How many bits stand in the clear. */
static uint32_t clear_bits(const uint64_t key[3])
{
    uint32_t bits = (uint32_t)(key[2] >> 8) & 14;

    return bits < GATEWAY_BITS_MOST ? bits : GATEWAY_BITS_MOST;
}

/* mask: of a half. */
static uint32_t round_of(const struct siphash *keyed, uint32_t half, uint32_t round, uint32_t mask)
{
    struct siphash state = *keyed;
    uint64_t word = (uint64_t)round << 32 | half;

    state.v3 ^= word;
    siphash_round(&state);
    state.v0 ^= word;
    state.v2 ^= 0xff;
    siphash_round(&state);
    uint64_t sum = siphash_end(&state);
    return (uint32_t)(sum ^ sum >> 32) & mask;
}

uint32_t index_of(const uint64_t key[3], uint32_t number, uint32_t generation)
{
    struct siphash keyed = siphash_begin(key);
    uint32_t clear = clear_bits(key), bits = (32 - clear) / 2, mask = (1u << bits) - 1;
    uint32_t value = (generation & (GENERATION_MASK >> clear)) << KEYPAIR_NUMBER_BITS | (number & KEYPAIR_NUMBER_MASK);
    uint32_t left = value >> bits, right = value & mask;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t mixed = left ^ round_of(&keyed, right, round, mask);
        left = right;
        right = mixed;
    }
    return (left << bits | right) << clear | ((uint32_t)key[2] & ((1u << clear) - 1));
}

uint32_t index_number(const uint64_t key[3], uint32_t index)
{
    struct siphash keyed = siphash_begin(key);
    uint32_t clear = clear_bits(key), bits = (32 - clear) / 2, mask = (1u << bits) - 1;
    uint32_t left = index >> clear >> bits, right = index >> clear & mask;

    for (uint32_t round = ROUNDS; round-- > 0;) {
        uint32_t mixed = right ^ round_of(&keyed, left, round, mask);
        right = left;
        left = mixed;
    }
    return (left << bits | right) & KEYPAIR_NUMBER_MASK;
}

uint32_t index_gateway(const uint64_t key[3], uint32_t index)
{
    return index & ((1u << clear_bits(key)) - 1);
}

uint32_t index_publish(struct index_entry *table, const uint64_t key[3], uint32_t number, uint32_t peer)
{
    struct index_entry *entry = &table[number];

    index_withdraw(table, number);
    entry->generation = (entry->generation + 1) & GENERATION_MASK;
    uint32_t index = index_of(key, number, entry->generation);
    /* Release, each: a reader that sees the new peer also sees in_use 0 or what came after, and
     * one that sees in_use 1 sees index, peer and the keypair's own words. */
    __atomic_store_n(&entry->peer, peer, __ATOMIC_RELEASE);
    __atomic_store_n(&entry->index, index, __ATOMIC_RELEASE);
    __atomic_store_n(&entry->in_use, 1, __ATOMIC_RELEASE);
    return index;
}

void index_withdraw(struct index_entry *table, uint32_t number)
{
    /* Relaxed: index_publish orders what follows; reuse of the keypair waits for a grace period. */
    __atomic_store_n(&table[number].in_use, 0, __ATOMIC_RELAXED);
}

uint32_t index_lookup(const struct index_entry *table, uint32_t count,
                      const uint64_t key[3], uint32_t index, uint32_t *peer)
{
    uint32_t number = index_number(key, index);

    if (!number || number >= count)
        return 0;
    const struct index_entry *entry = &table[number];
    /* Acquire, each: they pair with the releases of index_publish. */
    if (!__atomic_load_n(&entry->in_use, __ATOMIC_ACQUIRE) ||
        __atomic_load_n(&entry->index, __ATOMIC_ACQUIRE) != index)
        return 0;
    uint32_t owner = __atomic_load_n(&entry->peer, __ATOMIC_ACQUIRE);
    /* Again, or the peer might be that of the entry's next life. */
    if (!__atomic_load_n(&entry->in_use, __ATOMIC_ACQUIRE) ||
        __atomic_load_n(&entry->index, __ATOMIC_RELAXED) != index)
        return 0;
    *peer = owner;
    return number;
}
