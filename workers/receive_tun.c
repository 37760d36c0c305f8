/* From the TUN queue to the peers' outbound queues. */
#include "workers/clock.h"
#include "workers/receiver.h"
#include "workers/tun.h"
#include "workers/udp.h"

#include "engine/allowedips.h"
#include "engine/icmp.h"
#include "engine/packet.h"
#include "shm/counters.h"
#include "shm/orders.h"

#include <errno.h>

/* As many ICMP errors as the kernel's own default lets out: 1,000 a second, 50 at once. */
#define ANSWER_NS 1000000u
#define ANSWERS_AT_ONCE 50

/* Tells the packet's sender, inside, that it went nowhere. */
static void answer_unreachable(struct intake *intake, int fd, const uint8_t *data, uint32_t length)
{
    uint8_t room[VNET_HEADER_BYTES + ICMP_MOST_BYTES];
    uint64_t now = clock_now();
    uint64_t earned = (now - intake->answers_since) / ANSWER_NS;
    uint32_t bytes;

    if (earned) {
        uint64_t answers = intake->answers + earned;

        intake->answers = answers < ANSWERS_AT_ONCE ? (uint32_t)answers : ANSWERS_AT_ONCE;
        intake->answers_since = now;
    }
    if (!intake->answers)
        return;
    bytes = icmp_unreachable(room + VNET_HEADER_BYTES, data, length);
    if (bytes && tun_write(fd, room + VNET_HEADER_BYTES, bytes) == 0) {
        intake->answers--;
        counter_add(intake->segment, intake->worker, ICMP_SENT, 1);
    }
}

/* The peer that the packet's destination belongs to, if it can be sent to; else a counted drop. */
static int sort_packet(struct intake *intake, int fd, const uint8_t *data, uint32_t length,
                       uint32_t room, uint32_t *peer)
{
    const struct segment *s = intake->segment;
    const uint8_t *destination;
    int version = packet_destination(data, length, &destination);
    struct endpoint endpoint;
    const uint32_t *root = version == 4 ? &s->device->trie_root4 : &s->device->trie_root6;

    if (!version) {
        counter_add(s, intake->worker, DROP_TUN_HEADER, 1);
        return 0;
    }
    /* acquire: the nodes that the root leads to were written before it */
    *peer = allowedips_lookup((const struct trie_node *)s->trie, s->geometry.max_trie_nodes,
                              __atomic_load_n(root, __ATOMIC_ACQUIRE), destination, version == 4 ? 32 : 128);
    if (*peer >= s->geometry.max_peers) {
        counter_add(s, intake->worker, DROP_NO_PEER, 1);
        answer_unreachable(intake, fd, data, length < room ? length : room);
        return 0;
    }
    endpoint_load(s, *peer, &endpoint);
    if (!endpoint.family) {
        counter_add(s, intake->worker, DROP_NO_ENDPOINT, 1);
        answer_unreachable(intake, fd, data, length < room ? length : room);
        return 0;
    }
    return 1;
}

int32_t receive_tun(struct intake *intake, int fd, uint8_t *spill)
{
    const struct segment *s = intake->segment;
    uint32_t count = intake_refill(intake, BURST_MAX);
    uint32_t got = 0, room;
    int gone = 0;
    struct burst burst;

    burst_begin(&burst, OUTBOUND);
    while (got < count) {
        uint8_t *place = intake_place(intake, got, &room);
        int64_t length = tun_read(fd, place, room, spill, UDP_SPILL_BYTES);
        uint32_t peer, node;

        if (length <= 0) {
            gone = length < 0 ? errno : 0;
            break;
        }
        /* The header fields looked at lie in the first bytes; a packet cut by the slot is whole
         * once intake_issue has put its parts together. */
        if (sort_packet(intake, fd, place, (uint32_t)length, room, &peer)) {
            node = intake_issue(intake, got, (uint32_t)length, room, spill, peer, OUTBOUND);
            if (node)
                burst_add(&burst, s, node, peer, 1);
        }
        got++;
    }
    counter_add(s, intake->worker, TUN_RECEIVED, got);
    burst_push(&burst, s, intake->worker, intake->pool);
    intake_settle(intake);
    return gone ? -gone : (int32_t)got;
}
