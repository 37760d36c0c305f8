/* From the TUN queue to the peers' outbound queues. */
#include "workers/clock.h"
#include "workers/datapath/receive.h"
#include "workers/datapath/tun.h"
#include "workers/udp.h"

#include "engine/allowedips.h"
#include "engine/icmp.h"
#include "engine/index.h"
#include "engine/packet.h"
#include "engine/segmentation.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/point.h"

#include <errno.h>

/* Of a transport header that must lie in a packet's small slot. */
#define HEADERS_MOST 60

/* As many ICMP errors as the kernel's own default lets out: 1,000 a second, 50 at once. */
#define ANSWER_NS 1000000u
#define ANSWERS_AT_ONCE 50

/* Tells the packet's sender, inside, that it went nowhere. */
static void answer_unreachable(struct intake *intake, int fd, const uint8_t *data, uint32_t length)
{
    uint8_t room[VNET_HEADER_BYTES + ICMP_MOST_BYTES];
    uint32_t bytes;

    if (!allowance_has(&intake->answers, ANSWERS_AT_ONCE, ANSWER_NS, clock_now()))
        return;
    bytes = icmp_unreachable(room + VNET_HEADER_BYTES, data, length);
    if (bytes && tun_write(fd, room + VNET_HEADER_BYTES, bytes) == 0) {
        intake->answers.left--;
        counter_add(intake->segment, intake->worker, ICMP_SENT, 1);
    }
}

/* An endpoint that control has ordered counts: the holder applies orders before it sends. It clears
 * the order after it stored the endpoint, so what the first look missed the second one finds. */
static int has_endpoint(const struct segment *s, uint32_t peer)
{
    struct endpoint endpoint;

    endpoint_load(s, peer, &endpoint);
    if (endpoint.family || (orders_read(s, peer) & ORDER_ENDPOINT))
        return 1;
    endpoint_load(s, peer, &endpoint);
    return endpoint.family != 0;
}

/* Whether the packet is a handshake message that control sent to this peer, whose route leads back here. One
 * that waited for a session would be sent when there is one. Data messages are the holder's to tell. */
static int is_own_handshake(const struct segment *s, const uint8_t *data, uint32_t length, uint32_t peer)
{
    uint32_t type, owner;
    const uint8_t *message = packet_message(data, length, &type);

    return message && (type == MESSAGE_INITIATION || type == MESSAGE_RESPONSE) &&
           index_lookup((const struct index_entry *)s->index, s->geometry.max_keypairs, s->device->index_key,
                        handshake_sender_index(message), &owner) &&
           owner == peer;
}

/* The peer that the packet's destination belongs to, if it can be sent to; else a counted drop. */
static int sort_packet(struct intake *intake, int fd, const uint8_t *data, uint32_t length,
                       uint32_t room, uint32_t packets, uint32_t *peer)
{
    const struct segment *s = intake->segment;
    const uint8_t *destination;
    int version = packet_destination(data, length, &destination);
    const uint32_t *root = version == 4 ? &s->device->trie_root4 : &s->device->trie_root6;

    if (!version) {
        counter_add(s, intake->worker, DROP_TUN_HEADER, packets);
        return 0;
    }
    /* acquire: the nodes that the root leads to were written before it */
    *peer = allowedips_lookup((const struct trie_node *)s->trie, s->geometry.max_trie_nodes,
                              __atomic_load_n(root, __ATOMIC_ACQUIRE), destination, version == 4 ? 32 : 128);
    if (*peer >= s->geometry.max_peers && (version == 4 ? destination[0] >> 4 == 14 : destination[0] == 0xff)) {
        counter_add(s, intake->worker, DROP_NO_PEER_MULTICAST, packets);
        return 0;
    }
    if (*peer >= s->geometry.max_peers) {
        counter_add(s, intake->worker, DROP_NO_PEER, packets);
        answer_unreachable(intake, fd, data, length < room ? length : room);
        return 0;
    }
    if (!has_endpoint(s, *peer)) {
        counter_add(s, intake->worker, DROP_NO_ENDPOINT, packets);
        answer_unreachable(intake, fd, data, length < room ? length : room);
        return 0;
    }
    if (is_own_handshake(s, data, length < room ? length : room, *peer)) {
        counter_add(s, intake->worker, DROP_LOOP, packets);
        events_give(s, *peer, EVENT_LOOP);
        return 0;
    }
    return 1;
}

/* The packet, whole, becomes a node for peer; how the holder will cut it stands in the node. */
static void accept_packet(struct intake *intake, struct burst *burst, struct arrival *arrival,
                          const struct super_packet *super, const struct segmentation *plan, uint32_t peer)
{
    const struct segment *s = intake->segment;
    struct burst_chain *chain = burst_chain(burst, peer);
    uint32_t number;
    struct node *node;

    number = chain ? intake_issue(intake, arrival, 0, arrival->length, super->gso_size, plan->packets, peer,
                                  OUTBOUND)
                   : NODE_NIL;
    if (!number)
        return;
    node = &s->node[number];
    node->gso_type = super->gso_type;
    node->vnet_flags = super->flags;
    node->checksum_start = super->checksum_start;
    node->checksum_offset = super->checksum_offset;
    burst_add(s, chain, number, plan->packets);
}

/* Packet i of the burst, `length` bytes, of which `room` stand in its small slot. */
static void sort_arrival(struct intake *intake, int fd, struct burst *burst, uint32_t i, uint32_t length,
                         uint32_t room, const uint8_t *rest)
{
    const struct segment *s = intake->segment;
    struct arrival arrival;
    struct super_packet super;
    struct segmentation plan;
    uint32_t peer, packets;

    tun_describe(pool_slot(intake->pool, intake->slots[i]) + SLOT_ROOM, length, &super);
    /* Headers lie in the first bytes, so the plan can be made before the packet is one piece. */
    packets = (uint32_t)super.checksum_start + HEADERS_MOST > room || segmentation_plan(&super, &plan) ? 0 : plan.packets;
    intake_note_arriving(intake, packets ? packets : 1);
    POINT("receive: packet read from the TUN, no node");
    counter_add(s, intake->worker, TUN_RECEIVED, packets ? packets : 1);
    if (!packets || packets > UINT16_MAX) {
        counter_add(s, intake->worker, DROP_TUN_HEADER, packets ? packets : 1);
        return;
    }
    if (length > room)
        intake->saw_trains = TRAINS_REMEMBERED;
    if (!sort_packet(intake, fd, super.data, length, room, packets, &peer))
        return;
    if (intake_accept(intake, i, length, room, rest, &arrival)) {
        intake_count_no_slot(intake, OUTBOUND, packets);
        return;
    }
    accept_packet(intake, burst, &arrival, &super, &plan, peer);
    intake_finish(intake, &arrival);
}

int32_t receive_tun(struct intake *intake, int fd, uint8_t *spill)
{
    uint32_t got = 0, count;
    int gone = 0;
    struct burst burst;

    intake_refill(intake, BURST_MAX);
    count = intake_expect(intake, intake_room(intake, OUTBOUND, BURST_MAX));
    intake->saw_trains -= intake->saw_trains > 0;
    burst_begin(&burst, OUTBOUND);
    while (got < count) {
        uint32_t fits;
        uint8_t *place = intake_place(intake, got, &fits);
        uint8_t *rest = intake_rest(intake, got, fits);
        int64_t length = tun_read(fd, place, fits, rest ? rest : spill, UDP_SPILL_BYTES);

        if (length <= 0) {
            gone = length < 0 ? errno : 0;
            break;
        }
        sort_arrival(intake, fd, &burst, got, (uint32_t)length, fits, rest ? rest : spill);
        intake_note_arriving(intake, 0);
        got++;
    }
    intake_learn(intake, got, count);
    burst_push(&burst, intake->segment, intake->worker, intake->pool, intake->inline_holder);
    intake_settle(intake);
    return gone ? -gone : (int32_t)got;
}
