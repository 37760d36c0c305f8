#include "mailbox.h"

#include <string.h>

#include "point.h"

int mailbox_put(const struct segment *segment, uint32_t receiver, const struct endpoint *from,
                const uint8_t *message, uint32_t length)
{
    uint32_t cells = segment->geometry.mailbox_cells;
    if (receiver >= segment->geometry.max_receivers || length > MAILBOX_MESSAGE_BYTES)
        return -1;
    struct mailbox_ring *ring = &segment->mailbox[receiver];
    uint32_t put = __atomic_load_n(&ring->put, __ATOMIC_RELAXED); /* our own word */
    /* acquire: control has finished reading the cell that comes free */
    if (put - __atomic_load_n(&ring->got, __ATOMIC_ACQUIRE) >= cells)
        return -1;
    struct mailbox_cell *cell = &segment->cells[(uint64_t)receiver * cells + (put & (cells - 1))];
    cell->from = *from;
    cell->length = length;
    memcpy(cell->message, message, length);
    POINT("mailbox: cell filled, not counted");
    /* release: the cell is whole before it is counted */
    __atomic_store_n(&ring->put, put + 1, __ATOMIC_RELEASE);
    return 0;
}

/* Cells waiting in one ring; at most all of them, even where a broken worker wrote the words. */
static uint32_t ring_waiting(const struct segment *segment, uint32_t receiver)
{
    const struct mailbox_ring *ring = &segment->mailbox[receiver];
    uint32_t cells = segment->geometry.mailbox_cells;
    uint32_t waiting = __atomic_load_n(&ring->put, __ATOMIC_ACQUIRE) /* the cells themselves */
                       - __atomic_load_n(&ring->got, __ATOMIC_RELAXED);
    return waiting < cells ? waiting : cells;
}

/* One cell of one ring; 1 when *out was filled. */
static uint32_t ring_take(const struct segment *segment, uint32_t receiver, struct mailbox_cell *out)
{
    struct mailbox_ring *ring = &segment->mailbox[receiver];
    uint32_t cells = segment->geometry.mailbox_cells;
    if (ring_waiting(segment, receiver) == 0)
        return 0;
    uint32_t got = __atomic_load_n(&ring->got, __ATOMIC_RELAXED); /* our own word */
    *out = segment->cells[(uint64_t)receiver * cells + (got & (cells - 1))];
    POINT("mailbox: cell read, not given back");
    /* release: the cell is read before the receiver may fill it again. A control that is killed before this store
     * has not taken the message: the next one reads it. Behind the store it is in hand, and mailbox_taken says so. */
    __atomic_store_n(&ring->got, got + 1, __ATOMIC_RELEASE);
    return 1;
}

uint32_t mailbox_taken(const struct segment *segment)
{
    uint32_t taken = 0;
    for (uint32_t r = 0; r < segment->geometry.max_receivers; r++)
        taken += __atomic_load_n(&segment->mailbox[r].got, __ATOMIC_RELAXED);
    return taken;
}

uint32_t mailbox_take(const struct segment *segment, struct mailbox_cell *out, uint32_t max)
{
    uint32_t receivers = segment->geometry.max_receivers;
    uint32_t taken = 0;
    /* begin with another ring each time, so that no receiver is preferred when max is small */
    uint32_t start = mailbox_taken(segment);
    while (taken < max) {
        uint32_t before = taken;
        for (uint32_t i = 0; i < receivers && taken < max; i++)
            taken += ring_take(segment, (start + i) % receivers, &out[taken]);
        if (taken == before)
            break;
    }
    return taken;
}

uint32_t mailbox_waiting(const struct segment *segment)
{
    uint32_t waiting = 0;
    for (uint32_t r = 0; r < segment->geometry.max_receivers; r++)
        waiting += ring_waiting(segment, r);
    return waiting;
}
