/* Theory. The ready set says which directions of peers want a turn, the token says who has it. The bit is
 * cleared first and the token taken second, so that whoever makes one ready in between sets
 * the bit again. With nothing to do it spins for a moment (the next burst of a busy stream is
 * microseconds away, and waking a sleeping core costs more), then announces its sleep,
 * looks once more, and waits on its bell.
 *
 * A consumer with nothing of its own to do helps others with their batches (sharing.h). Once it was called, or did a
 * part, it looks for the next one for a moment before it sleeps. */
#include "workers/datapath/consumer.h"
#include "workers/clock.h"
#include "workers/datapath/affinity.h"
#include "workers/datapath/priority.h"

#include "engine/aead.h"
#include "shm/bell.h"
#include "shm/epoch.h"
#include "shm/parts.h"
#include "shm/point.h"
#include "shm/ready.h"
#include "workers/datapath/sharing.h"
#include "workers/datapath/turn.h"

#include <poll.h>
#include <stdlib.h>

#define NOBODY 0xffffffff
#define SPIN_NS 5000
/* Work and messages on the channel come with a ring; this bounds the wait where one is lost. */
#define SLEEP_NS 500000000
/* While busy: turns a round, and rounds between looks at the channel. */
#define TURNS_A_ROUND 256
#define ROUNDS_A_LOOK 64
/* A helper: how long it looks for a part, and how often whether its core is wanted. */
#define HELP_NS 200000
#define WANTED_NS 1000000

struct consumer {
    struct holder *holder;
    uint32_t number;
    uint32_t cursor;
    struct pollfd channel;
    struct priority priority;
    struct affinity affinity;
    int helps;            /* it looks for parts, and says so */
    uint64_t helped;      /* ns: since when it has found none */
    uint64_t wanted_look; /* ns: when it looks whether its core is wanted */
};

struct consumer *consumer_new(struct holder *holder, uint32_t number, int channel)
{
    struct consumer *consumer = calloc(1, sizeof *consumer);

    if (!consumer)
        return NULL;
    consumer->holder = holder;
    consumer->number = number;
    consumer->channel = (struct pollfd){ .fd = channel, .events = POLLIN };
    return consumer;
}

int consumer_wake_at_once(struct consumer *consumer)
{
    return priority_open(&consumer->priority, clock_now());
}

int consumer_stay_on(struct consumer *consumer, uint32_t core)
{
    return affinity_open(&consumer->affinity, core, clock_now());
}

void consumer_free(struct consumer *consumer)
{
    affinity_close(&consumer->affinity);
    free(consumer);
}

/* A turn of the next ready queue; 0 when there was none. */
static int take_next(struct consumer *consumer, uint64_t now)
{
    struct holder *holder = consumer->holder;
    const struct segment *s = holder->segment;
    uint32_t queue = ready_take(s, 1 + consumer->number, &consumer->cursor);
    uint32_t owner;

    if (queue == NOBODY)
        return 0;
    POINT("take: ready bit cleared, token not taken");
    owner = __atomic_load_n(&s->rows[queue / DIRECTIONS].consumer[queue % DIRECTIONS], __ATOMIC_RELAXED);
    if (owner != consumer->number && owner < s->geometry.max_consumers) {
        /* Moved to another consumer after its bit was set here. */
        ready_set(s, 1 + owner, queue);
        bell_ring(s, WORKER_CONSUMER + owner, -1);
    } else if (holder_take(holder, queue)) {
        /* If no other queue is ready, use the large budget. */
        holder->budget = ready_waits(s, 1 + consumer->number, consumer->cursor) ? TAKE_BUDGET : BATCH_PACKETS;
        holder_take_turn(holder, queue, now);
    }
    return 1;
}

/* Tells the core that this is a spin; nothing where the architecture has no word for it. */
static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int spin(const struct consumer *consumer)
{
    uint64_t end = clock_now() + SPIN_NS;

    do {
        if (!ready_is_empty(consumer->holder->segment, 1 + consumer->number))
            return 1;
        relax();
    } while (clock_now() < end);
    return 0;
}

static void say_helping(struct consumer *consumer, int helps, uint64_t now)
{
    if (helps)
        consumer->helped = now;
    if (consumer->helps == helps)
        return;
    consumer->helps = helps;
    parts_say_helping(consumer->holder->segment, consumer->holder->worker, helps);
    if (helps) {
        consumer->wanted_look = now + WANTED_NS;
        affinity_leave(&consumer->affinity); /* whoever called may run on the same core */
    }
}

/* 0 when there is nothing to help with any more. */
static int help(struct consumer *consumer)
{
    uint64_t now;
    int did;

    if (!consumer->helps)
        return 0;
    did = sharing_help(consumer->holder);
    now = clock_now();
    priority_check(&consumer->priority, now);
    if (did)
        consumer->helped = now;
    if (now >= consumer->wanted_look) {
        consumer->wanted_look = now + WANTED_NS;
        if (sharing_core_is_wanted(consumer->holder))
            say_helping(consumer, 0, now);
    }
    if (now - consumer->helped > HELP_NS)
        say_helping(consumer, 0, now);
    if (!did)
        relax();
    return did || consumer->helps;
}

/* Returns after a sleep, or at once if there is work or a message. */
static void sleep_until_rung(struct consumer *consumer)
{
    const struct segment *s = consumer->holder->segment;
    uint32_t worker = consumer->holder->worker;
    uint64_t begin, end;
    int rung;

    bell_announce(s, worker);
    if (!ready_is_empty(s, 1 + consumer->number) || poll(&consumer->channel, 1, 0) > 0) {
        bell_cancel(s, worker);
        return;
    }
    epoch_sleep(s, worker);
    begin = clock_now();
    priority_before_sleep(&consumer->priority);
    rung = bell_wait(s, worker, SLEEP_NS);
    if (!rung)
        aead_forget(consumer->holder->aead);
    epoch_wake(s, worker);
    end = clock_now();
    priority_after_sleep(&consumer->priority, end);
    affinity_slept(&consumer->affinity, begin, end);
    if (rung && consumer->holder->share != SHARE_NEVER && ready_is_empty(s, 1 + consumer->number))
        say_helping(consumer, 1, end); /* nothing of its own: a holder called */
}

int consumer_run(struct consumer *consumer, uint64_t until)
{
    const struct segment *s = consumer->holder->segment;
    uint32_t worker = consumer->holder->worker;
    uint32_t looks = ROUNDS_A_LOOK;
    int reason = 0;

    epoch_wake(s, worker);
    while (!reason) {
        uint64_t now = clock_now();
        uint32_t turns = 0;

        epoch_turn(s, worker, now);
        while (turns < TURNS_A_ROUND && take_next(consumer, now)) {
            now = clock_now();
            epoch_turn(s, worker, now);
            priority_check(&consumer->priority, now);
            affinity_check(&consumer->affinity, now);
            turns++;
        }
        looks++;
        if (!turns && !help(consumer) && !spin(consumer)) {
            sleep_until_rung(consumer);
            looks = ROUNDS_A_LOOK;
        }
        if (looks < ROUNDS_A_LOOK)
            continue;
        looks = 0;
        if (poll(&consumer->channel, 1, 0) > 0)
            reason = CONSUMER_CHANNEL;
        else if (now >= until)
            reason = CONSUMER_TIME;
    }
    epoch_sleep(s, worker);
    return reason;
}
