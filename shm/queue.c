/* queue: packets of one peer and direction, many producers, one consumer, any of them mortal.
 *
 * A singly linked list in the manner of Vyukov's intrusive MPSC queue: `head` is the oldest
 * node not yet taken (the holder's word), `end` the newest (the producers'). A stub node that
 * belongs to the queue keeps the list from ever being without a node. Where Vyukov exchanges
 * the end and links afterwards, here the link comes first:
 *
 *   push   read the end, t; compare-exchange t.next from nil to the chain's first node: this
 *          one step publishes the whole chain; then compare-exchange the end from t to last.
 *   help   whoever finds that the end's node has a next moves the end forward itself.
 *
 * So no half-linked state exists: a producer that dies has either published all of its chain
 * or nothing, and one that is merely slow holds up nobody. `last` tells which, see repair.c.
 *
 * Rules
 *  1. A tagged word is generation << 32 | number. The end carries the generation of the node
 *     that it names; a node's next carries the generation of the node it stands in. A node gets
 *     a new generation when it leaves home (pool_issue), the stub when it is pushed. Hence a
 *     compare-exchange of a slow producer cannot hit a node that has been somewhere else since.
 *  2. Within a generation next goes once from nil to a number and stays so.
 *  3. The end names head or a node behind it. The holder therefore helps the end past all that
 *     it takes *before* it moves head, and moves head before a node comes home. As the end
 *     never returns to an earlier (generation, node), whatever a helper has read behind the end
 *     was still true if its compare-exchange succeeds.
 *  4. A node is taken only when it has a next. To take the last one the holder first pushes the
 *     stub behind it. It does so only while stored head *is* that last node: then the stub is
 *     nowhere in the list, whether or not an earlier holder died in the middle of this.
 *  5. Taking is: mark in hand, help, move head, count. Killed before head moves: the nodes are
 *     still reachable and become `queued` again. Killed after: unreachable, they come home and
 *     are counted as lost. Nothing is given out twice.
 *
 * Counting: `produced` is added to before the publication, so that a kill can leave it only too
 * high. A holder that reads it and *then* finds the queue empty stores `consumed` = that value.
 * (A producer between its count and its link is thereby counted out early and the difference
 * may go below zero until the next empty pop: it is signed.)
 */
#include "queue.h"

#include "point.h"

#define NIL NODE_NIL
#define NUMBER(word) ((uint32_t)(word))
#define GENERATION(word) ((word) & ~0xffffffffull)
#define STEPS 64 /* of one helping walk */
#ifndef PATIENCE /* a fuzzer has less */
#define PATIENCE 1000000 /* tries before a push calls the queue's words corrupt */
#endif

static struct queue_producers *producers_of(const struct segment *segment, uint32_t queue)
{
    return &segment->rows[queue / 2].ends[queue % 2];
}

static struct queue_holder *holder_of(const struct segment *segment, uint32_t queue)
{
    return &segment->rows[queue / 2].heads[queue % 2];
}

/* The next word of a node or of this queue's stub; NULL for a number that is neither. */
static uint64_t *next_of(const struct segment *segment, uint32_t queue, uint32_t number)
{
    if (number - 1 < segment->nodes)
        return &segment->node[number].next;
    if (number == STUB_FIRST + queue)
        return &producers_of(segment, queue)->stub_next;
    return 0;
}

void queue_initialise(const struct segment *segment, uint32_t queue)
{
    struct queue_producers *p = producers_of(segment, queue);
    struct queue_holder *h = holder_of(segment, queue);
    uint64_t generation = GENERATION(p->stub_next) + (1ull << 32);
    __atomic_store_n(&p->stub_next, generation | NIL, __ATOMIC_RELAXED);
    __atomic_store_n(&p->produced, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&h->consumed, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&h->head, STUB_FIRST + queue, __ATOMIC_RELAXED);
    /* release: whoever finds the end finds the stub's next */
    __atomic_store_n(&p->end, generation | (STUB_FIRST + queue), __ATOMIC_RELEASE);
}

void queue_link(const struct segment *segment, uint32_t a, uint32_t b)
{
    /* relaxed: private until the publication's release */
    uint64_t next = __atomic_load_n(&segment->node[a].next, __ATOMIC_RELAXED);
    __atomic_store_n(&segment->node[a].next, GENERATION(next) | b, __ATOMIC_RELAXED);
}

/* Moves the end from `end`, whose node's next reads `next`, as far as the list goes. What the
 * walk reads may be stale; then the compare-exchange fails (rule 3). */
static void end_help(const struct segment *segment, uint32_t queue, uint64_t end, uint64_t next)
{
    uint64_t furthest = end;
    for (uint32_t step = 0; step < STEPS && NUMBER(next) != NIL; step++) {
        uint32_t number = NUMBER(next);
        uint64_t *word = next_of(segment, queue, number);
        if (!word)
            return;
        next = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        furthest = GENERATION(next) | number;
    }
    /* release: whoever acquires the end sees its node as the node's producer left it */
    __atomic_compare_exchange_n(&producers_of(segment, queue)->end, &end, furthest, 0,
                                __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Reads the end and its node's next as one consistent pair: 1, or 0 when they are not (the end
 * has just moved), or -1 when a word is corrupt. */
static int end_read(const struct segment *segment, uint32_t queue, uint64_t *end, uint64_t **word,
                    uint64_t *next)
{
    *end = __atomic_load_n(&producers_of(segment, queue)->end, __ATOMIC_ACQUIRE);
    *word = next_of(segment, queue, NUMBER(*end));
    if (!*word)
        return -1;
    /* acquire: a number read here is followed */
    *next = __atomic_load_n(*word, __ATOMIC_ACQUIRE);
    return GENERATION(*next) == GENERATION(*end);
}

/* Helps until the end names the last node of the list. 0, or -1 when a word is corrupt. */
static int end_help_fully(const struct segment *segment, uint32_t queue, uint64_t *end)
{
    for (uint32_t tries = 0; tries < PATIENCE; tries++) {
        uint64_t *word, next;
        int consistent = end_read(segment, queue, end, &word, &next);
        if (consistent < 0)
            return -1;
        if (!consistent)
            continue;
        if (NUMBER(next) == NIL)
            return 0;
        end_help(segment, queue, *end, next);
    }
    return -1;
}

/* Multi producer: links the private chain first..last behind the list. 0, or -1: corrupt. */
static int chain_publish(const struct segment *segment, uint32_t queue, uint32_t first, uint64_t last)
{
    for (uint32_t tries = 0; tries < PATIENCE; tries++) {
        uint64_t end, *word, next;
        int consistent = end_read(segment, queue, &end, &word, &next);
        if (consistent < 0)
            return -1;
        if (!consistent)
            continue;
        if (NUMBER(next) != NIL) {
            end_help(segment, queue, end, next);
            continue;
        }
        /* release: the nodes' contents, links and states stand before the list shows them */
        if (!__atomic_compare_exchange_n(word, &next, GENERATION(next) | first, 0, __ATOMIC_RELEASE,
                                         __ATOMIC_RELAXED))
            continue;
        POINT("push: linked, end not moved");
        /* release as in end_help; failing means that somebody has helped */
        __atomic_compare_exchange_n(&producers_of(segment, queue)->end, &end, last, 0,
                                    __ATOMIC_RELEASE, __ATOMIC_RELAXED);
        POINT("push: end moved, journal open");
        return 0;
    }
    return -1;
}

/* Packets counted in and not out; below zero for a moment (see above). */
static int32_t packets_between(const struct segment *segment, uint32_t queue)
{
    /* relaxed: a bound, not a promise */
    uint32_t consumed = __atomic_load_n(&holder_of(segment, queue)->consumed, __ATOMIC_RELAXED);
    return (int32_t)(__atomic_load_n(&producers_of(segment, queue)->produced, __ATOMIC_RELAXED) - consumed);
}

/* The states of a private chain; its length is bounded by the nodes there are. */
static int chain_store_state(const struct segment *segment, uint32_t first, uint32_t last, uint32_t state)
{
    uint32_t number = first;
    for (uint32_t count = 0; count < segment->nodes; count++) {
        if (number - 1 >= segment->nodes)
            return -1;
        /* relaxed: ordered by the publication's release */
        __atomic_store_n(&segment->states[number], state, __ATOMIC_RELAXED);
        if (number == last)
            return 0;
        number = NUMBER(__atomic_load_n(&segment->node[number].next, __ATOMIC_RELAXED));
    }
    return -1;
}

int queue_push_mpsc(const struct segment *segment, uint32_t worker, uint32_t queue, uint32_t first,
                    uint32_t last, uint32_t packets)
{
    if (queue / 2 >= segment->geometry.max_peers || first - 1 >= segment->nodes || last - 1 >= segment->nodes)
        return -1;
    if (packets_between(segment, queue) >= QUEUE_LIMIT)
        return -1;

    struct worker *line = &segment->workers[worker];
    uint64_t last_tagged =
        GENERATION(__atomic_load_n(&segment->node[last].next, __ATOMIC_RELAXED)) | last;
    __atomic_store_n(&line->journal_first, first, __ATOMIC_RELAXED);
    __atomic_store_n(&line->journal_last, last_tagged, __ATOMIC_RELAXED);
    __atomic_store_n(&line->journal_packets, packets, __ATOMIC_RELAXED);
    __atomic_store_n(&line->journal_latest, queue + 1, __ATOMIC_RELAXED);
    POINT("push: journal written, not valid");
    /* release: the line is whole before it counts */
    __atomic_store_n(&line->journal_queue, queue + 1, __ATOMIC_RELEASE);
    /* A killed process leaves a prefix of its stores in program order, whatever the machine.
     * The compiler alone could move the states before the journal. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);

    POINT("push: journal valid, states still mine");
    int result = chain_store_state(segment, first, last, NODE_QUEUED);
    POINT("push: states queued, not counted");
    if (result == 0) {
        /* release: announced before it is published, never after */
        __atomic_fetch_add(&producers_of(segment, queue)->produced, packets, __ATOMIC_RELEASE);
        POINT("push: counted, not linked");
        result = chain_publish(segment, queue, first, last_tagged);
    }
    if (result != 0)
        chain_store_state(segment, first, last, NODE_OWNED);
    /* release: published (or taken back) before the journal forgets */
    __atomic_store_n(&line->journal_queue, 0, __ATOMIC_RELEASE);
    return result;
}

/* Holder: stored head is the last node and the stub nowhere in the list (rule 4). */
static int stub_push(const struct segment *segment, uint32_t queue)
{
    struct queue_producers *p = producers_of(segment, queue);
    uint32_t stub = STUB_FIRST + queue;
    uint64_t generation = GENERATION(__atomic_load_n(&p->stub_next, __ATOMIC_RELAXED)) + (1ull << 32);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* head is stored, then the stub begins anew: for a kill */
    /* relaxed: private until the publication's release */
    __atomic_store_n(&p->stub_next, generation | NIL, __ATOMIC_RELAXED);
    POINT("pop: stub begun anew, not pushed");
    return chain_publish(segment, queue, stub, generation | stub);
}

/* Holder: everything before `head` is taken (rules 3 and 5). */
static int head_move(const struct segment *segment, uint32_t queue, uint32_t head)
{
    uint64_t end;
    if (end_help_fully(segment, queue, &end) != 0)
        return -1;
    POINT("pop: marked in hand, head not moved");
    /* release: marked in hand, and the end past them, before they are out of reach */
    __atomic_store_n(&holder_of(segment, queue)->head, head, __ATOMIC_RELEASE);
    POINT("pop: head moved, not counted out");
    return 0;
}

uint32_t queue_pop_sc(const struct segment *segment, uint32_t mark, uint32_t queue, uint32_t *numbers,
                      uint32_t max, uint32_t max_packets)
{
    struct queue_holder *h = holder_of(segment, queue);
    uint32_t stub = STUB_FIRST + queue;
    uint32_t current = __atomic_load_n(&h->head, __ATOMIC_RELAXED);
    uint32_t taken = 0, packets = 0;
    int moved = 0; /* current lies behind stored head */

    while (taken < max && (packets < max_packets || taken == 0)) {
        uint64_t *word = next_of(segment, queue, current);
        if (!word)
            break;
        uint32_t next = NUMBER(__atomic_load_n(word, __ATOMIC_ACQUIRE)); /* the node it names */
        if (current == stub) {
            if (next == NIL || next == stub) /* the stub behind itself is corrupt, and no way out */
                break;
        } else {
            if (next == NIL) {
                if ((moved && head_move(segment, queue, current) != 0) || stub_push(segment, queue) != 0)
                    break;
                moved = 0;
                next = NUMBER(__atomic_load_n(word, __ATOMIC_ACQUIRE)); /* the stub, or a chain before it */
            }
            /* relaxed: ordered before head_move's release */
            __atomic_store_n(&segment->states[current], NODE_IN_HAND | mark, __ATOMIC_RELAXED);
            POINT("pop: one marked in hand, the rest queued");
            packets += segment->node[current].packets;
            numbers[taken++] = current;
        }
        current = next;
        moved = 1;
    }
    if (moved && head_move(segment, queue, current) != 0)
        return 0; /* corrupt: nothing is given out that could be given out again */

    if (taken != 0) {
        uint32_t consumed = __atomic_load_n(&h->consumed, __ATOMIC_RELAXED);
        __atomic_store_n(&h->consumed, consumed + packets, __ATOMIC_RELAXED);
        POINT("pop: counted out, nothing done");
        return taken;
    }
    /* acquire: the second look must not be older than this count */
    uint32_t produced = __atomic_load_n(&producers_of(segment, queue)->produced, __ATOMIC_ACQUIRE);
    if (produced != __atomic_load_n(&h->consumed, __ATOMIC_RELAXED) && queue_is_empty(segment, queue))
        __atomic_store_n(&h->consumed, produced, __ATOMIC_RELAXED);
    return 0;
}

int queue_is_empty(const struct segment *segment, uint32_t queue)
{
    /* A real node at the head is always still to be taken. */
    if (__atomic_load_n(&holder_of(segment, queue)->head, __ATOMIC_RELAXED) != STUB_FIRST + queue)
        return 0;
    return NUMBER(__atomic_load_n(&producers_of(segment, queue)->stub_next, __ATOMIC_ACQUIRE)) == NIL;
}

uint32_t queue_packets(const struct segment *segment, uint32_t queue)
{
    int32_t packets = packets_between(segment, queue);
    return packets > 0 ? (uint32_t)packets : 0;
}

int queue_is_published(const struct segment *segment, uint32_t queue, uint64_t last)
{
    uint64_t end;
    const uint64_t *word = next_of(segment, queue, NUMBER(last));
    if (!word || end_help_fully(segment, queue, &end) != 0)
        return -1;
    /* The end named the last node of the list just now. A published chain's last node is that
     * one, or it has a next. Read after the end: nil now was nil then (rule 2). */
    if (end == last)
        return 1;
    uint64_t next = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    return GENERATION(next) != GENERATION(last) || NUMBER(next) != NIL;
}

uint32_t queue_next(const struct segment *segment, uint32_t queue, uint32_t number)
{
    const uint64_t *word = next_of(segment, queue, number);
    return word ? NUMBER(__atomic_load_n(word, __ATOMIC_ACQUIRE)) : NIL;
}

void node_bring_home(const struct segment *segment, uint32_t number)
{
    /* release: the holder's last reads and writes of node and slot stand before the receiver
     * reuses them */
    if (number - 1 < segment->nodes)
        __atomic_store_n(&segment->states[number], NODE_FREE, __ATOMIC_RELEASE);
}
