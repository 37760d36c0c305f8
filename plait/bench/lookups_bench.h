/* lookups_bench: many lookups of the shipped trie in one call, for `plait bench peers`. */
#ifndef PLAIT_BENCH_LOOKUPS_BENCH_H
#define PLAIT_BENCH_LOOKUPS_BENCH_H

#include "engine/allowedips.h"

/* cdef begin */
/* addresses: count of bits/8 bytes each. Returns the sum of the rows found. */
uint64_t bench_lookups(const struct trie_node *nodes, uint32_t max_nodes, uint32_t root, const uint8_t *addresses,
                       uint32_t bits, uint32_t count);
/* cdef end */

#endif
