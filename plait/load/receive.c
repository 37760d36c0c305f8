/* In: datagrams for peers, told apart by the receiver index that we chose; data messages are
 * opened in one call for each batch. What comes to the garbage's socket is counted, not looked at. */
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <string.h>

#include "engine/bytes.h"
#include "engine/packet.h"
#include "plait/load/state.h"
#include "workers/clock.h"

/* A data message that is being opened. */
struct incoming {
    struct load_peer *peer;
    struct load_session *session;
    uint64_t counter, arrived;
    uint32_t port;
};

static struct load_peer *peer_of(struct load *load, uint32_t index, uint32_t *i)
{
    *i = index & (LOAD_PEERS_MOST - 1);
    return *i < load->setup.peers ? &load->peers[*i] : NULL;
}

enum seen {
    NEW,
    SEEN,
    TOO_OLD
};

/* Whether a counter was received before: a window that moves by whole words (RFC 6479). */
static enum seen seen_before(struct load_session *session, uint64_t counter)
{
    uint64_t word = counter / 64, bit = 1ull << (counter % 64), last = session->top ? (session->top - 1) / 64 : 0;

    if (counter >= session->top) {
        for (uint64_t w = last + 1; w <= word && w <= last + SEEN_WORDS; w++)
            session->seen[w % SEEN_WORDS] = 0;
        session->top = counter + 1;
    } else if (word + SEEN_WORDS <= last) {
        return TOO_OLD;
    }
    if (session->seen[word % SEEN_WORDS] & bit)
        return SEEN;
    session->seen[word % SEEN_WORDS] |= bit;
    session->taken++;
    return NEW;
}

/* An echo was answered. How long the peer, and all peers together, had waited for that. */
static void end_wait(struct load *load, struct load_peer *peer)
{
    uint64_t *gap_most = &load->tally->gap_most;

    if (peer->waits_since && load->arrived > peer->waits_since && load->arrived - peer->waits_since > peer->gap)
        peer->gap = load->arrived - peer->waits_since;
    if (peer->flags & PEER_RECOVERS) {
        count(load, LOAD_RECOVERED);
        if (peer->waits_since && load->arrived > peer->waits_since)
            load->tally->histograms[LOAD_RECOVERY][load_recovery_bucket(load->arrived - peer->waits_since)]++;
        peer->flags &= (uint8_t)~PEER_RECOVERS;
    }
    if (load->waits_since && load->arrived > load->waits_since && load->arrived - load->waits_since > *gap_most)
        *gap_most = load->arrived - load->waits_since;
    peer->waits_since = load->waits_since = 0;
}

static int has_address(const struct load *load, const uint8_t *at, uint32_t number)
{
    uint8_t address[16];

    load_inner_address(load, number, address);
    return memcmp(at, address, inner_is_ip6(load) ? 16 : 4) == 0;
}

/* Of the gateway's inner address. */
static int is_echo_reply(const struct load *load, const uint8_t *inner)
{
    if (inner_is_ip6(load))
        return inner[0] >> 4 == 6 && inner[6] == IPPROTO_ICMPV6 && inner[40] == ICMP6_ECHO_REPLY &&
               has_address(load, inner + 8, 1);
    return inner[0] == 0x45 && inner[9] == IPPROTO_ICMP && inner[20] == ICMP_ECHOREPLY &&
           has_address(load, inner + 12, 1);
}

static void answered(struct load *load, struct load_peer *peer, const uint8_t *inner, uint32_t length)
{
    uint32_t number = load->setup.first_peer + (uint32_t)(peer - load->peers), bytes;
    struct load_stamp stamp;

    if (length < inner_headers(load) + sizeof stamp || !is_echo_reply(load, inner)) {
        count(load, LOAD_INNER_OTHER);
        return;
    }
    memcpy(&stamp, inner + inner_headers(load), sizeof stamp);
    bytes = inner_is_ip6(load) ? load_be16(inner + 4) + 40u : load_be16(inner + 2);
    if (stamp.magic != STAMP_MAGIC || bytes > length || bytes < load_inner_least(load)) {
        count(load, LOAD_STRANGE);
        return;
    }
    if (stamp.number != number || !has_address(load, inner + (inner_is_ip6(load) ? 24 : 16), 2 + number)) {
        count(load, LOAD_WRONG_PEER);
        return;
    }
    if (load->strangers)
        load_sample_answered(load, peer, stamp.sequence);
    end_wait(load, peer);
    if (stamp.kind == STAMP_CONFIRM) {
        if (peer->state == PEER_CONFIRMING && stamp.intended == peer->intended)
            load_handshake_confirmed(load, peer, stamp.intended);
        return;
    }
    if (stamp.phase != load->phase->number) {
        count(load, LOAD_ANSWERED_AFTER);
        return;
    }
    count(load, LOAD_ANSWERED);
    count_many(load, LOAD_INNER_IN, bytes);
    note_time(load, LOAD_ROUND_TRIP, stamp.intended);
    note_time(load, LOAD_ROUND_TRIP_DEPARTED, stamp.departed);
    if (peer->asked_at && stamp.sequence == peer->sequence)
        load_traffic_next(load, peer);
}

static void opened(struct load *load, const struct incoming *in, const struct aead_job *job)
{
    struct load_peer *peer = in->peer;
    enum seen seen;

    if (job->refused) {
        count(load, LOAD_BAD_TAG);
        return;
    }
    seen = seen_before(in->session, in->counter);
    if (seen != NEW) {
        count(load, seen == SEEN ? LOAD_REPEATED : LOAD_TOO_OLD);
        return;
    }
    count(load, LOAD_NUMBERED);
    load->arrived = in->arrived;
    load_heard(peer);
    if (in->port != peer->port)
        count(load, LOAD_ELSEWHERE);
    if (job->length == AEAD_TAG_BYTES) {
        count(load, LOAD_KEEPALIVES_BACK);
        return;
    }
    if (!peer->owes_since)
        peer->owes_since = load->now;
    answered(load, peer, job->data, job->length - AEAD_TAG_BYTES);
    load_idle_timer(load, peer);
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
    in->arrived = load->arrived;
    in->port = port;
    *job = (struct aead_job){
        .data = message + DATA_HEADER_BYTES,
        .length = length - DATA_HEADER_BYTES,
        .counter = in->counter,
        .key = in->session->receive_key,
    };
    return 1;
}

/* When the kernel took it in, on our clock. It was read at `now`, which is `wall` on the kernel's clock. */
static uint64_t arrival(struct msghdr *h, uint64_t now, uint64_t wall)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        struct timespec t;
        uint64_t at;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS)
            continue;
        memcpy(&t, CMSG_DATA(c), sizeof t);
        at = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        if (at < wall && wall - at < now)
            return now - (wall - at);
    }
    return now;
}

static void handle_batch(struct load *load, uint32_t port, struct mmsghdr *headers, uint32_t n)
{
    uint64_t now = load->now, wall = clock_wall();
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
        load->arrived = arrival(&headers[m].msg_hdr, now, wall);
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
            count(load, type == MESSAGE_INITIATION ? LOAD_GATEWAY_INITIATIONS : LOAD_BAD_MESSAGE);
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
    _Alignas(struct cmsghdr) uint8_t control[LOAD_BATCH][64];
    int has_errors = load->has_errors;
    uint32_t all = 0;

    load->has_errors = 0;

    for (uint32_t port = 0; port <= load->setup.ports; port++) {
        int n;

        for (uint32_t i = 0; i < LOAD_BATCH; i++) {
            vectors[i] = (struct iovec){ load->inbox[i], LOAD_MESSAGE_MOST };
            headers[i].msg_hdr = (struct msghdr){
                .msg_iov = &vectors[i],
                .msg_iovlen = 1,
                .msg_control = control[i],
                .msg_controllen = sizeof control[i],
            };
        }
        n = recvmmsg(load->fds[port], headers, LOAD_BATCH, MSG_DONTWAIT, NULL);
        if (has_errors || (n < 0 && errno != EAGAIN && errno != EINTR))
            load_errors_take(load, load->fds[port]);
        if (n <= 0)
            continue;
        load->now = clock_now();
        all += (uint32_t)n;
        count_many(load, LOAD_DATAGRAMS_IN, (uint64_t)n);
        handle_batch(load, port, headers, (uint32_t)n);
    }
    return all;
}
