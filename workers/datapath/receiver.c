/* Theory. One thread, one epoll set: UDP sockets (one of each family) and a TUN queue, its own bell, the
 * channel; and the sockets and queues of receivers that were removed or cannot be started.
 * Each ready descriptor is given one batch a round, so that a flood from outside can not
 * starve what comes from inside, nor the other way round. A pool without a free slot takes
 * its descriptors out of the set (nothing is read that can not be kept: the kernel's buffers
 * hold the rest) until a holder that brought nodes home rings. */
#include "workers/clock.h"
#include "workers/datapath/affinity.h"
#include "workers/datapath/holder.h"
#include "workers/datapath/moderation.h"
#include "workers/datapath/priority.h"
#include "workers/datapath/receive.h"
#include "workers/datapath/receiver.h"
#include "workers/udp.h"

#include "engine/aead.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/epoch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum watch {
    WATCH_BELL,
    WATCH_CHANNEL,
    WATCH_UDP,
    WATCH_TUN = WATCH_UDP + 2 * MAX_RECEIVERS,
    WATCHES = WATCH_TUN + MAX_RECEIVERS,
};

/* A sleeping receiver looks at the clock and its pools this often even if nothing happens. */
#define SLEEP_MS 100
/* epoll_wait of a real-time process that takes longer has slept. */
#define SLEPT_NS 20000

struct receiver {
    const struct segment *segment;
    uint32_t worker;
    int epoll;
    int fds[WATCHES];
    int watched[WATCHES];
    int starving[DIRECTIONS];
    int32_t bells[MAX_WORKERS];
    struct pool pools[DIRECTIONS];
    struct intake intakes[DIRECTIONS];
    struct udp_inbox inbox;
    struct priority priority;
    struct affinity affinity;
    struct moderation moderation;
};

/* What a round brought. */
struct round {
    uint32_t messages;
    int with_train;
};

static uint32_t watch_direction(enum watch which)
{
    return which >= WATCH_TUN ? OUTBOUND : INBOUND;
}

static int watch(struct receiver *receiver, enum watch which, int wanted)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = which };

    if (receiver->fds[which] < 0 || receiver->watched[which] == wanted)
        return 0;
    if (epoll_ctl(receiver->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, receiver->fds[which], &event))
        return -1;
    receiver->watched[which] = wanted;
    return 0;
}

struct receiver *receiver_new(const struct segment *segment, uint32_t number, int channel,
                              const int32_t *bells)
{
    struct receiver *receiver = calloc(1, sizeof *receiver);

    if (!receiver)
        return NULL;
    receiver->segment = segment;
    receiver->worker = WORKER_RECEIVER + number;
    for (int i = 0; i < WATCHES; i++)
        receiver->fds[i] = -1;
    receiver->epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < MAX_WORKERS; i++)
        receiver->bells[i] = bells[i];
    for (uint32_t d = 0; d < DIRECTIONS; d++) {
        if (pool_open(&receiver->pools[d], segment, 2 * number + d))
            goto refused;
        receiver->intakes[d] = (struct intake){
            .segment = segment,
            .worker = receiver->worker,
            .number = number,
            .bells = receiver->bells,
            .pool = &receiver->pools[d],
        };
    }
    if (receiver->epoll < 0 || udp_inbox_open(&receiver->inbox))
        goto refused;
    receiver->fds[WATCH_BELL] = bells[receiver->worker];
    receiver->fds[WATCH_CHANNEL] = channel;
    if (watch(receiver, WATCH_BELL, 1) || watch(receiver, WATCH_CHANNEL, 1))
        goto refused;
    return receiver;
refused:
    receiver_free(receiver);
    return NULL;
}

void receiver_free(struct receiver *receiver)
{
    if (!receiver)
        return;
    for (uint32_t d = 0; d < DIRECTIONS; d++) {
        if (!receiver->pools[d].segment)
            continue;
        while (receiver->intakes[d].slots_held)
            pool_put_slot(&receiver->pools[d], receiver->intakes[d].slots[--receiver->intakes[d].slots_held]);
        while (receiver->intakes[d].trains_held)
            pool_put_slot(&receiver->pools[d], receiver->intakes[d].trains[--receiver->intakes[d].trains_held]);
        pool_close(&receiver->pools[d]);
    }
    udp_inbox_close(&receiver->inbox);
    affinity_close(&receiver->affinity);
    if (receiver->epoll >= 0)
        close(receiver->epoll);
    free(receiver);
}

int receiver_wake_at_once(struct receiver *receiver)
{
    return priority_open(&receiver->priority, clock_now());
}

int receiver_stay_on(struct receiver *receiver, uint32_t core)
{
    return affinity_open(&receiver->affinity, core, clock_now());
}

void receiver_hand_off(struct receiver *receiver, struct holder *inline_holder)
{
    if (inline_holder)
        inline_holder->wait_ms = 0; /* meanwhile the receiver would hear nobody */
    for (uint32_t d = 0; d < DIRECTIONS; d++)
        receiver->intakes[d].inline_holder = inline_holder;
}

/* Watches fds from now on instead of what stood in their places. A starving receiver comes to them
 * when it is fed. */
static int replace(struct receiver *receiver, enum watch first, const int32_t *fds, uint32_t count, uint32_t places)
{
    int refused = 0;

    for (uint32_t i = 0; i < places; i++) {
        enum watch which = first + i;

        watch(receiver, which, 0);
        receiver->watched[which] = 0; /* also where the kernel had forgotten it: the fd was closed */
        receiver->fds[which] = i < count ? fds[i] : -1;
        if (!receiver->starving[watch_direction(which)] && watch(receiver, which, 1))
            refused = -1;
    }
    return refused;
}

int receiver_use_sockets(struct receiver *receiver, const int32_t *sockets, uint32_t count)
{
    return replace(receiver, WATCH_UDP, sockets, count, 2 * MAX_RECEIVERS);
}

int receiver_use_queues(struct receiver *receiver, const int32_t *queues, uint32_t count)
{
    return replace(receiver, WATCH_TUN, queues, count, MAX_RECEIVERS);
}

/* Reads on or stops reading in one direction. */
static void set_starving(struct receiver *receiver, uint32_t direction, int starving)
{
    if (receiver->starving[direction] == starving)
        return;
    receiver->starving[direction] = starving;
    for (enum watch w = WATCH_UDP; w < WATCHES; w++)
        if (watch_direction(w) == direction)
            watch(receiver, w, !starving);
    if (starving)
        counter_add(receiver->segment, receiver->worker, SLOTS_STARVED, 1);
}

static int has_slots(struct receiver *receiver, uint32_t direction)
{
    return intake_refill(&receiver->intakes[direction], BURST_MAX) &&
           intake_room(&receiver->intakes[direction], direction, BURST_MAX);
}

static int is_starving(const struct receiver *receiver)
{
    return receiver->starving[INBOUND] | receiver->starving[OUTBOUND];
}

/* A direction without slots announces that, looks once more, and is fed when there are some. It announces again
 * after each wake-up: the wake-up clears the announcement, but may not have freed slots of this direction. */
static void feed(struct receiver *receiver)
{
    int was_starving = is_starving(receiver);

    for (uint32_t d = 0; d < DIRECTIONS; d++)
        set_starving(receiver, d, !has_slots(receiver, d));
    if (!was_starving && !is_starving(receiver))
        return;
    bell_starve(receiver->segment, receiver->worker, (uint32_t)is_starving(receiver));
    for (uint32_t d = 0; d < DIRECTIONS; d++)
        if (receiver->starving[d] && has_slots(receiver, d))
            set_starving(receiver, d, 0);
}

static void note_batch(struct round *round, const struct intake *intake, int32_t messages)
{
    round->messages += messages > 0 ? (uint32_t)messages : 0;
    round->with_train |= intake->saw_trains == TRAINS_REMEMBERED;
}

/* One batch of one descriptor. Bits of RECEIVER_*. */
static int serve(struct receiver *receiver, enum watch which, struct round *round)
{
    struct intake *intake = &receiver->intakes[watch_direction(which)];
    uint64_t rings;
    int32_t got;

    if (which == WATCH_CHANNEL)
        return RECEIVER_CHANNEL;
    if (which == WATCH_BELL) {
        (void)!read(receiver->fds[WATCH_BELL], &rings, sizeof rings); /* another may have been quicker */
    } else if (which < WATCH_TUN) {
        note_batch(round, intake, receive_udp(intake, receiver->fds[which], &receiver->inbox));
    } else {
        got = receive_tun(intake, receiver->fds[which], receiver->inbox.spill);
        note_batch(round, intake, got);
        if (got == -EBADFD) {
            watch(receiver, which, 0);
            return RECEIVER_TUN_GONE;
        }
    }
    return 0;
}

static void slept(struct receiver *receiver, uint64_t begin, uint64_t end)
{
    priority_after_sleep(&receiver->priority, end);
    affinity_slept(&receiver->affinity, begin, end);
}

/* Waits until a descriptor is ready, or for timeout (ms). Returns as epoll_wait does. */
static int wait_for_packets(struct receiver *receiver, struct epoll_event *events, int timeout)
{
    const struct timespec hold = { .tv_nsec = receiver->moderation.hold };
    uint64_t before, after;
    int ready;

    if (receiver->priority.state == PRIORITY_NORMAL)
        return epoll_wait(receiver->epoll, events, WATCHES, timeout);
    if (receiver->moderation.hold == MODERATION_HOLD_NS) {
        before = clock_now();
        priority_before_sleep(&receiver->priority);
        nanosleep(&hold, NULL);
        slept(receiver, before, clock_now());
    } else if (receiver->moderation.hold && receiver->priority.state == PRIORITY_REALTIME) {
        nanosleep(&hold, NULL); /* no sleep in the eyes of the priority: a flood of trains is to lose it */
    } else if (receiver->priority.state == PRIORITY_GIVEN_UP) {
        ready = epoll_wait(receiver->epoll, events, WATCHES, 0);
        if (ready)
            return ready;
        priority_before_sleep(&receiver->priority);
    }
    before = clock_now();
    ready = epoll_wait(receiver->epoll, events, WATCHES, timeout);
    after = clock_now();
    if (receiver->priority.state == PRIORITY_REALTIME && after - before > SLEPT_NS)
        slept(receiver, before, after);
    return ready;
}

int receiver_run(struct receiver *receiver, uint64_t until)
{
    const struct segment *s = receiver->segment;

    epoch_wake(s, receiver->worker);
    for (;;) {
        struct epoll_event events[WATCHES];
        struct round round = { 0 };
        uint64_t now = clock_now();
        int reasons = 0;
        int ready;

        epoch_turn(s, receiver->worker, now);
        priority_check(&receiver->priority, now);
        affinity_check(&receiver->affinity, now);
        feed(receiver);
        /* Asleep for those who wait for a grace period: nothing of the turn before is held any more. */
        epoch_sleep(s, receiver->worker);
        ready = wait_for_packets(receiver, events, now < until ? SLEEP_MS : 0);
        epoch_wake(s, receiver->worker);
        if (ready == 0 && receiver->intakes[INBOUND].inline_holder)
            aead_forget(receiver->intakes[INBOUND].inline_holder->aead);
        for (int i = 0; i < ready; i++)
            reasons |= serve(receiver, events[i].data.u32, &round);
        if ((round.messages || receiver->moderation.hold) && receiver->priority.state != PRIORITY_NORMAL)
            moderation_round(&receiver->moderation, clock_now(), round.messages, round.with_train);
        if (!reasons && now >= until)
            reasons = RECEIVER_TIME;
        if (reasons) {
            epoch_sleep(s, receiver->worker);
            return reasons;
        }
    }
}
