#include "lookups_bench.h"

uint64_t bench_lookups(const struct trie_node *nodes, uint32_t max_nodes, uint32_t root, const uint8_t *addresses,
                       uint32_t bits, uint32_t count)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += allowedips_lookup(nodes, max_nodes, root, addresses + (uint64_t)i * (bits / 8), bits);
    return sum;
}
