#include "workers/control/handshake_batch.h"

#include <errno.h>
#include <string.h>

#include "engine/cookie.h"
#include "engine/index.h"
#include "engine/keypair.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/schedule.h"
#include "workers/control/endpoints.h"
#include "workers/udp.h"

#define HANDSHAKE_TOS 0x88  /* AF41 (kernel: messages.h, HANDSHAKE_DSCP) */

static uint32_t address_length(const struct endpoint *endpoint)
{
    return endpoint->family == AF_INET ? 4 : 16;
}

static enum check_result check_one(const struct handshake_identity *identity, const uint8_t *secret,
                                   const struct mailbox_cell *cell)
{
    static const uint8_t none[MAC_BYTES];
    const struct endpoint *from = &cell->from;
    int why;
    uint32_t length = cell->length;
    uint32_t type = length <= MAILBOX_MESSAGE_BYTES ? message_type(cell->message, length, &why) : 0;

    if (type == 0 || (from->family != AF_INET && from->family != AF_INET6))
        return CHECK_LENGTH;
    if (type == MESSAGE_DATA)
        return CHECK_KNOCK;
    if (type == MESSAGE_COOKIE)
        return CHECK_COOKIE;
    if (identity && handshake_mac1_differs(identity->mac1_key, cell->message, length))
        return CHECK_MAC1_BAD;
    if (identity && secret && handshake_mac2_differs(secret, cell->message, length, from->address, address_length(from), from->port))
        return memcmp(cell->message + length - MAC_BYTES, none, MAC_BYTES) ? CHECK_OLD_COOKIE : CHECK_NO_COOKIE;
    return type == MESSAGE_INITIATION ? CHECK_INITIATION : CHECK_RESPONSE;
}

void batch_check(const struct handshake_identity *identity, const uint8_t *secret,
                 const struct mailbox_cell *cells, uint32_t count, uint8_t *check_results)
{
    for (uint32_t i = 0; i < count; i++)
        check_results[i] = (uint8_t)check_one(identity, secret, &cells[i]);
}

static struct outgoing *outgoing_begin(struct outgoing *one, const struct mailbox_cell *cells, uint32_t cell,
                                       uint32_t length)
{
    one->to = cells[cell].from;
    one->cell = cell;
    one->length = length;
    return one;
}

uint32_t batch_answer_with_cookies(struct handshake_crypto *crypto, const struct handshake_identity *identity,
                                   const uint8_t secret[32], const struct mailbox_cell *cells, uint32_t count,
                                   const uint8_t *check_results, struct outgoing *outgoing)
{
    uint8_t nonces[HANDSHAKE_BATCH][COOKIE_NONCE_BYTES];
    uint32_t used = 0;

    /* One call for all: most of what it costs is not the bytes. */
    handshake_draw(nonces[0], count * COOKIE_NONCE_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        if (check_results[i] != CHECK_NO_COOKIE && check_results[i] != CHECK_OLD_COOKIE)
            continue;
        const struct endpoint *from = &cells[i].from;
        struct outgoing *one = outgoing_begin(&outgoing[used++], cells, i, COOKIE_BYTES);

        handshake_cookie_reply(crypto, identity, secret, cells[i].message, cells[i].length, from->address,
                               address_length(from), from->port, nonces[i], one->message);
    }
    return used;
}

uint32_t batch_begin(const struct handshake_identity *identity, const struct mailbox_cell *cells, uint32_t count,
                     const uint8_t *check_results, struct handshake *handshakes, uint32_t *where)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (check_results[i] != CHECK_INITIATION)
            continue;
        struct handshake *h = &handshakes[used];

        memset(h, 0, sizeof *h);
        h->identity = identity;
        memcpy(h->initiation, cells[i].message, INITIATION_BYTES);
        where[used++] = i;
    }
    return used;
}

void batch_find_peers(const struct publickeys *keys, const struct handshake *handshakes, uint32_t count,
                      uint32_t *rows)
{
    for (uint32_t i = 0; i < count; i++)
        rows[i] = handshakes[i].result == HANDSHAKE_FINE ? publickeys_lookup(keys, handshakes[i].remote_public)
                                                         : UINT32_MAX;
}

void batch_compare_endpoints(const struct segment *segment, const uint32_t *rows, const struct mailbox_cell *cells,
                             const uint32_t *where, uint32_t count, uint8_t *same)
{
    for (uint32_t i = 0; i < count; i++) {
        struct endpoint now;

        endpoint_read(segment, rows[i], &now);
        same[i] = memcmp(&now, &cells[where[i]].from, sizeof now) == 0;
    }
}

void batch_install(const struct segment *segment, const struct handshake *handshakes, const uint32_t *rows,
                   const uint32_t *numbers, const uint32_t *orders, uint32_t count, uint64_t now, uint32_t flags)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct handshake *h = &handshakes[i];
        struct keypair *keypair;
        struct peer_row *row;

        if (h->result != HANDSHAKE_FINE)
            continue;  /* rows[i] may be nobody's: no pointer is made of it */
        keypair = (struct keypair *)(void *)segment->keypairs + numbers[i];
        row = &segment->rows[rows[i]];
        memset(keypair, 0, sizeof *keypair);
        POINT("publication: keypair wiped, not written");
        memcpy(keypair->send_key, h->send_key, sizeof h->send_key);
        memcpy(keypair->receive_key, h->receive_key, sizeof h->receive_key);
        keypair->birth = now;
        keypair->local_index = h->local_index;
        keypair->remote_index = h->remote_index;
        keypair->peer = rows[i];
        keypair->peer_generation = row->generation;
        keypair->flags = flags;
        POINT("publication: keypair written, row does not name it");
        *(flags & KEYPAIR_INITIATOR ? &row->installing : &row->installing_next) = numbers[i];
        POINT("publication: row names the keypair, not ordered");
        /* release: after all of the above */
        orders_give(segment, rows[i], (flags & KEYPAIR_INITIATOR ? ORDER_INSTALL : ORDER_INSTALL_NEXT) | orders[i]);
        peer_schedule(segment, rows[i]);
        POINT("publication: ordered and scheduled, peer not told");
    }
}

uint32_t batch_write_responses(const struct handshake *handshakes, const struct mailbox_cell *cells,
                               const uint32_t *where, uint32_t count, struct outgoing *outgoing)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (handshakes[i].result != HANDSHAKE_FINE)
            continue;
        struct outgoing *one = outgoing_begin(&outgoing[used++], cells, where[i], RESPONSE_BYTES);

        memcpy(one->message, handshakes[i].response, RESPONSE_BYTES);
    }
    return used;
}

/* --- what was installed before --- */

uint32_t keypairs_collect(const struct segment *segment, uint32_t *first, uint32_t *follow, const uint32_t *rows,
                          const uint32_t *keep, uint32_t count, uint32_t *numbers, uint32_t most)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct peer_row *peer = &segment->rows[rows[i]];
        uint32_t *link = &first[rows[i]];
        uint64_t word;

        /* The order before the key word: the holder stores the word before it clears the order. While it
         * stands, the holder may be about to name any number that the row was ever to install; it tells
         * when it has cleared the order. */
        if (orders_read(segment, rows[i]) & (ORDER_INSTALL | ORDER_INSTALL_NEXT))
            continue;
        word = __atomic_load_n(&peer->key_word, __ATOMIC_ACQUIRE);
        while (*link && found < most) {
            uint32_t number = *link;

            if (number == keep[i] || key_word_names(word, number)) {
                link = &follow[number];
                continue;
            }
            *link = follow[number];
            index_withdraw((struct index_entry *)(void *)segment->index, number);
            numbers[found++] = number;
        }
    }
    return found;
}

/* --- sending --- */

/* The first `count` of these, all of one family; returns how many the kernel took, with errno for the next. */
static uint32_t send_run(int fd, struct outgoing *outgoing, uint32_t count, int with_source)
{
    struct mmsghdr headers[HANDSHAKE_BATCH];
    struct iovec vectors[HANDSHAKE_BATCH];
    struct sockaddr_in6 names[HANDSHAKE_BATCH];
    _Alignas(struct cmsghdr) uint8_t control[HANDSHAKE_BATCH][UDP_CONTROL_BYTES];

    for (uint32_t i = 0; i < count; i++) {
        struct outgoing *one = &outgoing[i];

        vectors[i] = (struct iovec){ .iov_base = one->message, .iov_len = one->length };
        udp_header(&headers[i].msg_hdr, &one->to, with_source, HANDSHAKE_TOS, &names[i], control[i]);
        headers[i].msg_hdr.msg_iov = &vectors[i];
        headers[i].msg_hdr.msg_iovlen = 1;
    }
    int sent = sendmmsg(fd, headers, count, MSG_DONTWAIT);
    return sent > 0 ? (uint32_t)sent : 0;
}

/* As many as one call takes, at least one, which may have been refused; returns how many are done with. */
static uint32_t send_some(int fd, struct outgoing *outgoing, uint32_t count)
{
    uint32_t done = send_run(fd, outgoing, count, 1);

    if (done)
        return done;
    if (udp_is_about_source(errno) && udp_has_source(&outgoing->to)) {
        outgoing->source_refused = 1;
        if (send_run(fd, outgoing, 1, 0))
            return 1;
    }
    outgoing->error = errno;
    return 1;
}

void handshakes_send(int udp4, int udp6, struct outgoing *outgoing, uint32_t count)
{
    uint32_t next = 0;

    for (uint32_t i = 0; i < count; i++)
        outgoing[i].error = 0, outgoing[i].source_refused = 0;
    while (next < count) {
        uint16_t family = outgoing[next].to.family;
        int fd = family == AF_INET ? udp4 : udp6;
        uint32_t run = 1;

        while (next + run < count && run < HANDSHAKE_BATCH && outgoing[next + run].to.family == family)
            run++;
        if (fd < 0) {
            for (uint32_t i = 0; i < run; i++)
                outgoing[next + i].error = EAFNOSUPPORT;
            next += run;
        } else {
            next += send_some(fd, &outgoing[next], run);
            POINT("publication: message sent, not noted");
        }
    }
}
