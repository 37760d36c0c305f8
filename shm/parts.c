/* parts: sealing and opening that several workers share, while one of them holds the direction.
 *
 * The holder pops, takes nonces and decides, all in order; between two of these steps stands work that needs no
 * order: the AEAD of each message. The holder writes it down in parts, neighbours of the batch, and offers them. It
 * begins with the first part itself, helpers begin with the last; each part is done by whoever changes its word by
 * a compare-exchange. When none is left to be taken, the holder waits for those that helpers have, and goes on with
 * the whole batch in order.
 *
 * Rules
 *  1. A message belongs to one part, a part to one worker at a time: to the lender while it is free, done or lost,
 *     to the helper that took it. So what the part says is sealed once at most.
 *  2. A helper writes into the lender's room and the part alone, never into a slot: the slots of a lender that died
 *     are used again at once. The room is not: the lender's next life finds the part taken, and writes nothing
 *     there until the helper is done (parts_are_free).
 *  3. A helper that dies leaves its part taken, repair declares it lost, and the lender counts its messages as lost.
 *     A part is never done by two, not even one after the other: so a nonce is not used again for other bytes, which
 *     a slot may have by then.
 *  4. A lender that gives up waiting leaves the part taken. By rule 2 it lends nothing until the helper is done or
 *     repaired.
 *  5. Who offers and who looks for parts is said in hints. Nobody waits for a hint: an offer that no helper sees is
 *     taken back.
 */
#include "parts.h"

#include "point.h"
#include "token.h"

/* Receivers, then consumers: the lender's place in the region. */
static uint32_t lender_of(const struct segment *segment, uint32_t worker)
{
    if (worker >= WORKER_CONSUMER)
        return segment->geometry.max_receivers + worker - WORKER_CONSUMER;
    return worker - WORKER_RECEIVER;
}

struct part *part_of(const struct segment *segment, uint32_t worker, uint32_t number)
{
    return &segment->parts[lender_of(segment, worker) * PARTS + number];
}

uint8_t *part_room(const struct segment *segment, uint32_t worker)
{
    return segment->part_rooms + (uint64_t)lender_of(segment, worker) * PART_ROOM_BYTES;
}

static int part_swap(struct part *part, uint32_t from, uint32_t to)
{
    /* acquire: the taker sees what the lender wrote; failing says that somebody was quicker */
    return __atomic_compare_exchange_n(&part->state, &from, to, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

int parts_are_free(const struct segment *segment, uint32_t worker)
{
    for (uint32_t number = 0; number < PARTS; number++) {
        struct part *part = part_of(segment, worker, number);
        /* acquire: its helper has read and written all */
        uint32_t state = __atomic_load_n(&part->state, __ATOMIC_ACQUIRE);
        if (state == PART_OFFERED || state & PART_TAKEN)
            return 0;
        if (state != PART_FREE)
            __atomic_store_n(&part->state, PART_FREE, __ATOMIC_RELAXED);
    }
    return 1;
}

void part_offer(const struct segment *segment, uint32_t worker, uint32_t number)
{
    POINT("part: written, not offered");
    /* release: the part and its room are whole before anybody takes them */
    __atomic_store_n(&part_of(segment, worker, number)->state, PART_OFFERED, __ATOMIC_RELEASE);
}

int part_take_back(const struct segment *segment, uint32_t worker, uint32_t number)
{
    return part_swap(part_of(segment, worker, number), PART_OFFERED, PART_FREE);
}

uint32_t part_read(const struct segment *segment, uint32_t worker, uint32_t number)
{
    /* acquire: its helper's work is there, and no write of its helper comes any more */
    uint32_t state = __atomic_load_n(&part_of(segment, worker, number)->state, __ATOMIC_ACQUIRE);
    return state == PART_DONE || state == PART_LOST ? state : PART_TAKEN;
}

/* Relaxed: hints. */
static void say(uint64_t *word, uint32_t lender, int so)
{
    uint64_t bit = 1ull << lender % 64;
    if (so)
        __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
    else
        __atomic_fetch_and(word, ~bit, __ATOMIC_RELAXED);
}

void parts_say_offering(const struct segment *segment, uint32_t worker, int offers)
{
    say(&segment->lending->offering, lender_of(segment, worker), offers);
}

void parts_say_helping(const struct segment *segment, uint32_t worker, int helping)
{
    say(&segment->lending->helpers, lender_of(segment, worker), helping);
}

uint64_t parts_helpers(const struct segment *segment)
{
    return __atomic_load_n(&segment->lending->helpers, __ATOMIC_RELAXED);
}

/* Whether there is memory for this worker's parts. */
static int lends(const struct segment *segment, uint32_t worker)
{
    /* relaxed: the memory is the kernel's, and was there before */
    return __atomic_load_n(&segment->workers[worker].lends, __ATOMIC_RELAXED) != 0;
}

static int take_from(const struct segment *segment, uint32_t worker, uint32_t mark, uint32_t *number)
{
    for (uint32_t n = PARTS; n-- > 0;) {
        struct part *part = part_of(segment, worker, n);
        if (__atomic_load_n(&part->state, __ATOMIC_RELAXED) == PART_OFFERED &&
            part_swap(part, PART_OFFERED, PART_TAKEN | mark)) {
            POINT("part: taken, nothing done");
            *number = n;
            return 1;
        }
    }
    return 0;
}

int part_take(const struct segment *segment, uint32_t mark, uint32_t *lender, uint32_t *number)
{
    uint64_t bits = __atomic_load_n(&segment->lending->offering, __ATOMIC_RELAXED);

    for (uint32_t worker = WORKER_RECEIVER; bits && worker < MAX_WORKERS; worker = segment_next_worker(segment, worker))
        if (bits >> lender_of(segment, worker) % 64 & 1 && lends(segment, worker) && take_from(segment, worker, mark, number)) {
            *lender = worker;
            return 1;
        }
    return 0;
}

void part_done(const struct segment *segment, uint32_t lender, uint32_t number)
{
    POINT("part: all done, still taken");
    /* release: what was done is there; and nothing of the room is read or written any more */
    __atomic_store_n(&part_of(segment, lender, number)->state, PART_DONE, __ATOMIC_RELEASE);
    POINT("part: done");
}

void parts_mend(const struct segment *segment, uint32_t worker, uint32_t mark)
{
    if (lends(segment, worker)) {
        for (uint32_t number = 0; number < PARTS; number++)
            part_take_back(segment, worker, number);
        parts_say_offering(segment, worker, 0);
        parts_say_helping(segment, worker, 0);
    }
    for (uint32_t lender = WORKER_RECEIVER; lender < MAX_WORKERS; lender = segment_next_worker(segment, lender)) {
        if (!lends(segment, lender))
            continue;
        for (uint32_t number = 0; number < PARTS; number++) {
            struct part *part = part_of(segment, lender, number);
            if (__atomic_load_n(&part->state, __ATOMIC_RELAXED) == (PART_TAKEN | mark))
                /* release: what the dead wrote (waitpid) comes before whatever the lender writes there */
                __atomic_store_n(&part->state, PART_LOST, __ATOMIC_RELEASE);
        }
    }
}
