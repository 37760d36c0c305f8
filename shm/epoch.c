/* epoch: quiescent states instead of locks for what control unpublishes.
 *
 * A worker's word is even while it sleeps and odd while it is awake; a turn adds 2 at a point
 * where the worker holds nothing that it found in trie, index or table. Control stores the
 * unpublication, fences, and notes all words. Whoever was asleep then will fence after waking
 * and so see the unpublication; whoever has turned since then has dropped what it held and
 * fenced as well; whoever has been repaired holds nothing.
 */
#include "epoch.h"

#include "fence.h"

void epoch_turn(const struct segment *segment, uint32_t worker, uint64_t now)
{
    struct worker *line = &segment->workers[worker];
    /* release: what was read before is done with. The fence: what is read afterwards is not
     * read early, before control could see the turn. */
    __atomic_store_n(&line->beat, now, __ATOMIC_RELAXED);
    __atomic_store_n(&line->epoch, __atomic_load_n(&line->epoch, __ATOMIC_RELAXED) + 2, __ATOMIC_RELEASE);
    fence_seq_cst();
}

void epoch_sleep(const struct segment *segment, uint32_t worker)
{
    struct worker *line = &segment->workers[worker];
    uint32_t epoch = __atomic_load_n(&line->epoch, __ATOMIC_RELAXED);
    /* release: everything this worker read lies before its sleep */
    __atomic_store_n(&line->epoch, (epoch | 1u) + 1, __ATOMIC_RELEASE);
}

void epoch_wake(const struct segment *segment, uint32_t worker)
{
    struct worker *line = &segment->workers[worker];
    /* release, as the store of the sleep before it: control may see this one alone, and since C++20 a
     * plain store continues nobody's release sequence */
    __atomic_store_n(&line->epoch, __atomic_load_n(&line->epoch, __ATOMIC_RELAXED) | 1u, __ATOMIC_RELEASE);
    fence_seq_cst(); /* awake first, then look: control sees one or we see its unpublication */
}

/* acquire: a word seen moved means that what the worker did before is over */
static uint64_t epoch_word(const struct segment *segment, uint32_t worker)
{
    const struct worker *line = &segment->workers[worker];
    uint64_t incarnation = __atomic_load_n(&line->incarnation, __ATOMIC_ACQUIRE);
    return incarnation << 32 | __atomic_load_n(&line->epoch, __ATOMIC_ACQUIRE);
}

void grace_begin(const struct segment *segment, uint64_t *grace)
{
    fence_seq_cst(); /* the caller's unpublication stands before the words are read */
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker = segment_next_worker(segment, worker))
        grace[worker] = epoch_word(segment, worker);
}

int grace_is_over(const struct segment *segment, const uint64_t *grace)
{
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker = segment_next_worker(segment, worker)) {
        int was_awake = (grace[worker] & 1) != 0;
        if (was_awake && epoch_word(segment, worker) == grace[worker])
            return 0;
    }
    return 1;
}
