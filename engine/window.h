/* window: the replay window of a keypair (RFC 6479): 8,192 bits, of which 8,128 are usable.
 * Safe against a kill: a new top is stored first, then words are cleared, then `swept` is stored; the
 * next caller finishes a sweep that was cut short. */
#ifndef ENGINE_WINDOW_H
#define ENGINE_WINDOW_H

#include <stdint.h>

/* cdef begin */
/* The size in the kernel and wireguard-go, so that both directions tolerate the same reordering (boringtun: 1,024). */
#define WINDOW_BITS 8192
#define WINDOW_USABLE 8128
#define WINDOW_WORDS 128
#define REJECT_AFTER_MESSAGES 0xffffffffffffe03eull  /* 2^64 - 8130, as in the kernel; wireguard-go stops
                                                      * at 2^64 - 8194, so none of its counters is refused */
#define REKEY_AFTER_MESSAGES 0x1000000000000000ull  /* 2^60 */

struct window {
    uint64_t bits[128];
    uint64_t top;      /* 1 + the greatest accepted counter; 0: none yet */
    uint64_t swept;    /* the top up to whose word all words are cleared */
};
/* Call it for authenticated messages only. 1: the counter is new, and is marked as seen. 0: the counter was seen
 * before, is older than the window, or has reached REJECT_AFTER_MESSAGES. */
int window_accept(struct window *window, uint64_t counter);
/* cdef end */

#endif
