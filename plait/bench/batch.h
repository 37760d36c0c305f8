/* batch: what the bench's senders and receivers of datagrams share: a clock, a tick, a block of messages. */
#ifndef PLAIT_BENCH_BATCH_H
#define PLAIT_BENCH_BATCH_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64u
#define MAX_BYTES 1500u
#define CATCH_UP 4u /* ticks */

static inline uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static inline void sleep_until(uint64_t when)
{
    struct timespec time = { (time_t)(when / 1000000000u), (long)(when % 1000000000u) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

/* BATCH messages over one block of buffers. */
struct batch {
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    uint8_t data[BATCH][MAX_BYTES];
};

static inline void batch_initialise(struct batch *batch, uint32_t bytes)
{
    memset(batch, 0, sizeof(*batch));
    for (uint32_t i = 0; i < BATCH; i++) {
        batch->parts[i] = (struct iovec){ batch->data[i], bytes };
        batch->messages[i].msg_hdr = (struct msghdr){ .msg_iov = &batch->parts[i], .msg_iovlen = 1 };
    }
}

/* Send the first messages, size of them. What the socket refuses for want of room is sent again: it is the
 * sender that waits then, and the rate that suffers. 0, or the errno. */
static inline int batch_send(int fd, struct batch *batch, uint32_t size)
{
    uint32_t sent = 0;
    while (sent < size) {
        int done = sendmmsg(fd, batch->messages + sent, size - sent, 0);
        if (done > 0)
            sent += (uint32_t)done;
        else if (errno != EAGAIN && errno != ENOBUFS && errno != EINTR)
            return errno;
    }
    return 0;
}

#endif
