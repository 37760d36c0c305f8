/* flood: small data messages of one session at a fixed rate, for `plait bench tunnel`. */
#ifndef PLAIT_BENCH_FLOOD_H
#define PLAIT_BENCH_FLOOD_H

#include <stdint.h>

/* cdef begin */
#define FLOOD_INNER_BYTES 32 /* an IPv4 header, a UDP header, and the padding to a multiple of 16 */

/* The owner writes stop while flood_send runs in another thread, and reads the rest afterwards. */
struct flood {
    uint8_t key[32];      /* of the session, this way */
    uint8_t inner[32];    /* the packet in every message, padded with zeros */
    uint32_t receiver;    /* receiver index that the gateway gave */
    uint32_t tick_us;     /* what is due goes out this often */
    uint64_t rate;        /* messages a second, at least 1 */
    uint64_t sent;        /* out */
    uint64_t ns;          /* out: from the beginning to the last tick */
    uint32_t stop;        /* 1 ends it */
    uint32_t error;       /* out: errno of what failed; ENOSYS: no AEAD */
};

/* Seal and send on a connected UDP socket, one message a packet (no UDP_SEGMENT), until stop. Late ticks
 * catch up with at most four ticks' worth, so that a sender that cannot keep the rate shows it in sent and
 * ns. 0, or -1 with error set. */
int flood_send(int fd, struct flood *flood);
/* cdef end */

#endif
