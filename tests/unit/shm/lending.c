/* lending: lenders and helpers, all mortal, over one segment.
 *
 * A lender writes batches of messages, some in its room and some in slots, offers parts, does some itself and waits
 * for the rest. A helper takes parts. "Sealing" is an exclusive or with what follows from nonce and place, so a
 * message that is done twice is as plain as one that is not done at all. Now and then a helper dies with a part, half
 * done, or a lender with parts offered: whoever repairs it is the same thread, as the dead one's next life is. A
 * lender also gives up waiting now and then, and must then lend nothing until its part is back.
 *
 * Demanded: every message of a part that is done is done once, with the nonce of its batch; a part is lost only where
 * a helper died; nobody waits for ever. Parts and room are plain memory, so ThreadSanitizer checks that the part's word
 * orders them. Slots are written by nobody meanwhile, as long as their lender lives; that a dead one's are, is the one
 * race that is meant: a helper reads what nobody will ever look at. So here a dead lender's slots stay as they are.
 *
 * usage: lending [parts that helpers are to do]
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "shm/parts.h"
#include "world.h"

#define LENDERS 2
#define HELPERS 3
#define MESSAGE 64

static struct segment segment;
static uint64_t goal = 2000;
static uint32_t lenders_running = LENDERS; /* atomic */
static uint64_t helped, lost, died, left;   /* atomic: for the last line */

static uint32_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 32);
}

/* A yield for each look would leave a busy machine to others. */
static void pause_a_little(uint32_t *looks)
{
    if (++*looks % 256 == 0)
        sched_yield();
}

static uint8_t pattern(uint64_t nonce, uint32_t i)
{
    return (uint8_t)((nonce * 2654435761u + i * 40503u) >> 8 | 1);
}

static void seal(uint8_t *data, uint32_t length, uint64_t nonce)
{
    for (uint32_t i = 0; i < length; i++)
        data[i] ^= pattern(nonce, i);
}

static void *helper(void *argument)
{
    uint32_t worker = WORKER_CONSUMER + (uint32_t)(uintptr_t)argument;
    uint64_t random = 88172645463325252ull + worker;
    uint32_t lender, number, looks = 0;

    parts_say_helping(&segment, worker, 1);
    while (__atomic_load_n(&lenders_running, __ATOMIC_ACQUIRE)) {
        if (!part_take(&segment, mark_of(&segment, worker), &lender, &number)) {
            pause_a_little(&looks);
            continue;
        }
        struct part *part = part_of(&segment, lender, number);
        uint32_t last = part->count;
        int dies = draw(&random) % 64 == 0;
        if (dies)
            last = draw(&random) % (part->count + 1);
        for (uint32_t i = 0; i < last; i++) {
            struct part_message *message = &part->messages[i];
            if (draw(&random) % 64 == 0)
                sched_yield(); /* its lender dies, or goes on */
            uint8_t *place = part_room(&segment, lender) + message->place;
            if (message->source)
                memcpy(place, segment.base + message->source, message->length);
            seal(place, message->length, message->counter);
            message->refused = (int32_t)(message->counter & 1) - 1;
        }
        if (dies) {
            parts_mend(&segment, worker, mark_of(&segment, worker));
            segment.workers[worker].incarnation++;
            __atomic_fetch_add(&died, 1, __ATOMIC_RELAXED);
        } else {
            part_done(&segment, lender, number);
            __atomic_fetch_add(&helped, 1, __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

struct lender {
    uint32_t worker, parts, out;
    uint64_t nonce, random;
    uint8_t *room, *slots;
};

static uint8_t plain(uint64_t nonce, uint32_t i)
{
    return (uint8_t)(nonce * 7 + i);
}

/* Messages of odd nonces stand in slots. */
static void write_part(struct lender *lender, uint32_t number)
{
    struct part *part = part_of(&segment, lender->worker, number);
    part->count = 1 + draw(&lender->random) % PART_MESSAGES;
    part->opens = number & 1;
    for (uint32_t i = 0; i < part->count; i++) {
        uint32_t place = (number * PART_MESSAGES + i) * MESSAGE;
        uint64_t nonce = lender->nonce++;
        uint8_t *data = nonce & 1 ? lender->slots + place : lender->room + place;
        part->messages[i] = (struct part_message){
            .counter = nonce,
            .source = nonce & 1 ? (uint64_t)((char *)data - segment.base) : 0,
            .place = place,
            .length = MESSAGE,
        };
        for (uint32_t j = 0; j < MESSAGE; j++)
            data[j] = plain(nonce, j);
    }
}

static void check_done(const struct lender *lender, uint32_t number)
{
    const struct part *part = part_of(&segment, lender->worker, number);
    for (uint32_t i = 0; i < part->count; i++) {
        const struct part_message *message = &part->messages[i];
        const uint8_t *data = lender->room + message->place;
        CHECK(message->refused == (int32_t)(message->counter & 1) - 1, "nonce %llu", (unsigned long long)message->counter);
        for (uint32_t j = 0; j < MESSAGE; j++)
            CHECK(data[j] == (plain(message->counter, j) ^ pattern(message->counter, j)), "nonce %llu, byte %u",
                  (unsigned long long)message->counter, j);
    }
}

/* Waits for parts that helpers have; now and then not. */
static void collect(struct lender *lender)
{
    for (uint32_t n = 0; n < lender->parts; n++) {
        uint32_t state, looks = 0;
        if (!(lender->out >> n & 1))
            continue;
        if (draw(&lender->random) % 16 == 0) {
            __atomic_fetch_add(&left, 1, __ATOMIC_RELAXED);
            continue;
        }
        while ((state = part_read(&segment, lender->worker, n)) == PART_TAKEN)
            pause_a_little(&looks);
        if (state == PART_DONE)
            check_done(lender, n);
        else
            __atomic_fetch_add(&lost, 1, __ATOMIC_RELAXED);
    }
}

static void batch(struct lender *lender)
{
    uint32_t looks = 0;
    while (!parts_are_free(&segment, lender->worker))
        pause_a_little(&looks);
    lender->parts = 1 + draw(&lender->random) % PARTS;
    lender->out = 0;
    for (uint32_t n = 0; n < lender->parts; n++) {
        write_part(lender, n);
        if (draw(&lender->random) % 8) {
            part_offer(&segment, lender->worker, n);
            lender->out |= 1u << n;
        }
    }
    parts_say_offering(&segment, lender->worker, 1);
    if (draw(&lender->random) % 16 == 0) {
        sched_yield();
        parts_mend(&segment, lender->worker, mark_of(&segment, lender->worker));
        segment.workers[lender->worker].incarnation++;
        __atomic_fetch_add(&died, 1, __ATOMIC_RELAXED);
        return;
    }
    for (uint32_t n = 0; n < lender->parts; n++) {
        for (uint32_t some = draw(&lender->random) % 2048; some; some--) /* a helper may be quicker */
            __atomic_signal_fence(__ATOMIC_SEQ_CST);
        if (draw(&lender->random) % 32 == 0)
            sched_yield();
        if (lender->out >> n & 1 && part_take_back(&segment, lender->worker, n))
            lender->out &= ~(1u << n);
    }
    parts_say_offering(&segment, lender->worker, 0);
    collect(lender);
}

static void *lend(void *argument)
{
    uint32_t number = (uint32_t)(uintptr_t)argument;
    struct lender lender = {
        .worker = WORKER_RECEIVER + number,
        .random = 362436069362436069ull + number,
        .room = part_room(&segment, WORKER_RECEIVER + number),
        .slots = segment.train_slots + (uint64_t)number * TRAIN_SLOT_BYTES,
    };
    while (__atomic_load_n(&helped, __ATOMIC_RELAXED) < goal || !__atomic_load_n(&died, __ATOMIC_RELAXED))
        batch(&lender);
    __atomic_fetch_sub(&lenders_running, 1, __ATOMIC_RELEASE);
    return NULL;
}

int main(int count, char **arguments)
{
    const struct geometry geometry = {
        .max_peers = 64,
        .max_keypairs = 64,
        .max_receivers = LENDERS,
        .max_consumers = HELPERS,
        .nodes_a_pool = 32,
        .small_slots = 16,
        .train_slots = 16,
        .mailbox_cells = 8,
        .max_trie_nodes = 64,
        .public_key_buckets = 64,
    };
    pthread_t threads[LENDERS + HELPERS];

    if (count > 1)
        goal = (uint64_t)atoi(arguments[1]);
    world_make(&segment, &geometry, 1, MAP_PRIVATE);
    for (uint32_t i = 0; i < LENDERS; i++)
        segment.workers[WORKER_RECEIVER + i].lends = 1;
    for (uintptr_t i = 0; i < HELPERS; i++)
        segment.workers[WORKER_CONSUMER + i].lends = 1;
    for (uintptr_t i = 0; i < LENDERS + HELPERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, i < LENDERS ? lend : helper, (void *)(i < LENDERS ? i : i - LENDERS)),
              "no thread");
    for (uint32_t i = 0; i < LENDERS + HELPERS; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < LENDERS; i++)
        CHECK(parts_are_free(&segment, WORKER_RECEIVER + i), "a part is not free");
    CHECK(helped >= goal && lost <= died, "%llu helped, %llu lost, %llu died", (unsigned long long)helped,
          (unsigned long long)lost, (unsigned long long)died);
    printf("%llu parts helped with, %llu lost, %llu deaths, %llu not waited for: each message once\n",
           (unsigned long long)helped, (unsigned long long)lost, (unsigned long long)died, (unsigned long long)left);
    return 0;
}
