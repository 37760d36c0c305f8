/* An order of control's is a bit in a word and idempotent: a holder that is killed between applying
 * and clearing leaves the bit, and the next holder applies the order again, which changes nothing.
 * Reading, applying and clearing is retried until the CAS succeeds. Orders are applied in the sequence of
 * shm/orders.h. */
#include "engine/timers.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/token.h"
#include "workers/datapath/holder.h"

#include <string.h>

static struct keypair *row_keypair(const struct holder *holder, uint32_t row, uint32_t number)
{
    const struct segment *s = holder->segment;
    struct keypair *keypair;

    if (!number || number >= s->geometry.max_keypairs)
        return NULL;
    keypair = (struct keypair *)s->keypairs + number;
    if (keypair->peer != row ||
        keypair->peer_generation != __atomic_load_n(&s->rows[row].generation, __ATOMIC_RELAXED))
        return NULL;
    return keypair;
}

/* The key word is the inbound holder's; outbound reads it, and control (acquire), to learn which keypairs are free. */
static uint32_t key_word_store(struct peer_row *peer, uint64_t before, uint64_t after)
{
    if (before == after)
        return 0;
    POINT("rotation: keypair found, key word as before");
    __atomic_store_n(&peer->key_word, after, __ATOMIC_RELEASE);
    POINT("rotation: key word stored, order not cleared");
    return SESSION_KEYS;
}

/* installing: of the row, one of its two. */
static uint32_t install(const struct holder *holder, uint32_t row, const uint32_t *installing)
{
    struct peer_row *peer = &holder->segment->rows[row];
    /* acquire: the keypair was written before its number */
    uint32_t number = __atomic_load_n(installing, __ATOMIC_ACQUIRE);
    struct keypair *keypair = row_keypair(holder, row, number);

    /* News in any case: while this order stood, control freed none of the row's keypairs. */
    if (keypair)
        key_word_store(peer, peer->key_word,
                       key_word_install(peer->key_word, number, (keypair->flags & KEYPAIR_INITIATOR) != 0));
    return SESSION_KEYS;
}

static uint32_t drop_expired(const struct holder *holder, uint32_t row, uint64_t now)
{
    struct peer_row *peer = &holder->segment->rows[row];
    uint64_t word = peer->key_word;
    uint32_t numbers[3] = { key_word_current(word), key_word_previous(word), key_word_next(word) };

    for (int i = 0; i < 3; i++) {
        struct keypair *keypair = row_keypair(holder, row, numbers[i]);

        if (numbers[i] && (!keypair || keypair_is_older(keypair, now, REJECT_AFTER_SECONDS)))
            word = key_word_drop(word, numbers[i]);
    }
    return key_word_store(peer, peer->key_word, word);
}

/* After a change of the private key: what was agreed under the old one may still be opened, not sealed
 * with. What is ordered to be installed was agreed since, though a second time of these orders finds it named. */
static void stop_sending(const struct holder *holder, uint32_t row, uint32_t bits)
{
    const struct peer_row *peer = &holder->segment->rows[row];
    uint64_t word = peer->key_word;
    uint32_t numbers[2] = { key_word_current(word), key_word_next(word) };
    uint32_t ours = bits & ORDER_INSTALL ? __atomic_load_n(&peer->installing, __ATOMIC_RELAXED) : 0;
    uint32_t theirs = bits & ORDER_INSTALL_NEXT ? __atomic_load_n(&peer->installing_next, __ATOMIC_RELAXED) : 0;

    for (int i = 0; i < 2; i++) {
        struct keypair *keypair = row_keypair(holder, row, numbers[i]);

        if (keypair && numbers[i] != ours && numbers[i] != theirs)
            keypair_stop_sending(keypair);
    }
}

static void clear_source(const struct holder *holder, uint32_t row)
{
    struct endpoint endpoint;

    endpoint_load(holder->segment, row, &endpoint);
    memset(endpoint.source, 0, sizeof endpoint.source);
    endpoint.source_ifindex = 0;
    endpoint_store(holder->segment, row, &endpoint);
}

/* Applies these bits, all inbound's; SESSION_* news. */
static uint32_t apply(const struct holder *holder, uint32_t row, uint32_t bits, uint64_t now)
{
    const struct segment *s = holder->segment;
    struct peer_row *peer = &s->rows[row];
    uint32_t tick = timers_tick(now), stride = s->geometry.max_peers, news = 0;

    if (bits & ORDER_ZERO)
        news |= key_word_store(peer, peer->key_word, 0);
    if (bits & ORDER_STOP_SENDING)
        stop_sending(holder, row, bits);
    if (bits & ORDER_INSTALL_NEXT)
        news |= install(holder, row, &peer->installing_next);
    if (bits & ORDER_INSTALL)
        news |= install(holder, row, &peer->installing);
    if (bits & ORDER_EXPIRE)
        news |= drop_expired(holder, row, now);
    if (bits & ORDER_ENDPOINT) {
        struct endpoint endpoint;

        memcpy(&endpoint, &peer->ordered_endpoint, sizeof endpoint);
        endpoint_store(s, row, &endpoint);
    }
    if (bits & ORDER_CLEAR_SOURCE)
        clear_source(holder, row);
    if ((bits & ORDER_AUTHENTICATED_RECEIVED) && timers_authenticated_received(s->columns, stride, row, tick))
        news |= SESSION_TIMER;
    if ((bits & ORDER_AUTHENTICATED_SENT) && timers_authenticated_sent(s->columns, stride, row, tick))
        news |= SESSION_TIMER;
    if (bits & ORDER_RETIRE)
        news |= key_word_store(peer, peer->key_word, 0);
    return news;
}

uint32_t holder_apply_orders(const struct holder *holder, uint32_t row, uint64_t now)
{
    const struct segment *s = holder->segment;
    uint32_t left = 0, news = 0, applied = 0, bits;
    uint64_t word;

    while ((bits = (uint32_t)(word = orders_read(s, row)) & ORDERS_INBOUND)) {
        news |= apply(holder, row, bits, now);
        left |= bits & ORDER_RETIRE;
        applied |= bits;
        if (bits & ORDER_RETIRE)
            /* It stays until both queues are empty: cleared by the row's next life. */
            break;
        if (orders_clear(s, row, word, bits))
            break;
    }
    if (applied && !left) {
        POINT("order: cleared, outbound not asked to look");
        orders_give(s, row, ORDER_LOOK); /* outbound has waited, for a session or an endpoint perhaps */
    }
    POINT("order: cleared, control not told");
    holder_tell(holder, row, news, 0);
    return left;
}

uint32_t holder_take_orders(const struct holder *holder, uint32_t row)
{
    const struct segment *s = holder->segment;
    uint32_t bits;
    uint64_t word;

    for (;;) {
        word = orders_read(s, row);
        if ((uint32_t)word & ORDER_RETIRE)
            return token_read(s, DIRECTIONS * row + INBOUND) == TOKEN_DEAD ? ORDER_RETIRE : ORDERS_WAIT;
        if ((uint32_t)word & ORDERS_INBOUND)
            return ORDERS_WAIT; /* when inbound has applied them, this direction has a turn */
        bits = (uint32_t)word & ORDERS_OUTBOUND;
        if (!bits)
            return 0;
        if (bits & ORDER_PURGE_STAGED)
            timers_given_up(s->columns, s->geometry.max_peers, row);
        if (orders_clear(s, row, word, bits))
            return bits;
    }
}
