#include "node.h"

#include <string.h>

/* The slot that holds byte `offset` of the segment: where it begins, and its bytes; 0 when none does. */
static uint64_t slot_at(const struct segment *s, uint64_t offset, uint32_t *bytes)
{
    const struct geometry *g = &s->geometry;
    uint64_t small = (uint64_t)(s->small_slots - (uint8_t *)s->base);
    uint64_t trains = (uint64_t)(s->train_slots - (uint8_t *)s->base);

    if (offset >= trains && offset - trains < (uint64_t)g->train_slots * s->pools * TRAIN_SLOT_BYTES) {
        *bytes = TRAIN_SLOT_BYTES;
        return offset - (offset - trains) % TRAIN_SLOT_BYTES;
    }
    if (offset >= small && offset - small < (uint64_t)g->small_slots * s->pools * SMALL_SLOT_BYTES) {
        *bytes = SMALL_SLOT_BYTES;
        return offset - (offset - small) % SMALL_SLOT_BYTES;
    }
    return 0;
}

uint8_t *node_read(const struct segment *s, uint32_t number, uint32_t room_before, uint32_t room_after,
                   struct node *copy)
{
    uint64_t slot;
    uint32_t bytes;

    memcpy(copy, (const void *)&s->node[number], sizeof *copy);
    slot = slot_at(s, copy->offset, &bytes);
    if (!slot || copy->offset - slot < room_before ||
        copy->offset - slot + copy->length + room_after > bytes)
        return NULL;
    return (uint8_t *)s->base + copy->offset;
}

const uint8_t *node_slot(const struct segment *s, const uint8_t *data)
{
    uint32_t bytes;

    return (const uint8_t *)s->base + slot_at(s, (uint64_t)(data - (const uint8_t *)s->base), &bytes);
}
