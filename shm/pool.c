/* pool: what one receiver issues in one direction, and how it comes back.
 *
 * All books are private to the receiver. Others say one thing only: states[number] = home, by a
 * release store. The receiver finds it by sweeping its outstanding nodes in issue order; which
 * slot and which peer a node belonged to it knows itself, so nothing that another process may
 * have scribbled into a node can corrupt the books.
 *
 * The sweep goes on from where it was, over the nodes that are home, and stops after a few
 * that are not. If it found nothing at all it starts behind those next time, so that packets that
 * wait for a session (staged) hide nobody; if something is short it looks at everything.
 */
#include "pool.h"

#include "point.h"

#include <stdlib.h>
#include <string.h>

#define NONE 0xffffffffu
#define NO_PEER 0xffffffffu
#define MISSES 16 /* nodes still out before a sweep gives up */

static uint32_t slots_of(const struct pool *pool)
{
    return pool->segment->geometry.small_slots + pool->segment->geometry.train_slots;
}

static int slot_is_small(const struct pool *pool, uint32_t slot)
{
    return slot < pool->segment->geometry.small_slots;
}

static void slot_free(struct pool *pool, uint32_t slot)
{
    pool->slot_peers[slot] = NO_PEER;
    if (slot_is_small(pool, slot))
        pool->small_stack[pool->free_small++] = slot;
    else
        pool->train_stack[pool->free_trains++] = slot;
}

static uint16_t *share_of(const struct pool *pool, uint32_t slot, uint32_t peer)
{
    return slot_is_small(pool, slot) ? &pool->peer_slots[peer] : &pool->peer_trains[peer];
}

static uint32_t *out_of(struct pool *pool, uint32_t slot)
{
    return slot_is_small(pool, slot) ? &pool->smalls_out : &pool->trains_out;
}

/* Books a node out: its slot, and the peer that the slot is charged to. A slot is charged once
 * to each peer in a row of nodes. */
static void node_book(struct pool *pool, uint32_t place, uint32_t slot, uint32_t peer)
{
    pool->node_slots[place] = slot;
    pool->node_peers[place] = NO_PEER;
    if (slot == NONE)
        return;
    if (pool->slot_nodes[slot]++ == 0)
        (*out_of(pool, slot))++;
    if (pool->slot_peers[slot] != peer) {
        pool->slot_peers[slot] = peer;
        pool->node_peers[place] = peer;
        pool->peers_out += pool->peer_slots[peer] == 0 && pool->peer_trains[peer] == 0;
        (*share_of(pool, slot, peer))++;
    }
}

static void node_unbook(struct pool *pool, uint32_t place)
{
    uint32_t slot = pool->node_slots[place], peer = pool->node_peers[place];
    pool->node_stack[pool->free_nodes++] = pool->first_node + place;
    if (slot == NONE)
        return;
    if (peer != NO_PEER) {
        (*share_of(pool, slot, peer))--;
        pool->peers_out -= pool->peer_slots[peer] == 0 && pool->peer_trains[peer] == 0;
    }
    if (--pool->slot_nodes[slot] == 0) {
        (*out_of(pool, slot))--;
        slot_free(pool, slot);
    }
}

/* The ring of outstanding nodes holds holes (0) where nodes came home out of order. */
static void order_compact(struct pool *pool)
{
    uint32_t put = pool->order_got;
    for (uint32_t at = pool->order_got; at != pool->order_put; at++) {
        uint32_t number = pool->order[at & pool->order_mask];
        if (number != 0)
            pool->order[put++ & pool->order_mask] = number;
    }
    pool->order_put = put;
    pool->cursor = pool->order_got;
}

static void order_append(struct pool *pool, uint32_t number)
{
    if (pool->order_put - pool->order_got > pool->order_mask)
        order_compact(pool); /* twice as many places as nodes: once in that many issues at most */
    pool->order[pool->order_put++ & pool->order_mask] = number;
}

static int allocate(struct pool *pool)
{
    const struct geometry *g = &pool->segment->geometry;
    uint32_t slots = slots_of(pool), places = 4;
    while (places < 2 * g->nodes_a_pool)
        places *= 2;
    pool->order_mask = places - 1;
    pool->node_stack = calloc(g->nodes_a_pool, sizeof(uint32_t));
    pool->small_stack = calloc(g->small_slots, sizeof(uint32_t));
    pool->train_stack = calloc(g->train_slots + 1, sizeof(uint32_t));
    pool->slot_nodes = calloc(slots, sizeof(uint16_t));
    pool->slot_peers = calloc(slots, sizeof(uint32_t));
    pool->peer_slots = calloc(g->max_peers, sizeof(uint16_t));
    pool->peer_trains = calloc(g->max_peers, sizeof(uint16_t));
    pool->node_slots = calloc(g->nodes_a_pool, sizeof(uint32_t));
    pool->node_peers = calloc(g->nodes_a_pool, sizeof(uint32_t));
    pool->order = calloc(places, sizeof(uint32_t));
    return pool->node_stack && pool->small_stack && pool->train_stack && pool->slot_nodes &&
           pool->slot_peers && pool->peer_slots && pool->peer_trains && pool->node_slots &&
           pool->node_peers && pool->order;
}

int pool_open(struct pool *pool, const struct segment *segment, uint32_t number)
{
    const struct geometry *g = &segment->geometry;
    memset(pool, 0, sizeof *pool);
    if (number >= segment->pools)
        return -1;
    pool->segment = segment;
    pool->number = number;
    pool->first_node = 1 + number * g->nodes_a_pool;
    pool->first_slot = number * g->small_slots;
    pool->first_train = number * g->train_slots;
    if (!allocate(pool)) {
        pool_close(pool);
        return -1;
    }
    uint32_t slots = slots_of(pool);
    for (uint32_t slot = 0; slot < slots; slot++)
        pool->slot_peers[slot] = NO_PEER;

    for (uint32_t i = g->nodes_a_pool; i-- > 0;) { /* downwards: the lowest are on top of the stack */
        uint32_t node = pool->first_node + i;
        /* acquire: whoever brought it home is done with it */
        uint32_t state = __atomic_load_n(&segment->states[node], __ATOMIC_ACQUIRE);
        if (state == NODE_OWNED)
            __atomic_store_n(&segment->states[node], NODE_FREE, __ATOMIC_RELAXED);
        if (state == NODE_OWNED || state == NODE_FREE) {
            pool->node_stack[pool->free_nodes++] = node;
            continue;
        }
        uint32_t slot = segment->node[node].slot, peer = segment->node[node].peer;
        node_book(pool, i, slot < slots && peer < g->max_peers ? slot : NONE, peer);
        order_append(pool, node);
    }
    for (uint32_t slot = slots; slot-- > 0;)
        if (pool->slot_nodes[slot] == 0)
            slot_free(pool, slot);
    return 0;
}

void pool_close(struct pool *pool)
{
    free(pool->node_stack);
    free(pool->small_stack);
    free(pool->train_stack);
    free(pool->slot_nodes);
    free(pool->slot_peers);
    free(pool->peer_slots);
    free(pool->peer_trains);
    free(pool->node_slots);
    free(pool->node_peers);
    free(pool->order);
    memset(pool, 0, sizeof *pool);
}

uint32_t pool_take_small(struct pool *pool)
{
    return pool->free_small ? pool->small_stack[--pool->free_small] : NONE;
}

uint32_t pool_take_train(struct pool *pool)
{
    return pool->free_trains ? pool->train_stack[--pool->free_trains] : NONE;
}

void pool_put_slot(struct pool *pool, uint32_t slot)
{
    if (slot < slots_of(pool) && pool->slot_nodes[slot] == 0)
        slot_free(pool, slot);
}

uint8_t *pool_slot(const struct pool *pool, uint32_t slot)
{
    if (slot_is_small(pool, slot))
        return pool->segment->small_slots + ((uint64_t)pool->first_slot + slot) * SMALL_SLOT_BYTES;
    uint64_t train = (uint64_t)pool->first_train + slot - pool->segment->geometry.small_slots;
    return pool->segment->train_slots + train * TRAIN_SLOT_BYTES;
}

uint32_t pool_slot_bytes(const struct pool *pool, uint32_t slot)
{
    return slot_is_small(pool, slot) ? SMALL_SLOT_BYTES : TRAIN_SLOT_BYTES;
}

uint32_t pool_issue(struct pool *pool, uint32_t slot, uint32_t peer)
{
    if (pool->free_nodes == 0 || slot >= slots_of(pool) || peer >= pool->segment->geometry.max_peers)
        return 0;
    uint32_t number = pool->node_stack[--pool->free_nodes];
    struct node *node = &pool->segment->node[number];
    node_book(pool, number - pool->first_node, slot, peer);
    order_append(pool, number);
    node->slot = slot;
    node->peer = peer;
    POINT("slot: taken, node still home");
    /* relaxed, but atomic: a slow producer may still be looking at this word (queue.c, rule 1) */
    uint64_t next = __atomic_load_n(&node->next, __ATOMIC_RELAXED);
    __atomic_store_n(&node->next, ((next >> 32) + 1) << 32 | NODE_NIL, __ATOMIC_RELAXED);
    __atomic_store_n(&pool->segment->states[number], NODE_OWNED, __ATOMIC_RELAXED); /* our own until pushed */
    POINT("slot: node mine, not filled");
    return number;
}

void pool_withdraw(struct pool *pool, uint32_t number)
{
    uint32_t place = number - pool->first_node;
    if (place >= pool->segment->geometry.nodes_a_pool)
        return;
    /* Most likely it was among the last issued. */
    for (uint32_t at = pool->order_put; at != pool->order_got; at--) {
        uint32_t *entry = &pool->order[(at - 1) & pool->order_mask];
        if (*entry != number)
            continue;
        *entry = 0;
        __atomic_store_n(&pool->segment->states[number], NODE_FREE, __ATOMIC_RELAXED);
        POINT("slot: withdrawn, not on the free stack");
        node_unbook(pool, place);
        break;
    }
    while (pool->order_put != pool->order_got && pool->order[(pool->order_put - 1) & pool->order_mask] == 0)
        pool->order_put--;
}

/* Collects what has come home from place `*at` of the order on, until MISSES nodes that are still
 * out (limit 0: any number) have been met since the last find. Moves *at to where the next sweep
 * goes on: the first that was met after a find, or the end of the look. */
static uint32_t sweep_from(struct pool *pool, uint32_t *at, uint32_t limit)
{
    uint32_t collected = 0, misses = 0, first_miss = 0, place = *at;
    for (; place != pool->order_put && (!limit || misses < limit); place++) {
        uint32_t *entry = &pool->order[place & pool->order_mask];
        if (*entry == 0)
            continue;
        /* acquire: the holder is done with node and slot */
        if (__atomic_load_n(&pool->segment->states[*entry], __ATOMIC_ACQUIRE) != NODE_FREE) {
            if (misses++ == 0)
                first_miss = place;
            continue;
        }
        POINT("slot: came home, not on the free stack");
        node_unbook(pool, *entry - pool->first_node);
        *entry = 0;
        collected++;
        misses = misses > 0 ? 1 : 0; /* a find lets it go on */
    }
    *at = collected && misses ? first_miss : place;
    while (pool->order_got != pool->order_put && pool->order[pool->order_got & pool->order_mask] == 0)
        pool->order_got++;
    return collected;
}

uint32_t pool_sweep(struct pool *pool)
{
    int everything = pool->free_nodes == 0 || pool->free_small == 0 ||
                     (pool->free_trains == 0 && pool->segment->geometry.train_slots != 0);
    /* The oldest first, each time: those come home first, and whoever waits for the cursor to come
     * round again would be charged for them all the while. */
    uint32_t at = pool->order_got, collected = sweep_from(pool, &at, everything ? 0 : MISSES);
    /* Then on from where the last sweep stopped, past what one slow peer holds up. */
    if (everything || pool->cursor - pool->order_got >= pool->order_put - pool->order_got)
        pool->cursor = at;
    else
        collected += sweep_from(pool, &pool->cursor, MISSES);
    return collected;
}
