/* ready: a bitmap of three levels that many set and one clears. A place of a consumer's set is a queue, of control's
 * set a row.
 *
 * Level 0 has a bit a place. A bit of level 1 says "that word of level 0 may be non-zero", a bit
 * of level 2 the same of level 1. The promise: once ready_set has returned, the taker finds
 * the place by going down from level 2.
 *
 * Setter: sets the bit of level 0, fences, then looks at the bit of level 1 and sets it if it
 * is clear, fences, then level 2 likewise. It does so even if its own bit was set already:
 * whoever set it may have been killed before it came to the summaries.
 *
 * Taker (one a set): clears place bits freely, a summary bit only when it found the word below
 * empty. Then: clear the summary bit, fence, read the word below *again*; non-zero: set the
 * summary bit again. Setter and taker are a store-then-load pair on both sides, so either the
 * setter sees the summary bit clear (and sets it) or the taker sees the setter's bit (and
 * sets it again). Level 2 is cleared only after level 1 was mended, by the same steps.
 *
 * A taker killed between clearing and mending, or a setter killed between two levels, leaves
 * a place without its summary: repair_worker calls ready_mend.
 */
#include "ready.h"

#include "fence.h"
#include "point.h"

#define NONE 0xffffffffu

struct levels {
    uint64_t *word[3];
    uint32_t words[3];
};

uint64_t ready_words_a_set(uint32_t places)
{
    uint64_t level0 = ((uint64_t)places + 63) / 64;
    uint64_t level1 = (level0 + 63) / 64;
    return level0 + level1 + (level1 + 63) / 64;
}

/* Of every set, so that all are alike. */
static uint32_t places_of(const struct segment *segment)
{
    return DIRECTIONS * segment->geometry.max_peers;
}

static struct levels levels_of(const struct segment *segment, uint32_t set)
{
    struct levels l;
    l.words[0] = (places_of(segment) + 63) / 64;
    l.words[1] = (l.words[0] + 63) / 64;
    l.words[2] = (l.words[1] + 63) / 64;
    l.word[0] = segment->ready + (uint64_t)set * segment->ready_words;
    l.word[1] = l.word[0] + l.words[0];
    l.word[2] = l.word[1] + l.words[1];
    return l;
}

static uint64_t bit_of(uint32_t place)
{
    return 1ull << (place % 64);
}

static uint64_t word_load(const struct levels *l, int level, uint32_t word)
{
    /* acquire: whoever follows a bit sees what was stored before it was set */
    return __atomic_load_n(&l->word[level][word], __ATOMIC_ACQUIRE);
}

static void summary_set(const struct levels *l, int level, uint32_t place)
{
    fence_seq_cst(); /* the level below, then this one */
    if ((word_load(l, level, place / 64) & bit_of(place)) == 0)
        __atomic_fetch_or(&l->word[level][place / 64], bit_of(place), __ATOMIC_RELEASE);
}

/* The taker found word `place` of the level below empty. */
static void summary_clear(const struct levels *l, int level, uint32_t place)
{
    __atomic_fetch_and(&l->word[level][place / 64], ~bit_of(place), __ATOMIC_RELAXED);
    POINT("take: summary cleared, second look not taken");
    fence_seq_cst(); /* cleared, then the second look */
    if (word_load(l, level - 1, place) != 0)
        __atomic_fetch_or(&l->word[level][place / 64], bit_of(place), __ATOMIC_RELEASE);
    else if (level == 1 && word_load(l, 1, place / 64) == 0)
        summary_clear(l, 2, place / 64); /* its last bit */
}

static int in_range(const struct segment *segment, uint32_t set, uint32_t place)
{
    return set <= segment->geometry.max_consumers && place < places_of(segment);
}

void ready_set(const struct segment *segment, uint32_t set, uint32_t place)
{
    if (!in_range(segment, set, place))
        return;
    struct levels l = levels_of(segment, set);
    /* release: what the place has to say is stored before its bit; an exchange even if the bit
     * is set, so that the taker that clears it synchronises with this setter too */
    __atomic_fetch_or(&l.word[0][place / 64], bit_of(place), __ATOMIC_RELEASE);
    POINT("schedule: ready bit set, no summary");
    summary_set(&l, 1, place / 64);
    POINT("schedule: ready bit set, half of its summaries");
    summary_set(&l, 2, place / 4096);
}

/* First place at or after `from` whose bit is set in a level, guided by the level above it,
 * whose stale bits it clears on the way; NONE when there is none. */
static uint32_t level_find(const struct levels *l, int level, uint32_t from)
{
    while (from / 64 < l->words[level]) {
        uint32_t word = from / 64;
        uint64_t all = word_load(l, level, word), bits = all & ~0ull << (from % 64);
        if (bits != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(bits);
        if (level == 2) {
            from = (word + 1) * 64;
            continue;
        }
        if (all == 0)
            summary_clear(l, level + 1, word);
        uint32_t next = level_find(l, level + 1, word + 1);
        if (next == NONE)
            return NONE;
        from = next * 64;
    }
    return NONE;
}

/* The next place from the cursor on, around the end once; NONE when there is none. */
static uint32_t next_place(const struct segment *segment, const struct levels *l, uint32_t cursor)
{
    uint32_t from = cursor < places_of(segment) ? cursor : 0;
    uint32_t place = level_find(l, 0, from);

    return place == NONE && from ? level_find(l, 0, 0) : place;
}

uint32_t ready_take(const struct segment *segment, uint32_t set, uint32_t *cursor)
{
    struct levels l = levels_of(segment, set);
    uint32_t place = next_place(segment, &l, *cursor);

    if (place == NONE)
        return NONE;
    /* acquire: pairs with every setter of this bit; this is the only clearer */
    __atomic_fetch_and(&l.word[0][place / 64], ~bit_of(place), __ATOMIC_ACQ_REL);
    *cursor = place + 1 < places_of(segment) ? place + 1 : 0;
    return place;
}

int ready_waits(const struct segment *segment, uint32_t set, uint32_t cursor)
{
    struct levels l = levels_of(segment, set);

    return next_place(segment, &l, cursor) != NONE;
}

int ready_is_set(const struct segment *segment, uint32_t set, uint32_t place)
{
    if (!in_range(segment, set, place))
        return 0;
    struct levels l = levels_of(segment, set);
    return (word_load(&l, 0, place / 64) & bit_of(place)) != 0 &&
           (word_load(&l, 1, place / 4096) & bit_of(place / 64)) != 0 &&
           (word_load(&l, 2, place / 262144) & bit_of(place / 4096)) != 0;
}

int ready_is_empty(const struct segment *segment, uint32_t set)
{
    struct levels l = levels_of(segment, set);
    for (uint32_t word = 0; word < l.words[2]; word++)
        if (word_load(&l, 2, word) != 0)
            return 0;
    return 1;
}

void ready_mend(const struct segment *segment, uint32_t set)
{
    struct levels l = levels_of(segment, set);
    for (int level = 0; level < 2; level++)
        for (uint32_t word = 0; word < l.words[level]; word++)
            if (word_load(&l, level, word) != 0)
                summary_set(&l, level + 1, word);
}
