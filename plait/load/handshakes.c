/* Theory. A handshake of a simulated peer goes
 *
 *     idle -- initiation --> initiated -- response --> confirming -- echo answered --> idle
 *
 * and holds a place in the phase's closed loop from its initiation until it is over, a cookie is
 * met, or the phase's patience ends; a peer without its place goes on by itself. As the protocol
 * wants it, an initiation without a response is sent again after 5 s and a jitter, and a cookie
 * is shown in that next initiation, not at once.
 *
 * A peer that sent data and hears nothing for 15 s begins a handshake, as the protocol wants it
 * (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT): so its session outlives a gateway that restarts. */
#include <string.h>

#include "engine/bytes.h"
#include "engine/packet.h"
#include "plait/load/state.h"
#include "workers/clock.h"

#define INDEX_BITS 20

/* --- ends of a handshake ------------------------------------------------------------------- */

static void give_place(struct load *load, struct load_peer *peer)
{
    if (peer->flags & PEER_HOLDS_PLACE)
        load->places--;
    peer->flags &= (uint8_t)~PEER_HOLDS_PLACE;
}

static void over(struct load *load, struct load_peer *peer)
{
    give_place(load, peer);
    load_timer_clear(load, peer);
    peer->state = PEER_IDLE;
    peer->index = 0;
    load->in_flight--;
    load_idle_timer(load, peer);
}

void load_handshakes_end(struct load *load)
{
    for (uint32_t i = 0; i < load->setup.peers && load->in_flight; i++) {
        struct load_peer *peer = &load->peers[i];

        if (peer->state == PEER_IDLE)
            continue;
        count(load, load->setup.strangers           ? LOAD_STRANGERS_SILENT
                    : peer->state == PEER_INITIATED ? LOAD_UNANSWERED
                                                    : LOAD_UNCONFIRMED);
        over(load, peer);
    }
}

/* --- messages ------------------------------------------------------------------------------ */

/* TAI64N, never the same twice: a gateway refuses what is not later than the last. */
static void stamp_time(struct load *load, uint8_t stamp[12])
{
    uint64_t wall = clock_wall();

    if (wall <= load->last_stamp)
        wall = load->last_stamp + 1;
    load->last_stamp = wall;
    store_be32(stamp, 0x40000000);
    store_be32(stamp + 4, (uint32_t)(wall / 1000000000u) + 10);
    store_be32(stamp + 8, (uint32_t)(wall % 1000000000u));
}

static int take_ephemeral(struct load *load, struct noise_ephemeral *ephemeral)
{
    if (load->stocked) {
        *ephemeral = load->stock[--load->stocked];
        memset(&load->stock[load->stocked], 0, sizeof *load->stock);
        return 0;
    }
    count(load, LOAD_UNPREPARED);
    return noise_draw(load->noise, ephemeral);
}

static void initiate(struct load *load, uint32_t i)
{
    struct load_peer *peer = &load->peers[i];
    struct noise_ephemeral ephemeral;
    uint8_t message[INITIATION_BYTES], stamp[12];
    const uint8_t *cookie = NULL;
    uint64_t from = thread_cpu(), retry;

    /* A gateway's key of low order is refused before the run; no other failure is left. */
    if (take_ephemeral(load, &ephemeral))
        memset(&ephemeral, 0, sizeof ephemeral);
    peer->generation++;
    peer->index = (uint32_t)(peer->generation & 0xfff) << INDEX_BITS | i;
    stamp_time(load, stamp);
    if (peer->flags & PEER_HAS_COOKIE && load->now - peer->cookie_born < COOKIE_NS) {
        cookie = peer->cookie;
        count(load, LOAD_COOKIES_HONOURED);
    }
    noise_initiation(load->noise, message, &peer->flight, peer->public_key, peer->static_static, &ephemeral,
                     peer->index, stamp, cookie);
    memcpy(peer->mac1, message + sizeof message - 2 * MAC_BYTES, MAC_BYTES);
    peer->flags |= PEER_SHOWED_MAC1;
    peer->attempts++;
    peer->initiated = load->now;
    count_many(load, LOAD_HANDSHAKE_NS, thread_cpu() - from);
    memcpy(load_out_place(load, peer->port, sizeof message, peer->source), message, sizeof message);
    load->outs[peer->port].asker[load->outs[peer->port].count - 1] = i;

    retry = load->now + load->setup.retry;
    if (load->setup.retry_jitter)
        retry += draw_bits(load) % load->setup.retry_jitter;
    if ((peer->flags & PEER_HOLDS_PLACE || load->setup.strangers) && load->now + load->phase->patience < retry)
        retry = load->now + load->phase->patience;
    load_timer_set(load, i, retry);
}

int load_handshake_ready(const struct load *load, const struct load_peer *peer)
{
    return peer->state == PEER_IDLE && (!peer->initiated || load->now - peer->initiated >= FLOOD_NS);
}

void load_handshake_begin(struct load *load, uint32_t i, uint64_t intended, int takes_place)
{
    struct load_peer *peer = &load->peers[i];

    peer->state = PEER_INITIATED;
    peer->intended = peer->departed = intended;
    peer->attempts = 0;
    peer->silent_at = 0;
    if (takes_place) {
        peer->flags |= PEER_HOLDS_PLACE;
        load->places++;
    }
    load->in_flight++;
    count(load, load->setup.strangers ? LOAD_STRANGERS_BEGUN : LOAD_INITIATIONS);
    initiate(load, i);
}

void load_handshake_response(struct load *load, uint32_t i, const uint8_t *message)
{
    struct load_peer *peer = &load->peers[i];
    struct load_session session = { .local = peer->index, .remote = load_le32(message + 4) };
    uint8_t private_key[NOISE_KEY], psk[NOISE_KEY];
    uint64_t from = thread_cpu();
    int wrong;

    if (peer->state != PEER_INITIATED || peer->index != load_le32(message + 8)) {
        count(load, LOAD_BAD_INDEX);
        return;
    }
    load_private_key(load->setup.seed, load->setup.first_peer + i, private_key);
    if (load->setup.psk)
        load_psk(load->setup.seed, load->setup.first_peer + i, psk);
    wrong = noise_response(load->noise, message, peer->index, &peer->flight, private_key,
                           load->setup.psk ? psk : NULL, session.send_key, session.receive_key);
    count_many(load, LOAD_HANDSHAKE_NS, thread_cpu() - from);
    if (wrong) {
        count(load, LOAD_BAD_RESPONSE);
        return;
    }
    load->now = clock_now();
    if (load->setup.strangers) {
        count(load, LOAD_STRANGERS_ANSWERED);
        over(load, peer);
        return;
    }
    load_heard(peer);
    session.born = load->now;
    if (!peer->current.born)
        load->sessions++;
    note_missing(load, &peer->previous);
    peer->previous = peer->current;
    peer->current = session;
    memset(&peer->flight, 0, sizeof peer->flight);
    peer->flags &= (uint8_t)~PEER_SHOWED_MAC1;
    count(load, LOAD_RESPONSES);
    note_time(load, LOAD_RESPONSE_TIME, peer->intended);
    note_time(load, LOAD_RESPONSE_DEPARTED, peer->departed);
    if (!load->phase->confirm) {
        load_keepalive(load, peer);  /* key confirmation, as of a peer with nothing to say */
        load_handshake_confirmed(load, peer, peer->intended);
        return;
    }
    peer->state = PEER_CONFIRMING;
    load_echo(load, peer, load_inner_least(load), STAMP_CONFIRM, peer->intended);
    load_timer_set(load, i, load->now + load->phase->patience);
}

void load_handshake_confirmed(struct load *load, struct load_peer *peer, uint64_t intended)
{
    uint64_t at = load->arrived > load->begin ? load->arrived - load->begin : 0;

    count(load, LOAD_HANDSHAKES);
    note_time(load, LOAD_HANDSHAKE_TIME, intended);
    note_time(load, LOAD_HANDSHAKE_DEPARTED, peer->departed);
    note_time(load, LOAD_CONFIRMED_AT, load->begin);
    if (at > load->tally->confirmed_last)
        load->tally->confirmed_last = at;
    over(load, peer);
}

void load_handshake_renew(struct load *load, struct load_peer *peer, int is_silent)
{
    if (!load_handshake_ready(load, peer))
        return;
    count(load, LOAD_RENEWALS);
    if (is_silent) {
        count(load, LOAD_RECOVERIES);
        peer->flags |= PEER_RECOVERS;
        if (!peer->waits_since)
            peer->waits_since = load->now;
    }
    load_handshake_begin(load, (uint32_t)(peer - load->peers), load->now, 0);
}

void load_handshake_cookie(struct load *load, uint32_t i, const uint8_t *message)
{
    struct load_peer *peer = &load->peers[i];

    if (peer->state != PEER_INITIATED || peer->index != load_le32(message + 4) ||
        !(peer->flags & PEER_SHOWED_MAC1)) {
        count(load, LOAD_BAD_INDEX);
        return;
    }
    if (noise_cookie(load->noise, message, peer->mac1, peer->cookie)) {
        count(load, LOAD_BAD_COOKIE);
        return;
    }
    count(load, LOAD_COOKIES);
    peer->cookie_born = load->now;
    peer->flags |= PEER_HAS_COOKIE;
    peer->flags &= (uint8_t)~PEER_SHOWED_MAC1;
    if (peer->flags & PEER_HOLDS_PLACE) {
        uint64_t retry = peer->initiated + load->setup.retry;

        give_place(load, peer);
        if (load->setup.retry_jitter)
            retry += draw_bits(load) % load->setup.retry_jitter;
        load_timer_set(load, i, retry);
    }
}

/* --- what is due --------------------------------------------------------------------------- */

static void expire_idle(struct load *load, struct load_peer *peer)
{
    /* Data came 10 s ago and nothing went back since: a passive keepalive. */
    if (peer->owes_since && load->now >= peer->owes_since + PASSIVE_NS) {
        if (load_has_session(load, peer))
            load_keepalive(load, peer);
        peer->owes_since = 0;
    }
    if (peer->silent_at && load->now >= peer->silent_at)
        load_handshake_renew(load, peer, 1);
    load_idle_timer(load, peer);
}

static void expire(struct load *load, uint32_t i)
{
    struct load_peer *peer = &load->peers[i];
    uint64_t retry = peer->initiated + load->setup.retry;

    if (peer->state == PEER_IDLE) {
        expire_idle(load, peer);
    } else if (peer->state == PEER_CONFIRMING) {
        count(load, LOAD_UNCONFIRMED);
        over(load, peer);
    } else if (load->setup.strangers) {
        count(load, LOAD_STRANGERS_SILENT);
        over(load, peer);
    } else if (load->now < retry) {
        give_place(load, peer);
        load_timer_set(load, i, retry);
    } else if (peer->attempts >= INITIATIONS_MOST) {
        count(load, LOAD_UNANSWERED);
        over(load, peer);
    } else {
        count(load, LOAD_RETRIES);
        initiate(load, i);
    }
}

void load_timers_run(struct load *load)
{
    uint64_t tick = load->now >> WHEEL_SHIFT;

    if (tick - load->wheel_tick > WHEEL_SLOTS)
        load->wheel_tick = tick - WHEEL_SLOTS;  /* each slot once is all of them */
    while (load->wheel_tick < tick) {
        uint32_t slot = (uint32_t)(++load->wheel_tick % WHEEL_SLOTS), i = load->wheel[slot], next;

        load->wheel[slot] = NOBODY;
        for (; i != NOBODY; i = next) {
            struct load_peer *peer = &load->peers[i];

            next = peer->timer_next;
            peer->timer_slot = NOBODY;
            if (peer->deadline > load->now)
                load_timer_set(load, i, peer->deadline);
            else
                expire(load, i);
        }
    }
}
