#include "orders.h"

#include <string.h>

#include "fence.h"
#include "point.h"
#include "ready.h"

#define COUNT_ONE (1ull << 32)
#define BITS_MASK 0xffffffffull

/* release: what the bits speak of (row.installing, the endpoint) is stored before them */
static void word_give(uint64_t *word, uint32_t bits)
{
    uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &seen, (seen + COUNT_ONE) | bits, 0, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED))
        ;
}

/* The count makes "the same bits were given again meanwhile" visible: then nothing is
 * cleared. release: what was applied stands before the giver sees it cleared. */
static int word_clear(uint64_t *word, uint64_t seen, uint32_t bits)
{
    return __atomic_compare_exchange_n(word, &seen, seen & ~(uint64_t)bits, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

void orders_give(const struct segment *segment, uint32_t row, uint32_t bits)
{
    if (bits & ORDER_ZERO) { /* relaxed: stand before the bit, by the release of that */
        __atomic_store_n(&segment->rows[row].installing, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&segment->rows[row].installing_next, 0, __ATOMIC_RELAXED);
    }
    word_give(&segment->rows[row].orders, bits);
    POINT("order: given, holder not scheduled");
}

uint64_t orders_read(const struct segment *segment, uint32_t row)
{
    return __atomic_load_n(&segment->rows[row].orders, __ATOMIC_ACQUIRE);
}

int orders_clear(const struct segment *segment, uint32_t row, uint64_t word, uint32_t bits)
{
    POINT("order: applied, not cleared");
    return word_clear(&segment->rows[row].orders, word, bits);
}

void events_give(const struct segment *segment, uint32_t row, uint32_t bits)
{
    word_give(&segment->rows[row].events, bits);
    POINT("event: given, control's set without it");
    ready_set(segment, 0, row);
}

uint64_t events_read(const struct segment *segment, uint32_t row)
{
    return __atomic_load_n(&segment->rows[row].events, __ATOMIC_ACQUIRE);
}

int events_clear(const struct segment *segment, uint32_t row, uint64_t word)
{
    POINT("event: applied, not cleared");
    return word_clear(&segment->rows[row].events, word, (uint32_t)BITS_MASK);
}

uint32_t events_take(const struct segment *segment, uint32_t *cursor, uint32_t *rows, uint64_t *words, uint32_t most)
{
    uint32_t count = 0, row, first = UINT32_MAX, last = 0;
    int wrapped = 0;
    while (count < most && (row = ready_take(segment, 0, cursor)) < segment->geometry.max_peers) {
        if (first == UINT32_MAX)
            first = row;
        else
            wrapped |= row <= last;
        last = row;
        if (wrapped && row >= first) { /* once round: it was told more after we had taken it */
            ready_set(segment, 0, row);
            break;
        }
        words[count] = events_read(segment, row);
        rows[count] = row;
        count += (words[count] & BITS_MASK) != 0;
    }
    return count;
}

void events_settle(const struct segment *segment, const uint32_t *rows, const uint64_t *words, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!events_clear(segment, rows[i], words[i]))
            ready_set(segment, 0, rows[i]);
}

#define ENDPOINT_WORDS (sizeof(struct endpoint) / sizeof(uint32_t))

void endpoint_store(const struct segment *segment, uint32_t row, const struct endpoint *endpoint)
{
    struct peer_row *peer = &segment->rows[row];
    uint32_t turn = __atomic_load_n(&peer->endpoint_turn, __ATOMIC_RELAXED); /* the holder's own */
    uint32_t words[ENDPOINT_WORDS];
    uint32_t *target = (uint32_t *)(void *)&peer->endpoints[(turn + 1) & 1];
    memcpy(words, endpoint, sizeof words);
    /* The copy overwritten now was the selected one before the last turn: a reader of it must
     * be able to see that turn, so the turn is stored before these words are. */
    fence_release();
    for (uint32_t i = 0; i < ENDPOINT_WORDS; i++)
        __atomic_store_n(&target[i], words[i], __ATOMIC_RELAXED);
    POINT("endpoint: copy written, not selected");
    /* release: whole before it is selected */
    __atomic_store_n(&peer->endpoint_turn, turn + 1, __ATOMIC_RELEASE);
}

void endpoint_load(const struct segment *segment, uint32_t row, struct endpoint *endpoint)
{
    const struct peer_row *peer = &segment->rows[row];
    uint32_t words[ENDPOINT_WORDS];
    uint32_t turn, after = __atomic_load_n(&peer->endpoint_turn, __ATOMIC_ACQUIRE);
    do {
        turn = after;
        const uint32_t *source = (const uint32_t *)(const void *)&peer->endpoints[turn & 1];
        for (uint32_t i = 0; i < ENDPOINT_WORDS; i++)
            words[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
        /* acquire fence: if any word came from a later store, the look below sees the turn
         * that preceded it */
        fence_acquire();
        after = __atomic_load_n(&peer->endpoint_turn, __ATOMIC_ACQUIRE);
    } while (after != turn);
    memcpy(endpoint, words, sizeof words);
}
