/* From the peer's inbound queue to the TUN: pop, open in place, check, join, write, bring home. */
#include "engine/coalescing.h"
#include "engine/packet.h"
#include "shm/counters.h"
#include "shm/node.h"
#include "shm/orders.h"
#include "shm/parts.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "workers/datapath/holder.h"
#include "workers/datapath/sharing.h"
#include "workers/datapath/tun.h"

#include <stddef.h>
#include <string.h>

static const uint8_t verdict_counters[VERDICT_NO_SESSION] = {
    [VERDICT_KEEPALIVE] = KEEPALIVE_RECEIVED,
    [VERDICT_KEYPAIR_GONE] = DROP_KEYPAIR_GONE,
    [VERDICT_KEYPAIR_EXPIRED] = DROP_KEYPAIR_EXPIRED,
    [VERDICT_TAG] = DROP_DATA_TAG,
    [VERDICT_REPLAY] = DROP_REPLAY,
    [VERDICT_INNER_HEADER] = DROP_INNER_HEADER,
    [VERDICT_INNER_SOURCE] = DROP_INNER_SOURCE,
    [VERDICT_ECN] = DROP_ECN,
    [VERDICT_LOST] = DROP_KILLED,
};
_Static_assert(VERDICT_NO_SESSION == VERDICT_LOST + 1, "a verdict more: its counter belongs into the table above");

/* The endpoint moves to where the latest authenticated packet came from. EVENT_ENDPOINT when that is
 * another place, 0 when at most our own address is another. */
static uint32_t move_endpoint(const struct holder *holder, uint32_t row, const uint8_t *message)
{
    struct endpoint now_at, from;

    memcpy(&from, node_slot(holder->segment, message), sizeof from);
    endpoint_load(holder->segment, row, &now_at);
    if (memcmp(&now_at, &from, sizeof from))
        endpoint_store(holder->segment, row, &from);
    return memcmp(&now_at, &from, offsetof(struct endpoint, source)) ? EVENT_ENDPOINT : 0;
}

/* Messages of a peer on their way to the TUN. */
struct opening {
    struct holder *holder;
    uint32_t row;
    uint64_t now;
    struct session session;
    struct packet packets[SESSION_BATCH];
    uint8_t *messages[SESSION_BATCH];   /* where each message began */
    uint32_t lengths[SESSION_BATCH];    /* and its bytes */
    uint32_t count;
    uint32_t news;
    uint32_t events;
    int shared;                         /* helpers open, too (sharing.h) */
};

/* packets[first..last) are to be delivered, in order; neighbours of one flow as one. */
static void deliver(const struct holder *holder, struct packet *packets, uint32_t first, uint32_t last)
{
    uint32_t delivered = 0;

    while (first < last) {
        struct joined joined;
        int refused;

        coalescing_join(&packets[first], last - first, holder->joins, &joined);
        refused = joined.packets == 1 ? tun_write(holder->tun, packets[first].data, packets[first].length)
                                      : tun_write_joined(holder->tun, &packets[first], &joined);
        if (refused)
            holder_count(holder, DROP_TUN_WRITE, joined.packets);
        else
            delivered += joined.packets;
        first += joined.packets;
        POINT("open: some delivered, not counted");
    }
    holder_count(holder, TUN_SENT, delivered);
}

static void open_and_deliver(struct opening *opening)
{
    struct holder *holder = opening->holder;
    struct peer_row *peer = &holder->segment->rows[opening->row];
    struct packet *packets = opening->packets;
    struct session_jobs jobs;
    uint64_t bytes = 0;

    if (!opening->count)
        return;
    POINT("open: in hand, nothing opened");
    session_open_begin(&opening->session, packets, opening->count, opening->now, &jobs);
    sharing_open(holder, &jobs, opening->shared);
    session_open_end(&opening->session, packets, opening->now, &jobs);
    if (opening->session.news & SESSION_CONFIRMED)
        POINT("rotation: confirmed by data, control not told");
    POINT("open: accepted, nothing delivered");
    if (opening->session.news & (SESSION_CONFIRMED | SESSION_KEYS))
        orders_give(holder->segment, opening->row, ORDER_LOOK); /* outbound may send under the new keys */
    opening->news |= opening->session.news;
    if (opening->session.news & SESSION_AUTHENTICATED)
        opening->events |=
            move_endpoint(holder, opening->row, opening->messages[opening->session.last_authenticated]);
    for (uint32_t i = 0; i < opening->count;) {
        uint32_t run = i;

        while (run < opening->count && packets[run].verdict == VERDICT_DELIVER)
            bytes += opening->lengths[run++];
        if (run > i) {
            deliver(holder, packets, i, run);
            i = run;
            continue;
        }
        if (packets[i].verdict == VERDICT_KEEPALIVE)
            bytes += opening->lengths[i];
        holder_count(holder, verdict_counters[packets[i].verdict], 1);
        i++;
    }
    if (bytes)
        __atomic_store_n(&peer->rx_bytes, peer->rx_bytes + bytes, __ATOMIC_RELAXED);
    opening->count = 0;
    if (opening->shared)
        opening->shared = parts_are_free(holder->segment, holder->worker);
}

/* The messages of a node join the batch, which is dealt with whenever it is full. */
static void add_messages(struct opening *opening, uint8_t *data, const struct node *node)
{
    uint32_t gso_size = node->gso_size >= DATA_OVERHEAD ? node->gso_size : node->length;

    for (uint32_t at = 0; at < node->length; at += gso_size) {
        uint32_t length = node->length - at < gso_size ? node->length - at : gso_size;

        if (opening->count == SESSION_BATCH)
            open_and_deliver(opening);
        opening->packets[opening->count] =
            (struct packet){ .data = data + at, .length = length, .ecn = node->ecn };
        opening->messages[opening->count] = data + at;
        opening->lengths[opening->count++] = length;
    }
}

/* The large arrays are not zeroed: every entry is written before it is used. */
static void opening_begin(struct opening *opening, struct holder *holder, uint32_t row, uint64_t now)
{
    opening->holder = holder;
    opening->row = row;
    opening->now = now;
    opening->count = opening->news = opening->events = 0;
    opening->shared = 0;
    holder_session(holder, row, &opening->session);
}

uint32_t holder_open_batch(struct holder *holder, uint32_t row, uint64_t now, uint32_t most)
{
    const struct segment *s = holder->segment;
    struct opening opening;
    uint32_t numbers[TAKE_BUDGET];
    uint32_t count, packets = 0;

    count = queue_pop_sc(s, holder->mark, 2 * row + INBOUND, numbers, TAKE_BUDGET,
                         most < BATCH_PACKETS ? most : BATCH_PACKETS);
    if (!count)
        return 0;
    opening_begin(&opening, holder, row, now);
    opening.shared = sharing_begins(holder, numbers, count);
    for (uint32_t i = 0; i < count; i++) {
        struct node node;
        uint8_t *data = node_read(s, numbers[i], SLOT_ROOM, 0, &node);

        packets += node.packets;
        if (!data || node.length < DATA_OVERHEAD || node.peer_generation != opening.session.peer_generation)
            holder_count(holder, DROP_PEER_GONE, node.packets);
        else
            add_messages(&opening, data, &node);
    }
    open_and_deliver(&opening);
    POINT("open: delivered, nodes not home");
    for (uint32_t i = 0; i < count; i++) {
        node_bring_home(s, numbers[i]);
        POINT("open: first node home");
    }
    sharing_ends(holder);
    holder_tell(holder, row, opening.news, opening.events);
    return packets ? packets : count;
}
