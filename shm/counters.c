#include "counters.h"

void counter_add(const struct segment *segment, uint32_t worker, enum counter counter, uint64_t n)
{
    if (worker >= MAX_WORKERS || (uint32_t)counter >= COUNTERS)
        return;
    uint64_t *place = &segment->counters[(uint64_t)worker * COUNTERS_A_WORKER + (uint32_t)counter];
    /* One writer: load and store suffice; atomic only so that a reader never sees half a word. */
    __atomic_store_n(place, __atomic_load_n(place, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

uint64_t counter_sum(const struct segment *segment, enum counter counter)
{
    uint64_t sum = 0;
    if ((uint32_t)counter >= COUNTERS)
        return 0;
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker = segment_next_worker(segment, worker))
        sum += __atomic_load_n(
            &segment->counters[(uint64_t)worker * COUNTERS_A_WORKER + (uint32_t)counter], __ATOMIC_RELAXED);
    return sum;
}
