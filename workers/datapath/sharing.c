/* Theory. Of what a batch costs, the AEAD is the greater part and the only one that needs no order (shm/parts.c). A
 * holder shares it when its core is what limits the peer, and another core has nothing to do:
 *
 *   busy        for a window of 10 ms at least half of the time went into large batches. So a light load, a burst
 *               within one too, stays in one process, on one core.
 *   idle core   the kernel runs fewer tasks than this engine has cores (/proc/loadavg). Asked once in a millisecond
 *               at most, when a helper is to be woken, and by a helper that finds nothing to do.
 *   helpers     consumers, since with the hand-off "inline" they have little else to do. One that was woken looks for
 *               parts for a moment before it sleeps again: a batch takes no longer than a wake.
 *
 * When nobody takes a part of several batches in a row, the holder stops offering for a while. */
#include "workers/datapath/sharing.h"

#include "engine/packet.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/parts.h"
#include "shm/point.h"
#include "workers/clock.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(PARTS *PART_MESSAGES >= SESSION_BATCH, "a batch has more messages than its parts");
_Static_assert(PART_ROOM_BYTES == GSO_BUFFER_BYTES, "what is cut into one buffer fits the other");

#define BATCH_LEAST 64       /* packets of a batch that is worth sharing */
#define PART_LEAST 16        /* and of a part */
#define WINDOW_NS 10000000   /* see above */
#define LOOK_NS 1000000
#define HELPERS_MOST 3
#define MISSES_MOST 4        /* batches in a row of which nobody took a part, until none is offered */
#define PAUSE_NS 10000000    /* for so long */
#define SPIN_NS 50000        /* a part takes less, unless its helper has lost its core */
#define REST_NS 20000
#define RESTS_MOST 50        /* of SHARE_ALWAYS */

/* How many tasks run or could run on this host, as the kernel says; a great many when it does not. */
static uint32_t running(const struct holder *holder)
{
    char text[64]; /* three averages, tasks that run / all tasks, the latest process */
    const char *at = text;
    ssize_t got;

    if (holder->loadavg < 0 || lseek(holder->loadavg, 0, SEEK_SET))
        return UINT32_MAX;
    got = read(holder->loadavg, text, sizeof text - 1);
    text[got > 0 ? got : 0] = 0;
    for (int field = 0; field < 3 && at; field++)
        at = (at = strchr(at, ' ')) ? at + 1 : NULL;
    return at ? (uint32_t)strtoul(at, NULL, 10) : UINT32_MAX;
}

int sharing_core_is_wanted(const struct holder *holder)
{
    return holder->share == SHARE_AUTO && running(holder) > holder->cores;
}

static int core_is_idle(const struct holder *holder)
{
    return holder->share == SHARE_ALWAYS || running(holder) < holder->cores;
}

/* Wakes a consumer that sleeps, another one than the last time. */
static void call_helper(struct holder *holder)
{
    const struct segment *s = holder->segment;
    uint32_t consumers = __atomic_load_n(&s->device->consumers, __ATOMIC_RELAXED);

    if (consumers > s->geometry.max_consumers)
        consumers = s->geometry.max_consumers;
    for (uint32_t i = 0; i < consumers; i++) {
        uint32_t worker = WORKER_CONSUMER + (holder->helper_called + i) % consumers;

        if (worker == holder->worker || !__atomic_load_n(&s->bells[worker].sleeping, __ATOMIC_RELAXED))
            continue;
        holder->helper_called = worker - WORKER_CONSUMER + 1;
        bell_ring(s, worker, -1);
        return;
    }
}

/* Whether at least half of the latest whole window went into large batches. */
static int is_busy(struct holder *holder, uint64_t now)
{
    struct batch_time *time = &holder->batch_time;

    time->begun = now;
    if (now - time->window >= WINDOW_NS) {
        time->is_busy = 2 * time->large >= now - time->window;
        time->window = now;
        time->large = 0;
    }
    return time->is_busy != 0;
}

static uint32_t packets_of(const struct segment *s, const uint32_t *nodes, uint32_t count)
{
    uint32_t packets = 0;

    for (uint32_t i = 0; i < count; i++)
        packets += s->node[nodes[i]].packets;
    return packets;
}

int sharing_begins(struct holder *holder, const uint32_t *nodes, uint32_t count)
{
    const struct segment *s = holder->segment;
    uint64_t now;

    if (holder->share == SHARE_NEVER ||
        packets_of(s, nodes, count) < (holder->share == SHARE_ALWAYS ? 2 : BATCH_LEAST))
        return 0;
    now = clock_now();
    if ((!is_busy(holder, now) || now < holder->share_again) && holder->share != SHARE_ALWAYS)
        return 0;
    if (now >= holder->helper_look && __builtin_popcountll(parts_helpers(s)) < HELPERS_MOST) {
        holder->helper_look = now + LOOK_NS;
        if (core_is_idle(holder))
            call_helper(holder);
    }
    return (parts_helpers(s) || holder->share == SHARE_ALWAYS) && parts_are_free(s, holder->worker);
}

void sharing_ends(struct holder *holder)
{
    if (!holder->batch_time.begun)
        return;
    holder->batch_time.large += clock_now() - holder->batch_time.begun;
    holder->batch_time.begun = 0;
}

static void do_here(struct holder *holder, struct aead_job *jobs, uint32_t count, int opens)
{
    if (opens)
        aead_open(holder->aead, jobs, count);
    else
        aead_seal(holder->aead, jobs, count);
}

/* Neighbours of a batch. */
struct run {
    uint32_t first, count;
};

/* Writes a part: 1, or 0 when the lender's room has no place for it. used: bytes of the room. */
static int write_part(const struct holder *holder, const struct session_jobs *jobs, struct run run, int opens,
                      struct part *part, uint32_t *used)
{
    const struct segment *s = holder->segment;
    const uint8_t *base = (const uint8_t *)s->base, *room = part_room(s, holder->worker);

    for (uint32_t i = 0; i < run.count; i++) {
        const struct aead_job *job = &jobs->jobs[run.first + i];
        struct part_message *message = &part->messages[i];
        uint32_t bytes = DATA_HEADER_BYTES + job->length + AEAD_TAG_BYTES; /* is_sound wants a tag's room either way */

        *message = (struct part_message){
            .counter = job->counter,
            .length = job->length,
            .keypair = jobs->numbers[run.first + i],
        };
        if (job->data >= room && job->data < room + PART_ROOM_BYTES) {
            message->place = (uint32_t)(job->data - room);
            continue;
        }
        if (job->data < base || job->data >= base + s->bytes || PART_ROOM_BYTES - *used < bytes)
            return 0;
        message->source = (uint64_t)(job->data - base);
        message->place = *used + DATA_HEADER_BYTES;
        *used += bytes;
    }
    part->count = run.count;
    part->opens = (uint32_t)opens;
    return 1;
}

/* Until its helper is done or dead, or too late: PART_DONE, PART_LOST or PART_TAKEN. begun: when the wait for the
 * first part of this batch began, 0 before that; one that was too late leaves the others no time either. */
static uint32_t wait_for_part(const struct holder *holder, uint32_t number, uint64_t *begun)
{
    const struct timespec rest = { .tv_nsec = REST_NS };
    uint64_t now;
    uint32_t state;

    while ((state = part_read(holder->segment, holder->worker, number)) == PART_TAKEN) {
        now = clock_now();
        *begun = *begun ? *begun : now;
        if (now - *begun > holder->part_wait_ms * UINT64_C(1000000))
            break;
        if (now - *begun > SPIN_NS)
            nanosleep(&rest, NULL); /* perhaps its helper waits for this core */
    }
    return state;
}

/* Whether a message, with its header and a tag, stays inside a room. */
static int is_in_room(uint32_t place, uint32_t length)
{
    return place >= DATA_HEADER_BYTES && place <= PART_ROOM_BYTES - AEAD_TAG_BYTES &&
           length <= PART_ROOM_BYTES - place - AEAD_TAG_BYTES;
}

/* What became of a part that a helper took. A helper that is broken may have written anything there. */
static void read_part(const struct holder *holder, struct session_jobs *jobs, struct run run, uint32_t number,
                      uint64_t *begun)
{
    const struct segment *s = holder->segment;
    const struct part *part = part_of(s, holder->worker, number);
    uint32_t state = wait_for_part(holder, number, begun);

    for (uint32_t i = 0; i < run.count; i++) {
        struct aead_job *job = &jobs->jobs[run.first + i];
        const struct part_message message = part->messages[i];

        job->refused = AEAD_LOST;
        if (state != PART_DONE || !is_in_room(message.place, job->length))
            continue;
        job->refused = message.refused;
        job->data = part_room(s, holder->worker) + message.place;
    }
}

/* For tests, which would wait long for a helper that is quicker than the lender of a few packets. */
static void give_helpers_time(const struct holder *holder, uint32_t out)
{
    const struct timespec rest = { .tv_nsec = REST_NS };
    const struct segment *s = holder->segment;

    for (int rests = 0; rests < RESTS_MOST; rests++) {
        for (uint32_t n = 0; n < PARTS; n++)
            if (out >> n & 1 && __atomic_load_n(&part_of(s, holder->worker, n)->state, __ATOMIC_RELAXED) != PART_OFFERED)
                return;
        nanosleep(&rest, NULL);
    }
}

static void share(struct holder *holder, struct session_jobs *jobs, int opens, uint32_t used)
{
    const struct segment *s = holder->segment;
    uint32_t size = (jobs->count + PARTS - 1) / PARTS, parts, out = 0, taken;
    uint64_t begun = 0;
    struct run run[PARTS];

    if (holder->share != SHARE_ALWAYS && size < PART_LEAST)
        size = PART_LEAST;
    parts = (jobs->count + size - 1) / size;
    for (uint32_t n = 0; n < parts; n++) {
        uint32_t first = n * size;

        run[n] = (struct run){ first, jobs->count - first < size ? jobs->count - first : size };
        if (!n || !write_part(holder, jobs, run[n], opens, part_of(s, holder->worker, n), &used))
            continue;
        part_offer(s, holder->worker, n);
        if (!out)
            parts_say_offering(s, holder->worker, 1);
        out |= 1u << n;
    }
    if (out && holder->share == SHARE_ALWAYS)
        give_helpers_time(holder, out);
    for (uint32_t n = 0; n < parts; n++) {
        if (out >> n & 1 && !part_take_back(s, holder->worker, n))
            continue;
        out &= ~(1u << n);
        do_here(holder, jobs->jobs + run[n].first, run[n].count, opens);
        POINT("share: one part done here");
    }
    parts_say_offering(s, holder->worker, 0);
    POINT("share: nothing offered, helpers not waited for");
    taken = out;
    for (uint32_t n = 0; n < parts; n++)
        if (out >> n & 1)
            read_part(holder, jobs, run[n], n, &begun);
    holder_count(holder, BATCHES_SHARED, 1);
    holder->misses = taken ? 0 : holder->misses + 1;
    if (holder->misses >= MISSES_MOST) {
        holder->misses = 0;
        holder->share_again = clock_now() + PAUSE_NS;
    }
}

void sharing_seal(struct holder *holder, struct session_jobs *jobs, int shared, uint32_t used)
{
    if (shared)
        share(holder, jobs, 0, used);
    else
        aead_seal(holder->aead, jobs->jobs, jobs->count);
}

void sharing_open(struct holder *holder, struct session_jobs *jobs, int shared)
{
    if (shared)
        share(holder, jobs, 1, 0);
    else
        aead_open(holder->aead, jobs->jobs, jobs->count);
}

/* Whether the numbers of a message stay inside room, segment and keypairs, whatever happened to them. */
static int is_sound(const struct segment *s, const struct part_message *message)
{
    return is_in_room(message->place, message->length) &&
           (!message->source || (message->source >= DATA_HEADER_BYTES && message->source < s->bytes &&
                                 message->length <= s->bytes - message->source)) &&
           message->keypair && message->keypair < s->geometry.max_keypairs;
}

int sharing_help(const struct holder *holder)
{
    const struct segment *s = holder->segment;
    const struct keypair *keypairs = (const struct keypair *)s->keypairs;
    struct aead_job jobs[PART_MESSAGES];
    uint32_t of[PART_MESSAGES], count = 0, lender, number;
    struct part *part;
    uint8_t *room;
    int opens;

    if (!part_take(s, holder->mark, &lender, &number))
        return 0;
    part = part_of(s, lender, number);
    room = part_room(s, lender);
    opens = part->opens != 0;
    for (uint32_t i = 0; i < part->count && i < PART_MESSAGES; i++) {
        const struct part_message message = part->messages[i]; /* as it is judged, so it is used */
        uint8_t *place = room + message.place;

        part->messages[i].refused = AEAD_LOST;
        if (!is_sound(s, &message))
            continue;
        /* Out of the slot: it is used again when the lender dies (shm/parts.c). */
        if (message.source)
            memcpy(place - DATA_HEADER_BYTES, (uint8_t *)s->base + message.source - DATA_HEADER_BYTES,
                   DATA_HEADER_BYTES + message.length);
        of[count] = i;
        jobs[count++] = (struct aead_job){
            .data = place,
            .length = message.length,
            .counter = message.counter,
            .key = opens ? keypairs[message.keypair].receive_key : keypairs[message.keypair].send_key,
        };
    }
    POINT("part: in the room, nothing sealed");
    if (opens)
        aead_open(holder->aead, jobs, count);
    else
        aead_seal(holder->aead, jobs, count);
    for (uint32_t i = 0; i < count; i++)
        part->messages[of[i]].refused = jobs[i].refused;
    part_done(s, lender, number);
    holder_count(holder, PARTS_HELPED, 1);
    return 1;
}
