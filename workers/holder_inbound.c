/* From the peer's inbound queue to the TUN: pop, open in place, check, write, bring home. */
#include "engine/packet.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/queue.h"
#include "workers/holder.h"
#include "workers/tun.h"

#include <string.h>

static const uint8_t verdict_counters[] = {
    [VERDICT_KEEPALIVE] = KEEPALIVE_RECEIVED,
    [VERDICT_KEYPAIR_GONE] = DROP_KEYPAIR_GONE,
    [VERDICT_KEYPAIR_EXPIRED] = DROP_KEYPAIR_EXPIRED,
    [VERDICT_TAG] = DROP_DATA_TAG,
    [VERDICT_REPLAY] = DROP_REPLAY,
    [VERDICT_INNER_HEADER] = DROP_INNER_HEADER,
    [VERDICT_INNER_SOURCE] = DROP_INNER_SOURCE,
    [VERDICT_ECN] = DROP_ECN,
};

uint8_t *holder_node_read(const struct segment *s, uint32_t number, uint32_t room_before,
                          struct node *copy)
{
    uint64_t first = (uint64_t)(s->small_slots - (uint8_t *)s->base);

    memcpy(copy, (const void *)&s->node[number], sizeof *copy);
    if (copy->offset < first + room_before || copy->offset > s->bytes ||
        copy->length > s->bytes - copy->offset)
        return NULL;
    return (uint8_t *)s->base + copy->offset;
}

/* The endpoint moves to where the latest authenticated packet came from. */
static void move_endpoint(const struct holder *holder, uint32_t row, const uint8_t *data)
{
    struct endpoint now_at, from;

    memcpy(&from, data - SLOT_ROOM, sizeof from);
    endpoint_load(holder->segment, row, &now_at);
    if (memcmp(&now_at, &from, sizeof from))
        endpoint_store(holder->segment, row, &from);
}

uint32_t holder_open_batch(const struct holder *holder, uint32_t row, uint64_t now)
{
    const struct segment *s = holder->segment;
    struct peer_row *peer = &s->rows[row];
    uint32_t numbers[SESSION_BATCH], kept[SESSION_BATCH];
    uint8_t *messages[SESSION_BATCH];
    struct packet packets[SESSION_BATCH];
    uint32_t lengths[SESSION_BATCH];
    uint32_t count, used = 0, delivered = 0;
    uint64_t bytes = 0;
    struct session session;

    count = queue_pop_sc(s, holder->mark, 2 * row + INBOUND, numbers, SESSION_BATCH, TAKE_BUDGET);
    if (!count)
        return 0;
    holder_session(holder, row, &session);
    for (uint32_t i = 0; i < count; i++) {
        struct node node;
        uint8_t *data = holder_node_read(s, numbers[i], SLOT_ROOM, &node);

        if (!data || node.length < DATA_OVERHEAD || node.peer_generation != session.peer_generation) {
            holder_count(holder, DROP_PEER_GONE, 1);
            node_bring_home(s, numbers[i]);
            continue;
        }
        packets[used] = (struct packet){ .data = data, .length = node.length, .ecn = node.ecn };
        messages[used] = data;
        lengths[used] = node.length;
        kept[used++] = numbers[i];
    }
    if (used)
        session_open(&session, holder->aead, packets, used, now);
    if (session.news & SESSION_AUTHENTICATED)
        move_endpoint(holder, row, messages[session.last_authenticated]);
    for (uint32_t i = 0; i < used; i++) {
        uint32_t verdict = packets[i].verdict;

        if (verdict == VERDICT_DELIVER || verdict == VERDICT_KEEPALIVE)
            bytes += lengths[i];
        if (verdict != VERDICT_DELIVER)
            holder_count(holder, verdict_counters[verdict], 1);
        else if (tun_write(holder->tun, packets[i].data, packets[i].length) == 0)
            delivered++;
        else
            holder_count(holder, DROP_TUN_WRITE, 1);
        node_bring_home(s, kept[i]);
    }
    holder_count(holder, TUN_SENT, delivered);
    if (bytes)
        __atomic_store_n(&peer->rx_bytes, peer->rx_bytes + bytes, __ATOMIC_RELAXED);
    holder_tell(holder, row, session.news, 0);
    return count;
}
