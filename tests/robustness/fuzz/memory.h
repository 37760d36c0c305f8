/* memory: a small segment in memory of this process, its regions with forbidden ground between them. */
#ifndef TESTS_FUZZ_MEMORY_H
#define TESTS_FUZZ_MEMORY_H

#include "input.h"

#include "engine/allowedips.h"
#include "shm/queue.h"
#include "shm/repair.h"
#include "shm/token.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

#define MEMORY_ROWS 4

static const struct geometry memory_geometry = {
    .max_peers = 64,
    .max_keypairs = 16,
    .max_receivers = 1,
    .max_consumers = 1,
    .nodes_a_pool = 64,
    .small_slots = 24,
    .train_slots = 18,
    .mailbox_cells = 4,
    .max_trie_nodes = 16,
    .public_key_buckets = 4,
};

/* As at the start of an interface with some peers. The same memory each time. */
static inline void memory_begin(struct segment *segment)
{
    static char *base;
    static struct header header;
    uint64_t bytes = segment_lay_out(&memory_geometry, &header);

    if (!base) {
        base = aligned_alloc(4096, bytes);
        must(bytes && base);
    }
    header.magic = LAYOUT_MAGIC;
    ASAN_UNPOISON_MEMORY_REGION(base, bytes);
    memset(base, 0, header.offset[REGION_SMALL_SLOTS]);  /* of the slots nobody reads what he did not write */
    memcpy(base, &header, sizeof header);
    must(segment_attach(segment, base, bytes) == 0);
    for (uint32_t region = 0; region < REGIONS; region++) {
        uint64_t end = header.offset[region] + segment_region_bytes(&memory_geometry, region);
        uint64_t next = region + 1 < REGIONS ? header.offset[region + 1] : bytes;

        ASAN_POISON_MEMORY_REGION(base + end, next - end);
    }
    segment->device->rows_used = MEMORY_ROWS;
    segment->device->keypairs_ready = header.geometry.max_keypairs;
    segment->device->mtu = 1420;
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker++)
        segment->workers[worker].incarnation = 1;
    for (uint32_t row = 0; row < MEMORY_ROWS; row++) {
        segment->rows[row].generation = 1;
        queue_initialise(segment, 2 * row + INBOUND);
        queue_initialise(segment, 2 * row + OUTBOUND);
        token_initialise(segment, 2 * row + INBOUND);
        token_initialise(segment, 2 * row + OUTBOUND);
    }
}

/* Every inner address belongs to this row. */
static inline void memory_allow(const struct segment *segment, uint32_t row)
{
    struct trie_node *nodes = (struct trie_node *)(void *)segment->trie;

    nodes[1] = (struct trie_node){ .bits = 32, .peer = row + 1 };
    nodes[2] = (struct trie_node){ .bits = 128, .peer = row + 1 };
    segment->device->trie_root4 = 1;
    segment->device->trie_root6 = 2;
}

static inline void memory_check(const struct segment *segment)
{
    char text[200];

    if (segment_valid(segment, text, sizeof text)) {
        fprintf(stderr, "%s\n", text);
        abort();
    }
}

#endif
