/* From the peer's outbound queue to the UDP socket: pop, cut, seal, send, bring home. */
#include "engine/packet.h"
#include "engine/segmentation.h"
#include "shm/counters.h"
#include "shm/node.h"
#include "shm/orders.h"
#include "shm/parts.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "workers/datapath/holder.h"
#include "workers/datapath/sharing.h"
#include "workers/udp.h"

#include <netinet/in.h>
#include <string.h>

#define PADDING_MOST 15
#define UDP_PORT_BEFORE 6 /* a datagram's payload: the destination's port */

_Static_assert(SESSION_BATCH <= UDP_SEND_MOST, "a batch is sent in one call");

static void drop_nodes(const struct holder *holder, const uint32_t *numbers, uint32_t count, uint32_t counter)
{
    uint64_t packets = 0;

    for (uint32_t i = 0; i < count; i++) {
        packets += holder->segment->node[numbers[i]].packets;
        node_bring_home(holder->segment, numbers[i]);
    }
    holder_count(holder, counter, packets);
}

/* The peer's endpoint, and the socket of its family; -1 when there is none. */
static int socket_of(const struct holder *holder, uint32_t row, struct endpoint *to)
{
    endpoint_load(holder->segment, row, to);
    return to->family == AF_INET ? holder->udp4 : to->family == AF_INET6 ? holder->udp6
                                                                         : -1;
}

int holder_has_room(const struct holder *holder, uint32_t row)
{
    struct endpoint to;
    int fd;

    if (holder->wait_ms || queue_is_empty(holder->segment, 2 * row + OUTBOUND))
        return 1;
    fd = socket_of(holder, row, &to);
    return fd < 0 || udp_has_room(fd);
}

static int takes_trains(const struct holder *holder, uint32_t row, uint64_t now)
{
    return holder->trains && (holder->single[row % TRAINS_REFUSED].row != row ||
                              holder->single[row % TRAINS_REFUSED].until <= now);
}

/* Sends sealed messages to the peer and notes bytes and refusals. */
static void send_to_peer(struct holder *holder, uint32_t row, const struct udp_message *messages,
                         uint32_t count, uint32_t sent_counter, uint64_t now)
{
    struct peer_row *peer = &holder->segment->rows[row];
    struct endpoint to;
    struct udp_sent sent;
    int fd = socket_of(holder, row, &to);

    if (fd < 0) {
        holder_count(holder, to.family ? DROP_NO_SOCKET : DROP_NO_ENDPOINT, count);
        return;
    }
    udp_send(fd, &to, messages, count, takes_trains(holder, row, now), holder->wait_ms, &sent);
    if (sent.trains_refused) {
        holder->single[row % TRAINS_REFUSED].row = row;
        holder->single[row % TRAINS_REFUSED].until = now + TRAINS_AGAIN_NS;
    }
    /* The endpoint is inbound's to write. Until it does, each send finds out again. */
    if (sent.source_refused && !((uint32_t)orders_read(holder->segment, row) & ORDER_CLEAR_SOURCE))
        orders_give(holder->segment, row, ORDER_CLEAR_SOURCE);
    if (sent.bytes)
        __atomic_store_n(&peer->tx_bytes, peer->tx_bytes + sent.bytes, __ATOMIC_RELAXED);
    holder_count(holder, sent_counter, sent.messages);
    holder_count(holder, DROP_UDP_FULL, sent.full);
    holder_count(holder, DROP_UDP_SEND, sent.refused);
}

/* Inner packets of a peer on their way to the UDP socket. */
struct sealing {
    struct holder *holder;
    uint32_t row;
    uint64_t now;
    struct session session;
    struct packet packets[SESSION_BATCH];
    uint32_t count;
    uint8_t *cuts;              /* where super-packets are cut to: GSO_BUFFER_BYTES */
    uint32_t cut_bytes;         /* of them in use */
    uint32_t news;
    int shared;                 /* helpers seal, too (sharing.h) */
};

/* Cut into what helpers can reach, or into memory of this process. */
static void share_sealing(struct sealing *sealing, int shared)
{
    sealing->shared = shared;
    sealing->cuts = shared ? part_room(sealing->holder->segment, sealing->holder->worker) : sealing->holder->gso_buffer;
}

static void seal_and_send(struct sealing *sealing)
{
    struct holder *holder = sealing->holder;
    struct udp_message messages[SESSION_BATCH];
    struct session_jobs jobs;
    uint32_t sealed = 0;

    if (!sealing->count)
        return;
    POINT("seal: in hand, no nonce taken");
    if (session_seal_begin(&sealing->session, sealing->packets, sealing->count, sealing->now, &jobs)) {
        /* The session ran out between the look and now. Their place in the order is gone. */
        holder_count(holder, DROP_SESSION_ENDED, sealing->count);
    } else {
        POINT("seal: nonces taken, nothing sealed");
        sharing_seal(holder, &jobs, sealing->shared, sealing->cut_bytes);
        session_seal_end(&sealing->session, sealing->now, &jobs);
        for (uint32_t i = 0; i < sealing->count; i++) {
            if (sealing->packets[i].verdict != VERDICT_DELIVER)
                continue; /* whoever was to seal it died */
            messages[sealed++] = (struct udp_message){
                .data = sealing->packets[i].data,
                .length = sealing->packets[i].length,
                .ecn = sealing->packets[i].ecn,
                .hops = sealing->packets[i].hops,
            };
        }
        holder_count(holder, DROP_KILLED, sealing->count - sealed);
        POINT("seal: sealed, nothing sent");
        if (sealed)
            send_to_peer(holder, sealing->row, messages, sealed, UDP_SENT, sealing->now);
        POINT("seal: sent, news not kept");
    }
    sealing->news |= sealing->session.news;
    sealing->count = 0;
    sealing->cut_bytes = 0;
    if (sealing->shared && !parts_are_free(holder->segment, holder->worker))
        share_sealing(sealing, 0); /* a helper is late, and may still write */
}

/* Whether a data message in the packet is one that we sent to this peer: the route to it leads back here. */
static int came_back(const struct sealing *sealing, const uint8_t *data, uint32_t length, const uint8_t *message)
{
    struct endpoint to;
    const uint8_t *destination;
    int version;

    if (data_receiver_index(message) != session_remote_index(&sealing->session))
        return 0;
    endpoint_load(sealing->holder->segment, sealing->row, &to);
    version = packet_destination(data, length, &destination);
    return version && to.family == (version == 4 ? AF_INET : AF_INET6) &&
           memcmp(destination, to.address, version == 4 ? 4 : 16) == 0 &&
           memcmp(message - UDP_PORT_BEFORE, &to.port, sizeof to.port) == 0;
}

/* Whether the packet may go on, with the hop limit that its outer header gets (docs/adr/0007). */
static int may_nest(struct sealing *sealing, const uint8_t *data, uint32_t length, uint8_t *hops)
{
    uint32_t type;
    const uint8_t *message = packet_message(data, length, &type);

    *hops = 0;
    if (!message || type != MESSAGE_DATA)
        return 1;
    *hops = packet_nested_hops(data);
    return *hops && !came_back(sealing, data, length, message);
}

/* Needs no segmentation and no checksum: sealed in place. */
static void add_whole(struct sealing *sealing, uint8_t *data, uint32_t length, uint8_t hops)
{
    if (sealing->count == SESSION_BATCH)
        seal_and_send(sealing);
    sealing->packets[sealing->count++] = (struct packet){ .data = data, .length = length, .hops = hops };
}

/* A super-packet is cut, each packet placed where the message before it will end. */
static void add_super_packet(struct sealing *sealing, const struct super_packet *super, uint8_t hops)
{
    struct holder *holder = sealing->holder;
    struct segmentation plan;

    if (segmentation_plan(super, &plan)) {
        holder_count(holder, DROP_TUN_HEADER, 1);
        return;
    }
    for (uint32_t which = 0; which < plan.packets; which++) {
        uint32_t most = plan.largest + DATA_OVERHEAD + PADDING_MOST;
        uint8_t *place;
        uint32_t length;

        if (sealing->count == SESSION_BATCH || sealing->cut_bytes + most > GSO_BUFFER_BYTES)
            seal_and_send(sealing);
        place = sealing->cuts + sealing->cut_bytes + DATA_HEADER_BYTES;
        length = segmentation_cut(super, &plan, which, place);
        sealing->packets[sealing->count++] = (struct packet){ .data = place, .length = length, .hops = hops };
        sealing->cut_bytes += length + packet_padding(length, sealing->session.mtu) + DATA_OVERHEAD;
    }
}

/* The large array is not zeroed: every entry is written before it is used. */
static void sealing_begin(struct sealing *sealing, struct holder *holder, uint32_t row, uint64_t now)
{
    sealing->shared = 0;
    sealing->cuts = holder->gso_buffer;
    sealing->holder = holder;
    sealing->row = row;
    sealing->now = now;
    sealing->count = sealing->cut_bytes = sealing->news = 0;
    holder_session(holder, row, &sealing->session);
}

uint32_t holder_seal_batch(struct holder *holder, uint32_t row, uint64_t now, uint32_t most)
{
    const struct segment *s = holder->segment;
    struct sealing sealing;
    uint32_t numbers[TAKE_BUDGET];
    uint32_t count, packets = 0;

    count = queue_pop_sc(s, holder->mark, 2 * row + OUTBOUND, numbers, TAKE_BUDGET,
                         most < BATCH_PACKETS ? most : BATCH_PACKETS);
    if (!count)
        return 0;
    sealing_begin(&sealing, holder, row, now);
    if (sharing_begins(holder, numbers, count))
        share_sealing(&sealing, 1);
    for (uint32_t i = 0; i < count; i++) {
        struct node node;
        uint8_t *data = node_read(s, numbers[i], DATA_HEADER_BYTES, PADDING_MOST + AEAD_TAG_BYTES, &node);
        struct super_packet super = {
            .data = data,
            .length = node.length,
            .flags = (uint8_t)node.vnet_flags,
            .gso_type = node.gso_type,
            .gso_size = node.gso_size,
            .checksum_start = node.checksum_start,
            .checksum_offset = node.checksum_offset,
        };

        uint8_t hops;

        packets += node.packets;
        if (!data || !node.length || node.peer_generation != sealing.session.peer_generation) {
            holder_count(holder, DROP_PEER_GONE, node.packets);
        } else if (!may_nest(&sealing, data, node.length, &hops)) {
            holder_count(holder, DROP_LOOP, node.packets);
            events_give(s, row, EVENT_LOOP);
        } else if (super.gso_type == VNET_GSO_NONE && !(super.flags & VNET_NEEDS_CSUM)) {
            add_whole(&sealing, data, node.length, hops);
        } else {
            add_super_packet(&sealing, &super, hops);
        }
    }
    seal_and_send(&sealing);
    POINT("seal: sent, nodes not home");
    for (uint32_t i = 0; i < count; i++) {
        node_bring_home(s, numbers[i]);
        POINT("seal: first node home");
    }
    sharing_ends(holder);
    holder_tell(holder, row, sealing.news, 0);
    return packets ? packets : count;
}

void holder_trim_staged(const struct holder *holder, uint32_t row, uint32_t keep, uint32_t counter)
{
    const struct segment *s = holder->segment;
    uint32_t queue = 2 * row + OUTBOUND;
    uint32_t numbers[TAKE_BUDGET];
    uint32_t waiting;

    while ((waiting = queue_packets(s, queue)) > keep) {
        uint32_t surplus = waiting - keep;
        uint32_t count = queue_pop_sc(s, holder->mark, queue, numbers,
                                      surplus < TAKE_BUDGET ? surplus : TAKE_BUDGET, surplus);

        if (!count)
            break;
        drop_nodes(holder, numbers, count, counter);
    }
}

void holder_drop_all(const struct holder *holder, uint32_t queue)
{
    uint32_t numbers[TAKE_BUDGET];
    uint32_t count;

    while ((count = queue_pop_sc(holder->segment, holder->mark, queue, numbers, TAKE_BUDGET, QUEUE_LIMIT)))
        drop_nodes(holder, numbers, count, DROP_PEER_GONE);
}

void holder_send_keepalive(struct holder *holder, uint32_t row, uint64_t now)
{
    uint8_t room[DATA_HEADER_BYTES + AEAD_TAG_BYTES];
    struct packet packet = { .data = room + DATA_HEADER_BYTES, .length = 0 };
    struct session session;

    holder_session(holder, row, &session);
    if (session_seal(&session, holder->aead, &packet, 1, now) == 0) {
        struct udp_message message = { .data = packet.data, .length = packet.length };

        send_to_peer(holder, row, &message, 1, KEEPALIVE_SENT, now);
    }
    /* Without a session the news asks for a handshake, as the kernel does. */
    holder_tell(holder, row, session.news, 0);
}
