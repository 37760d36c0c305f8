/* Slots are taken before the receive call, because the kernel writes straight into them;
 * those whose packet went nowhere (a handshake, a drop) serve again in the next call. */
#include "workers/receiver.h"

#include "engine/packet.h"
#include "engine/aead.h"
#include "shm/counters.h"

#include <string.h>

/* Behind an outbound packet stay padding and tag. */
#define SLOT_TAIL (16 + AEAD_TAG_BYTES)
/* What pool_take_* answer when there is none; here also: the slot went with a node. */
#define NO_SLOT 0xffffffff

uint32_t intake_refill(struct intake *intake, uint32_t count)
{
    /* Each time: the shares of peers are counted by what came home, too. */
    pool_sweep(intake->pool);
    while (intake->slots_held < count) {
        uint32_t slot = pool_take_small(intake->pool);

        if (slot == NO_SLOT)
            break;
        intake->slots[intake->slots_held++] = slot;
    }
    return intake->slots_held;
}

uint8_t *intake_place(const struct intake *intake, uint32_t i, uint32_t *room)
{
    *room = SMALL_SLOT_BYTES - SLOT_ROOM - SLOT_TAIL;
    return pool_slot(intake->pool, intake->slots[i]) + SLOT_ROOM;
}

uint32_t intake_issue(struct intake *intake, uint32_t i, uint32_t length, uint32_t room,
                      const uint8_t *spill, uint32_t peer, uint32_t direction)
{
    const struct segment *s = intake->segment;
    struct pool *pool = intake->pool;
    uint32_t slot = intake->slots[i];
    uint8_t *start;
    uint32_t number;
    struct node *node;

    if (pool_share_is_spent(pool, peer)) {
        counter_add(s, intake->worker, direction == INBOUND ? DROP_PEER_SHARE : DROP_PEER_SHARE_OUTBOUND, 1);
        return NODE_NIL;
    }
    if (length > room)
        slot = pool_take_train(pool);
    number = slot == NO_SLOT ? NODE_NIL : pool_issue(pool, slot, peer);
    if (!number) {
        if (length > room && slot != NO_SLOT)
            pool_put_slot(pool, slot);
        counter_add(s, intake->worker, direction == INBOUND ? DROP_NO_SLOT : DROP_NO_SLOT_OUTBOUND, 1);
        return NODE_NIL;
    }
    start = pool_slot(pool, slot);
    if (length > room) {
        const uint8_t *small = pool_slot(pool, intake->slots[i]);

        memcpy(start, small, SLOT_ROOM + room);
        memcpy(start + SLOT_ROOM + room, spill, length - room);
    } else {
        intake->slots[i] = NO_SLOT;
    }
    node = &s->node[number];
    node->offset = (uint64_t)(start + SLOT_ROOM - (uint8_t *)s->base);
    node->length = length;
    node->peer = peer;
    node->peer_generation = __atomic_load_n(&s->rows[peer].generation, __ATOMIC_RELAXED);
    node->segment = (uint16_t)(length < 65535 ? length : 65535);
    node->packets = 1;
    node->ecn = 0;
    node->gso_type = 0;
    return number;
}

void intake_settle(struct intake *intake)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < intake->slots_held; i++)
        if (intake->slots[i] != NO_SLOT)
            intake->slots[kept++] = intake->slots[i];
    intake->slots_held = kept;
}
