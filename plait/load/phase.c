/* Theory. A phase is up to thirteen things that happen at rates of their own, each with a pacer: event
 * k is due at a time that follows from k and the rate alone, not from when event k - 1 was
 * carried out. Every time that is measured begins there, so that a generator or gateway that
 * falls behind shows in the times instead of hiding in fewer events (coordinated omission).
 * Each event of a rate is accounted for at the end: it left in time, or late, or never, and why.
 * A closed loop has no such times: what is next leaves when a place is free.
 *
 * One turn of the loop: receive, timers, what is due (at most BURST of each kind), flush; sleep in
 * epoll when there was nothing. */
#include <math.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <linux/sock_diag.h>

#include "plait/load/state.h"
#include "workers/clock.h"

#define BURST 64
#define ECHO_PATIENCE_NS 1000000000ull
#define SWEEP_NS 100000000ull
#define CATCH_UP_NS 500000000ull
#define AGAIN_NS 1000000ull        /* an event that found no peer looks again */

enum {
    HANDSHAKES,
    TRAFFIC,
    ONEWAY,
    KEEPALIVES,
    ROAMING,
    GARBAGE,
    PACERS = GARBAGE + LOAD_GARBAGE_KINDS
};
/* Why an event did not leave when it was due, in the order of LOAD_HANDSHAKES_LATE and those after it. */
enum cause {
    GENERATOR,
    WAITING,
    FEW
};

void load_free(struct load *load)
{
    if (!load)
        return;
    noise_free(load->noise);
    if (load->aead)
        aead_free(load->aead);
    if (load->epoll >= 0)
        close(load->epoll);
    free(load->peers);
    free(load->stock);
    free(load->outs);
    free(load->inbox);
    free(load->samples[0]);
    free(load->samples[1]);
    free(load->strangers);
    free(load->forged);
    free(load);
}

uint64_t load_bytes_per_peer(void)
{
    return sizeof(struct load_peer);
}

static int listen_to(struct load *load, int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    int on = 1, family = load->setup.family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;

    /* Both are only told: without them times count to when we read, and nothing says that nobody listens. */
    (void)setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    (void)setsockopt(fd, family, family == IPPROTO_IP ? IP_RECVERR : IPV6_RECVERR, &on, sizeof on);
    return epoll_ctl(load->epoll, EPOLL_CTL_ADD, fd, &event);
}

struct load *load_new(const struct load_setup *setup, const int32_t *fds, struct load_area *area)
{
    struct load *load = calloc(1, sizeof *load);
    uint32_t sources = setup->sources ? setup->sources : 1;
    int bad;

    if (!load || setup->ports < 1 || setup->ports > LOAD_PORTS_MOST || setup->peers > LOAD_PEERS_MOST) {
        free(load);
        return NULL;
    }
    load->setup = *setup;
    load->area = area;
    load->tally = &area->tallies[0];
    load->random = clock_now();
    load->wheel_tick = clock_now() >> WHEEL_SHIFT;
    memset(load->wheel, 0xff, sizeof load->wheel);
    memcpy(load->fds, fds, (setup->ports + 1) * sizeof *fds);
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->noise = noise_new(setup->gateway_key);
    load->aead = aead_new(-1);
    load->peers = calloc(setup->peers, sizeof *load->peers);
    load->outs = calloc(setup->ports + 1, sizeof *load->outs);
    load->inbox = calloc(LOAD_BATCH, sizeof *load->inbox);
    bad = load->epoll < 0 || !load->noise || !load->aead || !load->peers || !load->outs || !load->inbox;
    for (uint32_t port = 0; !bad && port <= setup->ports; port++)
        bad = listen_to(load, fds[port]);
    if (bad) {
        load_free(load);
        return NULL;
    }
    for (uint32_t i = 0; i < setup->peers; i++) {
        struct load_peer *peer = &load->peers[i];

        peer->timer_slot = NOBODY;
        peer->sample = SAMPLES;
        peer->source = (setup->first_peer + i) % sources;
        peer->port = (uint16_t)((setup->first_peer + i) / sources % setup->ports);
    }
    return load;
}

/* --- what happens when it is due ------------------------------------------------------------ */

/* An event left. */
static void note_lag(struct load *load, uint32_t what, const struct load_pacer *pacer)
{
    uint64_t lag = load->now > pacer->due ? load->now - pacer->due : 0;
    uint32_t why = pacer->blocked_at >= pacer->due ? pacer->why : GENERATOR;

    if (why == GENERATOR && lag > load->tally->lag_most)
        load->tally->lag_most = lag;
    if (lag <= BEHIND_NS)
        return;
    count(load, what == HANDSHAKES ? LOAD_HANDSHAKES_LATE + why
                : what == TRAFFIC  ? LOAD_ECHOES_LATE
                : what == ONEWAY   ? LOAD_ONEWAY_LATE
                                   : LOAD_OTHERS_LATE);
    if (what == TRAFFIC || what == ONEWAY)
        *load->mark |= MARK_LATE;
}

static void count_due(struct load *load, uint32_t what)
{
    count(load, what == HANDSHAKES ? LOAD_HANDSHAKES_DUE
                : what == TRAFFIC  ? LOAD_ECHOES_DUE
                : what == ONEWAY   ? LOAD_ONEWAY_DUE
                                   : LOAD_OTHERS_DUE);
}

/* The next peer that may begin a handshake; NOBODY when none of the next BURST may, and why not. */
static uint32_t next_ready(struct load *load, uint32_t *why)
{
    uint32_t waiting = 0;

    for (int tries = 0; tries < BURST; tries++) {
        uint32_t i = load->handshake_cursor++ % load->setup.peers;

        if (load_handshake_ready(load, &load->peers[i]))
            return i;
        waiting += load->peers[i].state != PEER_IDLE;
    }
    *why = waiting > BURST / 2 ? WAITING : FEW;
    return NOBODY;
}

static int handshakes_left(const struct load *load)
{
    return !load->phase->handshakes || load->begun < load->phase->handshakes;
}

/* 1 when one began; else why not. */
static int begin_handshake(struct load *load, uint64_t due, uint32_t *why)
{
    uint32_t i = handshakes_left(load) ? next_ready(load, why) : NOBODY;

    if (i == NOBODY)
        return 0;
    load->begun++;
    load_handshake_begin(load, i, due, load->phase->outstanding > 0);
    return 1;
}

static int keep_alive(struct load *load)
{
    struct load_peer *peer = &load->peers[load->keepalive_cursor++ % load->setup.peers];
    int has_session = load_has_session(load, peer);

    if (has_session)
        load_keepalive(load, peer);
    if (peer->current.born && load->now - peer->current.born >= REKEY_NS)
        load_handshake_renew(load, peer, 0);
    return has_session;
}

/* The next address and port; what waits in the old port's batch leaves from there. */
static int roam(struct load *load)
{
    struct load_peer *peer = &load->peers[load->roam_cursor++ % load->setup.peers];

    if (!load_has_session(load, peer))
        return 0;
    peer->port = (uint16_t)((peer->port + 1u) % load->setup.ports);
    if (load->setup.sources)
        peer->source = (peer->source + 1) % load->setup.sources;
    load_keepalive(load, peer);  /* a gateway follows what it can authenticate */
    count(load, LOAD_ROAMED);
    return 1;
}

/* 0 when nothing left, for want of a session. Of a handshake: it must be tried again, and why. */
static int carry_out(struct load *load, uint32_t what, struct load_pacer *pacer)
{
    switch (what) {
    case HANDSHAKES:
        return begin_handshake(load, pacer->due, &pacer->why);
    case TRAFFIC:
        return load_ask(load, &load->peers[load->traffic_cursor++ % load->phase->traffic_peers], pacer->due);
    case ONEWAY:
        return load_tell(load, &load->peers[load->oneway_cursor++ % load->phase->oneway_peers]);
    case KEEPALIVES:
        return keep_alive(load);
    case ROAMING:
        return roam(load);
    default:
        return load_garbage_send(load, what - GARBAGE);
    }
}

/* --- closed loops --------------------------------------------------------------------------- */

/* Begins the closed loop, and begins anew where an echo was lost. */
static void traffic_sweep(struct load *load)
{
    uint32_t most = load->phase->traffic_outstanding;

    if (!most || load->now - load->swept < SWEEP_NS)
        return;
    load->swept = load->now;
    for (uint32_t i = 0; i < most && i < load->setup.peers; i++) {
        struct load_peer *peer = &load->peers[i];

        if (!peer->asked_at || load->now - peer->asked_at > ECHO_PATIENCE_NS)
            load_traffic_next(load, peer);
    }
}

static uint32_t handshakes_fill(struct load *load)
{
    uint32_t begun = 0, why;

    while (load->places < load->phase->outstanding && begun < BURST && begin_handshake(load, load->now, &why))
        begun++;
    return begun;
}

/* --- the loop ------------------------------------------------------------------------------- */

static void pacer_next(struct load *load, struct load_pacer *pacer)
{
    const struct load_phase *phase = load->phase;
    int is_random = pacer->rate == phase->handshake_rate ? phase->handshakes_random
                    : pacer->rate == phase->traffic_rate ? phase->traffic_random
                    : pacer->rate == phase->oneway_rate  ? phase->oneway_random
                                                         : 0;
    uint64_t after;

    /* At random, from one event to the next the expected number of them grows by an exponential variate;
     * what several processes do at random is as random together. */
    if (is_random)
        pacer->event -= log(draw_share(load));
    after = load_pace(pacer->rate, phase->length, pacer->event + (is_random ? 0 : phase->stagger));
    if (!is_random)
        pacer->event += 1;
    pacer->due = after == UINT64_MAX ? UINT64_MAX : load->begin + after;
}

static void pacers_begin(struct load *load, struct load_pacer *pacers)
{
    const struct load_phase *phase = load->phase;

    static const double never[2];

    for (uint32_t what = 0; what < PACERS; what++) {
        double rate = what == KEEPALIVES ? phase->keepalive_rate
                      : what == ROAMING  ? phase->roam_rate
                      : what >= GARBAGE  ? phase->garbage_rate[what - GARBAGE]
                                         : 0;

        pacers[what] = (struct load_pacer){ .level = { rate, rate } };
        pacers[what].rate = pacers[what].level;
    }
    pacers[HANDSHAKES].rate = phase->outstanding ? never : phase->handshake_rate;
    pacers[TRAFFIC].rate = phase->traffic_outstanding ? never : phase->traffic_rate;
    pacers[ONEWAY].rate = phase->oneway_rate;
    for (uint32_t what = 0; what < PACERS; what++)
        pacer_next(load, &pacers[what]);
}

static uint32_t pacers_run(struct load *load, struct load_pacer *pacers)
{
    uint32_t done = 0;

    for (uint32_t what = 0; what < PACERS; what++) {
        struct load_pacer *pacer = &pacers[what];

        if (pacer->is_blocked && load->now < pacer->blocked_at + AGAIN_NS)
            continue;
        for (uint32_t n = 0; n < BURST && pacer->due <= load->now && pacer->due < load->end; n++) {
            int has_left = carry_out(load, what, pacer);

            pacer->is_blocked = !has_left && what == HANDSHAKES;
            if (pacer->is_blocked) {
                pacer->blocked_at = load->now;
                if (!handshakes_left(load))
                    pacer->due = UINT64_MAX;
                break;
            }
            count_due(load, what);
            if (has_left)
                note_lag(load, what, pacer);
            else if (what != TRAFFIC && what != ONEWAY)
                count(load, LOAD_OTHERS_IDLE);
            pacer_next(load, pacer);
            done++;
        }
    }
    return done;
}

/* Until a datagram comes, or until `due`; the wheel turns at least every 10 ms. */
static void rest(struct load *load, uint64_t due)
{
    uint64_t now = clock_now(), wait = due > now ? due - now : 0;
    struct epoll_event event;

    if (wait > 10000000)
        wait = 10000000;
    struct timespec until = { 0, (long)wait };
    if (epoll_pwait2(load->epoll, &event, 1, &until, NULL) > 0 && event.events & EPOLLERR)
        load->has_errors = 1;
}

static void publish(struct load *load)
{
    __atomic_store_n(&load->area->sessions, load->sessions, __ATOMIC_RELAXED);
    /* Nobody waits for what strangers have in flight. */
    __atomic_store_n(&load->area->outstanding, load->setup.strangers ? 0 : load->in_flight, __ATOMIC_RELAXED);
}

static int stopped(const struct load *load)
{
    return __atomic_load_n(&load->area->stop, __ATOMIC_RELAXED) != 0;
}

/* What is in flight is not waited for either. */
static int stopped_at_once(const struct load *load)
{
    return __atomic_load_n(&load->area->stop, __ATOMIC_RELAXED) > 1;
}

static int all_is_over(const struct load *load)
{
    return load->phase->handshakes && load->begun >= load->phase->handshakes && !load->in_flight;
}

static int drained(const struct load *load)
{
    const uint64_t *counters = load->tally->counters;

    return !load->in_flight && counters[LOAD_ASKED] == counters[LOAD_ANSWERED] + counters[LOAD_UNSENT] +
                                                           counters[LOAD_ECHOES_REFUSED];
}

static void drain(struct load *load)
{
    uint64_t end = load->now + load->phase->drain;

    while (load->now < end && !drained(load) && !stopped_at_once(load)) {
        uint32_t got = load_receive(load);

        load->now = clock_now();
        load_timers_run(load);
        load_flush_all(load);
        if (!got)
            rest(load, end);
    }
    load_handshakes_end(load);
}

static uint64_t own_drops(const struct load *load)
{
    uint64_t all = 0;

    for (uint32_t port = 0; port <= load->setup.ports; port++) {
        uint32_t info[SK_MEMINFO_VARS] = { 0 };
        socklen_t bytes = sizeof info;

        if (getsockopt(load->fds[port], SOL_SOCKET, SO_MEMINFO, info, &bytes) == 0)
            all += info[SK_MEMINFO_DROPS];
    }
    return all;
}

/* An event never left. Its times go in as long as it has waited: they would have been longer. */
static void note_not_sent(struct load *load, uint32_t what, const struct load_pacer *pacer)
{
    count_due(load, what);
    if (what == HANDSHAKES) {
        count(load, LOAD_HANDSHAKES_NOT_SENT + (pacer->is_blocked ? pacer->why : GENERATOR));
        note_span(load, LOAD_RESPONSE_TIME, pacer->due, load->now);
        note_span(load, LOAD_HANDSHAKE_TIME, pacer->due, load->now);
    } else if (what == TRAFFIC) {
        count(load, LOAD_ECHOES_NOT_SENT);
        note_span(load, LOAD_ROUND_TRIP, pacer->due, load->now);
    } else {
        count(load, what == ONEWAY ? LOAD_ONEWAY_NOT_SENT : LOAD_OTHERS_NOT_SENT);
    }
}

/* The handshakes that a closed loop had no time for: its places waited for the gateway, unless they were
 * free and the peers too few. They have no times, as none in a closed loop has before it begins. */
static void note_not_begun(struct load *load)
{
    const struct load_phase *phase = load->phase;
    uint32_t why = WAITING;

    if (!phase->outstanding || !phase->handshakes || load->begun >= phase->handshakes)
        return;
    if (load->places < phase->outstanding)
        next_ready(load, &why);
    count_many(load, LOAD_HANDSHAKES_DUE, phase->handshakes - load->begun);
    count_many(load, LOAD_HANDSHAKES_NOT_SENT + why, phase->handshakes - load->begun);
}

/* What was due before the end and has not left yet, because the loop woke late: it still leaves, if
 * that takes no more than half a second. The rest never leaves. */
static void catch_up(struct load *load, struct load_pacer *pacers)
{
    uint64_t left;

    while (!stopped_at_once(load) && load->now < load->end + CATCH_UP_NS && pacers_run(load, pacers)) {
        load_receive(load);
        load_flush_all(load);
        load->now = clock_now();
    }
    load_flush_all(load);
    left = load->phase->handshakes ? load->phase->handshakes - load->begun : UINT64_MAX;
    for (uint32_t what = 0; what < PACERS; what++)
        for (; pacers[what].due < load->end && (what != HANDSHAKES || left--); pacer_next(load, &pacers[what]))
            note_not_sent(load, what, &pacers[what]);
    if (!stopped(load))
        note_not_begun(load);
}

/* Each peer's longest wait, and who has a session and who is still without an answer. */
static void peers_note(struct load *load)
{
    uint64_t waited = load->waits_since && load->now > load->waits_since ? load->now - load->waits_since : 0;

    if (waited > load->tally->gap_most)
        load->tally->gap_most = waited;
    for (uint32_t i = 0; i < load->setup.peers; i++) {
        struct load_peer *peer = &load->peers[i];

        if (peer->waits_since && load->now > peer->waits_since && load->now - peer->waits_since > peer->gap)
            peer->gap = load->now - peer->waits_since;
        if (peer->gap)
            note_span(load, LOAD_GAP, 0, peer->gap);
        note_missing(load, &peer->current);
        note_missing(load, &peer->previous);
        count_many(load, LOAD_SESSIONS_HELD, (uint64_t)load_has_session(load, peer));
        count_many(load, LOAD_UNRECOVERED, (peer->flags & PEER_RECOVERS) != 0);
    }
}

/* Waits are a phase's own, but for those of peers that have lost the gateway. */
static void peers_begin(struct load *load)
{
    load->waits_since = 0;
    for (uint32_t i = 0; i < load->setup.peers; i++) {
        struct load_peer *peer = &load->peers[i];

        peer->gap = 0;
        if (!(peer->flags & PEER_RECOVERS))
            peer->waits_since = 0;
        if (load->phase->traffic_outstanding)
            peer->asked_at = 0;
    }
}

void load_run_phase(struct load *load, const struct load_phase *phase, uint64_t begin)
{
    struct load_pacer pacers[PACERS];
    uint64_t cpu, drops = own_drops(load);

    load->phase = phase;
    load->tally = &load->area->tallies[phase->number];
    load->begin = begin;
    load->end = begin + phase->length;
    load->begun = 0;
    load->swept = 0;
    prctl(PR_SET_TIMERSLACK, 1);
    cpu = thread_cpu();
    pacers_begin(load, pacers);
    peers_begin(load);
    while ((load->now = clock_now()) < begin)
        rest(load, begin);

    while (load->now < load->end && !stopped(load) && !(phase->until_done && all_is_over(load))) {
        uint32_t done = load_receive(load);
        uint64_t due = load->end;

        load->now = clock_now();
        load_timers_run(load);
        done += handshakes_fill(load);
        traffic_sweep(load);
        done += pacers_run(load, pacers);
        load_flush_all(load);
        publish(load);
        for (uint32_t what = 0; what < PACERS; what++) {
            uint64_t next = pacers[what].due;

            if (pacers[what].is_blocked && next < pacers[what].blocked_at + AGAIN_NS)
                next = pacers[what].blocked_at + AGAIN_NS;
            if (next < due)
                due = next;
        }
        if (!done)
            rest(load, due);
        load->now = clock_now();
    }
    count_many(load, LOAD_WALL_NS, load->now > begin ? load->now - begin : 0);
    if (load->now < load->end)
        load->end = load->now;
    catch_up(load, pacers);
    drain(load);
    peers_note(load);
    publish(load);
    count_many(load, LOAD_CPU_NS, thread_cpu() - cpu);
    count_many(load, LOAD_OWN_DROPS, own_drops(load) - drops);
}
