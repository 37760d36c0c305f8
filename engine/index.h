/* index: receiver indices on the wire. An index is a keyed permutation (Feistel network,
 * key of this boot) of keypair number and a generation, so that it is unpredictable and
 * unlinkable, and the table compares the whole index: one cache line a data packet.
 *
 * A gateway's number may stand in the lowest bits of each index, the first byte on the wire, where a
 * balancer can read it. The permutation covers the bits above them, and the generation loses as many bits. */
#ifndef ENGINE_INDEX_H
#define ENGINE_INDEX_H

#include <stdint.h>

/* cdef begin */
#define GATEWAY_BITS_MOST 8
/* Entry n belongs to keypair number n. Written by control: keypair and peer first, then
 * index (release); withdrawn by storing in_use 0. Read-only for everybody else. */
struct index_entry {
    uint32_t index;
    uint32_t in_use;
    uint32_t peer;
    uint32_t generation;  /* of this entry, enters the permutation; at most 11 bits used */
};
/* key: two words of this boot, and a third one: 0, or a gateway's number, and from bit 8 on its
 * width, which is even and at most 8. */
uint32_t index_of(const uint64_t key[3], uint32_t number, uint32_t generation);
/* The keypair number that the index would belong to (always < 2^21). */
uint32_t index_number(const uint64_t key[3], uint32_t index);
/* The gateway whose index it is, among those of this key's width; 0 where indices tell none. */
uint32_t index_gateway(const uint64_t key[3], uint32_t index);
/* Control: gives number its next index for peer; returns it. */
uint32_t index_publish(struct index_entry *table, const uint64_t key[3], uint32_t number, uint32_t peer);
void index_withdraw(struct index_entry *table, uint32_t number);
/* Anyone: keypair number, or 0 when unknown; *peer is set then. There is memory for entries 0..count-1. */
uint32_t index_lookup(const struct index_entry *table, uint32_t count,
                      const uint64_t key[3], uint32_t index, uint32_t *peer);
/* cdef end */

#endif
