/* flow: datagrams of one size through an engine as fast as they come out again, for `plait bench one-peer`. */
#ifndef PLAIT_BENCH_FLOW_H
#define PLAIT_BENCH_FLOW_H

#include <stdint.h>

/* cdef begin */
struct flow {
    const uint8_t *datagrams; /* one after the other; from the last on they begin again */
    uint64_t stored;          /* how many stand there, a multiple of train */
    uint64_t count;           /* to send in all, a multiple of train */
    uint64_t most_ns;         /* no more are sent after so long */
    uint32_t bytes;           /* of each */
    uint32_t arriving_bytes;  /* of each where it comes out: what has another size is not counted */
    uint32_t train;           /* datagrams of one send; the socket has UDP_SEGMENT */
    uint32_t window;          /* at most so many are on their way, at least a train */
    uint32_t tick_us;         /* what has come out is looked for this often */
    uint32_t error;           /* out: errno of what failed */
    uint64_t sent;            /* out */
    uint64_t received;        /* out */
    uint64_t ns;              /* out: until the last one came out */
};

/* data messages 0, 1, … of a session, one after the other; each has the same inner packet. 0, or -1: no AEAD. */
int flow_seal(uint8_t *messages, uint64_t count, const uint8_t key[32], uint32_t receiver, const uint8_t *inner,
              uint32_t inner_bytes);
/* Send on the connected UDP socket `in` and count what the UDP socket `out` has, which may have UDP_GRO. What has
 * not come out 20 ms after anything did is lost, and no longer counted as on its way. 0, or -1 with error set. */
int flow_run(int in, int out, struct flow *flow);
/* cdef end */

#endif
