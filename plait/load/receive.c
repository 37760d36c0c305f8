/* In: datagrams for peers, told apart by the receiver index that we chose; data messages are
 * opened in one call for each batch. What comes to the garbage's socket is counted, not looked at. */
#include <netinet/in.h>
#include <string.h>

#include "engine/bytes.h"
#include "engine/packet.h"
#include "plait/load/state.h"
#include "workers/clock.h"

/* A data message that is being opened. */
struct incoming {
    struct load_peer *peer;
    struct load_session *session;
    uint64_t counter;
    uint32_t port;
};

static struct load_peer *peer_of(struct load *load, uint32_t index, uint32_t *i)
{
    *i = index & (LOAD_PEERS_MOST - 1);
    return *i < load->setup.peers ? &load->peers[*i] : NULL;
}

/* 1 when the counter is new: a window of 64. */
static int is_new(struct load_session *session, uint64_t counter)
{
    uint64_t position = counter + 1, behind;

    if (position > session->top) {
        uint64_t ahead = position - session->top;

        session->seen = ahead < 64 ? session->seen << ahead : 0;
        session->seen |= 1;
        session->top = position;
        return 1;
    }
    behind = session->top - position;
    if (behind >= 64 || session->seen >> behind & 1)
        return 0;
    session->seen |= 1ull << behind;
    return 1;
}

static void answered(struct load *load, struct load_peer *peer, const uint8_t *inner, uint32_t length)
{
    uint32_t number = load->setup.first_peer + (uint32_t)(peer - load->peers), bytes;
    struct load_stamp stamp;

    if (length < INNER_HEADERS + sizeof stamp || inner[0] != 0x45 || inner[9] != IPPROTO_ICMP ||
        inner[20] != 0 || load_be32(inner + 12) != load->setup.inner_base + 1) {
        count(load, LOAD_STRANGE);
        return;
    }
    memcpy(&stamp, inner + INNER_HEADERS, sizeof stamp);
    bytes = load_be16(inner + 2);
    if (stamp.magic != STAMP_MAGIC || bytes > length || bytes < LOAD_INNER_LEAST) {
        count(load, LOAD_STRANGE);
        return;
    }
    if (stamp.number != number || load_be32(inner + 16) != load->setup.inner_base + 2 + number) {
        count(load, LOAD_WRONG_PEER);
        return;
    }
    if (load->strangers)
        load_sample_answered(load, peer, stamp.sequence);
    if (stamp.kind == STAMP_CONFIRM) {
        if (peer->state == PEER_CONFIRMING && stamp.intended == peer->intended)
            load_handshake_confirmed(load, peer, stamp.intended);
        return;
    }
    if (stamp.phase != load->phase->number) {
        count(load, LOAD_LATE);
        return;
    }
    count(load, LOAD_ANSWERED);
    count_many(load, LOAD_INNER_IN, bytes);
    note_time(load, LOAD_ROUND_TRIP, stamp.intended);
    if (peer->asked_at && stamp.sequence == peer->sequence)
        load_traffic_next(load, peer);
}

static void opened(struct load *load, const struct incoming *in, const struct aead_job *job)
{
    struct load_peer *peer = in->peer;

    if (job->refused) {
        count(load, LOAD_BAD_TAG);
        return;
    }
    if (!is_new(in->session, in->counter)) {
        count(load, LOAD_REPEATED);
        return;
    }
    if (in->port != peer->port)
        count(load, LOAD_ELSEWHERE);
    if (job->length == AEAD_TAG_BYTES) {
        count(load, LOAD_KEEPALIVES_BACK);
        return;
    }
    peer->owes = 1;
    answered(load, peer, job->data, job->length - AEAD_TAG_BYTES);
    if (peer->owes && peer->state == PEER_IDLE && peer->timer_slot == NOBODY)
        load_timer_set(load, (uint32_t)(peer - load->peers), load->now + PASSIVE_NS);
}

/* 1 when a session has that index: the job is ready to be opened. */
static int incoming_data(struct load *load, uint8_t *message, uint32_t length, uint32_t port,
                         struct incoming *in, struct aead_job *job)
{
    uint32_t i, index = data_receiver_index(message);
    struct load_peer *peer = peer_of(load, index, &i);

    if (!peer || !((peer->current.born && peer->current.local == index) ||
                   (peer->previous.born && peer->previous.local == index))) {
        count(load, LOAD_BAD_INDEX);
        return 0;
    }
    in->peer = peer;
    in->session = peer->current.born && peer->current.local == index ? &peer->current : &peer->previous;
    in->counter = data_counter(message);
    in->port = port;
    *job = (struct aead_job){ .data = message + DATA_HEADER_BYTES, .length = length - DATA_HEADER_BYTES,
                              .counter = in->counter, .key = in->session->receive_key };
    return 1;
}

static void handle_batch(struct load *load, uint32_t port, const struct mmsghdr *headers, uint32_t n)
{
    struct aead_job jobs[LOAD_BATCH];
    struct incoming in[LOAD_BATCH];
    uint32_t ready = 0, i;
    struct load_peer *peer;
    int why;

    for (uint32_t m = 0; m < n; m++) {
        uint8_t *message = load->inbox[m];
        uint32_t length = headers[m].msg_len;
        uint32_t type = headers[m].msg_hdr.msg_flags & MSG_TRUNC ? 0 : message_type(message, length, &why);

        count_many(load, LOAD_BYTES_IN, length);
        if (port == load->setup.ports) {
            count(load, type == MESSAGE_COOKIE ? LOAD_GARBAGE_COOKIES : LOAD_GARBAGE_ANSWERS);
        } else if (type == MESSAGE_DATA) {
            ready += (uint32_t)incoming_data(load, message, length, port, &in[ready], &jobs[ready]);
        } else if (type == MESSAGE_RESPONSE || type == MESSAGE_COOKIE) {
            peer = peer_of(load, load_le32(message + (type == MESSAGE_RESPONSE ? 8 : 4)), &i);
            if (!peer)
                count(load, LOAD_BAD_INDEX);
            else if (type == MESSAGE_RESPONSE)
                load_handshake_response(load, i, message);
            else
                load_handshake_cookie(load, i, message);
        } else {
            count(load, type == MESSAGE_INITIATION ? LOAD_STRANGE : LOAD_BAD_MESSAGE);
        }
    }
    if (!ready)
        return;
    /* A response above moved its peer's sessions on: an opened job's keys may have changed place,
     * so keys are looked up again where that happened. */
    for (uint32_t j = 0; j < ready; j++) {
        uint32_t index = data_receiver_index(jobs[j].data - DATA_HEADER_BYTES);

        in[j].session = in[j].peer->current.local == index ? &in[j].peer->current : &in[j].peer->previous;
        jobs[j].key = in[j].session->receive_key;
    }
    aead_open(load->aead, jobs, ready);
    for (uint32_t j = 0; j < ready; j++)
        opened(load, &in[j], &jobs[j]);
}

uint32_t load_receive(struct load *load)
{
    struct mmsghdr headers[LOAD_BATCH];
    struct iovec vectors[LOAD_BATCH];
    uint32_t all = 0;

    for (uint32_t port = 0; port <= load->setup.ports; port++) {
        int n;

        for (uint32_t i = 0; i < LOAD_BATCH; i++) {
            vectors[i] = (struct iovec){ load->inbox[i], LOAD_MESSAGE_MOST };
            headers[i].msg_hdr = (struct msghdr){ .msg_iov = &vectors[i], .msg_iovlen = 1 };
        }
        n = recvmmsg(load->fds[port], headers, LOAD_BATCH, MSG_DONTWAIT, NULL);
        if (n <= 0)
            continue;
        load->now = clock_now();
        all += (uint32_t)n;
        count_many(load, LOAD_DATAGRAMS_IN, (uint64_t)n);
        handle_batch(load, port, headers, (uint32_t)n);
    }
    return all;
}
