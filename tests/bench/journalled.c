/* The rejected candidate of docs/adr/0001-publication-of-a-chain.md, for its figures alone: publish by
 * compare-exchange of the end, link afterwards, prev in the journal line. The rest is as in
 * shm/queue.c; plait/bench/queue_bench.c is compiled once more around it. Ships nowhere. */
#define queue_push_mpsc journalled_push_mpsc
#define queue_pop_sc journalled_pop_sc
#define bench_sections journalled_sections
#include "plait/bench/queue_bench.c"

#define GENERATION(word) ((word) & ~0xffffffffull)

static struct queue_producers *ends(const struct segment *segment, uint32_t queue)
{
    return &segment->rows[queue / 2].ends[queue % 2];
}

static uint64_t *next_word(const struct segment *segment, uint32_t queue, uint32_t number)
{
    return number - 1 < segment->nodes ? &segment->node[number].next : &ends(segment, queue)->stub_next;
}

static void journal(struct worker *line, uint32_t queue, uint32_t first, uint64_t last, uint32_t packets)
{
    __atomic_store_n(&line->journal_first, first, __ATOMIC_RELAXED);
    __atomic_store_n(&line->journal_last, last, __ATOMIC_RELAXED);
    __atomic_store_n(&line->journal_packets, packets, __ATOMIC_RELAXED);
    __atomic_store_n((uint64_t *)line->reserved, 0, __ATOMIC_RELAXED); /* prev */
    __atomic_store_n(&line->journal_queue, queue + 1, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void publish(const struct segment *segment, struct worker *line, uint32_t queue, uint32_t first,
                    uint64_t last)
{
    struct queue_producers *p = ends(segment, queue);
    uint64_t prev = __atomic_load_n(&p->end, __ATOMIC_RELAXED);
    do {
        __atomic_store_n((uint64_t *)line->reserved, prev, __ATOMIC_RELEASE);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    } while (!__atomic_compare_exchange_n(&p->end, &prev, last, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    __atomic_store_n(next_word(segment, queue, (uint32_t)prev), GENERATION(prev) | first, __ATOMIC_RELEASE);
    __atomic_store_n(&line->journal_queue, 0, __ATOMIC_RELEASE);
}

int journalled_push_mpsc(const struct segment *segment, uint32_t worker, uint32_t queue, uint32_t first,
                         uint32_t last, uint32_t packets)
{
    struct queue_producers *p = ends(segment, queue);
    uint32_t consumed = __atomic_load_n(&segment->rows[queue / 2].heads[queue % 2].consumed, __ATOMIC_RELAXED);
    if ((int32_t)(__atomic_load_n(&p->produced, __ATOMIC_RELAXED) - consumed) >= QUEUE_LIMIT)
        return -1;
    uint64_t tagged = GENERATION(__atomic_load_n(&segment->node[last].next, __ATOMIC_RELAXED)) | last;
    journal(&segment->workers[worker], queue, first, tagged, packets);
    for (uint32_t number = first;; number = (uint32_t)segment->node[number].next) {
        if (number - 1 >= segment->nodes)
            return -1;
        __atomic_store_n(&segment->states[number], NODE_QUEUED, __ATOMIC_RELAXED);
        if (number == last)
            break;
    }
    __atomic_fetch_add(&p->produced, packets, __ATOMIC_RELEASE);
    publish(segment, &segment->workers[worker], queue, first, tagged);
    return 0;
}

uint32_t journalled_pop_sc(const struct segment *segment, uint32_t mark, uint32_t queue, uint32_t *numbers,
                           uint32_t max, uint32_t max_packets)
{
    struct queue_producers *p = ends(segment, queue);
    struct queue_holder *h = &segment->rows[queue / 2].heads[queue % 2];
    uint32_t stub = STUB_FIRST + queue, current = h->head, taken = 0, packets = 0;
    int moved = 0;

    while (taken < max && (packets < max_packets || taken == 0)) {
        uint64_t *word = next_word(segment, queue, current);
        uint64_t next = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        if (current == stub && (uint32_t)next == NODE_NIL)
            break;
        if (current != stub) {
            if ((uint32_t)next == NODE_NIL) {
                if (__atomic_load_n(&p->end, __ATOMIC_ACQUIRE) != (GENERATION(next) | current))
                    break; /* somebody has published behind it and not linked yet */
                if (moved)
                    __atomic_store_n(&h->head, current, __ATOMIC_RELEASE);
                moved = 0;
                uint64_t generation = GENERATION(p->stub_next) + (1ull << 32);
                __atomic_store_n(&p->stub_next, generation, __ATOMIC_RELAXED);
                struct worker *line = &segment->workers[mark_worker(mark)];
                journal(line, queue, stub, generation | stub, 0);
                publish(segment, line, queue, stub, generation | stub);
                next = __atomic_load_n(word, __ATOMIC_ACQUIRE);
                if ((uint32_t)next == NODE_NIL)
                    break;
            }
            __atomic_store_n(&segment->states[current], NODE_IN_HAND | mark, __ATOMIC_RELAXED);
            packets += segment->node[current].packets;
            numbers[taken++] = current;
        }
        current = (uint32_t)next;
        moved = 1;
    }
    if (moved)
        __atomic_store_n(&h->head, current, __ATOMIC_RELEASE);
    if (taken)
        __atomic_store_n(&h->consumed, h->consumed + packets, __ATOMIC_RELAXED);
    return taken;
}
