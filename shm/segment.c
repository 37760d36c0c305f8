#include "segment.h"

#include <string.h>
#include <sys/mman.h>

#include "counters.h"
#include "ready.h"

#define PAGE 4096u

_Static_assert(sizeof(struct header) <= PAGE, "the header fits its page");
_Static_assert(sizeof(struct peer_row) == PEER_ROW_BYTES, "a peer row is eight lines: a new field takes reserved bytes");
_Static_assert(sizeof(struct node) == 64, "a node is one line");
_Static_assert(sizeof(struct worker) == 128, "a worker has two lines");
_Static_assert(sizeof(struct bell) == 64, "a bell has its own line");
_Static_assert(sizeof(struct mailbox_cell) == MAILBOX_CELL_BYTES, "a cell is four lines");
_Static_assert(sizeof(struct mailbox_ring) == 128, "put and got stand on their own lines");
_Static_assert(sizeof(struct endpoint) == 48, "endpoints are copied word by word");
_Static_assert(COUNTERS <= COUNTERS_A_WORKER, "every counter has its place: raise COUNTERS_A_WORKER by 8, a line");

static uint64_t round_up(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

static int is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* Bounds that later arithmetic relies on: products stay below 2^50, slots and nodes of a
 * pool fit 16-bit counts, node numbers stay below STUB_FIRST, rows within three bitmap levels. */
static int geometry_is_sound(const struct geometry *g)
{
    return g->max_peers >= 64 && g->max_peers <= (1u << 20) && g->max_peers % 64 == 0 &&
           is_power_of_two(g->max_keypairs) && g->max_keypairs <= (1u << 21) &&
           g->max_receivers >= 1 && g->max_receivers <= MAX_RECEIVERS &&
           g->max_consumers >= 1 && g->max_consumers <= MAX_CONSUMERS &&
           g->small_slots >= 1 && g->small_slots <= 32767 &&
           g->train_slots <= 32767 &&
           g->nodes_a_pool >= g->small_slots + g->train_slots && g->nodes_a_pool <= 65535 &&
           is_power_of_two(g->mailbox_cells) && g->mailbox_cells <= 65536 &&
           g->max_trie_nodes >= 1 && g->max_trie_nodes <= (1u << 24) &&
           is_power_of_two(g->public_key_buckets) && g->public_key_buckets <= (1u << 24);
}

/* Rings first, then the cells on a boundary of their own size. */
static uint64_t mailbox_cells_offset(const struct geometry *g)
{
    return round_up((uint64_t)g->max_receivers * sizeof(struct mailbox_ring), MAILBOX_CELL_BYTES);
}

uint64_t segment_region_bytes(const struct geometry *g, uint32_t region)
{
    uint64_t pools = 2ull * g->max_receivers;
    uint64_t nodes = 1 + pools * g->nodes_a_pool;
    uint64_t lenders = (uint64_t)g->max_receivers + g->max_consumers;
    switch (region) {
    case REGION_WORKERS: return sizeof(struct worker) * MAX_WORKERS;
    case REGION_BELLS: return sizeof(struct bell) * MAX_WORKERS;
    case REGION_STARVING: return sizeof(struct starving);
    case REGION_COUNTERS: return sizeof(uint64_t) * COUNTERS_A_WORKER * MAX_WORKERS;
    case REGION_DEVICE: return sizeof(struct device);
    case REGION_TOKENS: return sizeof(uint32_t) * round_up(DIRECTIONS * (uint64_t)g->max_peers, TOKEN_BLOCK);
    case REGION_READY:
        return sizeof(uint64_t) * ready_words_a_set(DIRECTIONS * g->max_peers) * (1 + (uint64_t)g->max_consumers);
    case REGION_ROWS: return sizeof(struct peer_row) * (uint64_t)g->max_peers;
    case REGION_COLUMNS: return sizeof(uint32_t) * TIMER_COLUMNS * (uint64_t)g->max_peers;
    case REGION_INDEX: return (uint64_t)INDEX_ENTRY_BYTES * g->max_keypairs;
    case REGION_PUBLIC_KEYS: return sizeof(uint32_t) * (uint64_t)g->public_key_buckets;
    case REGION_TRIE: return (uint64_t)TRIE_NODE_BYTES * g->max_trie_nodes;
    case REGION_KEYPAIRS: return (uint64_t)KEYPAIR_BYTES * g->max_keypairs;
    case REGION_PARTS: return sizeof(struct lending) + sizeof(struct part) * PARTS * lenders;
    case REGION_PART_ROOMS: return PART_ROOM_BYTES * lenders;
    case REGION_MAILBOX:
        return mailbox_cells_offset(g) +
               sizeof(struct mailbox_cell) * (uint64_t)g->mailbox_cells * g->max_receivers;
    case REGION_STATES: return sizeof(uint32_t) * nodes;
    case REGION_NODES: return sizeof(struct node) * nodes;
    case REGION_SMALL_SLOTS: return (uint64_t)SMALL_SLOT_BYTES * g->small_slots * pools;
    case REGION_TRAIN_SLOTS: return (uint64_t)TRAIN_SLOT_BYTES * g->train_slots * pools;
    default: return 0;
    }
}

uint64_t segment_lay_out(const struct geometry *geometry, struct header *header)
{
    if (!geometry_is_sound(geometry))
        return 0;
    struct geometry copy = *geometry; /* may stand inside *header */
    uint64_t place = PAGE;
    uint64_t offset[REGIONS];
    for (uint32_t region = 0; region < REGIONS; region++) {
        offset[region] = place;
        place += round_up(segment_region_bytes(&copy, region), PAGE);
    }
    if (header) {
        header->bytes = place;
        header->geometry = copy;
        memcpy(header->offset, offset, sizeof offset);
    }
    return place;
}

int segment_attach(struct segment *segment, char *base, uint64_t bytes)
{
    struct header *shared = (struct header *)(void *)base;
    struct header seen, expected;
    if (bytes < PAGE)
        return -1;
    memcpy(&seen, shared, sizeof seen); /* once: what is checked is what is used */
    if (seen.magic != LAYOUT_MAGIC || seen.bytes > bytes)
        return -1;
    uint64_t whole = segment_lay_out(&seen.geometry, &expected);
    if (!whole || whole != seen.bytes ||
        memcmp(expected.offset, seen.offset, sizeof seen.offset) != 0)
        return -1;

    const uint64_t *offset = expected.offset;
    struct segment s = {
        .base = base,
        .bytes = seen.bytes,
        .geometry = seen.geometry,
        .pools = 2 * seen.geometry.max_receivers,
        .nodes = 2 * seen.geometry.max_receivers * seen.geometry.nodes_a_pool,
        .header = shared,
        .workers = (void *)(base + offset[REGION_WORKERS]),
        .bells = (void *)(base + offset[REGION_BELLS]),
        .starving = (void *)(base + offset[REGION_STARVING]),
        .counters = (void *)(base + offset[REGION_COUNTERS]),
        .device = (void *)(base + offset[REGION_DEVICE]),
        .tokens = (void *)(base + offset[REGION_TOKENS]),
        .ready = (void *)(base + offset[REGION_READY]),
        .ready_words = ready_words_a_set(DIRECTIONS * seen.geometry.max_peers),
        .rows = (void *)(base + offset[REGION_ROWS]),
        .columns = (void *)(base + offset[REGION_COLUMNS]),
        .index = (void *)(base + offset[REGION_INDEX]),
        .public_keys = (void *)(base + offset[REGION_PUBLIC_KEYS]),
        .trie = (void *)(base + offset[REGION_TRIE]),
        .keypairs = (void *)(base + offset[REGION_KEYPAIRS]),
        .lending = (void *)(base + offset[REGION_PARTS]),
        .parts = (void *)(base + offset[REGION_PARTS] + sizeof(struct lending)),
        .part_rooms = (void *)(base + offset[REGION_PART_ROOMS]),
        .mailbox = (void *)(base + offset[REGION_MAILBOX]),
        .cells = (void *)(base + offset[REGION_MAILBOX] + mailbox_cells_offset(&seen.geometry)),
        .states = (void *)(base + offset[REGION_STATES]),
        .node = (void *)(base + offset[REGION_NODES]),
        .small_slots = (void *)(base + offset[REGION_SMALL_SLOTS]),
        .train_slots = (void *)(base + offset[REGION_TRAIN_SLOTS]),
    };
    *segment = s;
    return 0;
}

int segment_protect(const struct segment *segment)
{
    const struct geometry *g = &segment->geometry;
    if (mprotect(segment->header, PAGE, PROT_READ) != 0 ||
        mprotect(segment->device, round_up(segment_region_bytes(g, REGION_DEVICE), PAGE), PROT_READ) != 0 ||
        mprotect(segment->trie, round_up(segment_region_bytes(g, REGION_TRIE), PAGE), PROT_READ) != 0 ||
        mprotect(segment->index, round_up(segment_region_bytes(g, REGION_INDEX), PAGE), PROT_READ) != 0 ||
        mprotect(segment->public_keys, round_up(segment_region_bytes(g, REGION_PUBLIC_KEYS), PAGE),
                 PROT_NONE) != 0)
        return -1;
    return 0;
}
