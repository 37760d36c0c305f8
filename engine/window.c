/* window: RFC 6479. A ring of 128 words holds one bit for each position; a counter's position is
 * counter + 1. The word of `top` and the 127 words before it are valid, so the window always covers
 * at least 8,128 positions behind the top. When the top moves on, the words that it enters are cleared.
 *
 * The holder may be killed between any two stores. A killed process has executed its instructions
 * up to some point and none after that point, so the next holder finds the stores in the order that
 * the compiler emits. barrier() keeps the compiler to the order below. (Between live holders the
 * peer's token orders memory, not this file.)
 *
 *   killed after `top`, before `swept`: the words between the two may hold bits of positions 8,192
 *     earlier. The next call clears these words again; no bit of a new position was set yet.
 *   killed before the bit: the counter counts as unseen. The packet was not delivered, since the
 *     bit is set before delivery. */
#include "window.h"

#define barrier() __atomic_signal_fence(__ATOMIC_SEQ_CST)

/* Clears the words that `top` has entered since `swept`. */
static void sweep(struct window *window)
{
    uint64_t from = window->swept >> 6, words = (window->top >> 6) - from;

    if (words > WINDOW_WORDS)
        words = WINDOW_WORDS;
    for (uint64_t i = 1; i <= words; i++)
        window->bits[(from + i) % WINDOW_WORDS] = 0;
    barrier();  /* the words are clean before swept says so */
    window->swept = window->top;
    barrier();  /* swept before any new bit: a second sweep would clear that bit */
}

int window_accept(struct window *window, uint64_t counter)
{
    if (counter >= REJECT_AFTER_MESSAGES)
        return 0;
    uint64_t position = counter + 1;

    if (window->swept != window->top)
        sweep(window);
    if (position + WINDOW_USABLE < window->top)
        return 0;
    if (position > window->top) {
        window->top = position;
        barrier();  /* top first: it tells the next holder what to sweep */
        sweep(window);
    }

    uint64_t *word = &window->bits[(position >> 6) % WINDOW_WORDS];
    uint64_t bit = 1ull << (position & 63);
    if (*word & bit)
        return 0;
    *word |= bit;
    return 1;
}
