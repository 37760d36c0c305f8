/* From the UDP socket to the peers' inbound queues; handshake messages to control's mailbox.
 *
 * A train is one sender's datagrams of one size, not one peer's: after a rekey, or by ill will, it
 * holds several receiver indices. It is cut into runs of one index, a node for each. */
#include "workers/clock.h"
#include "workers/datapath/mac1_filter.h"
#include "workers/datapath/receive.h"
#include "workers/udp.h"

#include "engine/index.h"
#include "engine/packet.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/mailbox.h"
#include "shm/point.h"

#include <string.h>

/* Of messages with a wrong mac1, control sees 5 at once, then one a second: as many as it tells of. */
#define REFUSALS_AT_ONCE 5
#define REFUSAL_NS 1000000000u

/* Of unknown indices of dead gateways, control sees one a group in this time: 1,024 a second at most, and of one
 * client's stream four. */
#define KNOCK_NS 250000000u

_Static_assert(INITIATION_BYTES <= MAILBOX_MESSAGE_BYTES, "an initiation does not fit in a mailbox cell");

/* A message of the call: a datagram, or a train of datagrams of `gso_size` bytes, the last one perhaps shorter. */
struct received {
    struct endpoint from;
    uint32_t length, gso_size, packets;
    uint8_t ecn;
};

/* What one receive call has found out so far. */
struct sorting {
    struct intake *intake;
    struct burst burst;
    const struct received *received;  /* the message that is being sorted */
    int handshakes;             /* some went to control */
};

/* Whether the index is one that a dead gateway gave out. Nobody is dead nearly always, and without a number of our
 * own bit 0 is never set: one load behind a drop is all that it costs. */
static int is_of_a_dead_gateway(const struct segment *s, uint32_t index)
{
    uint32_t gateway = index_gateway(s->device->index_key, index);

    return __atomic_load_n(&s->device->dead_gateways[gateway / 64], __ATOMIC_RELAXED) >> gateway % 64 & 1;
}

/* A client of a dead gateway sends data: control is told of it, now and then. */
static void knock(struct sorting *sorting, const uint8_t *message, uint32_t index, uint32_t packets)
{
    struct intake *intake = sorting->intake;
    /* The clear bits are the gateway's, those above are as good as random. Periods of groups begin one after the
     * other, so that a flood is not told of all at once. */
    uint32_t group = (index >> GATEWAY_BITS_MOST) % KNOCK_GROUPS;
    uint32_t period = (uint32_t)((clock_now() + group * (KNOCK_NS / KNOCK_GROUPS)) / KNOCK_NS);

    if (intake->knocks[group] != period &&
        !mailbox_put(intake->segment, intake->number, &sorting->received->from, message, DATA_OVERHEAD)) {
        intake->knocks[group] = period;
        sorting->handshakes = 1;
        packets--;
    }
    if (packets)
        counter_add(intake->segment, intake->worker, KNOCK_HELD_BACK, packets);
}

/* Datagrams [offset, offset + length) of the arrival, all data messages to one index. */
static void sort_run(struct sorting *sorting, struct arrival *arrival, uint32_t offset, uint32_t length,
                     uint32_t gso_size, uint32_t packets)
{
    struct intake *intake = sorting->intake;
    const struct segment *s = intake->segment;
    uint32_t index = data_receiver_index(arrival->data + offset);
    /* Relaxed: whoever knows an index that was given out a moment ago sends it later than that. */
    uint32_t ready = __atomic_load_n(&s->device->keypairs_ready, __ATOMIC_RELAXED);
    struct burst_chain *chain;
    uint32_t peer, node;

    if (ready > s->geometry.max_keypairs)
        ready = s->geometry.max_keypairs;
    if (!index_lookup((const struct index_entry *)s->index, ready, s->device->index_key, index, &peer) ||
        peer >= s->geometry.max_peers) {
        counter_add(s, intake->worker, DROP_INDEX_UNKNOWN, packets);
        if (is_of_a_dead_gateway(s, index))
            knock(sorting, arrival->data + offset, index, packets);
        return;
    }
    chain = burst_chain(&sorting->burst, peer);
    if (!chain) {
        intake_count_no_slot(intake, INBOUND, packets);
        return;
    }
    node = intake_issue(intake, arrival, offset, length, gso_size, packets, peer, INBOUND);
    if (!node)
        return;
    s->node[node].receiver_index = index;
    s->node[node].ecn = sorting->received->ecn;
    burst_add(s, chain, node, packets);
}

/* 1 when this message ends here, counted. A few a second go on although mac1 is wrong. */
static int refuse_handshake(struct intake *intake, const uint8_t *message, uint32_t length, uint32_t type)
{
    if (type == MESSAGE_COOKIE || !mac1_filter_refuses(intake->segment, message, length))
        return 0;
    if (allowance_has(&intake->refusals, REFUSALS_AT_ONCE, REFUSAL_NS, clock_now())) {
        intake->refusals.left--;
        return 0;
    }
    counter_add(intake->segment, intake->worker, HS_MAC1_BAD, 1);
    return 1;
}

static void forward_handshake(struct sorting *sorting, const uint8_t *message, uint32_t length, uint32_t type)
{
    struct intake *intake = sorting->intake;

    if (refuse_handshake(intake, message, length, type))
        return;
    if (mailbox_put(intake->segment, intake->number, &sorting->received->from, message, length)) {
        counter_add(intake->segment, intake->worker, DROP_MAILBOX_FULL, 1);
    } else {
        counter_add(intake->segment, intake->worker, HANDSHAKE_TO_CONTROL, 1);
        sorting->handshakes = 1;
    }
}

static void sort_arrival(struct sorting *sorting, struct arrival *arrival)
{
    const struct intake *intake = sorting->intake;
    uint32_t gso_size = sorting->received->gso_size, run_start = 0, run_packets = 0;

    for (uint32_t at = 0; at < arrival->length; at += gso_size) {
        uint32_t length = arrival->length - at < gso_size ? arrival->length - at : gso_size;
        uint8_t *datagram = arrival->data + at;
        int why;
        uint32_t type = message_type(datagram, length, &why);

        if (run_packets && (type != MESSAGE_DATA ||
                            memcmp(datagram + 4, arrival->data + run_start + 4, 4))) {
            sort_run(sorting, arrival, run_start, at - run_start, gso_size, run_packets);
            run_packets = 0;
        }
        if (type == MESSAGE_DATA) {
            if (!run_packets++)
                run_start = at;
        } else if (type) {
            forward_handshake(sorting, datagram, length, type);
        } else {
            counter_add(intake->segment, intake->worker, why == 1 ? DROP_MESSAGE_LENGTH : DROP_MESSAGE_TYPE, 1);
        }
    }
    if (run_packets)
        sort_run(sorting, arrival, run_start, arrival->length - run_start, gso_size, run_packets);
}

static void describe(const struct udp_inbox *inbox, uint32_t i, struct received *received)
{
    received->length = inbox->headers[i].msg_len;
    received->gso_size = udp_sender(inbox, i, &received->from, &received->ecn);
    if (!received->gso_size || received->gso_size > received->length)
        received->gso_size = received->length;
    received->packets = received->length ? (received->length + received->gso_size - 1) / received->gso_size : 1;
}

/* Message i of the call. */
static void sort_message(struct sorting *sorting, struct udp_inbox *inbox, uint32_t i, uint32_t room)
{
    struct intake *intake = sorting->intake;
    uint32_t length = sorting->received->length, packets = sorting->received->packets;
    struct arrival arrival;

    counter_add(intake->segment, intake->worker, UDP_RECEIVED, packets);
    if (!length) {
        counter_add(intake->segment, intake->worker, DROP_MESSAGE_LENGTH, 1);
        return;
    }
    if (length > room)
        intake->saw_trains = TRAINS_REMEMBERED;
    if (intake_accept(intake, i, length, room, inbox->vectors[i][1].iov_base, &arrival)) {
        intake_count_no_slot(intake, INBOUND, packets);
        return;
    }
    /* The endpoint travels at the start of the slot. */
    memcpy(arrival.data - SLOT_ROOM, &sorting->received->from, sizeof sorting->received->from);
    sort_arrival(sorting, &arrival);
    intake_finish(intake, &arrival);
}

int32_t receive_udp(struct intake *intake, int fd, struct udp_inbox *inbox)
{
    const struct segment *s = intake->segment;
    uint32_t fits = 0, count, got, arriving = 0;
    struct received received[UDP_BATCH];
    struct sorting sorting = { .intake = intake };

    intake_refill(intake, UDP_BATCH);
    count = intake_expect(intake, intake_room(intake, INBOUND, UDP_BATCH));
    if (!count)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *place = intake_place(intake, i, &fits);

        udp_inbox_place(inbox, i, place, fits, intake_rest(intake, i, fits));
    }
    got = udp_receive(fd, inbox, count);
    intake_learn(intake, got, count);
    if (!got)
        return 0;
    for (uint32_t i = 0; i < got; i++) {
        describe(inbox, i, &received[i]);
        arriving += received[i].packets;
    }
    intake_note_arriving(intake, arriving);
    POINT("receive: datagrams in slots, no node");
    intake->saw_trains -= intake->saw_trains > 0;
    burst_begin(&sorting.burst, INBOUND);
    for (uint32_t i = 0; i < got; i++) {
        /* A train may be of as many peers as it has datagrams. Pushed between messages only: all
         * nodes of a slot are issued before one may be withdrawn. */
        if (sorting.burst.chains + TRAIN_PEERS_MOST > BURST_PEERS) {
            burst_push(&sorting.burst, s, intake->worker, intake->pool, intake->inline_holder);
            burst_begin(&sorting.burst, INBOUND);
        }
        sorting.received = &received[i];
        sort_message(&sorting, inbox, i, fits);
        intake_note_arriving(intake, arriving -= received[i].packets);
    }
    POINT("receive: nodes linked, nothing pushed");
    burst_push(&sorting.burst, s, intake->worker, intake->pool, intake->inline_holder);
    intake_settle(intake);
    if (sorting.handshakes)
        POINT("mailbox: counted, control not rung");
    if (sorting.handshakes)
        bell_ring(s, WORKER_CONTROL, intake->bells[WORKER_CONTROL]);
    return (int32_t)got;
}
