/* From the UDP socket to the peers' inbound queues; handshake messages to control's mailbox. */
#include "workers/receiver.h"
#include "workers/udp.h"

#include "engine/index.h"
#include "engine/packet.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/mailbox.h"

#include <string.h>

_Static_assert(INITIATION_BYTES <= MAILBOX_MESSAGE_BYTES, "an initiation does not fit in a mailbox cell");

/* A data message: which peer's is it? A node for it, or 0 and a counted drop. */
static uint32_t sort_data(struct intake *intake, struct udp_inbox *inbox, uint32_t i, uint32_t length,
                          uint32_t room, uint32_t *peer)
{
    const struct segment *s = intake->segment;
    uint8_t *data = inbox->vectors[i][0].iov_base;
    uint32_t index = data_receiver_index(data);
    uint32_t number = index_lookup((const struct index_entry *)s->index, s->geometry.max_keypairs,
                                   s->device->index_key, index, peer);
    struct endpoint from;
    uint8_t ecn;
    uint32_t node;

    if (!number || *peer >= s->geometry.max_peers) {
        counter_add(s, intake->worker, DROP_INDEX_UNKNOWN, 1);
        return NODE_NIL;
    }
    udp_sender(inbox, i, &from, &ecn);
    /* The endpoint travels at the start of the slot. */
    memcpy(data - SLOT_ROOM, &from, sizeof from);
    node = intake_issue(intake, i, length, room, inbox->vectors[i][1].iov_base, *peer, INBOUND);
    if (node) {
        s->node[node].receiver_index = index;
        s->node[node].ecn = ecn;
    }
    return node;
}

static void forward_handshake(struct intake *intake, struct udp_inbox *inbox, uint32_t i, uint32_t length)
{
    const struct segment *s = intake->segment;
    struct endpoint from;
    uint8_t ecn;

    udp_sender(inbox, i, &from, &ecn);
    if (mailbox_put(s, intake->number, &from, inbox->vectors[i][0].iov_base, length))
        counter_add(s, intake->worker, DROP_MAILBOX_FULL, 1);
    else
        counter_add(s, intake->worker, HANDSHAKE_TO_CONTROL, 1);
}

int32_t receive_udp(struct intake *intake, int fd, struct udp_inbox *inbox)
{
    const struct segment *s = intake->segment;
    uint32_t room = 0, count = intake_refill(intake, UDP_BATCH), got;
    int handshakes = 0;
    struct burst burst;

    if (!count)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *place = intake_place(intake, i, &room);

        udp_inbox_place(inbox, i, place, room);
    }
    got = udp_receive(fd, inbox, count);
    if (!got)
        return 0;
    counter_add(s, intake->worker, UDP_RECEIVED, got);
    burst_begin(&burst, INBOUND);
    for (uint32_t i = 0; i < got; i++) {
        uint32_t length = inbox->headers[i].msg_len;
        int why;
        uint32_t type = message_type(inbox->vectors[i][0].iov_base, length, &why);

        if (type == MESSAGE_DATA) {
            uint32_t peer;
            uint32_t node = sort_data(intake, inbox, i, length, room, &peer);

            if (node)
                burst_add(&burst, s, node, peer, 1);
        } else if (type) {
            forward_handshake(intake, inbox, i, length);
            handshakes = 1;
        } else {
            counter_add(s, intake->worker, why == 1 ? DROP_MESSAGE_SHORT : DROP_MESSAGE_TYPE, 1);
        }
    }
    burst_push(&burst, s, intake->worker, intake->pool);
    intake_settle(intake);
    if (handshakes)
        bell_ring(s, WORKER_CONTROL, intake->bells[WORKER_CONTROL]);
    return (int32_t)got;
}
