/* Slots are taken before the receive call, because the kernel writes straight into them. A message
 * begins in a small slot, where almost all that come alone fit; the rest of a larger one lands in
 * a train slot just where it belongs, so that only its first bytes are copied there. Slots whose
 * packets went nowhere (a handshake, a drop) serve again in the next call. */
#include "workers/datapath/intake.h"

#include "engine/aead.h"
#include "engine/packet.h"
#include "shm/counters.h"
#include "shm/schedule.h"

#include <string.h>

/* Behind an outbound packet stay padding and tag. */
#define SLOT_TAIL (16 + AEAD_TAG_BYTES)
/* What pool_take_* answer when there is none; here also: the slot went with a node. */
#define NO_SLOT 0xffffffff

/* Slots until `most` are held. New ones go in front: the pool gives first what came home last, and
 * what was in use a moment ago still lies in the cache. */
static uint32_t hold(struct pool *pool, uint32_t (*take)(struct pool *), uint32_t *slots, uint32_t held,
                     uint32_t most)
{
    uint32_t fresh[BURST_MAX];
    uint32_t count = 0;

    while (held + count < most && (fresh[count] = take(pool)) != NO_SLOT)
        count++;
    if (count) {
        memmove(slots + count, slots, held * sizeof *slots);
        memcpy(slots, fresh, count * sizeof *slots);
    }
    return held + count;
}

uint32_t intake_refill(struct intake *intake, uint32_t count)
{
    struct pool *pool = intake->pool;

    /* Each time: the shares of peers are counted by what came home, too. */
    pool_sweep(pool);
    intake->slots_held = hold(pool, pool_take_small, intake->slots, intake->slots_held, count);
    intake->trains_held = hold(pool, pool_take_train, intake->trains, intake->trains_held, INTAKE_TRAINS);
    return intake->slots_held;
}

uint32_t intake_room(const struct intake *intake, uint32_t direction, uint32_t most)
{
    uint32_t room = intake->slots_held < most ? intake->slots_held : most;

    /* Trains wait outside for large slots, which are not away for long: in the socket, or in the
     * TUN, where TCP sees that they wait. Not so when others hold slots of the TUN's, or when what
     * is out waits for a session: the rest must go on. */
    if (intake->saw_trains && intake->trains_held < room &&
        (direction == INBOUND ||
         (intake->pool->peers_out <= 1 && !peer_is_staged(intake->segment, intake->latest_peer))))
        room = intake->trains_held;
    return room;
}

uint32_t intake_expect(const struct intake *intake, uint32_t room)
{
    uint32_t expected = intake->expected ? intake->expected : 1;

    return expected < room ? expected : room;
}

void intake_learn(struct intake *intake, uint32_t got, uint32_t count)
{
    if (got < count)
        intake->expected = got + 1;
    else if (intake->expected < BURST_MAX)
        intake->expected = 2 * count;
}

uint8_t *intake_place(const struct intake *intake, uint32_t i, uint32_t *room)
{
    *room = SMALL_SLOT_BYTES - SLOT_ROOM - SLOT_TAIL;
    return pool_slot(intake->pool, intake->slots[i]) + SLOT_ROOM;
}

uint8_t *intake_rest(const struct intake *intake, uint32_t i, uint32_t room)
{
    return i < intake->trains_held ? pool_slot(intake->pool, intake->trains[i]) + SLOT_ROOM + room : NULL;
}

void intake_note_arriving(const struct intake *intake, uint32_t packets)
{
    __atomic_store_n(&intake->segment->workers[intake->worker].arriving, packets, __ATOMIC_RELAXED);
}

void intake_count_no_slot(const struct intake *intake, uint32_t direction, uint32_t packets)
{
    counter_add(intake->segment, intake->worker, direction == INBOUND ? DROP_NO_SLOT : DROP_NO_SLOT_OUTBOUND,
                packets);
}

int intake_accept(struct intake *intake, uint32_t i, uint32_t length, uint32_t room, const uint8_t *rest,
                  struct arrival *arrival)
{
    uint8_t *small = pool_slot(intake->pool, intake->slots[i]);

    *arrival = (struct arrival){ .data = small + SLOT_ROOM, .length = length, .slot = intake->slots[i], .at = i };
    if (length <= room)
        return 0;
    arrival->slot = i < intake->trains_held ? intake->trains[i] : pool_take_train(intake->pool);
    if (arrival->slot == NO_SLOT)
        return -1;
    arrival->data = pool_slot(intake->pool, arrival->slot) + SLOT_ROOM;
    memcpy(arrival->data - SLOT_ROOM, small, SLOT_ROOM + room);
    if (rest != arrival->data + room)
        memcpy(arrival->data + room, rest, length - room);
    return 0;
}

uint32_t intake_issue(struct intake *intake, struct arrival *arrival, uint32_t offset, uint32_t length,
                      uint32_t gso_size, uint32_t packets, uint32_t peer, uint32_t direction)
{
    const struct segment *s = intake->segment;
    struct node *node;
    uint32_t number;

    if (pool_share_is_spent(intake->pool, peer)) {
        counter_add(s, intake->worker, direction == INBOUND ? DROP_PEER_SHARE : DROP_PEER_SHARE_OUTBOUND, packets);
        return NODE_NIL;
    }
    number = pool_issue(intake->pool, arrival->slot, peer);
    if (!number) {
        intake_count_no_slot(intake, direction, packets);
        return NODE_NIL;
    }
    arrival->nodes++;
    intake->latest_peer = peer;
    node = &s->node[number];
    node->offset = (uint64_t)(arrival->data + offset - (uint8_t *)s->base);
    node->length = length;
    node->peer = peer;
    node->peer_generation = __atomic_load_n(&s->rows[peer].generation, __ATOMIC_RELAXED);
    node->gso_size = (uint16_t)gso_size;
    node->packets = (uint16_t)packets;
    node->ecn = 0;
    node->gso_type = 0;
    node->vnet_flags = 0;
    return number;
}

void intake_finish(struct intake *intake, const struct arrival *arrival)
{
    int is_small = arrival->slot == intake->slots[arrival->at];
    int is_held = !is_small && arrival->at < intake->trains_held && arrival->slot == intake->trains[arrival->at];

    if (arrival->nodes && is_small)
        intake->slots[arrival->at] = NO_SLOT;
    else if (arrival->nodes && is_held)
        intake->trains[arrival->at] = NO_SLOT;
    else if (!arrival->nodes && !is_small && !is_held)
        pool_put_slot(intake->pool, arrival->slot);
}

/* The used ones leave, the others keep their order. */
static uint32_t settle(uint32_t *slots, uint32_t held)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < held; i++)
        if (slots[i] != NO_SLOT)
            slots[kept++] = slots[i];
    return kept;
}

void intake_settle(struct intake *intake)
{
    intake->slots_held = settle(intake->slots, intake->slots_held);
    intake->trains_held = settle(intake->trains, intake->trains_held);
}

int allowance_has(struct allowance *allowance, uint32_t most, uint64_t period, uint64_t now)
{
    uint64_t earned = (now - allowance->since) / period;

    if (earned) {
        uint64_t left = allowance->left + earned;

        allowance->left = left < most ? (uint32_t)left : most;
        allowance->since = now;
    }
    return allowance->left != 0;
}
