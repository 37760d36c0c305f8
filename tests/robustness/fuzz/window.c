/* window: counters in any order, as forged ones would come if a tag let them, against a list. */
#include "input.h"

#include "engine/window.h"

#define COUNTERS_MOST 400

static int accept_expected(const uint64_t *seen, uint32_t count, uint64_t counter, uint64_t top)
{
    if (counter >= REJECT_AFTER_MESSAGES || (top && counter + 1 + WINDOW_USABLE < top))
        return 0;
    for (uint32_t i = 0; i < count; i++)
        if (seen[i] == counter)
            return 0;
    return 1;
}

void fuzz_one(struct input *input)
{
    struct window *window = calloc(1, sizeof *window);
    uint64_t seen[COUNTERS_MOST], top = 0;
    uint32_t count = 0;

    while (input->left && count < COUNTERS_MOST) {
        uint8_t how = take8(input);
        uint64_t counter = how < 64    ? top + how
                           : how < 128 ? top - take16(input)
                           : how < 192 ? top + take16(input)
                           : how < 220 ? (count ? seen[take16(input) % count] + WINDOW_BITS : 0)
                           : how < 250 ? (count ? seen[take16(input) % count] : 0)
                                       : take64(input);
        int expected = accept_expected(seen, count, counter, top);

        must(window_accept(window, counter) == expected);
        if (expected) {
            seen[count++] = counter;
            top = counter + 1 > top ? counter + 1 : top;
        }
        must(window->top == top);
        if (how == 250) {  /* killed between the new top and its sweep: what it swept is found again */
            window->swept = window->top > 64 ? window->top - 64 : 0;
            memset(window, 0, sizeof *window);
            count = 0;
            top = 0;
        }
    }
    free(window);
}
