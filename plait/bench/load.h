/* load: small UDP datagrams at a fixed rate, sent and counted, for `plait bench tunnel`. */
#ifndef PLAIT_BENCH_LOAD_H
#define PLAIT_BENCH_LOAD_H

#include <stdint.h>

/* cdef begin */
#define LOAD_MIN_BYTES 16  /* of a payload: the run and the datagram's number */

/* One way of one trial. The two threads share it: each field has one writer. */
struct load {
    uint64_t run;       /* stands in every datagram: what belongs to an earlier trial is not counted */
    uint32_t bytes;     /* of payload, LOAD_MIN_BYTES to 1,500 */
    uint32_t tick_us;   /* sender and receiver look at the clock this often */
    uint64_t rate;      /* datagrams a second, at least 1 */
    uint64_t packets;   /* to send in all */
    uint64_t sent;      /* out, by the sender */
    uint64_t ns;        /* out, by the sender: from the first datagram to the end of its last tick */
    uint64_t received;  /* out, by the receiver: datagrams of this run, each number once */
    uint32_t done;      /* the sender's, released after its last datagram; 1: sent, 2: failed */
    uint32_t error;     /* out: errno of whoever failed */
};

/* Send on a connected UDP socket. Each tick sends what is due by then, one datagram a packet (no
 * UDP_SEGMENT). Late ticks catch up with at most four ticks' worth: a sender that cannot keep the rate falls
 * behind and shows it in ns. 0, or -1 with error set. */
int load_send(int fd, struct load *load);

/* Count on a bound UDP socket, non-blocking, until done and then for settle_us more without a datagram.
 * seen: a bit for each number, zeroed, (packets + 63) / 64 words. 0, or -1 with error set. */
int load_receive(int fd, struct load *load, uint64_t *seen, uint32_t settle_us);
/* cdef end */

#endif
