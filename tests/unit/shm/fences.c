/* fences: two cores that store and then look, with the real functions on both sides.
 *
 * In each pair both sides store something and then look at what the other stores. With a full fence between, at
 * least one sees the other; without, now and then neither does, since a processor looks before its own store has
 * left it, x86 too. One round is one such meeting. Two threads meet a great many times, each on a core of its own.
 *
 * usage: fences [most rounds of a pair]        exit 77 where there is one core alone
 */
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "engine/timers.h"
#include "world.h"

#define PAIR_NS 1500000000u /* on a busy machine the two seldom run at once: rather fewer rounds than minutes */
#define ROW 3u
#define SLEEPER WORKER_CONSUMER
#define TICK 100u

static struct segment segment;
static uint64_t rounds_most = 1000000;

/* One line each, so that a look misses whenever the other side has stored. */
static struct {
    _Alignas(128) uint32_t work;
    _Alignas(128) uint32_t left, right; /* what they saw, read when both are done */
    _Alignas(128) uint64_t begun;        /* the left side has made ready for this round */
    _Alignas(128) uint64_t warm;         /* the right side has, too */
    _Alignas(128) uint64_t right_round;  /* the right side is done with it */
    _Alignas(128) uint32_t over;
} shared;

static uint64_t grace[MAX_WORKERS], word_before;
static int32_t bells[MAX_WORKERS]; /* all -1: no eventfd, a futex */

static void publish(void) { __atomic_store_n(&shared.work, 1, __ATOMIC_RELAXED); }
static uint32_t look(void) { return __atomic_load_n(&shared.work, __ATOMIC_RELAXED); }

/* ---- a sleeper and who has work for it ---- */

static void bell_reset(void)
{
    shared.work = 0;
    bell_cancel(&segment, SLEEPER);
}
static uint32_t sleeper(void)
{
    bell_announce(&segment, SLEEPER);
    return look();
}
static uint32_t ringer(void)
{
    publish();
    return (uint32_t)bell_ring(&segment, SLEEPER, -1);
}
static void starving_reset(void)
{
    shared.work = 0;
    segment.bells[WORKER_RECEIVER].starving = 0;
    segment.starving->receivers = 0;
}
static uint32_t starving(void)
{
    bell_starve(&segment, WORKER_RECEIVER, 1);
    return look();
}
static uint32_t feeder(void)
{
    publish();
    return bell_ring_starving(&segment, bells);
}
static int nobody_saw(void) { return !shared.left && !shared.right; }

/* ---- a holder that gives the peer away and who has work for the peer ---- */

static void peer_reset(void)
{
    uint32_t cursor = 0;
    while (ready_take(&segment, 1, &cursor) != 0xffffffff)
        ;
    bell_cancel(&segment, SLEEPER);
    segment.rows[ROW].orders = 0;
    segment.tokens[token_place(2 * ROW)] = TOKEN_HELD | mark_of(&segment, SLEEPER);
}
static uint32_t giver(void)
{
    queue_give(&segment, 2 * ROW, 0);
    return 0;
}
static uint32_t scheduler(void)
{
    __atomic_store_n(&segment.rows[ROW].orders, ORDER_EXPIRE, __ATOMIC_RELAXED);
    peer_schedule(&segment, ROW);
    return 0;
}
static int peer_is_forgotten(void) { return segment.tokens[token_place(2 * ROW)] == TOKEN_IDLE; }

/* ---- a reader that begins to read and control, which unpublishes ---- */

static void asleep_reset(void)
{
    shared.work = 1;
    epoch_sleep(&segment, SLEEPER);
    word_before = segment.workers[SLEEPER].epoch;
}
static void awake_reset(void)
{
    shared.work = 1;
    epoch_wake(&segment, SLEEPER);
    word_before = segment.workers[SLEEPER].epoch;
}
static uint32_t waker(void)
{
    epoch_wake(&segment, SLEEPER);
    return look();
}
static uint32_t turner(void)
{
    epoch_turn(&segment, SLEEPER, 1);
    return look();
}
static uint32_t unpublisher(void)
{
    __atomic_store_n(&shared.work, 0, __ATOMIC_RELAXED);
    grace_begin(&segment, grace);
    return 0;
}
/* Control noted the reader's word of before, so it takes what the reader found for given up. */
static int reader_holds_it(void) { return shared.left && (uint32_t)grace[SLEEPER] == (uint32_t)word_before; }

/* ---- a holder that stamps and control, which looks at the stamps ---- */

static uint32_t columns[TIMER_COLUMN_COUNT * 64];

static void timers_reset(void)
{
    timers_initialise(columns, 64, ROW);
    columns[NEXT_DUE * 64 + ROW] = TICK;
}
static uint32_t stamper(void) { return (uint32_t)timers_data_sent(columns, 64, ROW, TICK); }
static uint32_t looker(void)
{
    uint32_t row = ROW;
    timers_look(columns + NEXT_DUE * 64, &row, 1);
    return __atomic_load_n(&columns[UNANSWERED_SINCE * 64 + ROW], __ATOMIC_RELAXED);
}

static const struct pair {
    const char *name;
    void (*reset)(void);
    uint32_t (*left)(void);
    uint32_t (*right)(void);
    int (*is_lost)(void);
} pairs[] = {
    { "bell_announce, bell_ring", bell_reset, sleeper, ringer, nobody_saw },
    { "bell_starve, bell_ring_starving", starving_reset, starving, feeder, nobody_saw },
    { "queue_give, peer_schedule", peer_reset, giver, scheduler, peer_is_forgotten },
    { "epoch_wake, grace_begin", asleep_reset, waker, unpublisher, reader_holds_it },
    { "epoch_turn, grace_begin", awake_reset, turner, unpublisher, reader_holds_it },
    { "timers_data_sent, timers_look", timers_reset, stamper, looker, nobody_saw },
};

static const struct pair *pair;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void wait_for(const uint64_t *round, uint64_t value)
{
    for (uint32_t spins = 0; __atomic_load_n(round, __ATOMIC_ACQUIRE) < value; spins++)
        if (spins > 20000) { /* the other one does not run */
            sched_yield();
            spins = 0;
        }
}

/* Rounds differ, since what makes a processor look early depends on where the lines are, and on who comes first. */
enum {
    RIGHT_LATE = 1,
    LEFT_LATE = 2,
    WARM = 4,
    BOTH_READY = 8
};

/* Now one side comes a little later, now the other. */
static void dawdle(uint32_t steps)
{
    for (volatile uint32_t i = 0; i < steps; i++)
        ;
}

/* Whatever is looked at lies in both caches then: a look is done at once, and a store takes its time. */
static void warm_up(void)
{
    (void)look();
    (void)__atomic_load_n(&segment.bells[SLEEPER].sleeping, __ATOMIC_RELAXED);
    (void)__atomic_load_n(&segment.starving->receivers, __ATOMIC_RELAXED);
    (void)__atomic_load_n(&segment.tokens[token_place(2 * ROW)], __ATOMIC_RELAXED);
    (void)__atomic_load_n(&segment.rows[ROW].orders, __ATOMIC_RELAXED);
    (void)__atomic_load_n(&segment.workers[SLEEPER].epoch, __ATOMIC_RELAXED);
    (void)__atomic_load_n(&columns[NEXT_DUE * 64 + ROW], __ATOMIC_RELAXED);
    (void)__atomic_load_n(&columns[UNANSWERED_SINCE * 64 + ROW], __ATOMIC_RELAXED);
}

static void *right_side(void *nothing)
{
    for (uint64_t round = 1;; round++) {
        wait_for(&shared.begun, round);
        if (shared.over)
            return nothing;
        if (round & WARM)
            warm_up();
        __atomic_store_n(&shared.warm, round, __ATOMIC_SEQ_CST);
        dawdle(round & RIGHT_LATE ? (uint32_t)(round / 8 % 64) : 0);
        shared.right = pair->right();
        __atomic_store_n(&shared.right_round, round, __ATOMIC_RELEASE);
    }
}

static void pin(pthread_t thread, int which)
{
    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0, "no cores");
    if (CPU_COUNT(&all) < 2)
        exit(77);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && which-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(thread, sizeof one, &one); /* refused: less chance, no reason to stop */
            return;
        }
}

static uint64_t pair_meet(cpu_set_t *all)
{
    pthread_t other;
    uint64_t end = now() + PAIR_NS, round = 0;
    sched_setaffinity(0, sizeof *all, all);
    shared.begun = shared.warm = shared.right_round = shared.over = 0;
    CHECK(pthread_create(&other, NULL, right_side, NULL) == 0, "no thread");
    pin(other, 1);
    pin(pthread_self(), 0);
    while (round < rounds_most && (round % 64 || now() < end)) {
        pair->reset();
        __atomic_store_n(&shared.begun, ++round, __ATOMIC_SEQ_CST);
        if (round & BOTH_READY)
            wait_for(&shared.warm, round);
        if (round & WARM)
            warm_up();
        dawdle(round & LEFT_LATE ? (uint32_t)(round / 16 % 64) : 4);
        shared.left = pair->left();
        wait_for(&shared.right_round, round);
        CHECK(!pair->is_lost(), "%s: neither saw the other, in round %llu", pair->name, (unsigned long long)round);
    }
    shared.over = 1;
    __atomic_store_n(&shared.begun, round + 1, __ATOMIC_RELEASE);
    pthread_join(other, NULL);
    return round;
}

int main(int count, char **words)
{
    static const struct geometry geometry = {
        .max_peers = 64, .max_keypairs = 64, .max_receivers = 1, .max_consumers = 1, .nodes_a_pool = 32, .small_slots = 16, .train_slots = 1, .mailbox_cells = 4, .max_trie_nodes = 64, .public_key_buckets = 64
    };
    uint64_t rounds = 0;
    cpu_set_t all;
    if (count > 1)
        rounds_most = strtoull(words[1], NULL, 10);
    world_make(&segment, &geometry, 8, MAP_PRIVATE);
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker++)
        bells[worker] = -1;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0, "no cores");
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        pair = &pairs[i];
        uint64_t met = pair_meet(&all);
        printf("%s: %llu rounds\n", pair->name, (unsigned long long)met);
        rounds += met;
    }
    printf("%llu rounds: one always saw the other\n", (unsigned long long)rounds);
    return 0;
}
