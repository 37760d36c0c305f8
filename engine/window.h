/* window: which counters of a keypair were seen: RFC 6479, 8,192 bits of which 8,128 are
 * usable. Kill-safe: the new top is stored first, then words are cleared, then `swept`;
 * whoever comes next finishes the sweep. */
#ifndef ENGINE_WINDOW_H
#define ENGINE_WINDOW_H

#include <stdint.h>

/* cdef begin */
/* As the kernel and wireguard-go have it, so that reordering is forgiven alike both ways (boringtun: 1,024). */
#define WINDOW_BITS 8192
#define WINDOW_USABLE 8128
#define WINDOW_WORDS 128
#define REJECT_AFTER_MESSAGES 0xffffffffffffe03eull  /* 2^64 - 8130, the kernel's: no counter that is still in
                                                      * use elsewhere (wireguard-go: up to 2^64 - 8194) is refused */
#define REKEY_AFTER_MESSAGES 0x1000000000000000ull  /* 2^60 */

struct window {
    uint64_t top;      /* 1 + the greatest counter accepted; 0 = none yet */
    uint64_t swept;    /* words are clean up to this top */
    uint64_t bits[128];
};
/* After authentication. 1: new, now marked. 0: seen, too old or beyond the limit. */
int window_accept(struct window *window, uint64_t counter);
/* cdef end */

#endif
